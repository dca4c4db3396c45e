// SPDX-License-Identifier: GPL-2.0

//! Tests of pages that are added to a file, which need C code and so are no KUnit tests.

use crate::space::Space;
use kernel::{
    bindings::{
        pmd_kind, FOLIOS, GUARD, POISON, PTE_DIRTY, PTE_UFFD_WP, PTE_WRITE, UFFD_WP, VM_SHARED,
        VM_WRITE, ZERO_PAGE,
    },
    error::{Error, Result},
    mm::{
        filemap::AddedFolio,
        locked::{Memory, Shared, ShmemVma},
        pgtable::NoVacancy,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::ptr;

/// Why a page was not added and mapped.
#[derive(Debug, PartialEq)]
enum Stop {
    New(NoVacancy),
    Copy(Error),
    Add(NoVacancy),
    Map(NoVacancy),
}

impl Space {
    /// Makes one with a shared VMA of a file of 20 pages, from the page 10 on.
    fn shared() -> Box<Self> {
        let mut space = Self::new(100, Some(20));
        space.vma.vm_flags = (VM_SHARED | VM_WRITE) as usize;
        space
    }

    fn with_shared<R>(
        &mut self,
        work: impl FnOnce(ShmemVma<'_, Shared>, &mut Sleepable) -> R,
    ) -> R {
        self.with_memory(|memory, sleep| match memory {
            Memory::Shared(vma) => work(vma.shmem(), sleep),
            _ => unreachable!("the VMA is shared"),
        })
    }

    /// Adds a page of zeroes, and calls `work` with it.
    fn with_added<R>(
        &mut self,
        page: usize,
        work: impl FnOnce(AddedFolio<'_, '_>) -> R,
    ) -> Result<R, Stop> {
        self.with_shared(|vma, sleep| {
            let address = page * PAGE_SIZE;
            let (page, folio) = vma.new_page(address, sleep).map_err(Stop::New)?;
            let added = page.add(folio.zero(address), sleep);
            added.map(work).map_err(Stop::Add)
        })
    }

    fn add(&mut self, page: usize) -> Result<(), Stop> {
        self.with_added(page, |folio| folio.map(false).map_err(Stop::Map))?
    }

    /// Checks which pages were added and mapped, by their order, with these flags. The others were put, and the
    /// file has no more blocks than pages.
    fn check_added(&mut self, added: &[(usize, usize)], flags: usize) {
        assert!(!self.mm.pgd.pmds.iter().any(|pmd| pmd.lock.is_locked));
        assert_eq!(self.inode.new_blocks, 0);
        assert_eq!(self.inode.free_blocks, FOLIOS - added.len());
        assert_eq!(self.mm.file_pages, added.len());
        for (number, folio) in self.mm.folios[..self.mm.allocated].iter().enumerate() {
            let place = added.iter().find(|place| place.0 == number);
            let counts = [folio.refcount, folio.rmaps, folio.rmap_calls, folio.lrus];
            assert!(!folio.is_locked);
            let Some((_, page)) = place else {
                assert_eq!(counts, [0; 4], "folio {number}");
                assert_eq!(folio.mapping, None);
                continue;
            };
            // The file has a reference, and the page table.
            assert_eq!(counts, [2, 1, 1, 1], "folio {number}");
            assert!(folio.is_charged && folio.is_uptodate);
            assert_eq!(self.ptes[*page], ptr::from_ref(folio).addr() | flags);
            let index = page - 10 + self.vma.vm_pgoff;
            assert_eq!(self.mapping.i_pages[index], ptr::from_ref(folio).cast_mut());
        }
        let pages = self.mapping.i_pages.iter();
        let pages = pages.filter(|folio| !folio.is_null());
        assert_eq!(pages.count(), added.len());
        let folios = self.ptes.iter().filter(|entry| **entry > GUARD);
        assert_eq!(folios.count(), added.len());
    }
}

#[test]
fn pages_are_added_and_mapped() {
    let mut space = Space::shared();
    space.vma.vm_pgoff = 3;
    assert_eq!(space.add(10), Ok(()));
    assert_eq!(space.add(26), Ok(()));
    space.check_added(&[(0, 10), (1, 26)], PTE_DIRTY | PTE_WRITE);
}

#[test]
fn a_page_is_added_once() {
    let mut space = Space::shared();
    assert_eq!(space.add(10), Ok(()));
    assert_eq!(space.add(10), Err(Stop::Add(NoVacancy::Taken)));
    space.check_added(&[(0, 10)], PTE_DIRTY | PTE_WRITE);
}

#[test]
fn pages_are_mapped_over_markers_but_not_guards() {
    let mut space = Space::shared();
    space.ptes[10..14].copy_from_slice(&[UFFD_WP, POISON, GUARD, ZERO_PAGE]);
    for (page, done) in [
        (10, Ok(())),
        (11, Ok(())),
        (12, Err(Stop::Map(NoVacancy::Taken))),
        (13, Err(Stop::Map(NoVacancy::Taken))),
    ] {
        assert_eq!(space.add(page), done);
    }
    space.check_added(&[(0, 10), (1, 11)], PTE_DIRTY | PTE_WRITE);
    assert_eq!(space.ptes[12..14], [GUARD, ZERO_PAGE]);
}

#[test]
fn the_file_may_end_at_any_time() {
    let mut space = Space::shared();
    assert_eq!(space.add(29), Ok(()));
    assert_eq!(space.add(30), Err(Stop::Add(NoVacancy::BeyondFile)));
    let size = &raw mut space.inode.size;
    let mapped = space.with_added(19, |folio| {
        // SAFETY: The inode is valid, and there is one thread.
        unsafe { *size = 9 * PAGE_SIZE };
        folio.map(false)
    });
    assert_eq!(mapped, Ok(Err(NoVacancy::BeyondFile)));
    // A part of a page belongs to it.
    space.inode.size = 8 * PAGE_SIZE + 1;
    assert_eq!(space.add(18), Ok(()));
    assert_eq!(space.add(19), Err(Stop::Add(NoVacancy::BeyondFile)));
    space.check_added(&[(0, 29), (3, 18)], PTE_DIRTY | PTE_WRITE);
}

#[test]
fn a_page_that_is_not_mapped_is_taken_out() {
    let mut space = Space::shared();
    let all = &raw const space.mm.folios;
    let state = space.with_added(10, |folio| {
        // SAFETY: The mm is valid, and there is one thread.
        let state = unsafe { (*all)[0].clone() };
        drop(folio);
        (state.is_locked, state.refcount, state.lrus)
    });
    assert_eq!(state, Ok((true, 2, 0)));
    space.check_added(&[], 0);
    assert_eq!(space.add(10), Ok(()));
    space.check_added(&[(1, 10)], PTE_DIRTY | PTE_WRITE);
}

#[test]
fn pages_are_not_mapped_without_a_table() {
    let mut space = Space::shared();
    space.mm.has_memory = false;
    assert_eq!(space.add(10), Err(Stop::New(NoVacancy::NoMemory)));
    space.mm.has_memory = true;
    space.mm.pgd.pmds[0].is_freed = true;
    assert_eq!(space.add(10), Err(Stop::Map(NoVacancy::NoTable)));
    for (kind, err) in [
        (pmd_kind::Huge, NoVacancy::Taken),
        (pmd_kind::Migration, NoVacancy::Taken),
        (pmd_kind::Bad, NoVacancy::Bad),
    ] {
        space.mm.pgd.pmds[0].kind = kind;
        assert_eq!(space.add(10), Err(Stop::New(err)));
    }
    space.check_added(&[], 0);
}

#[test]
fn pages_need_a_block_and_a_charge() {
    let mut space = Space::shared();
    space.inode.free_blocks = 0;
    assert_eq!(space.add(10), Err(Stop::New(NoVacancy::NoMemory)));
    space.inode.free_blocks = FOLIOS;
    space.mm.charges = 0;
    assert_eq!(space.add(10), Err(Stop::Add(NoVacancy::NoMemory)));
    space.mm.charges = 1;
    assert_eq!(space.add(10), Ok(()));
    assert_eq!(space.add(11), Err(Stop::Add(NoVacancy::NoMemory)));
    space.check_added(&[(1, 10)], PTE_DIRTY | PTE_WRITE);
}

#[test]
fn pages_are_of_the_vma() {
    let mut space = Space::shared();
    for page in [9, 100] {
        assert_eq!(space.add(page), Err(Stop::New(NoVacancy::Outside)));
    }
    let unaligned =
        space.with_shared(|vma, sleep| vma.new_page_for_filled(10 * PAGE_SIZE + 1, sleep).err());
    assert_eq!(unaligned, Some(NoVacancy::Outside));
    space.check_added(&[], 0);
    assert!(!space.mm.pgd.is_there);
}

#[test]
fn writes_are_tracked_if_asked_for() {
    for (vm_flags, uffd_wp, flags) in [
        (VM_SHARED | VM_WRITE, false, PTE_DIRTY | PTE_WRITE),
        (VM_SHARED | VM_WRITE, true, PTE_DIRTY | PTE_UFFD_WP),
        (VM_SHARED, false, PTE_DIRTY),
        (VM_SHARED, true, PTE_DIRTY | PTE_UFFD_WP),
    ] {
        let mut space = Space::shared();
        space.vma.vm_flags = vm_flags as usize;
        let mapped = space.with_added(10, |folio| folio.map(uffd_wp));
        assert_eq!(mapped, Ok(Ok(())));
        space.check_added(&[(0, 10)], flags);
    }
}

#[test]
fn a_folio_that_was_filled_before_is_added() {
    let mut space = Space::shared();
    let added = space.with_shared(|vma, sleep| {
        let address = 10 * PAGE_SIZE;
        let (page, folio) = vma.new_page(address, sleep).map_err(Stop::New)?;
        // It gives its block back, and the folio is kept.
        drop(page);
        let folio = folio.copy_from_user(PAGE_SIZE, sleep).map_err(Stop::Copy)?;
        let page = vma.new_page_for_filled(address, sleep).map_err(Stop::New)?;
        let added = page.add(folio, sleep).map_err(Stop::Add)?;
        added.map(false).map_err(Stop::Map)
    });
    assert_eq!(added, Ok(()));
    space.check_added(&[(0, 10)], PTE_DIRTY | PTE_WRITE);
}
