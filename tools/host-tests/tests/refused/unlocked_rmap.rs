// SPDX-License-Identifier: GPL-2.0

//! To move a page, its `anon_vma` has to be locked: a reference is not enough.

use kernel::mm::{
    relocation::{OtherFolio, Page},
    rmap::UnlockedRmap,
};

fn relocate(page: Page<'_>, rmap: UnlockedRmap) -> Result<usize, OtherFolio> {
    page.relocate(rmap)
}

fn main() {}
