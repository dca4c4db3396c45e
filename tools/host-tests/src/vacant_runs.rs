// SPDX-License-Identifier: GPL-2.0

//! Tests of runs of page table entries, which need C code and so are no KUnit tests.

use kernel::{
    bindings::{self, pmd_kind, POISON, PTRS_PER_PTE, ZERO_PAGE},
    mm::{
        locked::{Memory, Private, PteVma},
        pgtable::NoVacancy,
        MmWithUser,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::{ops::Range, ptr};

/// A run is within a part of so many pages, as in `rust_pgtable.c`.
const RUN_PAGES: usize = 512;

/// An address space with two tables of PTEs, and a private VMA from the page 10 on.
struct Space {
    mm: bindings::mm_struct,
    vma: bindings::vm_area_struct,
    file: bindings::file,
    inode: bindings::inode,
    ptes: Vec<bindings::pte_t>,
}

impl Space {
    /// Makes one whose VMA ends at a page. If `file_pages` is set, that is of a file of shmem.
    fn new(end: usize, file_pages: Option<usize>) -> Box<Self> {
        let mut ptes = vec![0; 2 * PTRS_PER_PTE];
        let pmds = [0, PTRS_PER_PTE].map(|first| bindings::pmd_t {
            kind: pmd_kind::None,
            is_freed: false,
            lock: bindings::spinlock_t::default(),
            ptes: &mut ptes[first],
        });
        let mut space = Box::new(Self {
            mm: bindings::mm_struct {
                pgd: bindings::pgd_t {
                    is_there: false,
                    pmds,
                },
                has_memory: true,
                vma: ptr::null_mut(),
                has_mmap_lock: false,
            },
            vma: bindings::vm_area_struct {
                vm_start: 10 * PAGE_SIZE,
                vm_end: end * PAGE_SIZE,
                vm_mm: ptr::null_mut(),
                vm_pgoff: 0,
                vm_page_prot: 0,
                vm_file: ptr::null_mut(),
                vm_flags: 0,
                vm_ops: ptr::null(),
                anon_vma: ptr::null_mut(),
                vm_userfaultfd_ctx: bindings::vm_userfaultfd_ctx {
                    ctx: ptr::null_mut(),
                },
                is_locked: false,
            },
            file: bindings::file {
                f_inode: ptr::null_mut(),
            },
            inode: bindings::inode {
                size: file_pages.unwrap_or(0) * PAGE_SIZE,
            },
            ptes,
        });
        space.mm.vma = &mut space.vma;
        space.vma.vm_mm = &mut space.mm;
        space.file.f_inode = &mut space.inode;
        if file_pages.is_some() {
            space.vma.vm_file = &mut space.file;
            space.vma.vm_ops = ptr::from_ref(&space.file).cast();
        }
        space
    }

    /// Locks the VMA, and calls `work` with it.
    fn with_vma<R>(&mut self, work: impl FnOnce(PteVma<'_, Private>, &mut Sleepable) -> R) -> R {
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The mm is valid, and as large as all that it points to.
        let mm = unsafe { MmWithUser::from_raw(&self.mm) };
        let locked = mm.lock_vma_prepare_anon(10 * PAGE_SIZE, &mut sleep);
        let mut locked = locked.expect("the VMA is there");
        let (Memory::Private(vma), sleep) = locked.parts() else {
            unreachable!("the VMA is private");
        };
        let ret = work(vma, sleep);
        drop(locked);
        assert!(!self.vma.is_locked);
        ret
    }

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

    /// Returns the pages that have an entry.
    fn done(&self, entry: bindings::pte_t) -> Vec<usize> {
        let pages = 0..self.ptes.len();
        pages.filter(|&page| self.ptes[page] == entry).collect()
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
fn slots_are_of_the_first_page() {
    let mut space = Space::new(2 * PTRS_PER_PTE, None);
    let pages = |first: usize| first * PAGE_SIZE..2 * PTRS_PER_PTE * PAGE_SIZE;
    let mut alloc = |range: Range<usize>| {
        space.with_vma(|vma, sleep| vma.alloc_pte_table(range, sleep).map(|slot| slot.address()))
    };
    assert_eq!(alloc(pages(9)), Err(NoVacancy::Outside));
    assert_eq!(
        alloc(pages(PTRS_PER_PTE + 2)),
        Ok((PTRS_PER_PTE + 2) * PAGE_SIZE)
    );
    let kinds = space.mm.pgd.pmds.each_ref().map(|pmd| pmd.kind);
    assert!(kinds == [pmd_kind::None, pmd_kind::Table]);
}
