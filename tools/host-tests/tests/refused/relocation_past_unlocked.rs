// SPDX-License-Identifier: GPL-2.0

//! What pages are to be moved is known as long as their VMAs are locked.

use kernel::{
    error::Result,
    mm::{relocation::Buffer, MmWithUser},
    task::Sleepable,
};

fn relocate(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result {
    let mut buffer = Buffer::default();
    let mut locked = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    let (Some(vmas), _) = locked.parts() else {
        return Ok(());
    };
    let pages = vmas.relocation(dst, src, 0x1000, &mut buffer);
    drop(locked);
    drop(pages);
    Ok(())
}

fn main() {}
