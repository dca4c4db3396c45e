// SPDX-License-Identifier: GPL-2.0

//! A huge page is mapped once: the page table has its reference then, and may give it back at any time.

use kernel::mm::{hugetlb::ReadyFolio, pgtable::NoVacancy};

fn map(folio: ReadyFolio<'_>) -> Result<(), NoVacancy> {
    folio.lock_vacant()?.map(false);
    folio.lock_vacant()?.map(false);
    Ok(())
}

fn main() {}
