// SPDX-License-Identifier: GPL-2.0

//! A folio of a file is locked for a VMA. Once that is not locked any more, it may have another file.

use kernel::{
    error::Result,
    mm::{locked::Memory, MmWithUser},
    task::Sleepable,
};

fn keep(mm: &MmWithUser, address: usize, sleep: &mut Sleepable) -> Result {
    let mut locked = mm.lock_vma_prepare_anon(address, sleep)?;
    let (Memory::Shared(vma), sleep) = locked.parts() else {
        return Ok(());
    };
    let folio = vma.shmem().lock_folio(address, sleep)?;
    locked.unlock();
    drop(folio);
    Ok(())
}

fn main() {}
