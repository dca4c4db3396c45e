// SPDX-License-Identifier: GPL-2.0

//! Tests of large folios, which need C code and so are no KUnit tests.

use crate::space::Space;
use kernel::{
    bindings::{folio, PTE_DIRTY, PTE_UFFD_WP, UFFD_WP},
    mm::{
        folio::FilledFolio,
        pgtable::NoVacancy,
        thp::{Large, LargeFolio, Orders},
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::{ops::Range, ptr};

/// An address that can be read, and one that cannot.
const SRC: usize = PAGE_SIZE;
const BAD_SRC: usize = 0;

/// The orders of folios of 4 and of 16 pages.
const ALLOWED: usize = 1 << 2 | 1 << 4;

fn bytes(pages: Range<usize>) -> Range<usize> {
    pages.start * PAGE_SIZE..pages.end * PAGE_SIZE
}

fn pages_of(orders: Orders) -> Vec<usize> {
    orders.map(|order| order.pages()).collect()
}

impl Space {
    fn orders(&mut self) -> Orders {
        self.with_vma(|vma, _| vma.allowable_orders())
    }

    /// Makes a folio of 4 or 16 pages, and calls `work` with it if it could be filled.
    fn with_thp<R>(
        &mut self,
        page: usize,
        pages: usize,
        src: usize,
        work: impl FnOnce(Option<LargeFolio<'_, FilledFolio<Large>>>, &mut Sleepable) -> R,
    ) -> R {
        self.vma.orders = pages;
        self.with_vma(|vma, sleep| {
            let order = vma.allowable_orders().next();
            let folio = vma.alloc_large_folio(page * PAGE_SIZE, order.unwrap(), sleep);
            let filled = folio.and_then(|folio| folio.copy_from_user_nofault(src, sleep));
            work(filled, sleep)
        })
    }

    fn last(&self) -> &folio {
        &self.mm.folios[self.mm.allocated - 1]
    }
}

#[test]
fn orders_fit_into_ranges() {
    let mut space = Space::new(100, None);
    assert!(space.orders().is_empty());
    space.vma.orders = ALLOWED;
    let orders = space.orders();
    assert_eq!(pages_of(orders), [16, 4]);
    for (pages, fitting) in [
        (0..16, vec![16, 4]),
        (16..48, vec![16, 4]),
        (16..31, vec![4]),
        (20..40, vec![4]),
        (16..20, vec![4]),
        (16..19, vec![]),
        (17..64, vec![]),
        (18..64, vec![]),
        (20..20, vec![]),
    ] {
        let found = pages_of(orders.fitting(&bytes(pages.clone())));
        assert_eq!(found, fitting, "{pages:?}");
    }
    let backwards = Range { start: 32, end: 16 };
    assert!(orders.fitting(&bytes(backwards)).is_empty());
    assert_eq!(orders.fitting(&(0..usize::MAX)), orders);
    assert_eq!(orders.up_to(16 * PAGE_SIZE), orders);
    assert_eq!(pages_of(orders.up_to(16 * PAGE_SIZE - 1)), [4]);
    assert!(orders.up_to(PAGE_SIZE).is_empty());
}

#[test]
fn orders_are_removed() {
    let mut space = Space::new(100, None);
    space.vma.orders = ALLOWED;
    let mut orders = space.orders();
    let largest = orders.clone().next().expect("there are two");
    orders.remove(largest);
    orders.remove(largest);
    assert_eq!(pages_of(orders), [4]);
}

#[test]
fn the_next_folio_begins_where_the_smallest_can() {
    let mut space = Space::new(100, None);
    space.vma.orders = ALLOWED;
    let orders = space.orders();
    for (page, pages) in [(0, 4), (1, 3), (3, 1), (16, 4), (21, 3)] {
        assert_eq!(orders.pages_to_next(page * PAGE_SIZE), pages, "{page}");
    }
    assert_eq!(Orders::NONE.pages_to_next(0), usize::MAX);
}

#[test]
fn memory_of_files_has_no_orders() {
    let mut space = Space::new(100, Some(100));
    space.vma.orders = ALLOWED;
    assert!(space.orders().is_empty());
    // So is a private mapping of /dev/zero.
    space.vma.vm_ops = ptr::null();
    assert!(space.orders().is_empty());
    space.vma.vm_file = ptr::null_mut();
    assert!(!space.orders().is_empty());
}

#[test]
fn large_folios_are_mapped_as_a_whole() {
    for (wp, flags) in [(false, PTE_DIRTY), (true, PTE_DIRTY | PTE_UFFD_WP)] {
        let mut space = Space::new(100, None);
        let mapped = space.with_thp(16, 16, SRC, |folio, sleep| {
            folio.expect("it is filled").map(wp, sleep)
        });
        assert_eq!(mapped, Ok(16));
        let entry = ptr::from_ref(space.last()).addr() | flags;
        assert_eq!(space.done(entry), Vec::from_iter(16..32));
        assert_eq!(space.last().refcount, 1);
    }
}

#[test]
fn pages_are_vacant_if_nothing_is_there() {
    let mut space = Space::new(100, None);
    space.vma.orders = 16;
    let mut is_vacant = |page: usize| {
        space.with_vma(|vma, _| {
            let order = vma.allowable_orders().next();
            vma.is_vacant(page * PAGE_SIZE, order.expect("there is one"))
        })
    };
    for page in [16, 80] {
        assert!(is_vacant(page), "{page}");
    }
    for page in [0, 17, 96, 112, 1 << 50] {
        assert!(!is_vacant(page), "{page}");
    }
    for page in [16, 17, 31] {
        space.ptes[page] = UFFD_WP;
        let order = space.orders().next().expect("there is one");
        assert!(!space.with_vma(|vma, _| vma.is_vacant(16 * PAGE_SIZE, order)));
        space.ptes[page] = 0;
    }
}

#[test]
fn large_folios_are_freed_if_anything_came_meanwhile() {
    for page in [16, 17, 31] {
        let mut space = Space::new(100, None);
        let entry = ptr::from_mut(&mut space.ptes[page]);
        let mapped = space.with_thp(16, 16, SRC, |folio, sleep| {
            // SAFETY: The entry is there, and there is one thread.
            unsafe { *entry = UFFD_WP };
            folio.expect("it is filled").map(false, sleep)
        });
        assert_eq!(mapped, Err(NoVacancy::Taken));
        assert_eq!(space.last().refcount, 0);
        assert_eq!(space.done(UFFD_WP), [page]);
        assert_eq!(space.ptes.iter().filter(|pte| **pte != 0).count(), 1);
    }
}

#[test]
fn large_folios_are_for_pages_of_the_vma() {
    // It has the pages from 10 to 99.
    let mut space = Space::new(100, None);
    for (page, pages) in [
        (8, 4),
        (0, 16),
        (96, 16),
        (100, 4),
        (13, 4),
        (20, 16),
        (112, 16),
        (1 << 50, 4),
    ] {
        space.with_thp(page, pages, SRC, |folio, _| {
            assert!(folio.is_none(), "{page} {pages}");
        });
        assert_eq!(space.mm.allocated, 0);
    }
}

#[test]
fn large_folios_are_charged_or_not_made() {
    let mut space = Space::new(100, None);
    space.mm.charges = 3;
    space.with_thp(16, 4, SRC, |folio, _| assert!(folio.is_none()));
    space.mm.charges = 4;
    space.with_thp(16, 4, SRC, |folio, _| assert!(folio.is_some()));
    assert!(space.last().is_charged);
    assert_eq!(space.last().refcount, 0);
}

#[test]
fn large_folios_that_are_not_filled_are_freed() {
    let mut space = Space::new(100, None);
    space.with_thp(16, 4, BAD_SRC, |folio, _| assert!(folio.is_none()));
    assert_eq!(space.mm.allocated, 1);
    assert_eq!(space.last().refcount, 0);
}
