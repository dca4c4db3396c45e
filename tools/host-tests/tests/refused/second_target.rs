// SPDX-License-Identifier: GPL-2.0

//! Two VMAs must not be locked at a time: to lock the second one may take the mmap lock.

use kernel::{
    error::Result,
    userfaultfd::{pages::Pages, range::PageRange},
};

fn operations(pages: &mut Pages<'_>, range: PageRange) -> Result {
    let mut first = pages.lock_target(range)?;
    pages.lock_target(range)?;
    first.parts();
    Ok(())
}

fn main() {}
