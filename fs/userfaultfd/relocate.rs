// SPDX-License-Identifier: GPL-2.0

//! Moving pages.

#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
use kernel::mm::relocation::huge::{HugePair, PmdView};
use kernel::{
    mm::{
        folio::{Folio, LockedFolio},
        relocation::{Buffer, NoTables, OtherFolio, Relocation, Source, Swap, TablePair, Tables},
        rmap::{NoRmap, RmapLock, UnlockedRmap},
    },
    prelude::*,
    sync::aref::ARef,
    task::Sleepable,
    userfaultfd::{pages::Pages, range::PageRange},
};

/// How often a folio is tried to be split that others refer to as well. Reclaim or a fault lets go
/// of it soon. A pipe or a device may keep its reference for ever.
const SPLIT_TRIES: u32 = 16;

/// Moves pages from `src`, which may have holes if `allow_holes`. Returns the number of bytes that
/// were done, to which holes belong.
///
/// # Errors
///
/// Those of [`Pages::lock_target_pair`]; `EINVAL` if `src` is not as long as the range, or for
/// memory that is not private and anonymous, or of VMAs that differ in protection; `EEXIST` if
/// there is something where the first page would go; `ENOENT` if there is no page; `EBUSY` if it is
/// pinned, or another process may have it; `EFAULT` if it is a marker or the like; `EINTR` if a
/// fatal signal is pending; `ENOMEM`.
#[doc(alias = "move_pages")]
#[inline(always)]
pub(crate) fn relocate(
    pages: &mut Pages<'_>,
    range: PageRange,
    src: PageRange,
    allow_holes: bool,
) -> Result<u64> {
    if src.bytes() != range.bytes() {
        return Err(EINVAL);
    }
    let mut target = pages.lock_target_pair(range, src)?;
    let (vmas, sleep) = target.parts();
    let vmas = vmas.ok_or(EINVAL)?;
    let mut buffer = Buffer::default();
    let mut rest = Rest {
        pages: vmas
            .relocation(range.start(), src.start(), range.bytes(), &mut buffer)
            .ok_or(EINVAL)?,
        allow_holes,
        failed_splits: 0,
    };
    let result = rest.relocate(sleep);
    match (rest.pages.dst().wrapping_sub(range.start()), result) {
        (0, Err(err)) => Err(err),
        (bytes, _) => Ok(bytes as u64),
    }
}

/// What is left to be moved.
struct Rest<'v, 'b> {
    pages: Relocation<'v, 'b>,
    allow_holes: bool,
    /// How often the folio of the first page was not split.
    failed_splits: u32,
}

impl Rest<'_, '_> {
    /// Moves all pages.
    #[inline(always)]
    fn relocate(&mut self, sleep: &mut Sleepable) -> Result {
        loop {
            match self.first(sleep) {
                Ok(moved) => {
                    self.pages.advance(moved);
                    self.failed_splits = 0;
                    if self.pages.is_empty() {
                        return Ok(());
                    }
                }
                // Something has changed meanwhile: look again.
                Err(EAGAIN) => {}
                Err(err) => return Err(err),
            }
            sleep.cond_resched_killable()?;
        }
    }

    /// Moves the first page, and others with it. Returns their number.
    #[inline(always)]
    fn first(&mut self, sleep: &mut Sleepable) -> Result<usize> {
        match self.pages.find_tables(self.allow_holes, sleep) {
            Ok(Tables::Pte(tables)) => {
                relocate_ptes(tables, self.allow_holes, &mut self.failed_splits, sleep)
            }
            #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
            Ok(Tables::Huge(tables)) => relocate_huge(tables, sleep),
            #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
            Ok(Tables::PartOfHuge(part)) => {
                part.split(sleep)?;
                Err(EAGAIN)
            }
            Err(NoTables::NoSource) => Err(ENOENT),
            Err(NoTables::Taken) => Err(EEXIST),
            Err(NoTables::NoMemory) => Err(ENOMEM),
            Err(NoTables::NoPages) => Err(EINVAL),
        }
    }
}

/// Moves pages that PTE tables have. Returns their number.
#[inline(always)]
fn relocate_ptes(
    tables: TablePair<'_, '_>,
    allow_holes: bool,
    failed_splits: &mut u32,
    sleep: &mut Sleepable,
) -> Result<usize> {
    let mut tables = tables.invalidate(sleep);
    let mut held = Held::Nothing;
    let to_split = loop {
        let wanted = match tables.lock(sleep).ok_or(EAGAIN)? {
            Source::Taken => return Err(EEXIST),
            Source::Hole(pages) if allow_holes => return Ok(pages),
            Source::Hole(_) => return Err(ENOENT),
            Source::ZeroPage(page) => return Ok(page.relocate()),
            Source::Page(page) => match try_lock(page.folio(), held) {
                Ok(rmap) => return moved(page.relocate(rmap)),
                Err(wanted) => wanted,
            },
            // If this thread waited, its reference would keep others from splitting it.
            Source::LargePage(page) => break Some(page.folio().try_lock().ok_or(EAGAIN)?),
            Source::Swap(swap) => match relocate_swap(swap, held)? {
                None => return Ok(1),
                Some(wanted) => wanted,
            },
            Source::Shared => return Err(EBUSY),
            Source::Migration => break None,
            Source::Other => return Err(EFAULT),
        };
        held = wanted.lock(sleep)?;
    };
    // What splits or migrates the page locks these, or waits for threads that do.
    drop(held);
    match to_split {
        Some(folio) => split(folio, failed_splits, sleep)?,
        None => tables.wait_for_migration(sleep),
    }
    Err(EAGAIN)
}

/// Moves a huge page. Returns how many pages that are.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
#[inline(always)]
fn relocate_huge(tables: HugePair<'_, '_>, sleep: &mut Sleepable) -> Result<usize> {
    let mut tables = tables.invalidate(sleep);
    let mut held = Held::Nothing;
    loop {
        let wanted = match tables.lock(sleep).ok_or(EAGAIN)? {
            PmdView::Huge(page) => match try_lock(page.folio(), held) {
                Ok(rmap) => return moved(page.relocate(rmap)),
                Err(wanted) => wanted,
            },
            PmdView::HugeZero(page) => return Ok(page.relocate()),
            PmdView::Busy => return Err(EBUSY),
            PmdView::Migration => break,
            PmdView::None | PmdView::Table => return Err(EAGAIN),
            PmdView::Bad => return Err(ENOENT),
        };
        held = wanted.lock(sleep)?;
    }
    // As in `relocate_ptes`.
    drop(held);
    tables.into_source().wait_for_migration(sleep);
    Err(EAGAIN)
}

/// Splits a folio.
#[cold]
fn split(folio: LockedFolio, failed_splits: &mut u32, sleep: &mut Sleepable) -> Result {
    folio.split(sleep).map_err(|err| {
        if err != EAGAIN {
            return err;
        }
        *failed_splits += 1;
        if *failed_splits >= SPLIT_TRIES {
            EBUSY
        } else {
            EAGAIN
        }
    })
}

/// What was locked before the tables are.
enum Held {
    Nothing,
    Folio(LockedFolio),
    Rmap(RmapLock),
}

/// What the thread waits for, with the tables unlocked.
enum Wanted {
    /// The lock of a folio.
    Folio(ARef<Folio>),
    /// That of its `anon_vma`.
    Rmap(UnlockedRmap),
    /// Nothing: the folio is unlocked, and all is looked at again.
    Nothing(LockedFolio),
}

impl Wanted {
    /// Waits for the lock.
    fn lock(self, sleep: &mut Sleepable) -> Result<Held> {
        match self {
            Wanted::Folio(folio) => Ok(Held::Folio(Folio::lock(folio, sleep))),
            Wanted::Rmap(rmap) => Ok(Held::Rmap(rmap.lock(sleep))),
            Wanted::Nothing(folio) => {
                drop(folio);
                Err(EAGAIN)
            }
        }
    }
}

/// Locks the folio of a page and its `anon_vma`, unless they are held already, and without waiting,
/// because the tables are locked. Returns what to wait for if it cannot. What is held may be that
/// of another page, which was there before.
#[inline(always)]
fn try_lock(folio: &Folio, held: Held) -> Result<RmapLock, Wanted> {
    let locked = match held {
        Held::Rmap(rmap) => return Ok(rmap),
        Held::Folio(locked) if core::ptr::eq::<Folio>(&*locked, folio) => locked,
        // To lock the `anon_vma` of a folio that is not mapped here may sleep.
        Held::Folio(other) => return Err(Wanted::Nothing(other)),
        Held::Nothing => match folio.try_lock() {
            Some(locked) => locked,
            None => return Err(Wanted::Folio(folio.into())),
        },
    };
    locked.try_lock_rmap().map_err(|err| match err {
        NoRmap::Locked(rmap) => Wanted::Rmap(rmap),
        NoRmap::Unmapped(folio) => Wanted::Nothing(folio),
    })
}

/// Returns the number of pages that were moved.
#[inline(always)]
fn moved(result: Result<usize, OtherFolio>) -> Result<usize> {
    match result {
        // It is pinned.
        Ok(0) => Err(EBUSY),
        Ok(pages) => Ok(pages),
        Err(OtherFolio) => Err(EAGAIN),
    }
}

/// Moves a page that is swapped out. Returns what to wait for if it cannot be moved now.
fn relocate_swap(swap: Swap<'_>, held: Held) -> Result<Option<Wanted>> {
    let slot;
    let cached;
    // The tables are unlocked before what is locked here, because they were declared later.
    let swap = swap;
    slot = swap.slot().ok_or(EAGAIN)?;
    cached = match held {
        Held::Folio(folio) => Some(folio),
        // The page was mapped when this was locked.
        Held::Rmap(_) => return Err(EAGAIN),
        Held::Nothing => match slot.cached_folio() {
            None => None,
            Some(folio) if folio.is_large() => {
                drop(swap);
                return Err(EBUSY);
            }
            Some(folio) => match folio.try_lock() {
                Some(folio) => Some(folio),
                None => return Ok(Some(Wanted::Folio(folio))),
            },
        },
    };
    match swap.relocate(&slot, cached.as_ref()) {
        Ok(()) => Ok(None),
        Err(OtherFolio) => Err(EAGAIN),
    }
}
