// SPDX-License-Identifier: GPL-2.0

//! A page that was added to a file is mapped once: the page table has its reference then.

use kernel::mm::{filemap::AddedFolio, pgtable::NoVacancy};

fn map(folio: AddedFolio<'_, '_>) -> Result<(), NoVacancy> {
    folio.map(false)?;
    folio.map(true)
}

fn main() {}
