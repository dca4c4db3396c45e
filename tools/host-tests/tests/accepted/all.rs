// SPDX-License-Identifier: GPL-2.0

//! The functions of `refused`, with what is wrong there put right; and files that use the types in the
//! kernel. `relocate.rs`, which depends on the configuration, is one of the library.

#![allow(dead_code)]

use core::ops::Range;
use kernel::{
    error::Result,
    mm::{
        filemap::NewPage,
        folio::{ChargedFolios, FilledFolio, Folio, LockedFolio, NewFolio},
        hugetlb::{FilledHugeFolio, HugePte, HugetlbPage, ReadyFolio, ReservedFolio},
        locked::{Huge, Memory, Private, PteVma, Shared, ShmemVma},
        mmu_notifier::InvalidateRange,
        pgtable::NoVacancy,
        relocation::{
            huge::{HugePage, HugePair, PmdView},
            Buffer, InvalidatedPair, NoTables, OtherFolio, Page, PmdLevel, Relocation, Source,
            Swap, Tables,
        },
        rmap::{NoRmap, RmapLock, UnlockedRmap},
        swap::SwapSlot,
        MmWithUser,
    },
    page::PAGE_SIZE,
    task::Sleepable,
    userfaultfd::{
        pages::Pages,
        range::{CopySource, PageRange},
        target::Target,
    },
};

#[path = "../../../../fs/userfaultfd/fill.rs"]
mod fill;
#[path = "../../../../fs/userfaultfd/fill_huge.rs"]
mod fill_huge;
#[path = "../../../../fs/userfaultfd/protect.rs"]
mod protect;

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
    vma.alloc_pte_table(range.start, sleep)?;
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

fn add_zeroes(
    vma: ShmemVma<'_, Shared>,
    address: usize,
    sleep: &mut Sleepable,
) -> Result<(), NoVacancy> {
    let (page, folio) = vma.new_page(address, sleep)?;
    page.add(folio.zero(address), sleep)?.map(false)
}

fn keep(mm: &MmWithUser, address: usize, sleep: &mut Sleepable) -> Result {
    let mut locked = mm.lock_vma_prepare_anon(address, sleep)?;
    match locked.parts() {
        (Memory::Private(vma), _) => drop(ChargedFolios::new(vma)),
        (Memory::Shared(vma), sleep) => {
            let page = vma.shmem().new_page_for_filled(address, sleep);
            drop(page);
        }
        _ => {}
    }
    locked.unlock();
    Ok(())
}

fn lock(mm: &MmWithUser, addresses: [usize; 2], sleep: &mut Sleepable) -> Result {
    let mut first = mm.lock_vma_prepare_anon(addresses[0], sleep)?;
    first.parts();
    let sleep = first.unlock();
    mm.lock_vma_prepare_anon(addresses[1], sleep)?.parts();
    Ok(())
}

fn lock_pair(mm: &MmWithUser, dst: usize, src: usize, sleep: &mut Sleepable) -> Result {
    mm.lock_vma_prepare_anon(dst, sleep)?.parts();
    let mut buffer = Buffer::default();
    let mut locked = mm.lock_vma_pair_prepare_anon(dst, src, sleep)?;
    let (Some(vmas), token) = locked.parts() else {
        return Ok(());
    };
    token.cond_resched_killable()?;
    let range = InvalidateRange::clear(vmas.src(), src..src + PAGE_SIZE, token);
    drop(range);
    for offset in [0, PAGE_SIZE] {
        let pages = vmas.relocation(dst + offset, src + offset, PAGE_SIZE, &mut buffer);
        drop(pages);
    }
    drop(locked);
    sleep.cond_resched_killable()
}

fn find(
    pages: &mut Relocation<'_, '_>,
    rmap: RmapLock,
    slot: SwapSlot,
    sleep: &mut Sleepable,
) -> Result<usize, NoTables> {
    let moved = match pages.find_tables(true, sleep)? {
        Tables::PartOfHuge(part) => part.split(sleep).map_or(0, |()| 0),
        Tables::Huge(tables) => relocate_huge(tables, rmap, sleep),
        Tables::Pte(tables) => relocate_first(tables.invalidate(sleep), rmap, slot, sleep),
    };
    pages.advance(moved);
    pages.find_tables(true, sleep)?;
    Ok(moved)
}

fn relocate_huge(tables: HugePair<'_, '_>, rmap: RmapLock, sleep: &mut Sleepable) -> usize {
    let mut tables = tables.invalidate(sleep);
    let moved = match tables.lock(sleep) {
        Some(PmdView::Huge(page)) => relocate_huge_page(page, rmap).unwrap_or(0),
        Some(PmdView::HugeZero(page)) => page.relocate(),
        _ => 0,
    };
    if let Some(PmdView::HugeZero(page)) = tables.lock(sleep) {
        return moved + page.relocate();
    }
    tables.into_source().wait_for_migration(sleep);
    moved
}

fn relocate_huge_page(page: HugePage<'_>, rmap: RmapLock) -> Result<usize, OtherFolio> {
    let is_pinned = page.folio().is_maybe_pinned();
    let moved = page.relocate(rmap)?;
    Ok(if is_pinned { 0 } else { moved })
}

fn lock_huge_folio(
    tables: &mut InvalidatedPair<'_, '_, PmdLevel>,
    sleep: &mut Sleepable,
) -> Option<LockedFolio> {
    let Some(PmdView::Huge(page)) = tables.lock(sleep) else {
        return None;
    };
    let folio = page.folio().into();
    drop(page);
    Some(Folio::lock(folio, sleep))
}

fn relocate_first(
    mut tables: InvalidatedPair<'_, '_>,
    rmap: RmapLock,
    slot: SwapSlot,
    sleep: &mut Sleepable,
) -> usize {
    let moved = match tables.lock(sleep) {
        Some(Source::ZeroPage(page)) => page.relocate(),
        Some(Source::Page(page)) => relocate_page(page, rmap).unwrap_or(0),
        Some(Source::Swap(swap)) => relocate_swap(swap, slot, None).map_or(0, |()| 1),
        Some(Source::Hole(pages)) => pages,
        _ => 0,
    };
    if let Some(Source::ZeroPage(page)) = tables.lock(sleep) {
        return moved + page.relocate();
    }
    tables.wait_for_migration(sleep);
    moved
}

fn relocate_page(page: Page<'_>, rmap: RmapLock) -> Result<usize, OtherFolio> {
    let is_large = page.folio().is_large();
    let moved = page.relocate(rmap)?;
    Ok(if is_large { 0 } else { moved })
}

fn relocate_swap(
    swap: Swap<'_>,
    slot: SwapSlot,
    cached: Option<&LockedFolio>,
) -> Result<(), OtherFolio> {
    swap.relocate(&slot, cached)
}

fn lock_folio(
    tables: &mut InvalidatedPair<'_, '_>,
    rmap: UnlockedRmap,
    sleep: &mut Sleepable,
) -> Option<RmapLock> {
    let Some(Source::Page(page)) = tables.lock(sleep) else {
        return None;
    };
    let folio = page.folio().into();
    drop(page);
    let folio = match Folio::lock(folio, sleep).try_lock_rmap() {
        Ok(rmap) => return Some(rmap),
        Err(NoRmap::Locked(rmap)) => return Some(rmap.lock(sleep)),
        Err(NoRmap::Unmapped(folio)) => folio,
    };
    match folio.split(sleep) {
        Ok(()) => Some(rmap.lock(sleep)),
        Err(_) => None,
    }
}

fn add(
    vma: ShmemVma<'_, Shared>,
    page: NewPage<'_>,
    folio: FilledFolio<Shared>,
    sleep: &mut Sleepable,
) -> Result<Result<(), NoVacancy>> {
    let mapped = page.add(folio, sleep).and_then(|added| added.map(true));
    drop(vma.lock_folio(vma.pte_vma().vma().start(), sleep)?);
    Ok(mapped)
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
    pages.lock_range(range)?.protect(true)?;
    fill::copy(pages, range, src, false)?;
    fill::map_existing(pages, range, false)?;
    protect::write_protect(pages, range, true)?;
    drop(pages.lock_target_pair(range, range)?);
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

fn target_pair(pages: &mut Pages<'_>, dst: PageRange, src: PageRange) -> Result<Option<usize>> {
    let mut target = pages.lock_target_pair(dst, src)?;
    let (vmas, _) = target.parts();
    let start = vmas.map(|vmas| vmas.dst().start().min(vmas.src().start()));
    drop(target);
    pages.lock_range(dst)?;
    Ok(start)
}

fn tracks_writes(target: Target<'_>, range: PageRange) -> Result<bool> {
    let (target, ()) = target.unlocked(range, |sleep| sleep.cond_resched_killable())?;
    Ok(target.tracks_writes())
}

fn lock_huge(
    first: HugetlbPage<'_>,
    second: HugetlbPage<'_>,
    src: usize,
    sleep: &mut Sleepable,
) -> Result<Option<NewFolio<Huge>>> {
    let mut faults = first.lock_faults(sleep);
    if let Some(mut pte) = faults.lock_pte() {
        drop(pte.lock_none());
        if let Some(entry) = pte.lock_none() {
            entry.poison();
        }
        drop(pte.lock_folio());
    }
    drop(faults);
    sleep.cond_resched_killable()?;
    let mut faults = second.lock_faults(sleep);
    let Some(mut pte) = faults.lock_pte() else {
        return Ok(None);
    };
    copy_huge(&mut pte, src)
}

fn copy_huge(pte: &mut HugePte<'_>, src: usize) -> Result<Option<NewFolio<Huge>>> {
    drop(pte.alloc_folio());
    let Some(folio) = pte.alloc_folio() else {
        return Ok(None);
    };
    match folio.copy_from_user_nofault(src) {
        Ok(folio) => map_huge(folio).map(|_| None),
        Err(folio) => Ok(folio.into_buffer()),
    }
}

fn copy_filled(folio: ReservedFolio<'_>, from: FilledFolio<Huge>) -> Result<Result<(), NoVacancy>> {
    map_huge(folio.copy_from(&from)?)
}

fn map_huge(folio: FilledHugeFolio<'_>) -> Result<Result<(), NoVacancy>> {
    let folio: ReadyFolio<'_> = match folio {
        FilledHugeFolio::Private(folio) => folio,
        FilledHugeFolio::Shared(folio) => folio.add()?,
    };
    Ok(folio.lock_vacant().map(|entry| entry.map(false)))
}

fn can_be_sent<T: Send>() {}

fn main() {
    can_be_sent::<&MmWithUser>();
    can_be_sent::<PageRange>();
    can_be_sent::<NoVacancy>();
}
