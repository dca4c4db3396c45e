// SPDX-License-Identifier: GPL-2.0

//! A page that was moved has another `anon_vma`: the lock of the old one is of no use.

use kernel::mm::{
    relocation::{OtherFolio, Page},
    rmap::RmapLock,
};

fn relocate(page: Page<'_>, next: Page<'_>, rmap: RmapLock) -> Result<usize, OtherFolio> {
    page.relocate(rmap)?;
    next.relocate(rmap)
}

fn main() {}
