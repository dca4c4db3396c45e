// SPDX-License-Identifier: GPL-2.0

//! Tests of folios that are mapped, which need C code and so are no KUnit tests.

use crate::space::Space;
use kernel::{
    bindings::{
        folio, pmd_kind, GUARD, POISON, PTE_DIRTY, PTE_UFFD_WP, PTE_WRITE, PTRS_PER_PTE, UFFD_WP,
        VM_WRITE, ZERO_PAGE,
    },
    error::code::{EFAULT, ENOMEM},
    mm::{
        folio::{ChargedFolios, FilledFolio, NewFolio},
        locked::{Private, PteVma},
        pgtable::NoVacancy,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::{ops::Range, ptr};

/// An address that can be read, and one that cannot.
const SRC: usize = PAGE_SIZE;
const BAD_SRC: usize = 0;

fn new(vma: PteVma<'_, Private>, sleep: &mut Sleepable) -> NewFolio<Private> {
    let folio = vma.alloc_folio(vma.vma().start(), sleep);
    folio.expect("there is memory")
}

fn filled(vma: PteVma<'_, Private>, sleep: &mut Sleepable) -> FilledFolio<Private> {
    let folio = new(vma, sleep).copy_from_user_nofault(SRC);
    folio.ok().expect("the source can be read")
}

impl Space {
    /// Calls `work` with folios that are charged.
    fn with_folios<R>(
        &mut self,
        count: usize,
        work: impl FnOnce(PteVma<'_, Private>, &mut ChargedFolios<'_>, &mut Sleepable) -> R,
    ) -> R {
        self.with_vma(|vma, sleep| {
            let mut folios = ChargedFolios::new(vma);
            for _ in 0..count {
                assert_eq!(folios.charge(filled(vma, sleep), sleep), Ok(()));
            }
            assert_eq!(folios.len(), count);
            work(vma, &mut folios, sleep)
        })
    }

    /// Maps new folios to pages. Returns how many were mapped. The others are put.
    fn map(&mut self, pages: Range<usize>, uffd_wp: bool) -> Result<usize, NoVacancy> {
        let count = pages.len();
        let before = self.mm.allocated;
        let all = &raw const self.mm.folios;
        let ret = self.with_folios(count, |vma, folios, sleep| {
            let ret = vma.map_folios(pages.start * PAGE_SIZE, folios, uffd_wp, sleep);
            assert_eq!(folios.len(), count - ret.unwrap_or(0));
            // SAFETY: The mm is valid, and there is one thread.
            assert!(unsafe { &(&*all)[before..][..count] }
                .iter()
                .all(|folio| folio.refcount == 1));
            ret
        });
        assert!(!self.mm.pgd.pmds.iter().any(|pmd| pmd.lock.is_locked));
        ret
    }

    fn folios(&self) -> &[folio] {
        &self.mm.folios[..self.mm.allocated]
    }

    /// Checks which folios are mapped where, by their order, and that the others were put.
    fn check(&self, mapped: &[(usize, usize)]) {
        assert_eq!(self.mm.anon_pages, mapped.len());
        for (number, folio) in self.folios().iter().enumerate() {
            let page = mapped
                .iter()
                .find(|place| place.0 == number)
                .map(|place| place.1);
            let is_mapped = page.is_some().into();
            let counts = [folio.refcount, folio.rmaps, folio.lrus];
            assert_eq!(counts, [is_mapped; 3], "folio {number}");
            let Some(page) = page else {
                continue;
            };
            assert!(folio.is_charged);
            assert_eq!(folio.address, page * PAGE_SIZE);
            let flags = PTE_DIRTY | PTE_WRITE | PTE_UFFD_WP;
            assert_eq!(self.ptes[page] & !flags, ptr::from_ref(folio).addr());
        }
        let is_folio = |entry: &&usize| **entry > GUARD;
        assert_eq!(self.ptes.iter().filter(is_folio).count(), mapped.len());
    }
}

#[test]
fn folios_are_mapped_over_markers() {
    let mut space = Space::new(100, None);
    space.ptes[12] = UFFD_WP;
    space.ptes[13] = POISON;
    assert_eq!(space.map(10..16, false), Ok(6));
    space.check(&[(0, 10), (1, 11), (2, 12), (3, 13), (4, 14), (5, 15)]);
}

#[test]
fn folios_are_not_mapped_over_others() {
    for entry in [ZERO_PAGE, GUARD] {
        let mut space = Space::new(100, None);
        space.ptes[12] = entry;
        assert_eq!(space.map(10..16, false), Ok(2));
        assert_eq!(space.map(12..16, false), Err(NoVacancy::Taken));
        assert_eq!(space.map(11..16, false), Err(NoVacancy::Taken));
        space.check(&[(0, 10), (1, 11)]);
        assert_eq!(space.done(entry), [12]);
    }
}

#[test]
fn folios_end_with_the_file() {
    let mut space = Space::new(100, Some(5));
    assert_eq!(space.map(12..20, false), Ok(3));
    assert_eq!(space.map(15..17, false), Err(NoVacancy::BeyondFile));
    space.check(&[(0, 12), (1, 13), (2, 14)]);
}

#[test]
fn what_is_left_can_be_mapped() {
    let mut space = Space::new(2 * PTRS_PER_PTE, None);
    let first = PTRS_PER_PTE - 3;
    let address = |page: usize| page * PAGE_SIZE;
    space.with_folios(8, |vma, folios, sleep| {
        let all = address(first)..address(first + 8);
        assert_eq!(vma.pages_in_table(&all), 3);
        assert_eq!(vma.map_folios(all.start, folios, false, sleep), Ok(3));
        let rest = address(first + 3)..all.end;
        assert_eq!(vma.pages_in_table(&rest), 5);
        assert_eq!(vma.map_folios(rest.start, folios, false, sleep), Ok(5));
        assert!(folios.is_empty());
        let none = vma.map_folios(all.end, folios, false, sleep);
        assert_eq!(none, Err(NoVacancy::Outside));
    });
    space.check(&[0, 1, 2, 3, 4, 5, 6, 7].map(|number| (number, first + number)));
}

#[test]
fn folios_are_for_pages_of_the_vma() {
    let mut space = Space::new(100, None);
    for pages in [8..12, 98..102, 100..101, 20..20] {
        assert_eq!(space.map(pages, false), Err(NoVacancy::Outside));
    }
    let unaligned = space.with_folios(1, |vma, folios, sleep| {
        vma.map_folios(20 * PAGE_SIZE + 1, folios, false, sleep)
    });
    assert_eq!(unaligned, Err(NoVacancy::Outside));
    space.check(&[]);
    assert!(!space.mm.pgd.is_there);
}

#[test]
fn folios_stay_without_a_table() {
    let mut space = Space::new(100, None);
    space.mm.has_memory = false;
    assert_eq!(space.map(10..12, false), Err(NoVacancy::NoMemory));
    space.mm.has_memory = true;
    space.mm.pgd.pmds[0].is_freed = true;
    assert_eq!(space.map(10..12, false), Err(NoVacancy::NoTable));
    space.mm.pgd.pmds[0].kind = pmd_kind::Huge;
    assert_eq!(space.map(10..12, false), Err(NoVacancy::Taken));
    space.check(&[]);
}

#[test]
fn writes_are_tracked_if_asked_for() {
    let mut space = Space::new(100, None);
    let mut flags = |vm_flags: u32, uffd_wp| {
        space.vma.vm_flags = vm_flags as usize;
        let page = 10 + space.mm.allocated;
        assert_eq!(space.map(page..page + 1, uffd_wp), Ok(1));
        let folio = space.folios().last().expect("one was mapped");
        space.ptes[page] - ptr::from_ref(folio).addr()
    };
    assert_eq!(flags(0, false), PTE_DIRTY);
    assert_eq!(flags(0, true), PTE_DIRTY | PTE_UFFD_WP);
    assert_eq!(flags(VM_WRITE, false), PTE_DIRTY | PTE_WRITE);
    assert_eq!(flags(VM_WRITE, true), PTE_DIRTY | PTE_UFFD_WP);
    space.check(&[(0, 10), (1, 11), (2, 12), (3, 13)]);
}

#[test]
fn folios_without_a_charge_are_put() {
    let mut space = Space::new(100, None);
    space.mm.charges = 2;
    let count = space.with_vma(|vma, sleep| {
        let mut folios = ChargedFolios::new(vma);
        let mut charge = || folios.charge(filled(vma, sleep), sleep);
        assert_eq!(
            [charge(), charge(), charge()],
            [Ok(()), Ok(()), Err(ENOMEM)]
        );
        vma.map_folios(10 * PAGE_SIZE, &mut folios, false, sleep)
    });
    assert_eq!(count, Ok(2));
    space.check(&[(0, 10), (1, 11)]);
}

#[test]
fn there_are_not_too_many_folios() {
    let mut space = Space::new(100, None);
    space.with_folios(ChargedFolios::MAX, |vma, folios, sleep| {
        assert_eq!(folios.charge(filled(vma, sleep), sleep), Err(ENOMEM));
        assert_eq!(folios.len(), ChargedFolios::MAX);
    });
    assert_eq!(space.folios().len(), ChargedFolios::MAX + 1);
    space.check(&[]);
}

#[test]
fn folios_that_are_not_charged_are_put() {
    let mut space = Space::new(100, None);
    let all = &raw const space.mm.folios;
    space.with_vma(|vma, sleep| {
        drop(new(vma, sleep));
        drop(filled(vma, sleep));
        let Err(unfilled) = new(vma, sleep).copy_from_user_nofault(BAD_SRC) else {
            unreachable!("the source cannot be read");
        };
        // SAFETY: The mm is valid, and there is one thread.
        assert_eq!(unsafe { &*all }[2].refcount, 1);
        assert_eq!(unfilled.copy_from_user(BAD_SRC, sleep).err(), Some(EFAULT));
    });
    assert_eq!(space.folios().len(), 3);
    space.check(&[]);
}
