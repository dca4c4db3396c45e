// SPDX-License-Identifier: GPL-2.0

//! A huge page that was moved is gone, and its tables are unlocked.

use kernel::mm::{
    relocation::{huge::HugePage, OtherFolio},
    rmap::RmapLock,
};

fn relocate(page: HugePage<'_>, rmaps: [RmapLock; 2]) -> Result<usize, OtherFolio> {
    let [first, second] = rmaps;
    page.relocate(first)?;
    page.relocate(second)
}

fn main() {}
