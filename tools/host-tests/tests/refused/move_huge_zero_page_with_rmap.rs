// SPDX-License-Identifier: GPL-2.0

//! The huge zero page is not moved as if it was one of the process.

use kernel::mm::{relocation::huge::HugeZeroPage, rmap::RmapLock};

fn relocate(page: HugeZeroPage<'_>, rmap: RmapLock) -> usize {
    page.relocate(rmap)
}

fn main() {}
