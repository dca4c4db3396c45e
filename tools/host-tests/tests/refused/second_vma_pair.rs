// SPDX-License-Identifier: GPL-2.0

//! A thread that has locked a VMA cannot lock two others: a writer of the mmap lock may wait for
//! the first.
//!
//! So the first one keeps the permission to sleep.

use kernel::{error::Result, mm::MmWithUser, task::Sleepable};

fn lock(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result {
    let mut first = mm.lock_vma_prepare_anon(dst, sleep)?;
    let mut second = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    first.parts();
    second.parts();
    Ok(())
}

fn main() {}
