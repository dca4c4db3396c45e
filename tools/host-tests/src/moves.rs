// SPDX-License-Identifier: GPL-2.0

//! Tests of moves, which need C code and so are no KUnit tests.
//!
//! The model stops if a table is used that is not locked, if TLBs have an entry when its table is unlocked, if
//! pages go that no notifier was told of, or if a folio is moved whose locks are not held.

use crate::{relocate, space::Space};
use kernel::{
    bindings::{
        self, at, folio, model_is_idle, others_are_done, pmd_kind, vm_area_struct, Moment, GUARD,
        POISON, PTE_DIRTY, PTE_MIGRATION, PTE_SOFT_DIRTY, PTE_SWAP, PTE_SWP_EXCLUSIVE,
        PTE_SWP_SOFT_DIRTY, PTE_UFFD_WP, PTE_WRITE, PTRS_PER_PTE, SPECIAL_PAGE, SWAP_HAS_CACHE,
        UFFD_WP, VM_READ, VM_SHARED, VM_WRITE, ZERO_PAGE,
    },
    error::{
        code::{EAGAIN, EBUSY, EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM},
        Result,
    },
    mm::{
        relocation::{Buffer, InvalidatedPair, NoTables, Source, Tables},
        rmap::NoRmap,
        MmWithUser,
    },
    page::PAGE_SIZE,
    task::Sleepable,
    userfaultfd::{abi::UffdioRange, context::Context, pages::Pages, range::PageRange},
};
use std::ptr::{self, NonNull};

/// A run is within a part of so many pages, as in `rust_pgtable.h`.
const RUN_PAGES: usize = 512;

/// The second table is that of the source.
const SRC: usize = PTRS_PER_PTE;

const FLAGS: usize = PTE_DIRTY | PTE_WRITE | PTE_UFFD_WP | PTE_SOFT_DIRTY;
const READ_WRITE: usize = (VM_READ | VM_WRITE) as usize;

/// What was done with the first page, and those behind it.
#[derive(Debug, PartialEq)]
enum Done {
    NoTable,
    Taken,
    Hole(usize),
    Zeroes(usize),
    Moved(usize),
    /// If it was moved.
    Swap(bool),
    NoSwap,
    Shared,
    Migration,
    Other,
    /// Another thread has locked the folio.
    Locked,
    /// Another thread has locked the `anon_vma`.
    RmapLocked,
    Large,
    Huge,
}

/// Moves the first page, and those behind it.
fn first(tables: &mut InvalidatedPair<'_, '_>, sleep: &mut Sleepable) -> Done {
    match tables.lock(sleep) {
        None => Done::NoTable,
        Some(Source::Taken) => Done::Taken,
        Some(Source::Hole(pages)) => Done::Hole(pages),
        Some(Source::ZeroPage(page)) => Done::Zeroes(page.relocate()),
        Some(Source::Page(page)) => match page.folio().try_lock() {
            None => Done::Locked,
            Some(folio) => match folio.try_lock_rmap() {
                Ok(rmap) => Done::Moved(page.relocate(rmap).expect("it is that of the page")),
                Err(err) => {
                    // It is given back with the tables unlocked.
                    drop(page);
                    match err {
                        NoRmap::Locked(_) => Done::RmapLocked,
                        NoRmap::Unmapped(_) => unreachable!("it is mapped"),
                    }
                }
            },
        },
        Some(Source::LargePage(page)) => match page.folio().try_lock() {
            None => Done::Locked,
            Some(folio) => {
                // It is given back with the tables unlocked.
                drop(page);
                assert!(folio.is_large());
                Done::Large
            }
        },
        Some(Source::Swap(swap)) => match swap.slot() {
            None => Done::NoSwap,
            Some(slot) => {
                let cached = slot.cached_folio();
                let cached = cached.and_then(|folio| folio.try_lock());
                Done::Swap(swap.relocate(&slot, cached.as_ref()).is_ok())
            }
        },
        Some(Source::Shared) => Done::Shared,
        Some(Source::Migration) => Done::Migration,
        Some(Source::Other) => Done::Other,
    }
}

impl Space {
    /// Makes one with a VMA that has the pages from 10 to the end of the first table, and another one that has
    /// those of the second.
    pub fn pair() -> Box<Self> {
        let mut space = Self::new(PTRS_PER_PTE, None);
        space.mm.vmas[1] = &mut space.other;
        space.other.vm_start = SRC * PAGE_SIZE;
        space.other.vm_end = 2 * PTRS_PER_PTE * PAGE_SIZE;
        space.vma.vm_pgoff = 700;
        space.other.vm_pgoff = 5000;
        space.mm.pgd.is_there = true;
        // There are some, and what they are does not matter.
        space.mm.__bindgen_anon_1.notifier_subscriptions = NonNull::dangling().as_ptr();
        for pmd in &mut space.mm.pgd.pmds {
            pmd.kind = pmd_kind::Table;
        }
        for vma in [&mut space.vma, &mut space.other] {
            vma.vm_flags = READ_WRITE;
            // SAFETY: The VMA is valid.
            unsafe { bindings::__anon_vma_prepare(vma) };
        }
        space
    }

    /// Makes both VMAs one, which has all pages.
    pub fn join(&mut self) {
        self.mm.vmas[1] = ptr::null_mut();
        self.vma.vm_end = self.other.vm_end;
    }

    fn vma_of(&mut self, page: usize) -> &mut vm_area_struct {
        if page * PAGE_SIZE < self.vma.vm_end {
            &mut self.vma
        } else {
            &mut self.other
        }
    }

    pub fn index_of(&mut self, page: usize) -> usize {
        let vma = self.vma_of(page);
        vma.vm_pgoff + page - vma.vm_start / PAGE_SIZE
    }

    /// Maps an anonymous folio of so many pages. Returns its number.
    fn map_large(&mut self, page: usize, count: usize, flags: usize) -> usize {
        let number = self.mm.allocated;
        self.mm.allocated += count;
        let index = self.index_of(page);
        let anon_vma = NonNull::new(self.vma_of(page).anon_vma);
        for page in 0..count {
            self.mm.folios[number + page] = folio {
                rmaps: 1,
                is_exclusive: true,
                ..Default::default()
            };
        }
        let first = &mut self.mm.folios[number];
        first.refcount = count as i32;
        first.nr_pages = count as u32;
        first.index = index;
        first.anon_vma = anon_vma;
        for place in 0..count {
            let address = ptr::from_ref(&self.mm.folios[number + place]).addr();
            self.ptes[page + place] = address | flags;
        }
        number
    }

    fn map_anon(&mut self, page: usize, flags: usize) -> usize {
        self.map_large(page, 1, flags)
    }

    /// Maps so many, which can be written to.
    fn map_run(&mut self, page: usize, count: usize) {
        for page in page..page + count {
            self.map_anon(page, PTE_WRITE);
        }
    }

    /// Makes the entry of a page that is swapped out.
    fn swap_out(&mut self, page: usize, offset: usize) -> usize {
        let device = ptr::from_ref(&self.swap).addr();
        self.ptes[page] = PTE_SWAP | device | offset | PTE_SWP_EXCLUSIVE;
        self.ptes[page]
    }

    /// Puts a folio into the swap cache, for a page that is swapped out.
    fn cache(&mut self, page: usize, offset: usize) -> usize {
        let number = self.mm.allocated;
        self.mm.allocated += 1;
        let index = self.index_of(page);
        let anon_vma = NonNull::new(self.vma_of(page).anon_vma);
        self.mm.folios[number] = folio {
            refcount: 1,
            nr_pages: 1,
            is_swapcache: true,
            swap: bindings::swp_entry_t {
                val: self.ptes[page] & !PTE_SWP_EXCLUSIVE,
            },
            index,
            anon_vma,
            ..Default::default()
        };
        self.swap.folios[offset] = &mut self.mm.folios[number];
        self.swap.swap_map[offset] |= SWAP_HAS_CACHE;
        number
    }

    /// Finds the tables of pages, and calls `work` with them.
    fn with_tables<R>(
        &mut self,
        dst: usize,
        src: usize,
        pages: usize,
        work: impl FnOnce(&mut InvalidatedPair<'_, '_>, &mut Sleepable) -> R,
    ) -> Result<Option<R>, NoTables> {
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The mm is valid, and as large as all that it points to.
        let mm = unsafe { MmWithUser::from_raw(&self.mm) };
        let [dst, src, len] = [dst, src, pages].map(|pages| pages * PAGE_SIZE);
        let locked = mm.lock_vma_pair_prepare_anon(dst, src, &mut sleep);
        let mut locked = locked.expect("the VMAs are there");
        let (vmas, sleep) = locked.parts();
        let vmas = vmas.expect("pages can be moved from one to the other");
        let mut buffer = Buffer::default();
        let pages = vmas.relocation(dst, src, len, &mut buffer);
        let mut pages = pages.expect("the VMAs have them");
        Ok(match pages.find_tables(true, sleep)? {
            Tables::Pte(tables) => Some(work(&mut tables.invalidate(sleep), sleep)),
            Tables::Huge(_) | Tables::PartOfHuge(_) => None,
        })
    }

    /// Looks at the first of so many pages that are to be moved, and moves it and those behind it, without
    /// waiting for anything.
    fn step(&mut self, dst: usize, src: usize, pages: usize) -> Result<Done, NoTables> {
        let done = self.with_tables(dst, src, pages, first)?;
        Ok(done.unwrap_or(Done::Huge))
    }

    /// Does the same, and checks that all is in order.
    fn check_step(&mut self, dst: usize, src: usize, pages: usize) -> Done {
        let before = self.mm.flushes;
        let done = self.step(dst, src, pages).expect("there are tables");
        self.check_all();
        // What was moved was flushed with one call.
        let flushes = self.mm.flushes - before;
        let is_flushed = matches!(done, Done::Moved(1..) | Done::Zeroes(_));
        assert_eq!(flushes, u32::from(is_flushed));
        done
    }

    /// Moves pages, as the kernel does. Returns how many bytes, as pages.
    pub fn relocate(
        &mut self,
        dst: usize,
        src: usize,
        pages: usize,
        allow_holes: bool,
    ) -> Result<u64> {
        let mut ctx = bindings::userfaultfd_ctx {
            mm: &mut self.mm,
            map_changing_lock: bindings::rw_semaphore::default(),
            mmap_changing: false,
        };
        self.vma.vm_userfaultfd_ctx.ctx = &mut ctx;
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The context is valid.
        let context = unsafe { Context::from_raw(&ctx) }.expect("it is not null");
        let range = |page: usize| {
            let [start, len] = [page, pages].map(|pages| (pages * PAGE_SIZE) as u64);
            PageRange::new(context, UffdioRange { start, len }).expect("it is a range")
        };
        let result = {
            let pages = Pages::new(context, &mut sleep);
            let mut pages = pages.expect("the mm has users");
            relocate::relocate(&mut pages, range(dst), range(src), allow_holes)
        };
        self.vma.vm_userfaultfd_ctx.ctx = ptr::null_mut();
        assert_eq!(ctx.map_changing_lock.readers, 0);
        self.check_all();
        result.map(|bytes| {
            assert_eq!(bytes % PAGE_SIZE as u64, 0);
            bytes / PAGE_SIZE as u64
        })
    }

    /// Returns the number of the page that an entry maps.
    fn folio_at(&self, page: usize) -> Option<usize> {
        let first = self.mm.folios.as_ptr().addr();
        let offset = (self.ptes[page] & !(FLAGS | PTE_MIGRATION)).wrapping_sub(first);
        (offset < size_of_val(&self.mm.folios)).then_some(offset / size_of::<folio>())
    }

    /// Checks that nothing is locked, but for what other threads have; and that each page is where its folio
    /// says it is.
    pub fn check_all(&mut self) {
        assert!(model_is_idle());
        assert!(!self.mm.pgd.pmds.iter().any(|pmd| pmd.lock.is_locked));
        assert!(!self.mm.stale.iter().any(|entry| *entry != 0));
        assert!(!self.mm.has_mmap_lock && !self.vma.is_locked && !self.other.is_locked);
        assert_eq!(self.mm.notified, [0; 2]);
        assert_eq!(self.swap.refcount, 0);
        for vma in [&self.vma, &self.other] {
            assert!(!vma.own_anon_vma.is_locked);
            assert_eq!(vma.own_anon_vma.refcount, 1);
        }
        assert!(others_are_done());
        for number in [0, 1] {
            let pmd = &self.mm.pgd.pmds[number];
            let is_huge = matches!(pmd.kind, pmd_kind::Huge | pmd_kind::Migration);
            assert_eq!(pmd.reserve, u32::from(is_huge), "table {number}");
            // SAFETY: It is one of the folios, or null.
            if let Some(huge) = unsafe { pmd.huge.as_ref() } {
                let index = self.index_of(number * PTRS_PER_PTE);
                let anon_vma = self.vma_of(number * PTRS_PER_PTE).anon_vma;
                assert_eq!((huge.index, huge.refcount), (index, 1));
                assert_eq!(huge.anon_vma, NonNull::new(anon_vma));
            }
        }
        assert!(!self.mm.folios.iter().any(|folio| folio.is_locked));
        for number in 0..self.mm.allocated {
            let places = 0..self.ptes.len();
            let mut places = places.filter(|&page| self.folio_at(page) == Some(number));
            let place = places.next();
            assert_eq!(places.next(), None, "folio {number} is mapped twice");
            let Some(page) = place else {
                continue;
            };
            let mut first = number;
            while self.mm.folios[first].nr_pages == 0 {
                first -= 1;
            }
            let index = self.index_of(page);
            let folio = &self.mm.folios[first];
            assert_eq!(folio.index + number - first, index, "page {page}");
            assert_eq!(folio.refcount, folio.nr_pages as i32);
        }
    }

    /// Checks that an anonymous page was moved, or is still at its place.
    fn assert_at(&mut self, number: usize, page: usize, flags: usize) {
        assert_eq!(self.folio_at(page), Some(number), "page {page}");
        assert_eq!(self.ptes[page] & FLAGS, flags, "page {page}");
        let anon_vma = self.vma_of(page).anon_vma;
        let folio = &self.mm.folios[number];
        assert_eq!(folio.anon_vma, NonNull::new(anon_vma), "page {page}");
    }

    /// Checks that so many pages of a run were moved, of as many.
    fn assert_moved(&mut self, dst: usize, src: usize, moved: usize, count: usize) {
        for number in 0..count {
            if number < moved {
                self.assert_at(number, dst + number, PTE_WRITE | PTE_SOFT_DIRTY);
                assert_eq!(self.ptes[src + number], 0);
            } else {
                assert_eq!(self.folio_at(src + number), Some(number));
            }
        }
    }
}

#[test]
fn pages_are_moved_in_a_row() {
    let mut space = Space::pair();
    space.map_run(SRC + 3, 8);
    assert_eq!(space.check_step(20, SRC + 3, 8), Done::Moved(8));
    space.assert_moved(20, SRC + 3, 8, 8);
    assert_eq!(space.done(0).len(), 2 * PTRS_PER_PTE - 8);
}

#[test]
fn dirty_pages_stay_so() {
    let mut space = Space::pair();
    for (page, flags) in [
        0,
        PTE_DIRTY,
        PTE_WRITE,
        PTE_WRITE | PTE_DIRTY,
        PTE_DIRTY | PTE_UFFD_WP | PTE_SOFT_DIRTY,
    ]
    .into_iter()
    .enumerate()
    {
        space.map_anon(SRC + page, flags);
    }
    let written = space.map_anon(SRC + 5, PTE_WRITE);
    space.mm.folios[written].is_being_written = true;
    assert_eq!(space.check_step(20, SRC, 6), Done::Moved(6));
    for (number, dirty) in [0, 1, 0, 1, 1, 1].into_iter().enumerate() {
        let flags = PTE_WRITE | PTE_SOFT_DIRTY | (PTE_DIRTY * dirty);
        space.assert_at(number, 20 + number, flags);
    }
}

#[test]
fn a_run_ends_where_something_is() {
    let mut space = Space::pair();
    space.map_run(SRC, 6);
    for entry in [ZERO_PAGE, POISON, UFFD_WP, GUARD] {
        space.ptes[20] = entry;
        assert_eq!(space.check_step(20, SRC, 6), Done::Taken);
        // What is at the source does not matter.
        assert_eq!(space.check_step(20, SRC + 6, 6), Done::Taken);
        space.assert_moved(20, SRC, 0, 6);
        space.ptes[20] = 0;
    }
    space.ptes[24] = POISON;
    assert_eq!(space.check_step(20, SRC, 6), Done::Moved(4));
    space.assert_moved(20, SRC, 4, 6);
    assert_eq!(space.done(POISON), [24]);
}

#[test]
fn a_run_ends_before_a_page_that_others_have() {
    let mut space = Space::pair();
    space.map_run(SRC, 6);
    space.mm.folios[2].is_exclusive = false;
    assert_eq!(space.check_step(20, SRC, 6), Done::Moved(2));
    assert_eq!(space.check_step(22, SRC + 2, 4), Done::Shared);
    space.assert_moved(20, SRC, 2, 6);
    assert!(!space.mm.folios[2].is_exclusive);
}

#[test]
fn a_run_ends_before_a_large_folio() {
    let mut space = Space::pair();
    space.map_run(SRC, 2);
    space.map_large(SRC + 2, 4, PTE_WRITE);
    assert_eq!(space.check_step(20, SRC, 6), Done::Moved(2));
    assert_eq!(space.check_step(22, SRC + 2, 4), Done::Large);
    // The same in its middle.
    assert_eq!(space.check_step(23, SRC + 3, 3), Done::Large);
    space.assert_moved(20, SRC, 2, 6);
}

#[test]
fn a_run_has_one_anon_vma() {
    let mut space = Space::pair();
    space.map_run(SRC, 5);
    let mut parent = bindings::anon_vma {
        refcount: 1,
        ..Default::default()
    };
    for number in [2, 3] {
        space.mm.folios[number].anon_vma = NonNull::new(&mut parent);
    }
    assert_eq!(space.check_step(20, SRC, 5), Done::Moved(2));
    space.assert_moved(20, SRC, 2, 5);
    assert_eq!(space.check_step(22, SRC + 2, 3), Done::Moved(2));
    space.assert_moved(20, SRC, 4, 5);
    assert!(!parent.is_locked);
    assert_eq!(parent.refcount, 1);
    space.vma_of(SRC).own_anon_vma.is_contended = true;
    assert_eq!(space.check_step(24, SRC + 4, 1), Done::RmapLocked);
    space.assert_moved(20, SRC, 4, 5);
}

#[test]
fn a_run_ends_before_a_folio_that_is_locked() {
    let mut space = Space::pair();
    space.map_run(SRC, 4);
    space.mm.folios[3].is_contended = true;
    assert_eq!(space.check_step(20, SRC, 4), Done::Moved(3));
    assert_eq!(space.check_step(23, SRC + 3, 1), Done::Locked);
    space.assert_moved(20, SRC, 3, 4);
}

#[test]
fn pages_that_are_pinned_stay() {
    type Set = fn(&mut folio);
    let pins: [Set; 2] = [
        |folio| folio.is_pinned = true,
        |folio| folio.is_being_pinned = true,
    ];
    for pin in pins {
        let mut space = Space::pair();
        space.map_run(SRC, 2);
        let pinned = space.map_anon(SRC + 2, PTE_WRITE | PTE_DIRTY | PTE_UFFD_WP);
        space.map_anon(SRC + 3, PTE_WRITE);
        pin(&mut space.mm.folios[pinned]);
        assert_eq!(space.check_step(20, SRC, 4), Done::Moved(2));
        assert_eq!(space.check_step(22, SRC + 2, 2), Done::Moved(0));
        space.assert_moved(20, SRC, 2, 4);
        space.assert_at(pinned, SRC + 2, PTE_WRITE | PTE_DIRTY | PTE_UFFD_WP);
        assert_eq!(space.ptes[22..24], [0, 0]);
        assert_eq!(space.check_step(23, SRC + 3, 1), Done::Moved(1));
    }
}

#[test]
fn zero_pages_are_moved_in_a_row() {
    let mut space = Space::pair();
    space.ptes[SRC..SRC + 6].fill(ZERO_PAGE);
    assert_eq!(space.check_step(20, SRC, 4), Done::Zeroes(4));
    assert_eq!(space.done(ZERO_PAGE), [20, 21, 22, 23, SRC + 4, SRC + 5]);
    // Up to what is in the way, or something else.
    space.ptes[25] = POISON;
    assert_eq!(space.check_step(24, SRC + 4, 2), Done::Zeroes(1));
    space.ptes[30] = POISON;
    assert_eq!(space.check_step(30, SRC + 5, 1), Done::Taken);
    for entry in [0, POISON] {
        space.ptes[SRC + 20..SRC + 23].copy_from_slice(&[ZERO_PAGE, ZERO_PAGE, entry]);
        assert_eq!(space.check_step(40, SRC + 20, 3), Done::Zeroes(2));
        assert_eq!(space.ptes[SRC + 20..SRC + 23], [0, 0, entry]);
        assert_eq!(space.ptes[40..43], [ZERO_PAGE, ZERO_PAGE, 0]);
        space.ptes[40..43].fill(0);
    }
    space.map_anon(SRC + 30, PTE_WRITE);
    space.ptes[SRC + 31] = ZERO_PAGE;
    space.map_anon(SRC + 32, PTE_WRITE);
    assert_eq!(space.check_step(50, SRC + 30, 3), Done::Moved(1));
    assert_eq!(space.check_step(51, SRC + 31, 2), Done::Zeroes(1));
    assert_eq!(space.check_step(52, SRC + 32, 1), Done::Moved(1));
}

#[test]
fn holes_are_where_nothing_is_on_both_sides() {
    let mut space = Space::pair();
    space.ptes[25] = POISON;
    assert_eq!(space.check_step(20, SRC, 10), Done::Hole(5));
    space.map_anon(SRC + 3, PTE_WRITE);
    assert_eq!(space.check_step(20, SRC, 10), Done::Hole(3));
    assert_eq!(space.check_step(20, SRC, 2), Done::Hole(2));
    assert_eq!(space.check_step(25, SRC, 2), Done::Taken);
    space.ptes[SRC + 2] = UFFD_WP;
    assert_eq!(space.check_step(20, SRC, 10), Done::Hole(2));
    assert_eq!(space.done(POISON), [25]);
}

#[test]
fn runs_are_in_one_part_of_each_table() {
    const END: usize = RUN_PAGES;
    for (dst, src, pages, run) in [
        (END - 2, SRC, 4, 2),
        (2 * END - 3, SRC, 3, 3),
        (20, SRC + END - 3, 5, 3),
        (20, SRC + 2 * END - 1, 1, 1),
        (END - 2, SRC + END - 3, 9, 2),
        (END - 3, SRC + END - 2, 9, 2),
        (20, SRC, 3, 3),
    ] {
        let check = |fill: fn(&mut Space, usize, usize), done: fn(usize) -> Done| {
            let mut space = Space::pair();
            // What is behind the pages does not matter.
            let count = (2 * PTRS_PER_PTE - src).min(pages + 3);
            fill(&mut space, src, count);
            assert_eq!(space.check_step(dst, src, pages), done(run));
        };
        check(|space, src, count| space.map_run(src, count), Done::Moved);
        let zero = |space: &mut Space, src, count| space.ptes[src..][..count].fill(ZERO_PAGE);
        check(zero, Done::Zeroes);
        check(|_, _, _| {}, Done::Hole);
    }
    // Both are in one VMA, which has both tables.
    let mut space = Space::pair();
    space.join();
    space.map_run(20, 4);
    assert_eq!(space.check_step(PTRS_PER_PTE - 2, 20, 4), Done::Moved(2));
    assert_eq!(space.check_step(PTRS_PER_PTE, 22, 2), Done::Moved(2));
    space.assert_moved(PTRS_PER_PTE - 2, 20, 4, 4);
    assert_eq!(space.check_step(20, PTRS_PER_PTE - 2, 4), Done::Moved(2));
    assert_eq!(space.check_step(22, PTRS_PER_PTE, 2), Done::Moved(2));
    space.assert_moved(20, PTRS_PER_PTE - 2, 4, 4);
}

#[test]
fn both_places_may_be_in_one_table() {
    let mut space = Space::pair();
    space.join();
    space.map_run(SRC, 4);
    // Another lock comes first.
    assert_eq!(space.check_step(20, SRC, 4), Done::Moved(4));
    space.assert_moved(20, SRC, 4, 4);
    assert_eq!(space.check_step(SRC + 8, 20, 4), Done::Moved(4));
    space.assert_moved(SRC + 8, 20, 4, 4);
    for dst in [SRC + 4, SRC + 16] {
        let src = if dst == SRC + 4 { SRC + 8 } else { SRC + 4 };
        assert_eq!(space.check_step(dst, src, 4), Done::Moved(4));
        space.assert_moved(dst, src, 4, 4);
    }
    // They may overlap.
    assert_eq!(space.check_step(SRC + 14, SRC + 16, 4), Done::Moved(4));
    for number in 0..4 {
        space.assert_at(number, SRC + 14 + number, PTE_WRITE | PTE_SOFT_DIRTY);
    }
    assert_eq!(space.check_step(SRC + 16, SRC + 14, 4), Done::Taken);
    assert_eq!(space.check_step(SRC + 14, SRC + 14, 4), Done::Taken);
    // What is behind the first is moved again where it is found again.
    assert_eq!(space.relocate(SRC + 18, SRC + 16, 4, false), Ok(4));
    for (number, page) in [(0, 14), (1, 15), (2, 20), (3, 21)] {
        space.assert_at(number, SRC + page, PTE_WRITE | PTE_SOFT_DIRTY);
    }
}

#[test]
fn tables_may_go_at_any_time() {
    for number in [0, 1] {
        let mut space = Space::pair();
        space.map_run(SRC, 4);
        space.mm.pgd.pmds[number].is_freed = true;
        assert_eq!(space.check_step(20, SRC, 4), Done::NoTable);
        space.mm.pgd.pmds[number].is_freed = false;
        space.mm.pgd.pmds[number].is_retracted = true;
        assert_eq!(space.check_step(20, SRC, 4), Done::NoTable);
        space.assert_moved(20, SRC, 0, 4);
        assert_eq!(space.mm.pgd.pmds[number].kind, pmd_kind::None);
    }
    let mut space = Space::pair();
    space.join();
    space.map_run(SRC, 4);
    space.mm.pgd.pmds[1].is_retracted = true;
    assert_eq!(space.check_step(SRC + 20, SRC, 4), Done::NoTable);
}

#[test]
fn tables_are_made_for_both_places() {
    let kinds = |space: &Space| space.mm.pgd.pmds.each_ref().map(|pmd| pmd.kind);
    for kind in [pmd_kind::None, pmd_kind::Table] {
        let mut space = Space::pair();
        space.mm.pgd.is_there = false;
        space.mm.pgd.pmds[0].kind = kind;
        space.mm.pgd.pmds[1].kind = pmd_kind::None;
        space.mm.has_memory = false;
        assert_eq!(space.step(20, SRC, 4), Err(NoTables::NoMemory));
        // The tables above are there.
        space.mm.pgd.is_there = true;
        assert_eq!(space.step(20, SRC, 4), Err(NoTables::NoMemory));
        space.mm.has_memory = true;
        space.mm.pgd.is_there = false;
        assert_eq!(space.check_step(20, SRC, 4), Done::Hole(4));
        assert_eq!(kinds(&space), [pmd_kind::Table; 2]);
    }
    let mut space = Space::pair();
    space.mm.pgd.pmds[0].kind = pmd_kind::None;
    space.mm.has_memory = false;
    assert_eq!(space.step(20, SRC, 4), Err(NoTables::NoMemory));
    for kind in [pmd_kind::Huge, pmd_kind::Migration] {
        space.mm.pgd.pmds[0].kind = pmd_kind::None;
        space.mm.pgd.pmds[1].kind = kind;
        space.mm.pgd.pmds[1].reserve = 1;
        assert_eq!(space.step(20, SRC, 4), Ok(Done::Huge));
        // No table was made for that.
        assert_eq!(kinds(&space), [pmd_kind::None, kind]);
    }
    space.mm.pgd.pmds[0].kind = pmd_kind::Huge;
    space.mm.pgd.pmds[0].reserve = 1;
    assert_eq!(space.step(20, SRC, 4), Err(NoTables::Taken));
    // Those above are made as well.
    for missing in [0, 1] {
        let mut space = Space::pair();
        space.map_run(SRC, 4);
        let pmd = &mut space.mm.pgd.pmds[missing];
        (pmd.is_missing, pmd.kind) = (true, pmd_kind::None);
        space.mm.has_memory = false;
        assert_eq!(space.step(20, SRC, 4), Err(NoTables::NoMemory));
        space.mm.has_memory = true;
        assert_eq!(space.check_step(20, SRC, 4), Done::Moved(4));
        assert!(!space.mm.pgd.pmds[missing].is_missing);
        assert_eq!(kinds(&space), [pmd_kind::Table; 2]);
    }
    space.check_all();
}

#[test]
fn pages_that_are_swapped_out_are_moved_one_by_one() {
    let mut space = Space::pair();
    let entries = [0, 1].map(|page| space.swap_out(SRC + page, page));
    assert_eq!(space.check_step(20, SRC, 2), Done::Swap(true));
    assert_eq!(space.ptes[20..22], [entries[0] | PTE_SWP_SOFT_DIRTY, 0]);
    assert_eq!(space.ptes[SRC..SRC + 2], [0, entries[1]]);

    space.swap.is_off = true;
    assert_eq!(space.check_step(21, SRC + 1, 1), Done::NoSwap);
    space.swap.is_off = false;
    space.ptes[SRC + 1] &= !PTE_SWP_EXCLUSIVE;
    assert_eq!(space.check_step(21, SRC + 1, 1), Done::Shared);
    assert_eq!(space.ptes[SRC + 1], entries[1] & !PTE_SWP_EXCLUSIVE);
    assert_eq!(space.ptes[21], 0);
}

#[test]
fn a_folio_of_the_swap_cache_goes_with_its_page() {
    let mut space = Space::pair();
    let entry = space.swap_out(SRC, 3);
    let number = space.cache(SRC, 3);
    let src = space.mm.folios[number].clone();
    let mut stays = |set: &dyn Fn(&mut Space)| {
        set(&mut space);
        let state = space.mm.folios[number].clone();
        assert_eq!(space.check_step(20, SRC, 1), Done::Swap(false));
        assert_eq!((space.ptes[20], space.ptes[SRC]), (0, entry));
        assert_eq!(space.mm.folios[number], state);
        space.mm.folios[number] = src.clone();
        space.swap.folios[3] = &mut space.mm.folios[number];
    };
    stays(&|space| space.mm.folios[number].is_swapcache = false);
    stays(&|space| space.mm.folios[number].nr_pages = 2);
    stays(&|space| space.mm.folios[number].swap.val += 1);
    // It was not seen, or not locked.
    stays(&|space| space.swap.folios[3] = ptr::null_mut());
    stays(&|space| space.mm.folios[number].is_contended = true);

    assert_eq!(space.check_step(20, SRC, 1), Done::Swap(true));
    assert_eq!(space.ptes[20], entry | PTE_SWP_SOFT_DIRTY);
    assert_eq!(space.ptes[SRC], 0);
    let (index, anon_vma) = (space.index_of(20), space.vma.anon_vma);
    let folio = &space.mm.folios[number];
    assert_eq!((folio.index, folio.refcount), (index, 1));
    assert_eq!(folio.anon_vma, NonNull::new(anon_vma));
}

#[test]
fn other_entries_stay() {
    let mut space = Space::pair();
    for (entry, done) in [
        (POISON, Done::Other),
        (UFFD_WP, Done::Other),
        (GUARD, Done::Other),
        (SPECIAL_PAGE, Done::Shared),
        (PTE_MIGRATION | 1 << 20, Done::Migration),
    ] {
        space.map_run(SRC, 1);
        space.ptes[SRC + 1] = entry;
        assert_eq!(space.check_step(20, SRC, 2), Done::Moved(1));
        assert_eq!(space.check_step(21, SRC + 1, 1), done);
        assert_eq!((space.ptes[21], space.ptes[SRC + 1]), (0, entry));
        space.ptes[20] = 0;
    }
    space.map_run(SRC, 1);
    let entry = space.swap_out(SRC + 1, 0);
    assert_eq!(space.check_step(20, SRC, 2), Done::Moved(1));
    assert_eq!((space.ptes[21], space.ptes[SRC + 1]), (0, entry));
}

#[test]
fn pages_are_moved_for_user_space() {
    let mut space = Space::pair();
    space.map_run(SRC + 500, 20);
    assert_eq!(space.relocate(20, SRC + 500, 20, false), Ok(20));
    space.assert_moved(20, SRC + 500, 20, 20);
    assert_eq!(space.relocate(20, SRC + 500, 20, false), Err(EEXIST));
    assert_eq!(space.relocate(60, SRC + 500, 20, false), Err(ENOENT));
    assert_eq!(space.relocate(60, SRC + 500, 600, false), Err(EINVAL));
    assert_eq!(space.relocate(60, SRC + 400, 600, true), Ok(600));
}

#[test]
fn what_can_be_moved_comes_first() {
    let mut space = Space::pair();
    space.map_run(SRC, 2);
    space.ptes[SRC + 2] = ZERO_PAGE;
    let entry = space.swap_out(SRC + 3, 1);
    let last = space.map_anon(SRC + 6, PTE_DIRTY);
    // Holes are in between.
    assert_eq!(space.relocate(20, SRC, 7, false), Ok(4));
    assert_eq!(space.relocate(24, SRC + 4, 3, false), Err(ENOENT));
    assert_eq!(space.relocate(24, SRC + 4, 3, true), Ok(3));
    space.assert_at(last, 26, PTE_WRITE | PTE_DIRTY | PTE_SOFT_DIRTY);
    assert_eq!(space.ptes[22..24], [ZERO_PAGE, entry | PTE_SWP_SOFT_DIRTY]);
    for (entry, err) in [(POISON, EFAULT), (GUARD, EFAULT)] {
        space.ptes[SRC + 10] = entry;
        assert_eq!(space.relocate(30, SRC + 10, 1, true), Err(err));
    }
    let shared = space.map_anon(SRC + 10, PTE_WRITE);
    space.mm.folios[shared].is_exclusive = false;
    assert_eq!(space.relocate(30, SRC + 10, 1, true), Err(EBUSY));
    space.mm.folios[shared].is_exclusive = true;
    space.mm.folios[shared].is_pinned = true;
    assert_eq!(space.relocate(30, SRC + 10, 1, true), Err(EBUSY));
    space.assert_at(shared, SRC + 10, PTE_WRITE);
}

#[test]
fn a_large_folio_that_came_meanwhile_is_split_with_nothing_locked() {
    for (moment, is_contended) in [(Moment::ForFolio, false), (Moment::ForRmap, true)] {
        let mut space = Space::pair();
        space.map_run(SRC, 1);
        space.mm.folios[0].is_contended = !is_contended;
        space.other.own_anon_vma.is_contended = is_contended;
        let raw = ptr::from_mut(&mut *space);
        at(moment, move || {
            // SAFETY: The space is there until the test ends, and there is one thread.
            let space = unsafe { &mut *raw };
            space.mm.folios[0].rmaps = 0;
            space.map_large(SRC, 2, PTE_WRITE);
        });
        assert_eq!(space.relocate(20, SRC, 1, false), Ok(1));
        assert!(others_are_done());
        assert_eq!(space.mm.folios[1].nr_pages, 1);
        assert_eq!(space.ptes[SRC], 0);
    }
}

#[test]
fn a_thread_waits_for_locks_with_the_tables_unlocked() {
    let mut space = Space::pair();
    space.map_run(SRC, 6);
    space.mm.folios[1].is_contended = true;
    space.mm.folios[4].is_contended = true;
    space.other.own_anon_vma.is_contended = true;
    assert_eq!(space.relocate(20, SRC, 6, false), Ok(6));
    space.assert_moved(20, SRC, 6, 6);
    assert!(!space.mm.folios[1].is_contended && !space.other.own_anon_vma.is_contended);

    let entry = space.swap_out(SRC, 2);
    let number = space.cache(SRC, 2);
    space.mm.folios[number].is_contended = true;
    assert_eq!(space.relocate(30, SRC, 1, false), Ok(1));
    assert_eq!(space.ptes[30], entry | PTE_SWP_SOFT_DIRTY);
    assert!(!space.mm.folios[number].is_contended);
}

#[test]
fn a_page_may_change_while_a_thread_waits() {
    let mut space = Space::pair();
    let old = space.map_anon(SRC, PTE_WRITE);
    let folio = space.ptes[SRC];
    let new = space.map_anon(SRC, PTE_WRITE);
    let replaced = space.ptes[SRC];
    let swapped = space.swap_out(SRC, 5);
    let mut change = |entry: usize| {
        (space.ptes[SRC], space.ptes[20]) = (folio, 0);
        let changes = NonNull::new(&raw mut space.ptes[SRC]);
        let state = &mut space.mm.folios[old];
        (state.is_contended, state.changes, state.entry) = (true, changes, entry);
        let moved = space.relocate(20, SRC, 1, false);
        assert_eq!(space.mm.folios[old].changes, None);
        (moved, space.ptes[20])
    };
    assert_eq!(change(0), (Err(ENOENT), 0));
    assert_eq!(change(folio | PTE_MIGRATION).0, Ok(1));
    assert_eq!(change(ZERO_PAGE), (Ok(1), ZERO_PAGE));
    assert_eq!(change(swapped), (Ok(1), swapped | PTE_SWP_SOFT_DIRTY));
    assert_eq!(change(replaced).0, Ok(1));
    space.assert_at(new, 20, PTE_WRITE | PTE_SOFT_DIRTY);
}

#[test]
fn a_page_is_moved_with_what_is_its_own() {
    let mut space = Space::pair();
    let old = space.map_anon(SRC, PTE_WRITE);
    let new = space.map_anon(SRC + 1, PTE_WRITE);
    let swapped = [0, 1].map(|offset| space.swap_out(SRC + 2, offset));
    let entry = &raw mut space.ptes[SRC];
    let set = |to: usize| {
        // SAFETY: The table is valid, and there is one thread.
        unsafe { entry.write(to) };
    };
    let (folio, other) = (space.ptes[SRC], space.ptes[SRC + 1]);
    space.ptes[SRC + 1] = 0;
    let tables = space.with_tables(20, SRC, 1, |tables, sleep| {
        let Some(Source::Page(page)) = tables.lock(sleep) else {
            unreachable!("it is a page");
        };
        let rmap = page.folio().try_lock().expect("it is not locked");
        let rmap = rmap.try_lock_rmap().ok().expect("it is not locked");
        drop(page);
        set(other);
        let Some(Source::Page(page)) = tables.lock(sleep) else {
            unreachable!("it is a page");
        };
        assert!(page.relocate(rmap).is_err());
        set(swapped[0]);
        let Some(Source::Swap(swap)) = tables.lock(sleep) else {
            unreachable!("it is swapped out");
        };
        let slot = swap.slot().expect("the device is in use");
        drop(swap);
        set(swapped[1]);
        let Some(Source::Swap(swap)) = tables.lock(sleep) else {
            unreachable!("it is swapped out");
        };
        assert!(swap.relocate(&slot, None).is_err());
    });
    assert_eq!(tables, Ok(Some(())));
    assert_eq!((space.ptes[SRC], space.ptes[20]), (swapped[1], 0));
    assert_eq!(space.mm.flushes, 0);
    (space.ptes[SRC], space.ptes[SRC + 1]) = (folio, other);
    for (number, page) in [(old, SRC), (new, SRC + 1)] {
        space.assert_at(number, page, PTE_WRITE);
    }
    space.check_all();
}

#[test]
fn a_thread_waits_for_pages_that_migrate() {
    let mut space = Space::pair();
    space.map_run(SRC, 3);
    space.ptes[SRC + 1] |= PTE_MIGRATION;
    assert_eq!(space.relocate(20, SRC, 3, false), Ok(3));
    space.assert_moved(20, SRC, 3, 3);
}

#[test]
fn large_folios_are_split() {
    let mut space = Space::pair();
    space.map_run(SRC, 1);
    space.map_large(SRC + 1, 4, PTE_WRITE);
    assert_eq!(space.relocate(20, SRC, 3, false), Ok(3));
    space.assert_moved(20, SRC, 3, 5);

    let number = space.map_large(SRC + 8, 4, PTE_WRITE);
    space.mm.folios[number].is_pinned = true;
    assert_eq!(space.relocate(30, SRC + 8, 4, false), Err(EBUSY));
    space.mm.folios[number].is_pinned = false;
    assert_eq!(space.relocate(30, SRC + 9, 2, false), Ok(2));
}

#[test]
fn folios_of_one_page_are_not_split() {
    let mut space = Space::pair();
    space.map_run(SRC, 1);
    let split = space.with_tables(20, SRC, 1, |tables, sleep| {
        let Some(Source::Page(page)) = tables.lock(sleep) else {
            unreachable!("it is a page");
        };
        let folio = page.folio().try_lock().expect("it is not locked");
        drop(page);
        folio.split(sleep)
    });
    assert_eq!(split, Ok(Some(Err(EINVAL))));
    space.check_all();
}

#[test]
fn tables_of_the_source_are_made_for_holes_only() {
    let mut space = Space::pair();
    space.mm.pgd.pmds[1].kind = pmd_kind::None;
    assert_eq!(space.relocate(20, SRC, 4, false), Err(ENOENT));
    assert_eq!(space.mm.pgd.pmds[1].kind, pmd_kind::None);
    assert_eq!(space.relocate(20, SRC, 4, true), Ok(4));
    assert_eq!(space.mm.pgd.pmds[1].kind, pmd_kind::Table);
    space.mm.pgd.is_there = false;
    assert_eq!(space.relocate(20, SRC, 4, false), Err(ENOENT));
    space.mm.has_memory = false;
    assert_eq!(space.relocate(20, SRC, 4, true), Err(ENOMEM));
}

#[test]
fn vmas_are_alike() {
    let mut space = Space::pair();
    space.map_run(SRC, 1);
    type Set = fn(&mut Space);
    let sets: [Set; 9] = [
        |space| space.other.vm_flags |= VM_SHARED as usize,
        |space| space.vma.vm_flags |= bindings::VM_PFNMAP as usize,
        |space| space.other.vm_flags |= bindings::VM_MIXEDMAP as usize,
        |space| space.vma.vm_flags |= bindings::VM_IO as usize,
        |space| space.other.vm_flags |= bindings::VM_EXEC as usize,
        |space| space.other.vm_flags |= bindings::VM_LOCKED as usize,
        |space| {
            space.vma.vm_flags &= !(VM_WRITE as usize);
            space.other.vm_flags &= !(VM_WRITE as usize);
        },
        |space| space.other.vm_page_prot.pgprot = 1,
        |space| space.other.vm_ops = ptr::from_ref(&space.mm).cast(),
    ];
    for set in sets {
        set(&mut space);
        assert_eq!(space.relocate(20, SRC, 1, false), Err(EINVAL));
        for vma in [&mut space.vma, &mut space.other] {
            vma.vm_flags = READ_WRITE;
            vma.vm_page_prot.pgprot = 0;
            vma.vm_ops = ptr::null();
        }
    }
    assert_eq!(space.relocate(9, SRC, 1, false), Err(ENOENT));
    assert_eq!(space.relocate(20, 2 * SRC, 1, false), Err(ENOENT));
    assert_eq!(space.relocate(20, SRC, 1, false), Ok(1));
    space.assert_moved(20, SRC, 1, 1);
}

#[test]
fn vmas_are_locked_in_either_way() {
    let mut space = Space::pair();
    space.map_run(SRC, 2);
    space.other.has_writer = true;
    assert_eq!(space.relocate(20, SRC, 1, false), Ok(1));
    assert_eq!(space.mm.mmap_locks, 1);
    space.other.has_writer = false;
    space.vma.anon_vma = ptr::null_mut();
    // The destination gets one, with the mmap lock held.
    assert_eq!(space.relocate(21, SRC + 1, 1, false), Ok(1));
    assert_eq!(space.mm.mmap_locks, 2);
    space.assert_moved(20, SRC, 2, 2);
    for has_writer in [false, true] {
        space.other.has_writer = has_writer;
        space.other.is_full = true;
        assert_eq!(space.relocate(22, SRC, 1, false), Err(EAGAIN));
        space.other.is_full = false;
    }
    space.join();
    assert_eq!(space.relocate(20 + SRC, 20, 2, false), Ok(2));
    space.vma.has_writer = true;
    assert_eq!(space.relocate(20, 20 + SRC, 2, false), Ok(2));
}
