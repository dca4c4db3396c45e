// SPDX-License-Identifier: GPL-2.0

//! A page has a block of the file system, for one folio.

use kernel::{
    mm::{filemap::NewPage, folio::FilledFolio, locked::Shared, pgtable::NoVacancy},
    task::Sleepable,
};

fn add(
    page: NewPage<'_>,
    folios: [FilledFolio<Shared>; 2],
    sleep: &mut Sleepable,
) -> Result<(), NoVacancy> {
    let [first, second] = folios;
    drop(page.add(first, sleep)?);
    drop(page.add(second, sleep)?);
    Ok(())
}

fn main() {}
