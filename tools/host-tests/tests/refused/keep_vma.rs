// SPDX-License-Identifier: GPL-2.0

//! What a VMA is may change once it is not locked any more.

use kernel::{
    error::Result,
    mm::{locked::Memory, MmWithUser},
    task::Sleepable,
};

fn keep(mm: &MmWithUser, address: usize, sleep: &mut Sleepable) -> Result<Option<usize>> {
    let mut locked = mm.lock_vma_prepare_anon(address, sleep)?;
    let (Memory::Private(vma), _) = locked.parts() else {
        return Ok(None);
    };
    drop(locked);
    Ok(Some(vma.vma().start()))
}

fn main() {}
