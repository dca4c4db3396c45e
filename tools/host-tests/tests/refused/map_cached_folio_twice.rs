// SPDX-License-Identifier: GPL-2.0

//! A folio that was mapped is unlocked, and its reference is that of the page table.

use kernel::mm::{filemap::CachedFolio, pgtable::NoVacancy};

fn map<S>(folio: CachedFolio<'_, '_, S>, end: usize) -> Result<usize, NoVacancy> {
    folio.map(end, false)?;
    folio.map(end, false)
}

fn main() {}
