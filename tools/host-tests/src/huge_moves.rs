// SPDX-License-Identifier: GPL-2.0

//! Tests of moves of huge pages, with what other threads change meanwhile.

use crate::space::Space;
use kernel::{
    bindings::{
        at, folio, pmd_kind, pmd_t, Moment, FOLIOS, PMD_SPECIAL, POISON, PTE_DIRTY, PTE_SOFT_DIRTY,
        PTE_UFFD_WP, PTE_WRITE, PTRS_PER_PTE, ZERO_PAGE,
    },
    error::{
        code::{EBUSY, EEXIST, EFAULT, ENOENT},
        Result,
    },
    mm::{
        relocation::{
            huge::{HugePair, PmdView},
            Buffer, Tables,
        },
        MmWithUser,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::ptr::{self, NonNull};

/// The second entry is that of the source.
const SRC: usize = PTRS_PER_PTE;

const PAGES: Result<u64> = Ok(PTRS_PER_PTE as u64);

const MOVED: usize = PTE_DIRTY | PTE_WRITE | PTE_SOFT_DIRTY;

/// The folios that are huge.
const HUGE: usize = FOLIOS - 1;
const OTHER: usize = FOLIOS - 2;

type Change = fn(&mut Entries);

/// What other threads change. It is valid as long as the space is there.
#[derive(Copy, Clone)]
struct Entries {
    pmds: [*mut pmd_t; 2],
    huge: *mut folio,
    other: *mut folio,
}

impl Entries {
    fn src(&mut self) -> &mut pmd_t {
        // SAFETY: It is valid, and there is one thread.
        unsafe { &mut *self.pmds[1] }
    }

    fn dst(&mut self) -> &mut pmd_t {
        // SAFETY: It is valid, and there is one thread.
        unsafe { &mut *self.pmds[0] }
    }

    fn huge(&mut self) -> &mut folio {
        // SAFETY: It is valid, and there is one thread.
        unsafe { &mut *self.huge }
    }

    /// Drops the page, as `MADV_DONTNEED` does.
    fn zap(&mut self) {
        let src = self.src();
        (src.kind, src.huge, src.flags, src.reserve) = (pmd_kind::None, ptr::null_mut(), 0, 0);
    }

    /// Splits it. The table has what a test has put there.
    fn split(&mut self) {
        self.zap();
        self.src().kind = pmd_kind::Table;
    }

    /// Makes it something that it cannot be.
    fn spoil(&mut self) {
        self.zap();
        self.src().kind = pmd_kind::Bad;
    }

    fn set(&mut self, huge: *mut folio) {
        let src = self.src();
        (src.kind, src.huge, src.reserve) = (pmd_kind::Huge, huge, 1);
    }
}

impl Space {
    /// Makes one with two VMAs, of one table each, whose second one is a huge page.
    fn huge() -> Box<Self> {
        let mut space = Self::pair();
        space.vma.vm_start = 0;
        space.mm.pgd.pmds[0].kind = pmd_kind::None;
        let anon_vma = NonNull::new(space.other.anon_vma);
        let index = space.index_of(SRC);
        for number in [HUGE, OTHER] {
            space.mm.folios[number] = folio {
                refcount: 1,
                rmaps: 1,
                nr_pages: PTRS_PER_PTE as u32,
                is_exclusive: true,
                anon_vma,
                index,
                ..Default::default()
            };
        }
        let mut entries = space.entries();
        let huge = entries.huge;
        entries.set(huge);
        entries.src().flags = (PTE_WRITE | PTE_UFFD_WP) as u32;
        space
    }

    fn entries(&mut self) -> Entries {
        let folios = self.mm.folios.as_mut_ptr();
        let pmds = self.mm.pgd.pmds.as_mut_ptr();
        Entries {
            pmds: [0, 1].map(|number| pmds.wrapping_add(number)),
            huge: folios.wrapping_add(HUGE),
            other: folios.wrapping_add(OTHER),
        }
    }

    /// Has other threads change something at a moment.
    fn others(&mut self, moment: Moment, change: Change) {
        let mut entries = self.entries();
        at(moment, move || change(&mut entries));
    }

    fn kinds(&self) -> [pmd_kind; 2] {
        self.mm.pgd.pmds.each_ref().map(|pmd| pmd.kind)
    }

    /// Checks that a huge page, or the zero page if it is null, is at one place and nothing at the other.
    fn assert_huge_at(&mut self, place: usize, huge: *mut folio, flags: usize) {
        let pmd = &self.mm.pgd.pmds[place];
        assert_eq!((pmd.kind, pmd.huge), (pmd_kind::Huge, huge));
        assert_eq!(pmd.flags, flags as u32);
        assert_eq!(self.mm.pgd.pmds[1 - place].kind, pmd_kind::None);
    }

    fn move_huge(&mut self) -> Result<u64> {
        self.relocate(0, SRC, PTRS_PER_PTE, false)
    }

    /// Finds the entries of the huge page, and calls `work` with them.
    fn with_huge<R>(&mut self, work: impl FnOnce(HugePair<'_, '_>, &mut Sleepable) -> R) -> R {
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The mm is valid, and as large as all that it points to.
        let mm = unsafe { MmWithUser::from_raw(&self.mm) };
        let [dst, src, len] = [0, SRC, PTRS_PER_PTE].map(|pages| pages * PAGE_SIZE);
        let locked = mm.lock_vma_pair_prepare_anon(dst, src, &mut sleep);
        let mut locked = locked.expect("the VMAs are there");
        let (vmas, sleep) = locked.parts();
        let vmas = vmas.expect("pages can be moved from one to the other");
        let mut buffer = Buffer::default();
        let pages = vmas.relocation(dst, src, len, &mut buffer);
        let mut pages = pages.expect("the VMAs have them");
        match pages.find_tables(true, sleep) {
            Ok(Tables::Huge(pair)) => work(pair, sleep),
            _ => unreachable!("it is a huge page"),
        }
    }
}

#[test]
fn huge_pages_are_moved() {
    for has_one_pmd_table in [false, true] {
        for flags in [0, PTE_WRITE, PTE_UFFD_WP, PTE_DIRTY | PTE_SOFT_DIRTY] {
            let mut space = Space::huge();
            space.mm.has_one_pmd_table = has_one_pmd_table;
            let mut entries = space.entries();
            entries.src().flags = flags as u32;
            entries.huge().is_exclusive = true;
            assert_eq!(space.move_huge(), PAGES);
            space.assert_huge_at(0, entries.huge, MOVED);
            assert_eq!(space.mm.flushes, 1);
        }
    }
}

#[test]
fn the_huge_zero_page_stays_what_it_is() {
    let mut space = Space::huge();
    let mut entries = space.entries();
    entries.set(ptr::null_mut());
    let folios = space.mm.folios.clone();
    assert_eq!(space.move_huge(), PAGES);
    space.assert_huge_at(0, ptr::null_mut(), PMD_SPECIAL | PTE_SOFT_DIRTY);
    assert_eq!(space.mm.flushes, 1);
    assert_eq!(space.mm.folios, folios);
}

#[test]
fn parts_of_huge_pages_are_split() {
    // The destination has a table, or it is not the whole page.
    type Set = fn(&mut Space);
    let sets: [(usize, usize, usize, Set); 5] = [
        (0, SRC, PTRS_PER_PTE, |space| {
            space.mm.pgd.pmds[0].kind = pmd_kind::Table
        }),
        (0, SRC, PTRS_PER_PTE - 1, |_| {}),
        (0, SRC, 2, |_| {}),
        (1, SRC, PTRS_PER_PTE - 1, |_| {}),
        (0, SRC + 1, PTRS_PER_PTE - 1, |_| {}),
    ];
    for (dst, src, pages, set) in sets {
        let mut space = Space::huge();
        set(&mut space);
        space.ptes[src] = ZERO_PAGE;
        assert_eq!(space.relocate(dst, src, pages, true), Ok(pages as u64));
        assert_eq!(space.kinds(), [pmd_kind::Table; 2]);
        assert_eq!(space.done(ZERO_PAGE), [dst]);

        let mut space = Space::huge();
        set(&mut space);
        let mut entries = space.entries();
        entries.huge().is_exclusive = false;
        assert_eq!(space.relocate(dst, src, pages, true), Err(EBUSY));
        assert_eq!(space.kinds()[1], pmd_kind::Huge);
        // What is pinned is split, and then its pages are found to be.
        entries.huge().is_exclusive = true;
        entries.huge().is_pinned = true;
        space.ptes[src] = POISON;
        assert_eq!(space.relocate(dst, src, pages, true), Err(EFAULT));
        assert_eq!(space.kinds()[1], pmd_kind::Table);

        // The zero page has no owner.
        let mut space = Space::huge();
        set(&mut space);
        space.entries().set(ptr::null_mut());
        assert_eq!(space.relocate(dst, src, pages, true), Ok(pages as u64));
        assert_eq!(space.kinds()[1], pmd_kind::Table);

        // So does one that migrates.
        let mut space = Space::huge();
        set(&mut space);
        space.mm.pgd.pmds[1].kind = pmd_kind::Migration;
        assert_eq!(space.relocate(dst, src, pages, true), Ok(pages as u64));
        assert_eq!(space.kinds()[1], pmd_kind::Table);

        // Another thread has done it.
        let mut space = Space::huge();
        set(&mut space);
        space.others(Moment::ForTable, Entries::split);
        space.ptes[src] = ZERO_PAGE;
        assert_eq!(space.relocate(dst, src, pages, true), Ok(pages as u64));
        assert_eq!(space.done(ZERO_PAGE), [dst]);
    }
}

#[test]
fn huge_pages_that_others_have_stay() {
    type Set = fn(&mut folio);
    // Only one that is pinned meanwhile is taken out of the table and put back.
    let sets: [(Set, u32); 3] = [
        (|folio| folio.is_exclusive = false, 0),
        (|folio| folio.is_pinned = true, 0),
        (|folio| folio.is_being_pinned = true, 1),
    ];
    for (set, flushes) in sets {
        let mut space = Space::huge();
        let mut entries = space.entries();
        entries.src().flags = (PTE_WRITE | PTE_UFFD_WP) as u32;
        set(entries.huge());
        assert_eq!(space.move_huge(), Err(EBUSY));
        space.assert_huge_at(1, entries.huge, PTE_WRITE | PTE_UFFD_WP);
        assert_eq!(space.mm.flushes, flushes);
        let folio = entries.huge();
        (folio.is_exclusive, folio.is_pinned, folio.is_being_pinned) = (true, false, false);
        assert_eq!(space.move_huge(), PAGES);
    }
    // What is written meanwhile is in the entry that is put back.
    let mut space = Space::huge();
    let mut entries = space.entries();
    (
        entries.huge().is_being_pinned,
        entries.huge().is_being_written,
    ) = (true, true);
    assert_eq!(space.move_huge(), Err(EBUSY));
    space.assert_huge_at(1, entries.huge, PTE_WRITE | PTE_UFFD_WP | PTE_DIRTY);
}

#[test]
fn something_may_be_at_the_destination_of_a_huge_page() {
    let mut space = Space::huge();
    space.mm.pgd.pmds[0].kind = pmd_kind::Huge;
    space.mm.pgd.pmds[0].reserve = 1;
    assert_eq!(space.move_huge(), Err(EEXIST));
    // It comes there before the tables are locked.
    let mut space = Space::huge();
    space.others(Moment::ForTable, |entries| {
        (entries.dst().kind, entries.dst().reserve) = (pmd_kind::Huge, 1);
    });
    assert_eq!(space.move_huge(), Err(EEXIST));
    assert_eq!(space.kinds(), [pmd_kind::Huge; 2]);
    let mut space = Space::huge();
    space.ptes[0] = POISON;
    space.others(Moment::ForTable, |entries| {
        entries.dst().kind = pmd_kind::Table
    });
    assert_eq!(space.move_huge(), Err(EEXIST));
    assert_eq!(space.kinds(), [pmd_kind::Table; 2]);
}

/// What others change, and what becomes of the move then.
const CHANGES: &[(Change, Result<u64>)] = &[
    (|_| {}, PAGES),
    (Entries::zap, Err(ENOENT)),
    // There is nothing in the table.
    (Entries::split, Err(ENOENT)),
    (|entries| entries.src().kind = pmd_kind::Migration, PAGES),
    (|entries| entries.huge().is_exclusive = false, Err(EBUSY)),
    (|entries| entries.huge().is_pinned = true, Err(EBUSY)),
    (|entries| entries.huge().is_being_pinned = true, Err(EBUSY)),
    (Entries::spoil, Err(ENOENT)),
    (
        |entries| {
            let other = entries.other;
            entries.set(other);
        },
        PAGES,
    ),
    (|entries| entries.set(ptr::null_mut()), PAGES),
    (
        |entries| {
            (entries.dst().kind, entries.dst().reserve) = (pmd_kind::Huge, 1);
        },
        Err(EEXIST),
    ),
    (|entries| entries.huge().is_contended = true, PAGES),
];

/// Checks what became of a move while others have changed something.
fn check_changed(space: &mut Space, change: Change, expected: Result<u64>) {
    let mut entries = space.entries();
    assert_eq!(space.move_huge(), expected);
    let src = entries.src().kind;
    if expected == PAGES {
        assert_eq!(space.kinds(), [pmd_kind::Huge, pmd_kind::None]);
        assert!(entries.dst().huge.is_null() || entries.dst().flags == MOVED as u32);
    } else {
        // It is as they left it.
        let mut space = Space::huge();
        let mut left = space.entries();
        change(&mut left);
        assert_eq!(left.src().kind, src);
        assert_eq!(left.src().flags, entries.src().flags);
    }
}

#[test]
fn huge_pages_may_change_before_they_are_locked() {
    for &(change, expected) in CHANGES {
        let mut space = Space::huge();
        space.others(Moment::ForTable, change);
        check_changed(&mut space, change, expected);
    }
}

#[test]
fn huge_pages_may_change_while_a_thread_waits_for_the_folio() {
    for &(change, expected) in CHANGES {
        let mut space = Space::huge();
        space.entries().huge().is_contended = true;
        space.others(Moment::ForFolio, change);
        check_changed(&mut space, change, expected);
    }
}

#[test]
fn huge_pages_may_change_while_a_thread_waits_for_the_rmap() {
    for &(change, expected) in CHANGES {
        let mut space = Space::huge();
        space.other.own_anon_vma.is_contended = true;
        space.others(Moment::ForRmap, change);
        check_changed(&mut space, change, expected);
        assert!(!space.other.own_anon_vma.is_contended);
    }
    // For both, one after the other.
    let mut space = Space::huge();
    let mut entries = space.entries();
    entries.huge().is_contended = true;
    space.other.own_anon_vma.is_contended = true;
    space.others(Moment::ForFolio, |_| {});
    space.others(Moment::ForRmap, |_| {});
    assert_eq!(space.move_huge(), PAGES);
    space.assert_huge_at(0, entries.huge, MOVED);
}

#[test]
fn pages_are_moved_if_a_huge_page_is_split_meanwhile() {
    let mut space = Space::huge();
    space.ptes[SRC..SRC + 2].fill(ZERO_PAGE);
    space.others(Moment::ForTable, Entries::split);
    assert_eq!(space.move_huge(), Ok(2));
    assert_eq!(space.done(ZERO_PAGE), [0, 1]);
}

#[test]
fn a_thread_waits_for_a_huge_page_that_migrates() {
    let mut space = Space::huge();
    let mut entries = space.entries();
    entries.src().kind = pmd_kind::Migration;
    assert_eq!(space.move_huge(), PAGES);
    space.assert_huge_at(0, entries.huge, MOVED);
}

#[test]
fn a_huge_page_is_moved_with_what_is_its_own() {
    let mut space = Space::huge();
    let mut entries = space.entries();
    let flags = entries.src().flags as usize;
    space.with_huge(|pair, sleep| {
        let mut pair = pair.invalidate(sleep);
        let Some(PmdView::Huge(page)) = pair.lock(sleep) else {
            unreachable!("it is a huge page");
        };
        let rmap = page.folio().try_lock().expect("it is not locked");
        let rmap = rmap.try_lock_rmap().ok().expect("it is not locked");
        drop(page);
        let other = entries.other;
        entries.set(other);
        let Some(PmdView::Huge(page)) = pair.lock(sleep) else {
            unreachable!("it is a huge page");
        };
        assert!(page.relocate(rmap).is_err());
    });
    space.assert_huge_at(1, entries.other, flags);
    assert_eq!(space.mm.flushes, 0);
    space.check_all();
}

#[test]
fn there_may_be_no_huge_page_any_more() {
    for (change, is_as_expected) in [
        (
            Entries::zap as Change,
            (|view| matches!(view, PmdView::None)) as fn(PmdView<'_>) -> bool,
        ),
        (Entries::split, |view| matches!(view, PmdView::Table)),
        (
            |entries| entries.src().kind = pmd_kind::Migration,
            |view| matches!(view, PmdView::Migration),
        ),
        (Entries::spoil, |view| matches!(view, PmdView::Bad)),
        (
            |entries| entries.huge().is_exclusive = false,
            |view| matches!(view, PmdView::Busy),
        ),
        (
            |entries| entries.set(ptr::null_mut()),
            |view| matches!(view, PmdView::HugeZero(_)),
        ),
    ] {
        let mut space = Space::huge();
        space.others(Moment::ForTable, change);
        space.with_huge(|pair, sleep| {
            let mut pair = pair.invalidate(sleep);
            assert!(is_as_expected(pair.lock(sleep).expect("nothing is there")));
            // Unless it is moved, it is unlocked.
            assert!(is_as_expected(pair.lock(sleep).expect("nothing is there")));
        });
        space.check_all();
    }
}

#[test]
fn huge_pages_that_are_moved_are_aligned() {
    for is_source_aligned in [true, false] {
        let mut space = Space::huge();
        space.join();
        let mut entries = space.entries();
        let (dst, src) = if is_source_aligned {
            (1, SRC)
        } else {
            let huge = entries.huge;
            entries.zap();
            entries.pmds.swap(0, 1);
            entries.set(huge);
            (SRC, 1)
        };
        // There is nothing in the table.
        assert_eq!(space.relocate(dst, src, PTRS_PER_PTE, true), PAGES);
        assert_eq!(space.kinds(), [pmd_kind::Table; 2]);
    }
}
