// SPDX-License-Identifier: GPL-2.0

//! The token is borrowed as long as two VMAs are locked: code that sleeps uses the one that goes with
//! them.
//!
//! That is a part of what stands for the locks.

use kernel::{error::Result, mm::MmWithUser, task::Sleepable};

fn lock(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result {
    let mut locked = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    sleep.cond_resched_killable()?;
    locked.parts();
    Ok(())
}

fn main() {}
