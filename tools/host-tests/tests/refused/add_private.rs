// SPDX-License-Identifier: GPL-2.0

//! A folio of private memory is none for a file: it was allocated by another memory policy.

use kernel::{
    error::Result,
    mm::{
        filemap::{AddedFolio, NewPage},
        folio::FilledFolio,
        locked::Private,
    },
    task::Sleepable,
};

fn add<'v, 's>(
    page: NewPage<'v>,
    folio: FilledFolio<Private>,
    sleep: &'s mut Sleepable,
) -> Result<AddedFolio<'v, 's>> {
    page.add(folio, sleep)
}

fn main() {}
