// SPDX-License-Identifier: GPL-2.0

//! Tests of runs of page table entries, which need C code and so are no KUnit tests.

use crate::space::Space;
use kernel::{
    bindings::{self, pmd_kind, POISON, PTRS_PER_PTE, ZERO_PAGE},
    mm::pgtable::NoVacancy,
    page::PAGE_SIZE,
};
use std::ops::Range;

/// A run is within a part of so many pages, as in `rust_pgtable.c`.
const RUN_PAGES: usize = 512;

impl Space {
    /// Poisons pages. Returns how many were done.
    fn poison(&mut self, pages: Range<usize>) -> Result<usize, NoVacancy> {
        self.poison_bytes(pages.start * PAGE_SIZE..pages.end * PAGE_SIZE)
    }

    fn poison_bytes(&mut self, range: Range<usize>) -> Result<usize, NoVacancy> {
        let is_locked = |pmd: &bindings::pmd_t| pmd.lock.is_locked;
        let pmds = &raw const self.mm.pgd.pmds;
        let ret = self.with_vma(|vma, sleep| {
            vma.with_vacant(range, sleep, |run| {
                // SAFETY: The tables are valid, and there is one thread.
                assert!(unsafe { &*pmds }.iter().any(is_locked));
                run.poison()
            })
        });
        assert!(!self.mm.pgd.pmds.iter().any(is_locked));
        ret
    }
}

#[test]
fn runs_are_where_nothing_is() {
    let mut space = Space::new(100, None);
    assert_eq!(space.poison(12..20), Ok(8));
    assert_eq!(space.done(POISON), Vec::from_iter(12..20));
    assert_eq!(space.poison(10..20), Ok(2));
    assert_eq!(space.poison(19..30), Err(NoVacancy::Taken));
    assert_eq!(space.poison(20..100), Ok(80));
    assert_eq!(space.done(POISON), Vec::from_iter(10..100));
}

#[test]
fn runs_are_in_one_table() {
    let mut space = Space::new(2 * PTRS_PER_PTE, None);
    let table = PTRS_PER_PTE;
    assert_eq!(space.poison(table - 3..table + 5), Ok(3));
    assert_eq!(space.poison(table..table + 5), Ok(5));
    assert_eq!(space.done(POISON), Vec::from_iter(table - 3..table + 5));
}

#[test]
fn runs_are_in_one_part_of_a_table() {
    let mut space = Space::new(2 * PTRS_PER_PTE, None);
    let border = RUN_PAGES;
    assert_eq!(space.poison(border - 3..2 * PTRS_PER_PTE), Ok(3));
    assert_eq!(space.poison(border..2 * PTRS_PER_PTE), Ok(RUN_PAGES));
    assert_eq!(
        space.done(POISON),
        Vec::from_iter(border - 3..border + RUN_PAGES)
    );
}

#[test]
fn runs_end_with_the_file() {
    let mut space = Space::new(100, Some(30));
    assert_eq!(space.poison(30..100), Ok(10));
    assert_eq!(space.poison(40..100), Err(NoVacancy::BeyondFile));
    assert_eq!(space.done(POISON), Vec::from_iter(30..40));
}

#[test]
fn ranges_are_whole_pages_of_the_vma() {
    let mut space = Space::new(100, None);
    let backwards = Range { start: 21, end: 20 };
    for pages in [9..20, 0..5, 90..101, 100..110, 20..20, backwards] {
        assert_eq!(space.poison(pages), Err(NoVacancy::Outside));
    }
    let page = |number: usize| number * PAGE_SIZE;
    for range in [page(20) + 1..page(30), page(20)..page(30) - 1] {
        assert_eq!(space.poison_bytes(range), Err(NoVacancy::Outside));
    }
    assert_eq!(space.done(POISON), []);
    assert!(!space.mm.pgd.is_there);
}

#[test]
fn tables_may_be_missing() {
    let mut space = Space::new(100, None);
    space.mm.has_memory = false;
    assert_eq!(space.poison(10..20), Err(NoVacancy::NoMemory));
    space.mm.has_memory = true;
    space.mm.pgd.pmds[0].is_freed = true;
    assert_eq!(space.poison(10..20), Err(NoVacancy::NoTable));
    let mut set = |kind| {
        space.mm.pgd.pmds[0].kind = kind;
        space.poison(10..20)
    };
    assert_eq!(set(pmd_kind::Huge), Err(NoVacancy::Taken));
    assert_eq!(set(pmd_kind::Bad), Err(NoVacancy::Bad));
    assert_eq!(space.done(POISON), []);
}

#[test]
fn the_zero_page_is_where_nothing_is() {
    let mut space = Space::new(100, None);
    assert_eq!(space.poison(20..30), Ok(10));
    let range = 15 * PAGE_SIZE..100 * PAGE_SIZE;
    let mapped =
        space.with_vma(|vma, sleep| vma.with_vacant(range, sleep, |run| run.map_zero_page()));
    assert_eq!(mapped, Ok(5));
    assert_eq!(space.done(ZERO_PAGE), Vec::from_iter(15..20));
    assert_eq!(space.done(POISON), Vec::from_iter(20..30));
}

#[test]
fn tables_are_made_for_one_page() {
    let mut space = Space::new(2 * PTRS_PER_PTE, None);
    let mut alloc =
        |address: usize| space.with_vma(|vma, sleep| vma.alloc_pte_table(address, sleep));
    for address in [
        9 * PAGE_SIZE,
        10 * PAGE_SIZE + 1,
        2 * PTRS_PER_PTE * PAGE_SIZE,
        usize::MAX & !(PAGE_SIZE - 1),
    ] {
        assert_eq!(alloc(address), Err(NoVacancy::Outside));
    }
    assert_eq!(alloc((PTRS_PER_PTE + 2) * PAGE_SIZE), Ok(()));
    let kinds = space.mm.pgd.pmds.each_ref().map(|pmd| pmd.kind);
    assert_eq!(kinds, [pmd_kind::None, pmd_kind::Table]);
}
