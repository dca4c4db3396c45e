// SPDX-License-Identifier: GPL-2.0

//! Tests of how pages of a file are mapped, which need C code and so are no KUnit tests.

use crate::space::Space;
use kernel::{
    bindings::{
        add_to_file, folio, pmd_kind, GUARD, POISON, PTE_DIRTY, PTE_UFFD_WP, PTE_WRITE, RETRY,
        SWAPPED, UFFD_WP, VM_SHARED, VM_WRITE, ZERO_PAGE,
    },
    error::{
        code::{EFAULT, EINVAL},
        Result,
    },
    mm::{
        filemap::CachedFolio,
        locked::{Any, Memory, ShmemVma},
        pgtable::NoVacancy,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::{ops::Range, ptr};

/// `map_cached` maps so many at once, as in `rust_filemap.c`.
const MAX_FOLIOS: usize = 32;

const FLAGS: usize = PTE_DIRTY | PTE_WRITE | PTE_UFFD_WP;

/// What is done with a folio that is locked.
type Mapped = Result<Result<usize, NoVacancy>>;

impl Space {
    /// Makes one whose VMA has the pages of a file from the page 10 on, and has folios of so many pages.
    fn with_file(folios: &[u32]) -> Box<Self> {
        let mut space = Self::new(100, Some(20));
        let mut index = 0;
        for pages in folios {
            // SAFETY: The VMA is valid, and has a file.
            unsafe { add_to_file(&mut space.vma, index, *pages) };
            index += *pages as usize;
        }
        space
    }

    fn with_shmem<R>(&mut self, work: impl FnOnce(ShmemVma<'_, Any>, &mut Sleepable) -> R) -> R {
        let ret = self.with_memory(|memory, sleep| match memory {
            Memory::Private(vma) => work(vma.shmem().expect("it has a file").into_any(), sleep),
            Memory::Shared(vma) => work(vma.shmem().into_any(), sleep),
            _ => unreachable!("the VMA is of shmem"),
        });
        assert!(!self.mm.pgd.pmds.iter().any(|pmd| pmd.lock.is_locked));
        ret
    }

    fn map_cached(&mut self, pages: Range<usize>, uffd_wp: bool) -> Result<usize, NoVacancy> {
        let range = pages.start * PAGE_SIZE..pages.end * PAGE_SIZE;
        self.with_shmem(|vma, sleep| vma.map_cached(range, uffd_wp, sleep))
    }

    /// Locks the folio of a page, and calls `work` with it.
    fn with_folio<R>(
        &mut self,
        page: usize,
        work: impl FnOnce(CachedFolio<'_, '_, Any>) -> R,
    ) -> Result<R> {
        self.with_shmem(|vma, sleep| Ok(work(vma.lock_folio(page * PAGE_SIZE, sleep)?)))
    }

    fn map_locked(&mut self, pages: Range<usize>, uffd_wp: bool) -> Mapped {
        self.with_folio(pages.start, |folio| {
            folio.map(pages.end * PAGE_SIZE, uffd_wp)
        })
    }

    /// Returns the folio that has a page of the file.
    fn folio(&mut self, index: usize) -> &mut folio {
        // SAFETY: It is in the page cache.
        unsafe { &mut *self.mapping.i_pages[index] }
    }

    /// Returns the flags of the entry of a page, if it has the page of the file there.
    fn flags(&mut self, page: usize) -> Option<usize> {
        let index = page - 10 + self.vma.vm_pgoff;
        let folio = self.folio(index);
        let number = index & (folio.nr_pages as usize - 1);
        let address = ptr::from_ref(folio).wrapping_add(number).addr();
        (self.ptes[page] & !FLAGS == address).then_some(self.ptes[page] & FLAGS)
    }

    /// Checks which pages are mapped, and unmaps them. The file has its own references then, and no others.
    fn unmap(&mut self, mapped: Range<usize>) {
        assert_eq!(self.mm.file_pages, mapped.len());
        for page in mapped {
            assert!(self.flags(page).is_some(), "page {page}");
            let index = page - 10 + self.vma.vm_pgoff;
            self.folio(index).refcount -= 1;
            let number =
                ((self.ptes[page] & !FLAGS) - self.mm.folios.as_ptr().addr()) / size_of::<folio>();
            self.mm.folios[number].rmaps -= 1;
            self.ptes[page] = 0;
        }
        self.mm.file_pages = 0;
        assert!(!self.ptes.iter().any(|entry| *entry > GUARD));
        for folio in &self.mm.folios {
            let counts = [folio.refcount, folio.rmaps, folio.lrus];
            assert_eq!(counts, [folio.nr_pages as i32, 0, 0]);
            assert!(!folio.is_locked);
        }
    }
}

#[test]
fn folios_are_mapped_with_one_call_each() {
    let mut space = Space::with_file(&[1, 1, 2, 4]);
    assert_eq!(space.map_cached(10..18, false), Ok(8));
    for index in [0, 1, 2, 4] {
        assert_eq!(space.folio(index).rmap_calls, 1);
    }
    assert_eq!(space.folio(4).refcount, 8);
    space.unmap(10..18);
}

#[test]
fn parts_of_a_folio_are_mapped() {
    let mut space = Space::with_file(&[4, 4]);
    space.vma.vm_pgoff = 1;
    // From the second page of one folio to the second of the other.
    assert_eq!(space.map_cached(10..15, false), Ok(5));
    assert_eq!(space.folio(0).rmap_calls, 1);
    space.unmap(10..15);
    assert_eq!(space.map_locked(11..12, false), Ok(Ok(1)));
    space.unmap(11..12);
    assert_eq!(space.map_locked(11..20, false), Ok(Ok(2)));
    space.unmap(11..13);
}

#[test]
fn markers_are_replaced_but_not_guards() {
    let mut space = Space::with_file(&[2, 2, 4]);
    space.ptes[11..13].copy_from_slice(&[UFFD_WP, POISON]);
    assert_eq!(space.map_cached(10..18, false), Ok(8));
    space.unmap(10..18);
    for entry in [GUARD, ZERO_PAGE] {
        space.ptes[11..14].copy_from_slice(&[UFFD_WP, POISON, entry]);
        assert_eq!(space.map_cached(10..18, false), Ok(3));
        assert_eq!(space.map_cached(13..18, false), Ok(0));
        assert_eq!(space.map_locked(13..18, false), Ok(Err(NoVacancy::Taken)));
        assert_eq!(space.done(entry), [13]);
        space.unmap(10..13);
        space.ptes[12] = POISON;
        assert_eq!(space.map_locked(12..18, false), Ok(Ok(1)));
        space.unmap(12..13);
    }
}

#[test]
fn pages_end_with_the_file() {
    let mut space = Space::with_file(&[4, 4]);
    space.inode.size = 6 * PAGE_SIZE;
    assert_eq!(space.map_cached(10..18, false), Ok(6));
    assert_eq!(space.map_cached(16..18, false), Ok(0));
    assert_eq!(space.map_locked(16..18, false), Err(EINVAL));
    space.unmap(10..16);
    let size = &raw mut space.inode.size;
    let mapped = space.with_folio(15, |folio| {
        // SAFETY: The inode is valid, and there is one thread.
        unsafe { *size = 5 * PAGE_SIZE };
        folio.map(18 * PAGE_SIZE, false)
    });
    assert_eq!(mapped, Ok(Err(NoVacancy::BeyondFile)));
    space.unmap(10..10);
}

#[test]
fn pages_that_are_not_there_end_a_run() {
    for entry in [ptr::null_mut(), SWAPPED, RETRY] {
        let mut space = Space::with_file(&[1, 1, 1]);
        *space.folio(1) = folio::default();
        space.mapping.i_pages[1] = entry;
        assert_eq!(space.map_cached(10..13, false), Ok(1));
        assert_eq!(space.map_cached(11..13, false), Ok(0));
        if entry.is_null() {
            assert_eq!(space.map_locked(11..13, false), Err(EFAULT));
        }
        if entry == SWAPPED {
            assert_eq!(space.map_locked(11..13, false), Ok(Ok(1)));
            assert_eq!(space.map_cached(12..13, false), Ok(1));
            space.unmap(10..13);
        } else {
            space.unmap(10..11);
        }
    }
}

#[test]
fn folios_that_cannot_be_had_end_a_run() {
    // A thread that has locked a folio is not disturbed.
    type Set = fn(&mut folio);
    let states: [(u32, Set); 6] = [
        (0, |folio| folio.is_locked = true),
        (1, |folio| folio.is_contended = true),
        (1, |folio| folio.refcount = 0),
        (1, |folio| folio.is_moved = true),
        (1, |folio| folio.mapping = None),
        (1, |folio| folio.is_uptodate = false),
    ];
    for (tries, set) in states {
        let mut space = Space::with_file(&[1, 1, 2]);
        let had = space.folio(2).clone();
        set(space.folio(2));
        let mut state = space.folio(2).clone();
        assert_eq!(space.map_cached(10..14, false), Ok(2));
        assert_eq!(space.map_cached(12..14, false), Ok(0));
        state.tries = 2 * tries;
        assert_eq!(*space.folio(2), state);
        *space.folio(2) = had;
        space.unmap(10..12);
    }
}

#[test]
fn pages_are_mapped_up_to_one_with_an_error() {
    let mut space = Space::with_file(&[4, 4]);
    space.mm.folios[2].is_hwpoison = true;
    assert_eq!(space.map_cached(10..18, false), Ok(2));
    assert_eq!(space.map_cached(12..18, false), Ok(0));
    assert_eq!(
        space.map_locked(12..18, false),
        Ok(Err(NoVacancy::HwPoison))
    );
    space.unmap(10..12);
    assert_eq!(space.map_locked(10..18, false), Ok(Ok(2)));
    space.unmap(10..12);
    assert_eq!(space.map_cached(13..18, false), Ok(5));
    space.unmap(13..18);
}

#[test]
fn an_error_comes_before_what_is_in_the_way() {
    let mut space = Space::with_file(&[1]);
    space.folio(0).is_hwpoison = true;
    space.ptes[10] = ZERO_PAGE;
    let map = |space: &mut Space| space.map_locked(10..11, false);
    assert_eq!(map(&mut space), Ok(Err(NoVacancy::HwPoison)));
    assert_eq!(space.map_cached(10..11, false), Ok(0));
    assert_eq!(map(&mut space), Ok(Err(NoVacancy::HwPoison)));
    space.folio(0).is_hwpoison = false;
    assert_eq!(map(&mut space), Ok(Err(NoVacancy::Taken)));
    space.unmap(10..10);
}

#[test]
fn pages_are_of_the_vma() {
    let mut space = Space::with_file(&[1, 1]);
    for pages in [9..12, 98..101, 100..101, 11..11] {
        assert_eq!(space.map_cached(pages, false), Err(NoVacancy::Outside));
    }
    for end in [10, 101] {
        let mapped = space.map_locked(11..end, false);
        assert_eq!(mapped, Ok(Err(NoVacancy::Outside)));
    }
    assert_eq!(space.map_locked(9..12, false), Err(EINVAL));
    assert_eq!(space.map_locked(100..101, false), Err(EINVAL));
    space.unmap(10..10);
    assert!(!space.mm.pgd.is_there);
}

#[test]
fn folios_are_not_mapped_without_a_table() {
    let mut space = Space::with_file(&[2]);
    let map = |space: &mut Space| space.map_cached(10..12, false);
    space.mm.has_memory = false;
    assert_eq!(map(&mut space), Err(NoVacancy::NoMemory));
    space.mm.has_memory = true;
    space.mm.pgd.pmds[0].is_freed = true;
    assert_eq!(map(&mut space), Ok(0));
    space.mm.pgd.pmds[0].kind = pmd_kind::Huge;
    assert_eq!(map(&mut space), Err(NoVacancy::Taken));
    space.mm.pgd.pmds[0].kind = pmd_kind::Bad;
    assert_eq!(map(&mut space), Err(NoVacancy::Bad));
    space.unmap(10..10);
}

#[test]
fn folios_are_given_back_without_a_table() {
    let mut space = Space::with_file(&[2]);
    let check = |space: &mut Space| {
        let mapped = space.map_locked(10..12, false);
        assert_eq!(mapped, Ok(Err(NoVacancy::NoTable)));
        // It is unlocked, and put. No table was made.
        space.unmap(10..10);
    };
    check(&mut space);
    assert!(!space.mm.pgd.is_there);
    space.mm.pgd.is_there = true;
    check(&mut space);
    assert!(space.mm.pgd.pmds[0].kind == pmd_kind::None);
    for kind in [pmd_kind::Huge, pmd_kind::Bad] {
        space.mm.pgd.pmds[0].kind = kind;
        check(&mut space);
    }
    space.mm.pgd.pmds[0].kind = pmd_kind::Table;
    space.mm.pgd.pmds[0].is_freed = true;
    check(&mut space);
    space.mm.pgd.pmds[0].is_freed = false;
    assert_eq!(space.map_locked(10..12, false), Ok(Ok(2)));
    space.unmap(10..12);
}

#[test]
fn so_many_folios_are_mapped_at_once() {
    for pages in [1, 2] {
        let mut space = Space::with_file(&[pages as u32; MAX_FOLIOS + 8]);
        let (all, max) = ((MAX_FOLIOS + 8) * pages, MAX_FOLIOS * pages);
        space.inode.size = all * PAGE_SIZE;
        assert_eq!(space.map_cached(10..10 + all, false), Ok(max));
        assert_eq!(space.folio(max).tries, 0);
        assert_eq!(space.map_cached(10 + max..10 + all, false), Ok(all - max));
        space.unmap(10..10 + all);
    }
}

#[test]
fn entries_in_the_way_end_a_run_within_a_folio() {
    let mut space = Space::with_file(&[4, 4]);
    // After one page of a folio, and after the last one of it.
    for (first, taken) in [(10, 11), (12, 13), (13, 15)] {
        space.ptes[taken] = ZERO_PAGE;
        assert_eq!(space.map_cached(first..18, false), Ok(taken - first));
        space.unmap(first..taken);
        assert_eq!(space.done(ZERO_PAGE), [taken]);
        space.ptes[taken] = 0;
    }
    assert_eq!(space.map_cached(13..18, false), Ok(5));
    space.unmap(13..18);
}

#[test]
fn a_folio_is_locked_until_it_is_dropped() {
    let mut space = Space::with_file(&[2]);
    let all = &raw const space.mm.folios;
    let held = space.with_folio(11, |folio| {
        // SAFETY: The mm is valid, and there is one thread.
        let held = unsafe { (*all)[0].clone() };
        drop(folio);
        (held.is_locked, held.refcount)
    });
    assert_eq!(held, Ok((true, 3)));
    space.unmap(10..10);
}

#[test]
fn only_shared_pages_can_be_written() {
    let mut space = Space::with_file(&[1, 1, 2]);
    let mut flags = |vm_flags: u32, uffd_wp| {
        space.vma.vm_flags = vm_flags as usize;
        assert_eq!(space.map_cached(10..14, uffd_wp), Ok(4));
        let flags = [10, 11, 12, 13].map(|page| space.flags(page));
        space.unmap(10..14);
        assert_eq!(space.map_locked(12..14, uffd_wp), Ok(Ok(2)));
        assert_eq!([12, 13].map(|page| space.flags(page)), flags[2..]);
        space.unmap(12..14);
        assert_eq!(flags, [flags[0]; 4]);
        flags[0]
    };
    for vm_flags in [0, VM_WRITE, VM_SHARED] {
        assert_eq!(flags(vm_flags, false), Some(PTE_DIRTY));
        assert_eq!(flags(vm_flags, true), Some(PTE_DIRTY | PTE_UFFD_WP));
    }
    let both = VM_WRITE | VM_SHARED;
    assert_eq!(flags(both, false), Some(PTE_DIRTY | PTE_WRITE));
    assert_eq!(flags(both, true), Some(PTE_DIRTY | PTE_UFFD_WP));
}

#[test]
fn anonymous_memory_has_no_file() {
    let mut space = Space::new(100, None);
    assert!(space.with_vma(|vma, _| vma.shmem().is_none()));
}
