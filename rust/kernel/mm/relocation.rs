// SPDX-License-Identifier: GPL-2.0

//! Moving anonymous pages from one place in the page tables to another.
//!
//! [`Relocation::find_tables`] finds the tables. [`InvalidatedPair`] locks both, in the order of
//! the addresses of their locks, and says what there is: a [`Source`] in PTE tables; in PMD tables,
//! which map huge pages, a `PmdView` of the module `huge`. Nothing of that can change until they
//! are unlocked, so nothing has to be looked at twice. Locks that come before those of page tables
//! are tried, or taken with the tables unlocked, which are looked at again.
//!
//! What they rest on, beside what [`pgtable`](super::pgtable) says:
//!
//! - While both tables are locked and their PMD entries refer to them, they are not freed.
//! - The entry that maps an anonymous page which is exclusive is the only one: no other process can
//!   reach the page, but through pins (`folio_maybe_dma_pinned()`) and references of short life.
//! - A thread that pins a page without locks (`gup_fast`) looks at the entry once more afterwards.
//!   So the entry is cleared first, and then the pins are looked at.
//! - The old entries are flushed from the TLBs before the tables are unlocked. So a thread that
//!   locks the table and finds a page at its new address knows that no CPU uses the old one.
//! - The `anon_vma` and the index of a folio that is mapped change with both tables locked, the
//!   folio locked, and its `anon_vma` locked for writing: a walk of the rmap has one of these. A
//!   folio of the swap cache that is not mapped is only locked: no walk finds it, because its
//!   entries are swap entries, and this one is exclusive.
//! - Those that have page tables of their own were told before an entry is cleared, and use none of
//!   the pages until they are told of the end: [`InvalidatedPair`].

use super::{
    folio::{Folio, LockedFolio},
    locked::AnonPair,
    mmu_notifier::InvalidateRange,
    rmap::RmapLock,
    swap::SwapSlot,
    virt::VmaRef,
};
use crate::{
    bindings,
    page::{PAGE_MASK, PAGE_SIZE},
    task::Sleepable,
};
use core::{
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ptr::{self, null_mut},
};

#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
pub mod huge;
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
use huge::{HugePair, PartOfHuge};

/// The size of what an entry of a PMD table is for, such as a huge page, in bytes.
const PMD_SIZE: usize = bindings::PMD_SIZE;

/// Why there are no tables.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoTables {
    /// There are no pages.
    NoPages,
    /// There is no table of the source.
    NoSource,
    /// There is a huge page at the destination.
    Taken,
    /// There is no memory for a table.
    NoMemory,
}

/// Room for what is found out about pages that are to be moved. It has a place of its own, so that
/// it is not copied.
pub struct Buffer(MaybeUninit<bindings::rust_move>);

impl Default for Buffer {
    #[inline(always)]
    fn default() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// Pages that are to be moved.
///
/// # Invariants
///
/// `raw` is in a buffer that is borrowed for `'b`. It has the VMAs of `vmas`, and addresses and a
/// length of whole pages, which they have.
pub struct Relocation<'v, 'b> {
    vmas: AnonPair<'v>,
    raw: *mut bindings::rust_move,
    _buffer: PhantomData<&'b mut Buffer>,
}

impl<'v> AnonPair<'v> {
    /// Returns pages that are to be moved from `src` to `dst`: addresses and a length in bytes.
    /// Returns `None` if the VMAs do not have them all, or if they are not whole ones.
    #[inline(always)]
    pub fn relocation<'b>(
        self,
        dst: usize,
        src: usize,
        len: usize,
        buffer: &'b mut Buffer,
    ) -> Option<Relocation<'v, 'b>> {
        let has = |vma: &VmaRef, start: usize| {
            start >= vma.start() && start.checked_add(len).is_some_and(|end| end <= vma.end())
        };
        if (dst | src | len) & !PAGE_MASK != 0 || !has(self.dst(), dst) || !has(self.src(), src) {
            return None;
        }
        let raw = buffer.0.as_mut_ptr();
        // SAFETY: The buffer may be written to.
        unsafe {
            (&raw mut (*raw).dst_vma).write(self.dst().as_ptr());
            (&raw mut (*raw).src_vma).write(self.src().as_ptr());
            (&raw mut (*raw).dst).write(dst);
            (&raw mut (*raw).src).write(src);
            (&raw mut (*raw).len).write(len);
        }
        // INVARIANT: This was checked, and set.
        Some(Relocation {
            vmas: self,
            raw,
            _buffer: PhantomData,
        })
    }
}

impl<'v> Relocation<'v, '_> {
    /// Returns true if there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        // SAFETY: By the type invariants it was set.
        unsafe { (*self.raw).len == 0 }
    }

    /// Returns the address that the first page is to be moved to.
    #[inline(always)]
    pub fn dst(&self) -> usize {
        // SAFETY: By the type invariants it was set.
        unsafe { (*self.raw).dst }
    }

    /// Leaves pages out, from the first on.
    #[inline(always)]
    pub fn advance(&mut self, pages: usize) {
        // SAFETY: By the type invariants these were set, and the buffer is borrowed.
        let (dst, src, len) = unsafe {
            (
                &mut (*self.raw).dst,
                &mut (*self.raw).src,
                &mut (*self.raw).len,
            )
        };
        let bytes = pages.wrapping_mul(PAGE_SIZE).min(*len);
        // INVARIANT: The others are as before.
        *dst = dst.wrapping_add(bytes);
        *src = src.wrapping_add(bytes);
        *len -= bytes;
    }

    /// Finds the tables for the first page. Makes those of the destination, and if `alloc` those of
    /// the source, unless they are there.
    #[inline(always)]
    pub fn find_tables(
        &mut self,
        alloc: bool,
        _sleep: &mut Sleepable,
    ) -> Result<Tables<'_, 'v>, NoTables> {
        if self.is_empty() {
            return Err(NoTables::NoPages);
        }
        // SAFETY: The VMAs are locked and have the page, so the mm has users, and the tables above
        // PTE tables are not freed. They are anonymous, so that they can have PTE tables. The
        // caller may sleep.
        let result = unsafe { bindings::rust_move_find_tables(self.raw, alloc) };
        // INVARIANT: If it has found tables, it has set the entries.
        let found = Found {
            vmas: self.vmas,
            raw: self.raw,
            _buffer: PhantomData,
        };
        match result {
            bindings::rust_move_tables_RUST_MOVE_PTE => Ok(Tables::Pte(TablePair(found))),
            #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
            bindings::rust_move_tables_RUST_MOVE_LEAF => Ok(match HugePair::new(found) {
                Ok(pair) => Tables::Huge(pair),
                Err(found) => Tables::PartOfHuge(PartOfHuge(found)),
            }),
            bindings::rust_move_tables_RUST_MOVE_NO_SOURCE => Err(NoTables::NoSource),
            bindings::rust_move_tables_RUST_MOVE_HUGE_TAKEN => Err(NoTables::Taken),
            _ => Err(NoTables::NoMemory),
        }
    }
}

/// A page and others behind it, and the entries of PMD tables for the first.
///
/// # Invariants
///
/// `raw` is in a buffer that is borrowed for `'p`. It has the VMAs of `vmas`, addresses and a
/// length that they have, which is not zero, and the entries of the PMD tables.
struct Found<'p, 'v> {
    vmas: AnonPair<'v>,
    raw: *mut bindings::rust_move,
    _buffer: PhantomData<&'p mut Buffer>,
}

/// What has the first page.
pub enum Tables<'p, 'v> {
    /// PTE tables.
    Pte(TablePair<'p, 'v>),
    /// The entries of PMD tables: a huge page.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    Huge(HugePair<'p, 'v>),
    /// The entry of a PMD table: a huge page that has to be split.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    PartOfHuge(PartOfHuge<'p, 'v>),
}

/// PTE tables that have the first page, which may be gone at any time.
pub struct TablePair<'p, 'v>(Found<'p, 'v>);

impl<'p, 'v> TablePair<'p, 'v> {
    /// Tells those that have page tables of their own that pages of the source may go: as many as
    /// one table has.
    #[inline(always)]
    pub fn invalidate(self, sleep: &mut Sleepable) -> InvalidatedPair<'p, 'v> {
        // SAFETY: By the type invariants these were set.
        let (start, len) = unsafe { ((*self.0.raw).src, (*self.0.raw).len) };
        let in_table = PMD_SIZE - (start & (PMD_SIZE - 1));
        self.0.invalidate(len.min(in_table), sleep)
    }
}

impl<'p, 'v> Found<'p, 'v> {
    /// Tells those that have page tables of their own that pages of the source may go, as many as
    /// have a length, in bytes. For the level of PMD tables they are a whole huge page.
    #[inline(always)]
    fn invalidate<L>(self, len: usize, sleep: &mut Sleepable) -> InvalidatedPair<'p, 'v, L> {
        // SAFETY: By the type invariants this was set.
        let start = unsafe { (*self.raw).src };
        let pages = start..start.wrapping_add(len);
        // INVARIANT: Only `HugePair` does this for the level of PMD tables.
        InvalidatedPair {
            range: InvalidateRange::clear(self.vmas.src(), pages, sleep),
            found: self,
            _level: PhantomData,
        }
    }
}

/// The level of PTE tables.
pub struct PteLevel(());

/// The level of PMD tables, whose entries map huge pages.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
pub struct PmdLevel(());

/// Tables that have the first page, whose source no secondary page table has.
///
/// # Invariants
///
/// With `PmdLevel` the addresses are those of whole huge pages, which the VMAs have.
pub struct InvalidatedPair<'p, 'v, L = PteLevel> {
    found: Found<'p, 'v>,
    range: InvalidateRange<'v>,
    _level: PhantomData<L>,
}

impl InvalidatedPair<'_, '_> {
    /// Waits until the first page of the source has migrated, if it does. The caller must not have
    /// locked a folio or an `anon_vma`: what migrates it may wait for that.
    #[doc(alias = "migration_entry_wait")]
    #[cold]
    pub fn wait_for_migration(self, _sleep: &mut Sleepable) {
        let Self { found, range, .. } = self;
        drop(range);
        // SAFETY: By the type invariants this is the entry of the PMD table for the page, and the
        // VMA is locked. The caller may sleep.
        unsafe { bindings::rust_migration_entry_wait(found.raw) };
    }

    /// Locks both tables. Returns what the first page is, or `None` if there is no table any more.
    /// They stay locked as long as that is a page.
    #[doc(alias = "pte_offset_map_rw_nolock")]
    #[doc(alias = "double_pt_lock")]
    #[inline(always)]
    pub fn lock<'l>(&'l mut self, _sleep: &'l mut Sleepable) -> Option<Source<'l>> {
        let raw = self.found.raw;
        // SAFETY: By the type invariants these are the entries of the PMD tables. The caller holds
        // no page table lock, because this borrows the token as long as it does.
        let source = unsafe { bindings::rust_move_lock(raw) };
        // INVARIANT: If it is a page, the tables are locked, and this is what the source has.
        let tables = || LockedPair {
            raw,
            _token: PhantomData,
        };
        Some(match source {
            bindings::rust_move_source_RUST_MOVE_NO_TABLE => return None,
            bindings::rust_move_source_RUST_MOVE_TAKEN => Source::Taken,
            bindings::rust_move_source_RUST_MOVE_HOLE => {
                // SAFETY: It was set.
                Source::Hole(unsafe { (*raw).count } as usize)
            }
            bindings::rust_move_source_RUST_MOVE_ZERO_PAGE => Source::ZeroPage(ZeroPage(tables())),
            bindings::rust_move_source_RUST_MOVE_PAGE => Source::Page(Page(tables())),
            bindings::rust_move_source_RUST_MOVE_LARGE => Source::LargePage(LargePage(tables())),
            bindings::rust_move_source_RUST_MOVE_SWAP => Source::Swap(Swap(tables())),
            bindings::rust_move_source_RUST_MOVE_SHARED => Source::Shared,
            bindings::rust_move_source_RUST_MOVE_MIGRATION => Source::Migration,
            _ => Source::Other,
        })
    }
}

/// Two PTE tables that are locked.
///
/// # Invariants
///
/// The thread has locked both tables. `raw` has their entries for the first page, and a number of
/// entries that both have. Nothing is at the destination of the first page.
struct LockedPair<'l> {
    raw: *mut bindings::rust_move,
    _token: PhantomData<&'l mut Sleepable>,
}

impl LockedPair<'_> {
    /// Returns the pages, for a function that unlocks the tables.
    #[inline(always)]
    fn into_raw(self) -> *mut bindings::rust_move {
        ManuallyDrop::new(self).raw
    }
}

impl Drop for LockedPair<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread has locked both.
        unsafe { bindings::rust_move_unlock(self.raw) };
    }
}

/// What the first page is. But for [`Source::Taken`], there is nothing at the destination.
pub enum Source<'l> {
    /// There is something at the destination.
    Taken,
    /// Nothing, in a number of pages, to which nothing is at the destination either.
    Hole(usize),
    /// The zero page.
    ZeroPage(ZeroPage<'l>),
    /// An anonymous page that is mapped here only.
    Page(Page<'l>),
    /// One that is part of a folio of several, which has to be split first.
    LargePage(LargePage<'l>),
    /// An anonymous page that is swapped out.
    Swap(Swap<'l>),
    /// A page that another process may have as well, or none of anonymous memory.
    Shared,
    /// A page that migrates.
    Migration,
    /// Anything else, such as a marker.
    Other,
}

/// A page that is the zero page.
///
/// # Invariants
///
/// The entry of the source maps it.
pub struct ZeroPage<'l>(LockedPair<'l>);

/// An anonymous page that is mapped once.
///
/// # Invariants
///
/// The entry of the source maps the folio of `raw`, which is of one page and exclusive. It stays of
/// one page as long as it is mapped.
pub struct Page<'l>(LockedPair<'l>);

/// An anonymous page that is part of a folio.
///
/// # Invariants
///
/// The entry of the source maps a page of the folio of `raw`.
pub struct LargePage<'l>(LockedPair<'l>);

/// An anonymous page that is swapped out.
///
/// # Invariants
///
/// The entry of the source is the swap entry of `raw`, exclusively.
pub struct Swap<'l>(LockedPair<'l>);

impl ZeroPage<'_> {
    /// Moves zero pages in a row. Returns how many, which is one at least.
    #[inline]
    pub fn relocate(self) -> usize {
        // SAFETY: By the type invariants the tables are locked, the first entry of the source maps
        // the zero page, and there is nothing at its destination.
        unsafe { bindings::rust_move_zero_ptes(self.0.into_raw()) as usize }
    }
}

/// The folio is not that of the page.
#[derive(Copy, Clone, Debug)]
pub struct OtherFolio;

impl LargePage<'_> {
    /// Returns the folio. No thread splits it as long as the table is locked.
    #[inline]
    pub fn folio(&self) -> &Folio {
        // SAFETY: By the type invariants this is what the union has, and the entry, which cannot
        // change, has a reference.
        unsafe { &*(*self.0.raw).__bindgen_anon_1.folio.cast() }
    }
}

impl Page<'_> {
    /// Returns the folio.
    #[inline(always)]
    pub fn folio(&self) -> &Folio {
        // SAFETY: By the type invariants this is what the union has, and the entry, which cannot
        // change, has a reference.
        unsafe { &*(*self.0.raw).__bindgen_anon_1.folio.cast() }
    }

    /// Moves pages in a row, if `rmap` is locked for the folio of the first. Returns how many were
    /// moved, which is none if that one is pinned.
    #[inline(always)]
    pub fn relocate(self, rmap: RmapLock) -> Result<usize, OtherFolio> {
        if !ptr::eq::<Folio>(&**rmap.folio(), self.folio()) {
            // The tables are unlocked before the rmap.
            drop(self);
            return Err(OtherFolio);
        }
        // SAFETY: By the type invariants the tables are locked, the first entry of the source maps
        // this folio, which is of one page, exclusively, and there is nothing at its destination.
        // The folio is locked, and so is its `anon_vma`, which is another one afterwards: the lock
        // is dropped. By the invariants of `AnonPair` pages can be moved from one VMA to the other.
        Ok(unsafe { bindings::rust_move_anon_ptes(self.0.into_raw(), rmap.anon_vma()) as usize })
    }
}

impl Swap<'_> {
    #[inline(always)]
    fn entry(&self) -> bindings::swp_entry_t {
        // SAFETY: By the type invariants this is what the union has.
        unsafe { (*self.0.raw).__bindgen_anon_1.swap }
    }

    /// Takes a reference to the device that has the page. Returns `None` if that is being taken out
    /// of use.
    #[inline]
    pub fn slot(&self) -> Option<SwapSlot> {
        SwapSlot::new(self.entry())
    }

    /// Moves the page, with the folio that the swap cache has for it, or `None` if it has none.
    ///
    /// # Errors
    ///
    /// [`OtherFolio`] if it has another one.
    #[inline]
    pub fn relocate(self, slot: &SwapSlot, cached: Option<&LockedFolio>) -> Result<(), OtherFolio> {
        if slot.entry().val != self.entry().val {
            return Err(OtherFolio);
        }
        let folio = cached.map_or(null_mut(), |folio| folio.as_raw());
        let raw = self.0.into_raw();
        // SAFETY: By the type invariants the tables are locked, the first entry of the source is
        // this one, and there is nothing at its destination. Its device has a reference. The folio
        // is null or locked, and the function checks that it is that of the entry.
        let is_moved = unsafe { bindings::rust_move_swap_pte(raw, slot.device(), folio) };
        is_moved.then_some(()).ok_or(OtherFolio)
    }
}
