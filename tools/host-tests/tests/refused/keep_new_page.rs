// SPDX-License-Identifier: GPL-2.0

//! A page that is to be added to a file has a pointer to page tables, which is valid only while the VMA is
//! locked.

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
    let page = vma.shmem().new_page_for_filled(address, sleep);
    locked.unlock();
    drop(page);
    Ok(())
}

fn main() {}
