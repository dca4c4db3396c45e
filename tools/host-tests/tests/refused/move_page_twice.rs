// SPDX-License-Identifier: GPL-2.0

//! Once a page was moved, the tables are not locked any more, and the entry is another one.

use kernel::mm::{
    relocation::{OtherFolio, Page},
    rmap::RmapLock,
};

fn relocate(page: Page<'_>, rmap: RmapLock, other: RmapLock) -> Result<usize, OtherFolio> {
    page.relocate(rmap)?;
    page.relocate(other)
}

fn main() {}
