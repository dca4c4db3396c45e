// SPDX-License-Identifier: GPL-2.0

//! To move a page, its `anon_vma` has to be locked: the lock of its folio is not enough.

use kernel::mm::{
    folio::LockedFolio,
    relocation::{OtherFolio, Page},
};

fn relocate(page: Page<'_>, folio: LockedFolio) -> Result<usize, OtherFolio> {
    page.relocate(folio)
}

fn main() {}
