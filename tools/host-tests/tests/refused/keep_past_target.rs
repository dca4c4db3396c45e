// SPDX-License-Identifier: GPL-2.0

//! The memory of a target is locked as long as the target exists.

use kernel::{
    error::Result,
    mm::locked::Memory,
    userfaultfd::{pages::Pages, range::PageRange},
};

fn keep(pages: &mut Pages<'_>, range: PageRange) -> Result<Option<usize>> {
    let mut target = pages.lock_target(range)?;
    let (Memory::Shared(vma), _) = target.parts() else {
        return Ok(None);
    };
    drop(target);
    Ok(Some(vma.vma().start()))
}

fn main() {}
