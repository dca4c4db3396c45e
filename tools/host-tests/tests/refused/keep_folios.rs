// SPDX-License-Identifier: GPL-2.0

//! Folios are charged for a VMA. Once that is not locked any more, its mm may have lost it.

use kernel::{
    error::Result,
    mm::{folio::ChargedFolios, locked::Memory, MmWithUser},
    task::Sleepable,
};

fn keep(mm: &MmWithUser, address: usize, sleep: &mut Sleepable) -> Result<Option<usize>> {
    let mut locked = mm.lock_vma_prepare_anon(address, sleep)?;
    let (Memory::Private(vma), _) = locked.parts() else {
        return Ok(None);
    };
    let folios = ChargedFolios::new(vma);
    locked.unlock();
    Ok(Some(folios.len()))
}

fn main() {}
