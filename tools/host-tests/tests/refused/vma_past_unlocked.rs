// SPDX-License-Identifier: GPL-2.0

//! The VMA of a target that was unlocked may be gone, and another one may be locked afterwards.

use kernel::{
    error::Result,
    mm::locked::Memory,
    userfaultfd::{range::PageRange, target::Target},
};

fn keep(mut target: Target<'_>, range: PageRange) -> Result<Option<usize>> {
    let (Memory::Private(vma), _) = target.parts() else {
        return Ok(None);
    };
    target.unlocked(range, |_| Ok(()))?;
    Ok(Some(vma.vma().start()))
}

fn main() {}
