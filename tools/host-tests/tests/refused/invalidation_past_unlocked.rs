// SPDX-License-Identifier: GPL-2.0

//! The notifiers of an mm stay those that were told as long as a VMA is locked.

use kernel::{
    error::Result,
    mm::{mmu_notifier::InvalidateRange, MmWithUser},
    task::Sleepable,
};

fn keep(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result {
    let mut locked = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    let (Some(vmas), sleep) = locked.parts() else {
        return Ok(());
    };
    let range = InvalidateRange::clear(vmas.src(), src..src + 0x1000, sleep);
    drop(locked);
    drop(range);
    Ok(())
}

fn main() {}
