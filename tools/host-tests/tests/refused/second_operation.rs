// SPDX-License-Identifier: GPL-2.0

//! Another operation takes the mmap lock. If a writer has that, and waits for the VMA lock of the
//! target, neither thread goes on.

use kernel::{
    error::Result,
    userfaultfd::{pages::Pages, range::PageRange},
};

fn operations(pages: &mut Pages<'_>, range: PageRange) -> Result {
    let mut target = pages.lock_target(range)?;
    pages.lock_range(range)?.protect(true)?;
    target.parts();
    Ok(())
}

fn main() {}
