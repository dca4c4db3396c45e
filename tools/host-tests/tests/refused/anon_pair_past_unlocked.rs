// SPDX-License-Identifier: GPL-2.0

//! What two VMAs are may change once they are not locked any more.
//!
//! So what was found out about them borrows the locks.

use kernel::{error::Result, mm::MmWithUser, task::Sleepable};

fn keep(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result<Option<usize>> {
    let mut locked = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    let (vmas, _) = locked.parts();
    drop(locked);
    Ok(vmas.map(|vmas| vmas.dst().start()))
}

fn main() {}
