// SPDX-License-Identifier: GPL-2.0

//! Large folios of anonymous memory (transparent huge pages).
//!
//! A folio of an [`Order`] that the policy of its VMA allows is allocated for a place, and charged.
//! It is filled, and mapped as a whole or not at all. So whatever is in the way, single pages can
//! be used instead.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h)

use super::{
    folio::{FilledFolio, NewFolio},
    locked::{Private, PteVma},
    pgtable::NoVacancy,
};
use crate::{bindings, ffi::c_uint, page::PAGE_SIZE, task::Sleepable};
use core::{ffi::c_void, ops::Range, ptr::NonNull};

/// Without transparent huge pages there are no orders, and the C functions are not built.
const THP: bool = cfg!(CONFIG_TRANSPARENT_HUGEPAGE);

/// The number of pages of a large folio, as a power of two.
///
/// # Invariants
///
/// It is one of `THP_ORDERS_ALL_ANON`: not zero, and at most that of a page table.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Order(c_uint);

impl Order {
    /// Returns the number of pages.
    #[inline(always)]
    pub fn pages(self) -> usize {
        1 << self.0
    }
}

/// Orders of folios. Iterates over them, beginning with the largest.
///
/// # Invariants
///
/// Only bits of `THP_ORDERS_ALL_ANON` are set.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Orders(usize);

impl Orders {
    /// No orders.
    // INVARIANT: No bit is set.
    pub const NONE: Self = Self(0);

    /// Returns true if there are none.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Removes an order.
    pub fn remove(&mut self, order: Order) {
        // INVARIANT: No bit is set by this.
        self.0 &= !order.pages();
    }

    /// Returns those of folios that have at most `size` bytes.
    pub fn up_to(self, size: usize) -> Self {
        self.fitting(&(0..size))
    }

    /// Returns those of folios that can be mapped at the beginning of a range of addresses, in
    /// bytes, and that are not longer than it.
    pub fn fitting(self, range: &Range<usize>) -> Self {
        let pages = range.end.saturating_sub(range.start) / PAGE_SIZE;
        let aligned = (range.start / PAGE_SIZE).trailing_zeros();
        match pages.checked_ilog2() {
            // It does not overflow, because a number of pages has fewer bits than an address.
            // INVARIANT: No bit is set by this.
            Some(max) => Self(self.0 & ((2 << max.min(aligned)) - 1)),
            None => Self::NONE,
        }
    }

    /// Returns the number of pages from an address, in bytes, to the next that a folio of one of
    /// the orders can be mapped at: not zero, and all that there are if there are no orders.
    pub fn pages_to_next(self, address: usize) -> usize {
        match self.last() {
            Some(smallest) => smallest.pages() - (address / PAGE_SIZE) % smallest.pages(),
            None => usize::MAX,
        }
    }
}

impl Iterator for Orders {
    type Item = Order;

    fn next(&mut self) -> Option<Order> {
        // INVARIANT: The bit is set.
        let order = Order(self.0.checked_ilog2()?);
        self.remove(order);
        Some(order)
    }
}

impl<'v> PteVma<'v, Private> {
    /// Returns true if large folios can be mapped: for private mappings of `/dev/zero`, which are
    /// anonymous memory, the file has no pages.
    fn has_large_folios(self) -> bool {
        // SAFETY: The VMA is locked, so that this does not change.
        let has_file = unsafe { !(*self.vma().as_ptr()).vm_file.is_null() };
        self.vma().is_anonymous() && !has_file
    }

    /// Returns the orders of folios that the policy allows for faults. There are none for memory
    /// that is not anonymous, or that has a file.
    #[doc(alias = "thp_vma_allowable_orders")]
    pub fn allowable_orders(self) -> Orders {
        if !THP || !self.has_large_folios() {
            return Orders::NONE;
        }
        // SAFETY: The VMA is locked.
        // INVARIANT: The function is asked about `THP_ORDERS_ALL_ANON`.
        Orders(unsafe { bindings::rust_thp_allowable_orders(self.vma().as_ptr()) })
    }

    /// Returns true if the VMA has all pages of a folio at an address, in bytes.
    fn has_pages(self, address: usize, order: Order) -> bool {
        let (vma, size) = (self.vma(), order.pages() * PAGE_SIZE);
        address % size == 0
            && address >= vma.start()
            && address < vma.end()
            && vma.end() - address >= size
    }

    /// Returns true if there is nothing, not even a marker, at the pages of a folio at an address,
    /// in bytes, and if there may be such a folio. This may change at any time.
    pub fn is_vacant(self, address: usize, order: Order) -> bool {
        if !THP || !self.has_pages(address, order) {
            return false;
        }
        // SAFETY: The VMA is locked and has these pages, which one table can map by the invariants
        // of the order.
        unsafe { bindings::rust_thp_is_vacant(self.vma().as_ptr(), address, order.0) }
    }

    /// Allocates a folio for the pages at an address, in bytes, and charges it to the memory cgroup
    /// of the mm. Returns `None` if there is no such folio, if the charge is refused, or if the VMA
    /// does not have the pages, or can have no large folios.
    #[doc(alias = "vma_alloc_folio")]
    pub fn alloc_large_folio(
        self,
        address: usize,
        order: Order,
        _sleep: &mut Sleepable,
    ) -> Option<LargeFolio<'v, NewFolio<Large>>> {
        if !THP || !self.has_large_folios() || !self.has_pages(address, order) {
            return None;
        }
        let vma = self.vma().as_ptr();
        // SAFETY: The VMA is locked, of anonymous memory, and has these pages. The caller may
        // sleep.
        let folio = unsafe { bindings::rust_thp_alloc_charged(vma, address, order.0) };
        // SAFETY: It is new, and charged.
        let folio = NonNull::new(folio).map(|folio| unsafe { NewFolio::from_raw(folio) })?;
        // INVARIANT: It was allocated for this place, which was checked.
        Some(LargeFolio {
            vma: self,
            address,
            order,
            folio,
        })
    }
}

/// Anonymous memory of which a folio is more than one page.
pub struct Large(());

/// A large folio, and the place that it was allocated for.
///
/// # Invariants
///
/// The folio has as many pages as its order says, and is charged to the mm of the VMA. This is of
/// anonymous memory, has no file, and has all the pages at `address`, which is a multiple of their
/// size.
pub struct LargeFolio<'v, F> {
    vma: PteVma<'v, Private>,
    address: usize,
    order: Order,
    folio: F,
}

impl<'v> LargeFolio<'v, NewFolio<Large>> {
    /// Copies all pages from an address in user space, in bytes. Takes no page faults. Returns
    /// `None`, and frees the folio, if not all could be copied so.
    #[doc(alias = "copy_folio_from_user")]
    pub fn copy_from_user_nofault(
        self,
        src: usize,
        _sleep: &mut Sleepable,
    ) -> Option<LargeFolio<'v, FilledFolio<Large>>> {
        let Self {
            vma,
            address,
            order,
            folio,
        } = self;
        let filled = folio.fill_with(|folio| {
            // SAFETY: No other thread knows the folio. The caller may sleep.
            THP && unsafe { bindings::rust_thp_copy_from_user_nofault(folio, src as *const c_void) }
        });
        // INVARIANT: It is the same folio, and place.
        filled.ok().map(|folio| LargeFolio {
            vma,
            address,
            order,
            folio,
        })
    }
}

impl LargeFolio<'_, FilledFolio<Large>> {
    /// Maps the folio, if there is nothing at its pages. Returns the number of these. The
    /// entries are those of a private page that was written to, and write-protected for userfaultfd
    /// if `wp`.
    ///
    /// # Errors
    ///
    /// Nothing was mapped then, and the folio is freed.
    #[doc(alias = "do_huge_pmd_anonymous_page")]
    pub fn map(self, wp: bool, _sleep: &mut Sleepable) -> Result<usize, NoVacancy> {
        if !THP {
            return Err(NoVacancy::Outside);
        }
        let vma = self.vma.vma().as_ptr();
        // SAFETY: The VMA is locked, and has an `anon_vma`. By the type invariants it is of
        // anonymous memory, and has the pages, and the folio is charged. No other thread knows it,
        // and it is filled. The caller may sleep.
        let result = unsafe {
            bindings::rust_thp_map(vma, self.address, self.folio.as_raw(), self.order.0, wp)
        };
        NoVacancy::check(result)?;
        // The page table has the reference.
        self.folio.into_raw();
        Ok(self.order.pages())
    }
}
