// SPDX-License-Identifier: GPL-2.0

//! Areas of an address space, and their registration with a context.

use super::header::Context;
use crate::{
    bindings,
    error::{code::EINVAL, from_err_ptr, to_result, Result},
    mm::{
        virt::{flags, vm_flags_t, VmaRef},
        MmapWriteGuard,
    },
    page::PAGE_MASK,
    types::Opaque,
};
use core::{marker::PhantomData, ops::Deref};

/// An area whose context, where it has one, is a `T`.
///
/// # Invariants
///
/// The contexts of the area are those of `T`, and valid as long as the lock is held that keeps
/// the area valid: an area is taken off its context before the context goes, under that lock.
pub struct Vma<'a, T> {
    vma: &'a VmaRef,
    _context: PhantomData<&'a T>,
}

impl<T> Copy for Vma<'_, T> {}
impl<T> Clone for Vma<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Deref for Vma<'_, T> {
    type Target = VmaRef;

    fn deref(&self) -> &VmaRef {
        self.vma
    }
}

impl<'a, T: Context> Vma<'a, T> {
    /// Wraps an area.
    ///
    /// # Safety
    ///
    /// The contexts of the area must be those of `T`.
    #[inline]
    pub(super) unsafe fn from_ref(vma: &'a VmaRef) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            vma,
            _context: PhantomData,
        }
    }

    /// Returns the context that the area is registered with.
    ///
    /// The area holds no reference: the result is borrowed from the lock.
    #[inline]
    pub fn context(&self) -> Option<&'a T> {
        // SAFETY: The area is valid, and the lock that keeps it so keeps the pointer from
        // changing.
        let ctx = unsafe { (*self.as_ptr()).vm_userfaultfd_ctx.ctx };
        // SAFETY: By the type invariants it is null or the header of a valid `T`.
        unsafe { ctx.cast::<T>().as_ref() }
    }

    /// Whether the area is of huge pages (hugetlb).
    #[inline]
    pub fn is_hugetlb(&self) -> bool {
        self.flags() & flags::HUGETLB != 0
    }

    /// Returns the size of its pages, in bytes.
    pub fn pagesize(&self) -> usize {
        // SAFETY: The area is valid.
        unsafe { bindings::uffd_shim_vma_pagesize(self.as_ptr()) }
    }

    /// Whether an area of this kind can be registered in the modes that `flags` has.
    pub fn can_userfault(&self, flags: vm_flags_t, wp_async: bool) -> bool {
        // SAFETY: The area is valid.
        unsafe { bindings::uffd_shim_vma_can_userfault(self.as_ptr(), flags, wp_async) }
    }
}

/// An area that is locked for writing.
///
/// # Invariants
///
/// The area is locked for writing, or not visible to others yet.
pub struct VmaMut<'a, T>(Vma<'a, T>);

impl<'a, T> Deref for VmaMut<'a, T> {
    type Target = Vma<'a, T>;

    fn deref(&self) -> &Vma<'a, T> {
        &self.0
    }
}

impl<'a, T: Context> VmaMut<'a, T> {
    /// Wraps an area that is locked for writing.
    ///
    /// # Safety
    ///
    /// The area must be valid and locked for writing for `'a`, or not visible to others, and its
    /// contexts must be those of `T`.
    pub(super) unsafe fn from_raw(vma: *mut bindings::vm_area_struct) -> Self {
        // INVARIANT: By the safety requirements.
        // SAFETY: By the safety requirements.
        Self(unsafe { Vma::from_ref(VmaRef::from_raw(vma)) })
    }

    /// Takes the area off its context, and out of all modes.
    #[doc(alias = "userfaultfd_reset_ctx")]
    pub fn reset(&mut self) {
        // SAFETY: By the type invariants we have write access.
        unsafe { bindings::uffd_shim_vma_reset(self.as_ptr()) };
    }

    /// Moves the area to another context, in the same modes.
    ///
    /// # Safety
    ///
    /// The area must be taken off the context, or go away, before the context does.
    pub unsafe fn set_context(&mut self, context: &T) {
        // SAFETY: By the type invariants we have write access.
        unsafe { (*self.as_ptr()).vm_userfaultfd_ctx.ctx = context.header().as_raw() };
    }
}

/// Goes through the areas of a range of addresses.
///
/// # Invariants
///
/// `vmi` is an initialised iterator over the address space that `'a` keeps locked for writing.
/// `current`, `prev` and `first` are each null or a valid area there; they are what the functions
/// of mm that modify areas expect.
pub struct VmaCursor<'a, T> {
    vmi: Opaque<bindings::vma_iterator>,
    mm: *mut bindings::mm_struct,
    first: *mut bindings::vm_area_struct,
    prev: *mut bindings::vm_area_struct,
    current: *mut bindings::vm_area_struct,
    start: usize,
    end: usize,
    /// Whether the cursor was moved back: only then areas may be modified, and only before that it
    /// finds the first one.
    rewound: bool,
    _lock: PhantomData<&'a MmapWriteGuard<'a>>,
    _context: PhantomData<&'a T>,
}

impl<'a, T: Context> VmaCursor<'a, T> {
    /// Places the cursor before the first area that reaches into `start..end` (addresses in
    /// bytes).
    ///
    /// Contexts of areas are always those of the one implementation that is linked, so `T` must
    /// be its type; there is no other implementation of [`Context`] in a kernel.
    pub fn new(guard: &'a mut MmapWriteGuard<'_>, start: usize, end: usize) -> Self {
        let vmi = Opaque::uninit();
        // SAFETY: The iterator may be written to, and the mm is valid.
        unsafe { bindings::uffd_shim_vma_iter_init(vmi.get(), guard.mm().as_raw(), start) };
        // INVARIANT: The iterator was initialised, the guard is borrowed for `'a`.
        Self {
            vmi,
            mm: guard.mm().as_raw(),
            first: core::ptr::null_mut(),
            prev: core::ptr::null_mut(),
            current: core::ptr::null_mut(),
            start,
            end,
            rewound: false,
            _lock: PhantomData,
            _context: PhantomData,
        }
    }

    /// Moves to the next area that begins before the end of the range.
    pub fn advance(&mut self) -> Option<Vma<'_, T>> {
        if !self.current.is_null() {
            self.prev = self.current;
        }
        // INVARIANT: The iterator returns null or a valid area.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_find(self.vmi.get(), self.end) };
        if self.first.is_null() && !self.rewound {
            self.first = self.current;
        }
        self.current()
    }

    /// Returns the area that the cursor is on.
    pub fn current(&self) -> Option<Vma<'_, T>> {
        if self.current.is_null() {
            return None;
        }
        // SAFETY: By the type invariants the area is valid and the mm is locked. See `new` for the
        // type of its contexts.
        Some(unsafe { Vma::from_ref(VmaRef::from_raw(self.current)) })
    }

    /// Moves back to before the first area of the range, once. From then on areas can be modified.
    pub fn rewind(&mut self) {
        if self.rewound {
            return;
        }
        self.rewound = true;
        // INVARIANT: The iterator returns null or a valid area.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.prev = unsafe { bindings::uffd_shim_vma_rewind(self.vmi.get(), self.start) };
        self.current = self.first;
        // An area that the range begins in the middle of is going to be split, and precedes the
        // part that is modified then.
        if self
            .current()
            .is_some_and(|first| first.start() < self.start)
        {
            self.prev = self.first;
        }
        self.current = core::ptr::null_mut();
    }

    /// Registers the whole range with `context`, in the modes that `flags` has.
    ///
    /// The range must have been gone through and found to be fit for it.
    ///
    /// # Errors
    ///
    /// `EINVAL` where there is no area or the context is that of another address space, `ENOMEM`
    /// where there is no memory to split one.
    ///
    /// # Safety
    ///
    /// The areas must be taken off the context before it goes away.
    #[doc(alias = "userfaultfd_register_range")]
    pub unsafe fn register(self, context: &T, flags: vm_flags_t, wp_async: bool) -> Result {
        if self.first.is_null() || self.rewound || context.header().mm().as_raw() != self.mm {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants the mm is locked for writing and the area valid, and the
        // first one of the range.
        to_result(unsafe {
            bindings::uffd_shim_register_range(
                context.header().as_raw(),
                self.first,
                flags,
                self.start,
                self.end,
                wp_async,
            )
        })
    }

    /// Takes `start..end` of the current area off its context. The cursor is then on an area that
    /// has these bounds or, where areas were merged, contains them.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory to split the area, `EINVAL` where the bounds are not those
    /// of pages of the current one, or the cursor was not [moved back](Self::rewind) before.
    #[doc(alias = "userfaultfd_clear_vma")]
    pub fn clear(&mut self, start: usize, end: usize) -> Result {
        let fits = self
            .current()
            .is_some_and(|vma| vma.start() <= start && start < end && end <= vma.end());
        if !self.rewound || !fits || (start | end) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        // It may be merged with others.
        self.first = core::ptr::null_mut();
        // INVARIANT: On success the function returns a valid area.
        // SAFETY: By the type invariants the areas are valid and the mm is locked for writing. The
        // bounds are those of pages of the current area.
        self.current = from_err_ptr(unsafe {
            bindings::uffd_shim_clear_vma(self.vmi.get(), self.prev, self.current, start, end)
        })?;
        Ok(())
    }
}

/// Takes all areas off `context` that are still registered with it, in an address space that has
/// users or may have lost them.
///
/// Sleeps: it takes the mmap lock.
#[doc(alias = "userfaultfd_release_all")]
pub fn release_all<T: Context>(context: &T) {
    // SAFETY: The context is valid; the function looks after the users of the mm by itself.
    unsafe { bindings::uffd_shim_release_all(context.header().as_raw()) };
}

/// Takes all areas off `context`, which belongs to a child whose fork event nobody read.
///
/// The child was not started yet, so its address space has users; where it has none, there are no
/// areas. Sleeps: it takes the mmap lock.
#[doc(alias = "userfaultfd_release_new")]
pub fn release_new<T: Context>(context: &T) {
    let Some(_mm) = context.header().mm().mmget_not_zero() else {
        return;
    };
    // SAFETY: The context is valid, and its mm has users.
    unsafe { bindings::uffd_shim_release_new(context.header().as_raw()) };
}
