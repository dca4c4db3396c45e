// SPDX-License-Identifier: GPL-2.0

//! Tests of how huge pages are filled, which need C code and so are no KUnit tests.

use crate::{fill, space::Space};
use kernel::{
    bindings::{
        self, folio, hstate, model_has_no_faults, model_is_idle, GUARD, HUGE_FOLIOS, HUGE_PAGES,
        POISON, PTE_DIRTY, PTE_SOFT_DIRTY, PTE_UFFD_WP, PTE_WRITE, UFFD_WP, VM_HUGETLB, VM_SHARED,
        VM_UFFD_WP, VM_WRITE,
    },
    error::{
        code::{EEXIST, EFAULT, EINVAL, EIO, ENOMEM},
        Error, Result,
    },
    page::PAGE_SIZE,
    task::Sleepable,
    userfaultfd::{
        abi::UffdioRange,
        context::Context,
        pages::Pages,
        range::{CopySource, PageRange},
    },
};
use std::ptr;

/// A huge page has as many pages, as a power of two.
const ORDER: u32 = 1;
const SIZE: usize = PAGE_SIZE << ORDER;
/// The address of the first one.
const START: usize = 10 * PAGE_SIZE;
/// The model does not read it.
const SRC: usize = 0x10_0000;

const EHWPOISON: Error = Error(-133);
/// The model has no bit for entries that were used, and takes another one.
const YOUNG: usize = PTE_SOFT_DIRTY;
const FLAGS: usize = PTE_DIRTY | PTE_WRITE | PTE_UFFD_WP | YOUNG;

/// What a folio of a page is, in the end.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Place {
    Free,
    /// An entry has it: of that page, with these flags.
    Mapped(usize, usize),
    /// The file has it, as that page.
    File(usize),
    /// Both.
    Both(usize, usize),
}
use Place::{Both, File, Free, Mapped};

struct Huge {
    space: Box<Space>,
    h: Box<hstate>,
    /// The reservations that there were.
    reserved: [bool; HUGE_PAGES],
}

impl Huge {
    fn new(flags: u32, reserved: [bool; HUGE_PAGES]) -> Self {
        let mut h = Box::new(hstate {
            order: ORDER,
            reserved,
            ..Default::default()
        });
        let mut space = Space::new(10 + (HUGE_PAGES << ORDER), Some(HUGE_PAGES << ORDER));
        space.vma.vm_flags = (flags | VM_HUGETLB | VM_UFFD_WP | VM_WRITE) as usize;
        space.inode.h = &mut *h;
        Self { space, h, reserved }
    }

    fn shared() -> Self {
        Self::new(VM_SHARED, [true; HUGE_PAGES])
    }

    fn private() -> Self {
        Self::new(0, [true; HUGE_PAGES])
    }

    /// Both, and those without reservations.
    fn all() -> [Self; 4] {
        let none = [false; HUGE_PAGES];
        let others = [Self::new(VM_SHARED, none), Self::new(0, none)];
        let [third, fourth] = others;
        [Self::shared(), Self::private(), third, fourth]
    }

    fn is_shared(&self) -> bool {
        self.space.vma.vm_flags & VM_SHARED as usize != 0
    }

    /// Calls `work` with the pages, and checks that nothing is locked then. Returns the number of huge pages
    /// that were done.
    fn with_pages(
        &mut self,
        first: usize,
        pages: usize,
        work: impl FnOnce(&mut Pages<'_>, PageRange, CopySource) -> Result<u64>,
    ) -> Result<usize> {
        let mut ctx = bindings::userfaultfd_ctx {
            mm: &mut self.space.mm,
            map_changing_lock: bindings::rw_semaphore::default(),
            mmap_changing: false,
        };
        self.space.vma.vm_userfaultfd_ctx.ctx = &mut ctx;
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The context is valid.
        let context = unsafe { Context::from_raw(&ctx) }.expect("it is not null");
        let (start, len) = ((START + first * SIZE) as u64, (pages * SIZE) as u64);
        let range = PageRange::new(context, UffdioRange { start, len }).expect("it is a range");
        let src = CopySource::new(context, SRC as u64, len).expect("it is in user space");
        let done = {
            let pages = Pages::new(context, &mut sleep);
            work(&mut pages.expect("the mm has users"), range, src)
        };
        self.space.vma.vm_userfaultfd_ctx.ctx = ptr::null_mut();
        assert_eq!(ctx.map_changing_lock.readers, 0);
        assert!(model_is_idle() && model_has_no_faults());
        assert!(!self.space.vma.is_locked && !self.space.mm.has_mmap_lock);
        // SAFETY: The VMA has a file.
        assert_eq!(unsafe { (*self.space.vma.vm_file).refcount }, 0);
        assert_eq!(self.h.readers, 0);
        assert!(!self.h.ptl.is_locked);
        self.check();
        done.map(|bytes| {
            assert_eq!(bytes as usize % SIZE, 0);
            bytes as usize / SIZE
        })
    }

    fn poison(&mut self, first: usize, pages: usize) -> Result<usize> {
        self.with_pages(first, pages, |pages, range, _| fill::poison(pages, range))
    }

    fn map_existing(&mut self, first: usize, pages: usize, wp: bool) -> Result<usize> {
        self.with_pages(first, pages, |pages, range, _| {
            fill::map_existing(pages, range, wp)
        })
    }

    fn copy(&mut self, first: usize, pages: usize, wp: bool) -> Result<usize> {
        self.with_pages(first, pages, |pages, range, src| {
            fill::copy(pages, range, src, wp)
        })
    }

    /// Makes a folio that the file has.
    fn add_to_file(&mut self, index: usize) -> &mut folio {
        let mapping = ptr::NonNull::from(&mut self.space.mapping);
        // The file has used it. In a private mapping it is another one.
        if self.is_shared() {
            self.reserved[index] = false;
            self.h.reserved[index] = false;
        }
        let mut pool = self.h.pool.iter_mut();
        let folio = pool.find(|folio| folio.refcount == 0);
        let folio = folio.expect("there is one");
        *folio = folio::default();
        folio.refcount = 1;
        folio.nr_pages = 1 << ORDER;
        folio.is_uptodate = true;
        folio.mapping = Some(mapping);
        self.space.mapping.i_pages[index << ORDER] = folio;
        folio
    }

    /// Has others take folios.
    fn take_folios(&mut self, count: usize) {
        for folio in &mut self.h.pool[..count] {
            folio.refcount = 1;
            folio.is_charged = true;
        }
    }

    /// Returns what a folio is.
    fn place(&self, folio: &folio) -> Place {
        let address = ptr::from_ref(folio).addr();
        let mut entries = self.h.ptes.iter().enumerate();
        let entry = entries.find(|(_, entry)| **entry & !FLAGS == address);
        let entry = entry.map(|(page, entry)| (page, entry & FLAGS));
        let mut cached = (0..HUGE_PAGES)
            .filter(|index| ptr::addr_eq(self.space.mapping.i_pages[index << ORDER], folio));
        match (entry, cached.next()) {
            (None, None) => Free,
            (Some((page, flags)), None) => Mapped(page, flags),
            (None, Some(index)) => File(index),
            (Some((page, flags)), Some(index)) => {
                assert_eq!(index, page + (self.space.vma.vm_pgoff >> ORDER));
                Both(page, flags)
            }
        }
    }

    /// Checks that each reservation is there, or was used for the page, and that each folio has as many
    /// references as it has places.
    fn check(&self) {
        let first = self.space.vma.vm_pgoff >> ORDER;
        let mut reserved = self.reserved;
        let mut mapped = 0;
        for folio in self.h.pool.iter().filter(|folio| !folio.is_charged) {
            let place = self.place(folio);
            let refcount = match place {
                Free => 0,
                Mapped(..) | File(_) => 1,
                Both(..) => 2,
            };
            assert_eq!(folio.refcount, refcount, "{place:?}");
            if place == Free {
                continue;
            }
            assert!(folio.is_uptodate && !folio.is_locked && !folio.has_reservation);
            assert_eq!(folio.mapping.is_some(), matches!(place, File(_) | Both(..)));
            assert_eq!(folio.rmaps, i32::from(!matches!(place, File(_))));
            if let Mapped(page, _) | Both(page, _) = place {
                mapped += 1 << ORDER;
                // A private mapping has reservations for copies.
                if self.is_shared() || folio.mapping.is_none() {
                    reserved[page + first] = false;
                }
            } else if let (File(index), true) = (place, self.is_shared()) {
                reserved[index] = false;
            }
        }
        assert_eq!(self.h.reserved, reserved);
        assert_eq!(self.space.mm.hugetlb_pages, mapped);
    }

    /// Returns what the folios are that are not free.
    fn places(&self) -> Vec<Place> {
        let places = self.h.pool.iter().map(|folio| self.place(folio));
        let mut places: Vec<_> = places.filter(|place| *place != Free).collect();
        places.sort_by_key(|place| match place {
            Mapped(page, _) | File(page) | Both(page, _) => *page,
            Free => 0,
        });
        places
    }
}

const WRITABLE: usize = PTE_DIRTY | PTE_WRITE | YOUNG;
const PROTECTED: usize = PTE_DIRTY | PTE_UFFD_WP | YOUNG;

#[test]
fn pages_are_poisoned_once() {
    for mut huge in Huge::all() {
        assert_eq!(huge.poison(1, 2), Ok(2));
        assert_eq!(huge.h.ptes, [0, POISON, POISON, 0]);
        // No marker is replaced.
        for entry in [UFFD_WP, POISON, GUARD] {
            huge.h.ptes[0] = entry;
            assert_eq!(huge.poison(0, 4), Err(EEXIST));
            assert_eq!(huge.h.ptes, [entry, POISON, POISON, 0]);
        }
        assert_eq!(huge.poison(3, 1), Ok(1));
        assert_eq!(huge.places(), []);
    }
}

#[test]
fn copies_use_the_reservation() {
    for mut huge in Huge::all() {
        let is_shared = huge.is_shared();
        let place = |page, flags| {
            if is_shared {
                Both(page, flags)
            } else {
                Mapped(page, flags)
            }
        };
        assert_eq!(huge.copy(1, 2, false), Ok(2));
        assert_eq!(huge.copy(3, 1, true), Ok(1));
        assert_eq!(huge.copy(0, 2, true), Ok(1));
        assert_eq!(huge.copy(1, 1, true), Err(EEXIST));
        let places = [
            place(0, PROTECTED),
            place(1, WRITABLE),
            place(2, WRITABLE),
            place(3, PROTECTED),
        ];
        assert_eq!(huge.places(), places);
        assert!(huge
            .h
            .pool
            .iter()
            .all(|folio| folio.refcount == 0 || folio.is_migratable));
        assert_eq!(huge.h.reserved, [false; HUGE_PAGES]);
    }
}

#[test]
fn sources_that_are_absent_are_read_with_faults() {
    for mut huge in Huge::all() {
        huge.h.is_absent = true;
        assert_eq!(huge.copy(0, 3, false), Ok(3));
        assert_eq!(huge.places().len(), 3);
        // The folio that was read to is freed if there is a page then.
        assert_eq!(huge.copy(2, 2, false), Err(EEXIST));
    }
}

#[test]
fn copies_replace_markers() {
    for mut huge in Huge::all() {
        huge.h.ptes = [UFFD_WP, POISON, 1, 0];
        assert_eq!(huge.copy(0, 4, false), Ok(2));
        assert_eq!(huge.copy(2, 1, false), Err(EEXIST));
        assert_eq!(huge.places().len(), 2);
    }
}

#[test]
fn a_page_of_the_file_is_not_copied_to_in_a_shared_mapping() {
    let mut huge = Huge::shared();
    huge.add_to_file(1);
    for is_absent in [false, true] {
        huge.h.is_absent = is_absent;
        assert_eq!(huge.copy(1, 1, false), Err(EEXIST));
    }
    // This comes before the end of the file.
    huge.space.inode.size = 0;
    assert_eq!(huge.copy(1, 1, false), Err(EEXIST));
    assert_eq!(huge.places(), [File(1)]);
    let mut huge = Huge::private();
    huge.add_to_file(1);
    assert_eq!(huge.copy(0, 1, false), Ok(1));
    assert_eq!(huge.copy(1, 1, false), Ok(1));
    assert_eq!(
        huge.places(),
        [Mapped(0, WRITABLE), File(1), Mapped(1, WRITABLE)]
    );
}

#[test]
fn shared_pages_end_with_the_file() {
    let mut huge = Huge::shared();
    // A part of a page does not belong to it.
    huge.space.inode.size = 2 * SIZE + PAGE_SIZE;
    for is_absent in [false, true] {
        huge.h.is_absent = is_absent;
        assert_eq!(huge.copy(2, 1, false), Err(EFAULT));
    }
    assert_eq!(huge.copy(1, 2, false), Ok(1));
    assert_eq!(huge.places(), [Both(1, WRITABLE)]);
    let mut huge = Huge::private();
    huge.space.inode.size = SIZE;
    assert_eq!(huge.copy(2, 1, false), Ok(1));
}

#[test]
fn an_offset_is_one_of_huge_pages() {
    for mut huge in Huge::all() {
        huge.space.vma.vm_pgoff = 1 << ORDER;
        huge.space.vma.vm_end -= SIZE;
        huge.h.is_absent = true;
        assert_eq!(huge.copy(0, 3, false), Ok(3));
        if huge.is_shared() {
            assert!(huge.space.mapping.i_pages[0].is_null());
            assert!(!huge.space.mapping.i_pages[3 << ORDER].is_null());
        }
        assert_eq!(huge.h.reserved, [huge.reserved[0], false, false, false]);
    }
}

#[test]
fn folios_may_be_lacking() {
    for (is_gigantic, err) in [(false, EEXIST), (true, ENOMEM)] {
        for mut huge in Huge::all() {
            huge.h.is_gigantic = is_gigantic;
            huge.h.is_absent = true;
            if huge.reserved[0] {
                // There is one for each reservation, and none to read to.
                huge.take_folios(HUGE_FOLIOS - HUGE_PAGES);
                assert_eq!(huge.copy(0, 1, false), Err(ENOMEM));
                huge.h.is_absent = false;
                assert_eq!(huge.copy(0, 4, false), Ok(4));
            } else {
                huge.take_folios(HUGE_FOLIOS - 1);
                assert_eq!(huge.copy(0, 1, false), Err(ENOMEM));
                // The last one was that to read to: the other one was freed before.
                assert_eq!(huge.h.steps, 5);
                huge.h.is_absent = false;
                assert_eq!(huge.copy(0, 2, false), Ok(1));
                assert_eq!(huge.copy(1, 1, false), Err(err));
            }
        }
    }
}

#[test]
fn pages_of_the_file_are_mapped() {
    for mut huge in Huge::all() {
        let flags = if huge.is_shared() {
            WRITABLE
        } else {
            PTE_DIRTY | YOUNG
        };
        for index in 0..3 {
            huge.add_to_file(index);
        }
        huge.h.ptes[1] = POISON;
        assert_eq!(huge.map_existing(0, 2, false), Ok(2));
        assert_eq!(huge.map_existing(2, 2, true), Ok(1));
        assert_eq!(huge.map_existing(3, 1, true), Err(EFAULT));
        assert_eq!(huge.map_existing(0, 1, false), Err(EEXIST));
        assert_eq!(
            huge.places(),
            [Both(0, flags), Both(1, flags), Both(2, PROTECTED)]
        );
        // Another thread may have isolated it.
        assert!(!huge.h.pool.iter().any(|folio| folio.is_migratable));
    }
}

#[test]
fn an_error_comes_before_what_is_in_the_way() {
    for mut huge in Huge::all() {
        huge.add_to_file(2).is_hwpoison = true;
        for entry in [0, UFFD_WP, 1] {
            huge.h.ptes[2] = entry;
            assert_eq!(huge.map_existing(2, 1, false), Err(EIO));
            assert_eq!(huge.h.ptes[2], entry);
        }
        assert_eq!(huge.places(), [File(2)]);
    }
}

#[test]
fn a_page_that_is_not_mapped_stays_in_the_file() {
    for mut huge in Huge::all() {
        huge.h.is_hwpoison = true;
        assert_eq!(huge.copy(1, 1, false), Err(EIO));
        let places = if huge.is_shared() {
            vec![File(1)]
        } else {
            vec![]
        };
        assert_eq!(huge.places(), places);
    }
}

#[test]
fn ranges_are_of_huge_pages() {
    for mut huge in Huge::all() {
        for (start, len) in [(PAGE_SIZE, SIZE), (0, PAGE_SIZE), (0, SIZE + PAGE_SIZE)] {
            for operation in 0..3 {
                let done = huge.with_pages(0, 1, |pages, _, _| {
                    // SAFETY: A context has no fields that this needs.
                    let ctx = bindings::userfaultfd_ctx {
                        mm: ptr::null_mut(),
                        map_changing_lock: bindings::rw_semaphore::default(),
                        mmap_changing: false,
                    };
                    // SAFETY: It is valid.
                    let context = unsafe { Context::from_raw(&ctx) }.expect("it is not null");
                    let (start, len) = ((START + start) as u64, len as u64);
                    let range = PageRange::new(context, UffdioRange { start, len })?;
                    match operation {
                        0 => fill::poison(pages, range),
                        1 => fill::map_existing(pages, range, false),
                        _ => {
                            let src = CopySource::new(context, SRC as u64, len)?;
                            fill::copy(pages, range, src, false)
                        }
                    }
                });
                assert_eq!(done, Err(EINVAL));
            }
        }
        assert_eq!(huge.h.ptes, [0; HUGE_PAGES]);
    }
}

/// Has each step fail once. Returns the errors, and checks that all is as it was then.
fn failures(make: impl Fn() -> Huge, work: impl Fn(&mut Huge) -> Result<usize>) -> Vec<Error> {
    let mut errors = Vec::new();
    for fails in 1.. {
        let mut huge = make();
        huge.h.fails = fails;
        let before = (huge.places(), huge.h.reserved);
        match work(&mut huge) {
            Ok(_) => {
                assert!(huge.h.steps < fails, "step {fails} was not made");
                return errors;
            }
            Err(err) => {
                assert_eq!(huge.h.steps, fails);
                assert_eq!((huge.places(), huge.h.reserved), before);
                errors.push(err);
            }
        }
    }
    unreachable!("there are a few steps")
}

#[test]
fn each_step_of_a_fill_may_fail() {
    for flags in [0, VM_SHARED] {
        for reserved in [false, true] {
            let make = |is_absent| {
                move || {
                    let mut huge = Huge::new(flags, [reserved; HUGE_PAGES]);
                    huge.h.is_absent = is_absent;
                    huge
                }
            };
            assert_eq!(failures(make(false), |huge| huge.poison(0, 1)), [ENOMEM]);
            let mapped = failures(
                || {
                    let mut huge = make(false)();
                    huge.add_to_file(0);
                    huge
                },
                |huge| huge.map_existing(0, 1, false),
            );
            assert_eq!(mapped, [ENOMEM, EFAULT]);
            // No table, no folio; a folio is not added to the file.
            let added = if flags == 0 { vec![] } else { vec![ENOMEM] };
            let fast = [vec![ENOMEM, EEXIST], added.clone()].concat();
            assert_eq!(failures(make(false), |huge| huge.copy(0, 1, false)), fast);
            // No folio to read to; then the same again, and the copy from one to the other.
            let slow = vec![ENOMEM, EEXIST, ENOMEM, ENOMEM, ENOMEM, EHWPOISON];
            let slow = [slow, added].concat();
            assert_eq!(failures(make(true), |huge| huge.copy(0, 1, false)), slow);
        }
    }
}
