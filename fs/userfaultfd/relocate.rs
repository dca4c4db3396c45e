// SPDX-License-Identifier: GPL-2.0

//! Moving pages.

use kernel::{
    mm::{
        folio::{Folio, LockedFolio},
        relocation::{
            Buffer, Leaf, NoTables, OtherFolio, Page, Relocation, Source, Swap, TablePair, Tables,
        },
        rmap::{NoRmap, RmapLock, UnlockedRmap},
    },
    page::PAGE_SIZE,
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
            Ok(Tables::Leaf(leaf)) if leaf.is_whole() => {
                leaf.relocate(sleep)?;
                Ok(Leaf::SIZE / PAGE_SIZE)
            }
            Ok(Tables::Leaf(leaf)) => {
                leaf.split(sleep)?;
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
    loop {
        let next = match tables.lock(sleep).ok_or(EAGAIN)? {
            Source::Taken => return Err(EEXIST),
            Source::Hole(pages) if allow_holes => return Ok(pages),
            Source::Hole(_) => return Err(ENOENT),
            Source::ZeroPage(page) => return Ok(page.relocate()),
            Source::Page(page) => relocate_page(page, held)?,
            Source::Swap(swap) => relocate_swap(swap, held)?,
            Source::Shared => return Err(EBUSY),
            Source::Migration => {
                // What migrates the page may wait for one of these.
                drop(held);
                Next::Wait
            }
            Source::Other => return Err(EFAULT),
        };
        held = match next {
            Next::Moved(pages) => return Ok(pages),
            Next::Lock(folio) => Held::Folio(Folio::lock(folio, sleep)),
            Next::LockRmap(rmap) => Held::Rmap(rmap.lock(sleep)),
            Next::Wait => {
                tables.wait_for_migration(sleep);
                return Err(EAGAIN);
            }
            Next::Split(folio) => {
                split(folio, failed_splits, sleep)?;
                Held::Nothing
            }
        };
    }
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

/// What comes next, with the tables unlocked.
enum Next {
    /// Pages were moved, as many.
    Moved(usize),
    /// The folio has to be locked.
    Lock(ARef<Folio>),
    /// Its `anon_vma` has to be locked.
    LockRmap(UnlockedRmap),
    /// The page migrates.
    Wait,
    /// The folio has to be split.
    Split(LockedFolio),
}

/// Moves a page that is mapped, and those behind it.
#[inline(always)]
fn relocate_page(page: Page<'_>, held: Held) -> Result<Next> {
    let folio;
    let rmap;
    // The tables are unlocked before what is locked here, because they were declared later.
    let page = page;
    match held {
        Held::Rmap(held) => rmap = held,
        _ => {
            folio = match held {
                Held::Folio(folio) => folio,
                _ => match page.folio().try_lock() {
                    Some(folio) => folio,
                    // While this thread waits, its reference keeps others from splitting it.
                    None if page.folio().is_large() => return Err(EAGAIN),
                    None => return Ok(Next::Lock(page.folio().into())),
                },
            };
            if !page.is_of(&folio) {
                return Err(EAGAIN);
            }
            rmap = match folio.try_lock_rmap() {
                Ok(rmap) => rmap,
                Err(NoRmap::Large(folio)) => return Ok(Next::Split(folio)),
                Err(NoRmap::Locked(rmap)) => return Ok(Next::LockRmap(rmap)),
                Err(NoRmap::Unmapped(folio)) => {
                    drop(page);
                    drop(folio);
                    return Err(EAGAIN);
                }
            };
        }
    }
    match page.relocate(rmap) {
        Ok(0) => Err(EBUSY),
        Ok(pages) => Ok(Next::Moved(pages)),
        Err(OtherFolio) => Err(EAGAIN),
    }
}

/// Moves a page that is swapped out.
fn relocate_swap(swap: Swap<'_>, held: Held) -> Result<Next> {
    let slot;
    let cached;
    // As in `relocate_page`.
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
                None => return Ok(Next::Lock(folio)),
            },
        },
    };
    match swap.relocate(&slot, cached.as_ref()) {
        Ok(()) => Ok(Next::Moved(1)),
        Err(OtherFolio) => Err(EAGAIN),
    }
}
