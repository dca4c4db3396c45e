// SPDX-License-Identifier: GPL-2.0

//! A page is filled before it is added to a file, where other threads find it.

use kernel::{
    mm::{
        filemap::{AddedFolio, NewPage},
        folio::NewFolio,
        locked::Shared,
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn add<'v, 's>(
    page: NewPage<'v>,
    folio: NewFolio<Shared>,
    sleep: &'s mut Sleepable,
) -> Result<AddedFolio<'v, 's>, NoVacancy> {
    page.add(folio, sleep)
}

fn main() {}
