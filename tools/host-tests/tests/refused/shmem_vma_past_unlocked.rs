// SPDX-License-Identifier: GPL-2.0

//! The VMA of a target that was unlocked may be gone, and the file with it.

use kernel::{
    error::Result,
    mm::locked::Memory,
    userfaultfd::{range::PageRange, target::Target},
};

fn keep(mut target: Target<'_>, range: PageRange) -> Result<Option<usize>> {
    let (Memory::Shared(vma), _) = target.parts() else {
        return Ok(None);
    };
    let shmem = vma.shmem().into_any();
    target.unlocked(range, |_| Ok(()))?;
    Ok(Some(shmem.pte_vma().vma().start()))
}

fn main() {}
