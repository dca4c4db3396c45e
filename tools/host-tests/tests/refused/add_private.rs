// SPDX-License-Identifier: GPL-2.0

//! A folio of private memory is none for a file: it was allocated by another memory policy.

use kernel::{
    mm::{
        filemap::{AddedFolio, NewPage},
        folio::FilledFolio,
        locked::Private,
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn add<'v, 's>(
    page: NewPage<'v>,
    folio: FilledFolio<Private>,
    sleep: &'s mut Sleepable,
) -> Result<AddedFolio<'v, 's>, NoVacancy> {
    page.add(folio, sleep)
}

fn main() {}
