// SPDX-License-Identifier: GPL-2.0

//! The functions of `refused`, with what is wrong there put right; and the file that uses the types in the
//! kernel.

#![allow(dead_code)]

use core::ops::Range;
use kernel::{
    error::Result,
    mm::{
        locked::{LockedVma, Memory, Private, PteVma, Shared},
        pgtable::NoVacancy,
        MmWithUser,
    },
    task::Sleepable,
    userfaultfd::{
        pages::Pages,
        range::{CopySource, PageRange},
    },
};

#[path = "../../../../fs/userfaultfd/fill.rs"]
mod fill;

fn sleep_with_table<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    let count = vma.with_vacant(range, sleep, |run| run.poison())?;
    sleep.cond_resched();
    Ok(count)
}

fn nested<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    let first = vma.with_vacant(range.clone(), sleep, |run| run.poison())?;
    vma.alloc_pte_table(range.clone(), sleep)?;
    let second = vma.with_vacant(range, sleep, |run| run.poison())?;
    Ok(first + second)
}

fn escape<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    let mut kept = None;
    vma.with_vacant(range, sleep, |run| kept = Some(run.poison()))?;
    Ok(kept.unwrap_or(0))
}

fn use_twice(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range, sleep, |run| run.map_zero_page())
}

fn add_zeroes(vma: PteVma<'_, Shared>, range: Range<usize>, sleep: &mut Sleepable) -> Result {
    match vma.alloc_pte_table(range, sleep) {
        Ok(slot) => slot.add_zeroes(sleep),
        Err(_) => Ok(()),
    }
}

fn private_memory<'v>(
    vma: &'v mut LockedVma<'_>,
) -> Option<(PteVma<'v, Private>, &'v mut Sleepable)> {
    match vma.parts() {
        (Memory::Private(vma), sleep) => Some((vma, sleep)),
        _ => None,
    }
}

fn keep(mm: &MmWithUser, range: Range<usize>, sleep: &mut Sleepable) -> Result<Option<usize>> {
    let mut locked = mm.lock_vma_prepare_anon(range.start, sleep)?;
    let Some((vma, sleep)) = private_memory(&mut locked) else {
        return Ok(None);
    };
    let address = vma.alloc_pte_table(range, sleep).map(|slot| slot.address());
    drop(locked);
    Ok(address.ok())
}

fn lock(mm: &MmWithUser, addresses: [usize; 2], sleep: &mut Sleepable) -> Result {
    let mut first = mm.lock_vma_prepare_anon(addresses[0], sleep)?;
    first.parts();
    drop(first);
    mm.lock_vma_prepare_anon(addresses[1], sleep)?.parts();
    Ok(())
}

fn operations(
    pages: &mut Pages<'_>,
    range: PageRange,
    src: CopySource,
    sleep: &mut Sleepable,
) -> Result {
    let mut target = pages.lock_target(range)?;
    if let (Memory::Private(vma), sleep) = target.parts() {
        let addresses = range.start()..range.end();
        let _ = vma.with_vacant(addresses, sleep, |run| run.map_zero_page());
    }
    drop(target);
    pages.copy(range, src, false)?;
    pages.lock_target(range)?;
    sleep.cond_resched();
    Ok(())
}

fn can_be_sent<T: Send>() {}

fn main() {
    can_be_sent::<&MmWithUser>();
    can_be_sent::<PageRange>();
    can_be_sent::<NoVacancy>();
}
