// SPDX-License-Identifier: GPL-2.0

//! A large folio was charged to the mm of its VMA, and is freed or mapped while that is locked.

use kernel::{
    mm::{folio::NewFolio, locked::Memory, thp::{Large, LargeFolio}, MmWithUser},
    task::Sleepable,
};

fn keep<'m>(mm: &'m MmWithUser, sleep: &'m mut Sleepable) -> Option<LargeFolio<'m, NewFolio<Large>>> {
    let mut locked = mm.lock_vma_prepare_anon(0, sleep).ok()?;
    let (Memory::Private(vma), sleep) = locked.parts() else {
        return None;
    };
    let order = vma.allowable_orders().next()?;
    vma.alloc_large_folio(0, order, sleep)
}

fn main() {}
