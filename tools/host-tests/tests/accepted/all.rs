// SPDX-License-Identifier: GPL-2.0

//! The functions of `refused`, with what is wrong there put right; and the file that uses the types in the
//! kernel.

#![allow(dead_code)]

use core::ops::Range;
use kernel::{
    error::Result,
    mm::{
        folio::{ChargedFolios, FilledFolio, NewFolio},
        locked::{LockedVma, Memory, Private, PteVma, Shared, ShmemVma},
        pgtable::NoVacancy,
        MmWithUser,
    },
    task::Sleepable,
    userfaultfd::{
        pages::Pages,
        range::{CopySource, PageRange},
        target::Target,
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
    let _ = sleep.cond_resched_killable();
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
    ChargedFolios::new(vma);
    let address = vma.alloc_pte_table(range, sleep).map(|slot| slot.address());
    drop(locked);
    Ok(address.ok())
}

fn lock(mm: &MmWithUser, addresses: [usize; 2], sleep: &mut Sleepable) -> Result {
    let mut first = mm.lock_vma_prepare_anon(addresses[0], sleep)?;
    first.parts();
    let sleep = first.unlock();
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
    pages.write_protect(range, true)?;
    fill::copy(pages, range, src, false)?;
    fill::map_existing(pages, range, false)?;
    pages.lock_target(range)?;
    sleep.cond_resched_killable()
}

fn map(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    folio: FilledFolio<Private>,
    sleep: &mut Sleepable,
) -> Result<Result<usize, NoVacancy>> {
    let mut folios = ChargedFolios::new(vma);
    folios.charge(folio, sleep)?;
    let count = vma.map_folios(range.start, &mut folios, false, sleep);
    let _ = vma.with_vacant(range, sleep, |run| run.poison());
    Ok(count)
}

fn fill(
    folio: NewFolio<Private>,
    src: usize,
    sleep: &mut Sleepable,
) -> Result<FilledFolio<Private>> {
    match folio.copy_from_user_nofault(src) {
        Ok(folio) => Ok(folio),
        Err(folio) => folio.copy_from_user(src, sleep),
    }
}

/// Copies a page, as the kernel does: its source is read with the VMA unlocked if need be.
fn copy(pages: &mut Pages<'_>, range: PageRange, src: usize) -> Result<Result<usize, NoVacancy>> {
    let mut target = pages.lock_target(range)?;
    let (Memory::Private(vma), sleep) = target.parts() else {
        return Ok(Ok(0));
    };
    let addresses = range.start()..range.end();
    let Some(folio) = vma.alloc_folio(range.start(), sleep) else {
        return Ok(Err(NoVacancy::NoMemory));
    };
    let unfilled = match folio.copy_from_user_nofault(src) {
        Ok(folio) => return map(vma, addresses, folio, sleep),
        Err(folio) => folio,
    };
    let (mut target, folio) =
        target.unlocked(range, |sleep| unfilled.copy_from_user(src, sleep))?;
    match target.parts() {
        (Memory::Private(vma), sleep) => map(vma, addresses, folio, sleep),
        _ => Ok(Ok(0)),
    }
}

fn map_cached<S>(
    vma: ShmemVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<Result<usize, NoVacancy>> {
    match vma.map_cached(range.clone(), false, sleep) {
        Ok(0) => {
            let folio = vma.lock_folio(range.start, sleep)?;
            Ok(folio.map(range.end, false))
        }
        other => Ok(other),
    }
}

fn map_existing(
    mut target: Target<'_>,
    range: PageRange,
) -> Result<Option<Result<usize, NoVacancy>>> {
    let addresses = range.start()..range.end();
    let count = match target.parts() {
        (Memory::Private(vma), sleep) => match vma.shmem() {
            Some(vma) => Some(map_cached(vma, addresses, sleep)?),
            None => None,
        },
        (Memory::Shared(vma), sleep) => Some(map_cached(vma.shmem(), addresses, sleep)?),
        _ => None,
    };
    target.unlocked(range, |_| Ok(()))?;
    Ok(count)
}

fn tracks_writes(target: Target<'_>, range: PageRange) -> Result<bool> {
    let (target, ()) = target.unlocked(range, |sleep| sleep.cond_resched_killable())?;
    Ok(target.tracks_writes())
}

fn can_be_sent<T: Send>() {}

fn main() {
    can_be_sent::<&MmWithUser>();
    can_be_sent::<PageRange>();
    can_be_sent::<NoVacancy>();
}
