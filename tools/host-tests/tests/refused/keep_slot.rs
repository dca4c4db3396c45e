// SPDX-License-Identifier: GPL-2.0

//! PMD tables can be freed once the VMA is not locked any more.

use core::ops::Range;
use kernel::{
    error::Result,
    mm::{locked::Memory, MmWithUser},
    task::Sleepable,
};

fn keep(mm: &MmWithUser, range: Range<usize>, sleep: &mut Sleepable) -> Result<Option<usize>> {
    let mut locked = mm.lock_vma_prepare_anon(range.start, sleep)?;
    let (Memory::Private(vma), sleep) = locked.parts() else {
        return Ok(None);
    };
    let slot = vma.alloc_pte_table(range, sleep);
    drop(locked);
    Ok(slot.ok().map(|slot| slot.address()))
}

fn main() {}
