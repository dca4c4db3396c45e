// SPDX-License-Identifier: GPL-2.0

//! Operations on the pages of registered VMAs.
//!
//! What fills pages and moves them locks a [`target`](super::target). The protection of a range, in
//! which there may be many VMAs, is changed with the mmap lock held: see [`Pages::lock_range`]. All
//! may sleep.

use super::{
    context::Context, range::PageRange, supported::VM_UFFD_WP, target::Unchanging, vma::Vma,
};
use crate::{
    bindings,
    error::{
        code::{EINVAL, ENOENT},
        to_result, Result,
    },
    mm::{virt::VmaRef, MmWithUser, MmapReadGuard},
    sync::aref::ARef,
    task::Sleepable,
};
use core::ptr::null_mut;

/// The pages of the address space of a context, while it has users.
///
/// # Invariants
///
/// `mm` is that of the context.
pub struct Pages<'a> {
    pub(super) context: &'a Context,
    pub(super) mm: ARef<MmWithUser>,
    pub(super) sleep: &'a mut Sleepable,
}

impl<'a> Pages<'a> {
    /// Returns the pages of a context, or `None` if the address space has no users any more.
    #[inline(always)]
    pub fn new(context: &'a Context, sleep: &'a mut Sleepable) -> Option<Self> {
        let mm = context.mm().mmget_not_zero()?;
        // INVARIANT: It is the mm of the context.
        Some(Self { context, mm, sleep })
    }

    /// Takes the mmap lock for reading, to change the protection of a range.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if the layout of the address space is changing.
    #[inline(always)]
    pub fn lock_range(&mut self, range: PageRange) -> Result<LockedRange<'_>> {
        let mmap = self.mm.mmap_read_lock();
        let unchanging = Unchanging::new(self.context)?;
        // INVARIANT: There is no VMA yet.
        let mut locked = LockedRange {
            range,
            mm: &self.mm,
            current: null_mut(),
            _unchanging: unchanging,
            _mmap: mmap,
            _sleep: self.sleep,
        };
        locked.find(range.start());
        Ok(locked)
    }

    /// Returns what exists at the beginning of `range`, for which an operation has just failed with
    /// `EEXIST`, and the size of the pages there, in bytes. Returns `None` if there is no page,
    /// because `EEXIST` may also stand for a marker, or for a lack of huge pages.
    pub fn existing_at(&mut self, range: PageRange) -> Option<(Existing, usize)> {
        let mut size = 0;
        let (mm, start) = (self.mm.as_raw(), range.start());
        // SAFETY: The mm has users, and the size may be written to.
        match unsafe { bindings::uffd_shim_find_page(mm, start, &mut size) } {
            bindings::uffd_shim_page_UFFD_SHIM_PAGE_MAPPED => Some((Existing::Mapped, size)),
            bindings::uffd_shim_page_UFFD_SHIM_PAGE_UNMAPPED => Some((Existing::Unmapped, size)),
            _ => None,
        }
    }
}

/// A range of addresses, with the mmap lock held for reading.
///
/// # Invariants
///
/// `current` is null or a VMA of `mm` that has pages of the range.
pub struct LockedRange<'p> {
    range: PageRange,
    mm: &'p MmWithUser,
    current: *mut bindings::vm_area_struct,
    _unchanging: Unchanging<'p>,
    // It goes last, because it was taken first.
    _mmap: MmapReadGuard<'p>,
    _sleep: &'p mut Sleepable,
}

impl LockedRange<'_> {
    #[inline(always)]
    fn current(&self) -> Option<Vma<'_>> {
        if self.current.is_null() {
            return None;
        }
        // SAFETY: By the type invariants the VMA is valid and locked.
        Some(Vma::from_ref(unsafe { VmaRef::from_raw(self.current) }))
    }

    /// Returns true if there is a VMA that has pages of the range: the first one, until
    /// [`LockedRange::advance`].
    #[inline(always)]
    pub fn has_vma(&self) -> bool {
        !self.current.is_null()
    }

    /// Moves to the next VMA that has pages of the range, if there is one.
    #[inline(always)]
    pub fn advance(&mut self) {
        match self.current().map(|vma| vma.end()) {
            Some(end) if end < self.range.end() => self.find(end),
            _ => self.current = null_mut(),
        }
    }

    /// Finds the first VMA that has pages of the range from an address on, which is in the range.
    #[inline(always)]
    fn find(&mut self, start: usize) {
        let (mm, end) = (self.mm.as_raw(), self.range.end());
        // INVARIANT: These are what the functions return.
        // SAFETY: The mm is locked.
        self.current = unsafe { bindings::vma_lookup(mm, start) };
        if self.current.is_null() {
            // SAFETY: As before.
            self.current = unsafe { bindings::find_vma_intersection(mm, start, end) };
        }
    }

    /// Write-protects the pages of the range that the current VMA has, if `enable`, or lifts their
    /// protection.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no VMA, or if it is not registered for that; `EINVAL` if it is one of
    /// hugetlb, and the range not one of its pages; `ENOMEM`.
    #[doc(alias = "uffd_wp_range")]
    #[inline(always)]
    pub fn protect(&mut self, enable: bool) -> Result {
        let vma = self.current().ok_or(ENOENT)?;
        if vma.flags() & VM_UFFD_WP == 0 {
            return Err(ENOENT);
        }
        let (start, len) = (self.range.start(), self.range.bytes());
        if vma.is_hugetlb() && (start | len) & (vma.pagesize() - 1) != 0 {
            return Err(EINVAL);
        }
        let (start, end) = (start.max(vma.start()), self.range.end().min(vma.end()));
        // SAFETY: The VMA is valid and locked, and has these pages. They are whole ones, because a
        // VMA begins and ends with one. The thread may sleep.
        let ret = unsafe { bindings::uffd_wp_range(vma.as_ptr(), start, end - start, enable) };
        if ret < 0 {
            // CAST: An errno fits.
            return to_result(ret as i32);
        }
        Ok(())
    }
}

/// What an operation that failed with `EEXIST` has found.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Existing {
    /// A page that is mapped.
    Mapped,
    /// A page that is in the page cache, or was unmapped since.
    Unmapped,
}
