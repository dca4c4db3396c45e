// SPDX-License-Identifier: GPL-2.0

//! Two VMAs must not be locked at a time: to lock the second one may take the mmap lock, and a writer
//! of that may wait for the first one.
//!
//! So the first one keeps the permission to sleep.

use kernel::{error::Result, mm::MmWithUser, task::Sleepable};

fn lock(mm: &MmWithUser, addresses: [usize; 2], sleep: &mut Sleepable) -> Result {
    let mut first = mm.lock_vma_prepare_anon(addresses[0], sleep)?;
    mm.lock_vma_prepare_anon(addresses[1], sleep)?;
    first.parts();
    Ok(())
}

fn main() {}
