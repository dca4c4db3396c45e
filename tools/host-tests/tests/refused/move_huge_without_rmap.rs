// SPDX-License-Identifier: GPL-2.0

//! A huge page is moved with its `anon_vma` locked, for which the lock of the folio does not do.

use kernel::mm::{
    folio::LockedFolio,
    relocation::{huge::HugePage, OtherFolio},
};

fn relocate(page: HugePage<'_>, folio: LockedFolio) -> Result<usize, OtherFolio> {
    page.relocate(folio)
}

fn main() {}
