// SPDX-License-Identifier: GPL-2.0

//! Moving huge pages, which entries of PMD tables map.
//!
//! It rests on what [`relocation`](super) says, for PMD tables and their locks. Such a table is not
//! freed as long as the VMA is locked, but its entries change while it is not locked: a huge page
//! may be split, migrate, or be gone. So what the entry of the source is, is found out by one read
//! of it, with both tables locked: [`PmdView`].
//!
//! The entry of a huge page keeps a PTE table in reserve, which goes with it, for the case that the
//! page is split.

use super::{Found, InvalidatedPair, OtherFolio, PmdLevel, PMD_SIZE};
use crate::{
    bindings,
    error::{to_result, Result},
    mm::{folio::Folio, rmap::RmapLock, virt::VmaRef},
    page::PAGE_SIZE,
    task::Sleepable,
};
use core::{marker::PhantomData, mem::ManuallyDrop, ptr};

/// The place of an entry in a PMD table, whatever the entry is: other threads change it. No value
/// stands for a place, because the entry is looked at again under its lock, which is found by its
/// place.
///
/// # Invariants
///
/// `pmd` is the entry of a PMD table for `address` in the mm of `vma`, which is locked for `'v` and
/// has the address.
#[derive(Copy, Clone)]
pub struct PmdSlot<'v> {
    pmd: *mut bindings::pmd_t,
    vma: &'v VmaRef,
    address: usize,
}

impl PmdSlot<'_> {
    /// Waits until the huge page has migrated, if it does. The caller must not have locked a folio
    /// or an `anon_vma`, or have told MMU notifiers of a change that did not end: what migrates the
    /// page may wait for one of these.
    #[doc(alias = "pmd_migration_entry_wait")]
    #[cold]
    pub fn wait_for_migration(self, _sleep: &mut Sleepable) {
        // SAFETY: By the type invariants it is an entry of a PMD table of this VMA, which is not
        // freed. The caller may sleep.
        unsafe { bindings::rust_pmd_migration_entry_wait(self.vma.as_ptr(), self.pmd) };
    }

    /// Splits the entry of a huge page into those of pages, if there is one.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another process may have the page.
    #[doc(alias = "split_huge_pmd")]
    #[cold]
    fn split(self, _sleep: &mut Sleepable) -> Result {
        // SAFETY: As for `wait_for_migration`. The VMA has the address, and the entry is for it.
        to_result(unsafe { bindings::rust_split_pmd(self.vma.as_ptr(), self.pmd, self.address) })
    }
}

impl<'v> Found<'_, 'v> {
    /// Returns the place of the entry for the first page.
    fn source(&self) -> PmdSlot<'v> {
        // SAFETY: By the type invariants these were set.
        let (pmd, address) = unsafe { ((*self.raw).src_pmd, (*self.raw).src) };
        // INVARIANT: By the type invariants they are those of the VMA, which is locked.
        PmdSlot {
            pmd,
            vma: self.vmas.src(),
            address,
        }
    }
}

/// A huge page, or an entry for one that migrates, of which not all is to be moved, or to where
/// there is a table. It may be gone at any time.
pub struct PartOfHuge<'p, 'v>(pub(super) Found<'p, 'v>);

impl PartOfHuge<'_, '_> {
    /// Splits the entry into those of pages, if it is still there.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another process may have the page.
    pub fn split(self, sleep: &mut Sleepable) -> Result {
        self.0.source().split(sleep)
    }
}

/// Entries of PMD tables. That of the source was a huge page, or one that migrates, all of which is
/// to be moved, and that of the destination had no table. Both may change at any time.
///
/// # Invariants
///
/// The addresses are those of whole huge pages, which the VMAs have.
pub struct HugePair<'p, 'v>(Found<'p, 'v>);

impl<'p, 'v> HugePair<'p, 'v> {
    /// Returns the entries, or gives what was found back, if not all of a huge page is to be moved,
    /// or if there was something at the destination.
    #[inline(always)]
    pub(super) fn new(found: Found<'p, 'v>) -> Result<Self, Found<'p, 'v>> {
        let raw = found.raw;
        // SAFETY: By the type invariants these were set.
        let is_whole = unsafe {
            (*raw).dst_is_none
                && ((*raw).dst | (*raw).src) & (PMD_SIZE - 1) == 0
                && (*raw).len >= PMD_SIZE
        };
        if is_whole {
            // INVARIANT: This was checked.
            Ok(Self(found))
        } else {
            Err(found)
        }
    }

    /// Tells those that have page tables of their own that the page may go.
    #[inline(always)]
    pub fn invalidate(self, sleep: &mut Sleepable) -> InvalidatedPair<'p, 'v, PmdLevel> {
        // INVARIANT: By the type invariants it is for entries of whole huge pages.
        self.0.invalidate(PMD_SIZE, sleep)
    }
}

impl<'v> InvalidatedPair<'_, 'v, PmdLevel> {
    /// Ends the invalidation. Returns the place of the entry of the source, for waiting.
    #[inline]
    pub fn into_source(self) -> PmdSlot<'v> {
        self.found.source()
    }

    /// Locks both tables. Returns what the entry of the source is, or `None` if there is something
    /// at the destination. They stay locked as long as that is a huge page.
    #[doc(alias = "pmd_lock")]
    #[inline(always)]
    pub fn lock<'l>(&'l mut self, _sleep: &'l mut Sleepable) -> Option<PmdView<'l>> {
        let raw = self.found.raw;
        // SAFETY: By the type invariants these are entries of PMD tables for whole huge pages. The
        // caller holds no page table lock, because this borrows the token as long as it does.
        let kind = unsafe { bindings::rust_move_lock_pmds(raw) };
        // INVARIANT: If it is a huge page, the tables are locked, and this is what the source has.
        let pmds = || LockedPmds {
            raw,
            _token: PhantomData,
        };
        Some(match kind {
            bindings::rust_pmd_RUST_PMD_TAKEN => return None,
            bindings::rust_pmd_RUST_PMD_NONE => PmdView::None,
            bindings::rust_pmd_RUST_PMD_TABLE => PmdView::Table,
            bindings::rust_pmd_RUST_PMD_HUGE => PmdView::Huge(HugePage(pmds())),
            bindings::rust_pmd_RUST_PMD_HUGE_ZERO => PmdView::HugeZero(HugeZeroPage(pmds())),
            bindings::rust_pmd_RUST_PMD_BUSY => PmdView::Busy,
            bindings::rust_pmd_RUST_PMD_MIGRATION => PmdView::Migration,
            _ => PmdView::Bad,
        })
    }
}

/// Entries of PMD tables that are locked.
///
/// # Invariants
///
/// The thread has locked both tables. `raw` has their entries, which are for whole huge pages.
/// Nothing is at the destination.
struct LockedPmds<'l> {
    raw: *mut bindings::rust_move,
    _token: PhantomData<&'l mut Sleepable>,
}

impl Drop for LockedPmds<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread has locked both.
        unsafe { bindings::rust_move_unlock_pmds(self.raw) };
    }
}

/// What the entry of a PMD table is. Only that of a huge page which is present has a folio.
pub enum PmdView<'l> {
    /// Nothing.
    None,
    /// A PTE table.
    Table,
    /// A huge page that is mapped here only.
    Huge(HugePage<'l>),
    /// The huge zero page.
    HugeZero(HugeZeroPage<'l>),
    /// A huge page that is pinned, or that another process may have as well.
    Busy,
    /// A huge page that migrates.
    Migration,
    /// Anything else.
    Bad,
}

/// A huge page that is mapped once.
///
/// # Invariants
///
/// The entry of the source maps the folio of `raw`, exclusively.
pub struct HugePage<'l>(LockedPmds<'l>);

/// The huge zero page, which is of no process.
///
/// # Invariants
///
/// The entry of the source maps it.
pub struct HugeZeroPage<'l>(LockedPmds<'l>);

impl HugeZeroPage<'_> {
    /// Moves it. Returns how many pages that are.
    pub fn relocate(self) -> usize {
        let taken = Taken::new(self.0);
        // SAFETY: By the type invariants the tables are locked, the entry of the source was cleared
        // that mapped the huge zero page, and there is nothing at the destination.
        unsafe { bindings::rust_move_place_huge_zero(taken.into_raw()) };
        PMD_SIZE / PAGE_SIZE
    }
}

impl HugePage<'_> {
    /// Returns the folio.
    #[inline(always)]
    pub fn folio(&self) -> &Folio {
        // SAFETY: By the type invariants this is what the union has, and the entry, which cannot
        // change, has a reference.
        unsafe { &*(*self.0.raw).__bindgen_anon_1.folio.cast() }
    }

    /// Moves it, if `rmap` is locked for its folio. Returns how many pages were moved, which is
    /// none if it was pinned meanwhile.
    #[inline(always)]
    pub fn relocate(self, rmap: RmapLock) -> Result<usize, OtherFolio> {
        if !ptr::eq::<Folio>(&**rmap.folio(), self.folio()) {
            // The tables are unlocked before the rmap.
            drop(self);
            return Err(OtherFolio);
        }
        let taken = Taken::new(self.0);
        // It was not pinned before, and a thread that pins it from now on does not find the entry.
        if rmap.folio().is_maybe_pinned() {
            drop(taken);
            return Ok(0);
        }
        // SAFETY: By the type invariants the tables are locked, the entry of the source was cleared
        // that mapped this folio exclusively, and there is nothing at the destination. The folio is
        // locked, and so is its `anon_vma`, which is another one afterwards: the lock is dropped.
        // By the invariants of `AnonPair` pages can be moved from one VMA to the other.
        unsafe { bindings::rust_move_place_huge(taken.into_raw()) };
        Ok(PMD_SIZE / PAGE_SIZE)
    }
}

/// A huge page whose entry was cleared, and flushed from the TLBs. It is put back if this is
/// dropped.
///
/// # Invariants
///
/// `src_pmdval` of `raw` is the entry that was cleared, and nothing is in its place.
struct Taken<'l>(LockedPmds<'l>);

impl<'l> Taken<'l> {
    #[inline(always)]
    fn new(pmds: LockedPmds<'l>) -> Self {
        // SAFETY: By the type invariants the thread has locked the tables, the entry is for a whole
        // huge page, and those that have page tables of their own were told.
        unsafe { bindings::rust_move_clear_pmd(pmds.raw) };
        // INVARIANT: The function has set it.
        Self(pmds)
    }

    /// Returns the page, for a function that maps it and unlocks the tables.
    #[inline(always)]
    fn into_raw(self) -> *mut bindings::rust_move {
        ManuallyDrop::new(self).0.raw
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the tables are locked, and this was cleared there.
        unsafe { bindings::rust_move_restore_pmd(self.0.raw) };
    }
}
