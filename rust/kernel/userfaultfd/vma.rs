// SPDX-License-Identifier: GPL-2.0

//! Areas of an address space, and their registration with a context.

use super::{
    header::Context,
    limits::{VM_UFFD_FLAGS, VM_UFFD_WP},
};
use crate::{
    bindings,
    error::{code::EINVAL, from_err_ptr, Result},
    mm::{
        virt::{flags, vm_flags_t, VmaRef},
        MmapWriteGuard,
    },
    task::cond_resched,
    types::Opaque,
    warn_on_once,
};
use core::{
    marker::PhantomData,
    ops::{Deref, Range},
};

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
/// `vmi` is an initialised iterator over the address space `mm`, which `'a` keeps locked for
/// writing. `current` is null or a valid area there.
pub struct VmaCursor<'a, T> {
    vmi: Opaque<bindings::vma_iterator>,
    mm: *mut bindings::mm_struct,
    current: *mut bindings::vm_area_struct,
    range: Range<usize>,
    /// Whether the first area that was gone to begins before the range.
    cuts_first: bool,
    /// Whether the last area that was gone to ends behind the range.
    cuts_last: bool,
    /// Whether there was no area left to go to.
    is_done: bool,
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
            current: core::ptr::null_mut(),
            range: start..end,
            cuts_first: false,
            cuts_last: false,
            is_done: false,
            _lock: PhantomData,
            _context: PhantomData,
        }
    }

    /// Moves to the next area that begins before the end of the range.
    pub fn advance(&mut self) -> Option<Vma<'_, T>> {
        let is_first = self.current.is_null();
        // INVARIANT: The iterator returns null or a valid area.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_find(self.vmi.get(), self.range.end) };
        self.is_done = self.current.is_null();
        let vma = self.current()?;
        let (starts_before, ends_behind) =
            (vma.start() < self.range.start, vma.end() > self.range.end);
        self.cuts_first |= is_first && starts_before;
        self.cuts_last = ends_behind;
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

    /// Registers the whole range with `context`, in the modes that `flags` has, or none of it.
    ///
    /// The range must have been gone through to its end and found to be fit for it.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the context is that of another address space, the cursor is not at the end, or
    /// an area of huge pages would have to be split within one of them; `ENOMEM` if there is no
    /// memory, or may be no area more, to split one.
    ///
    /// # Safety
    ///
    /// The areas must be taken off the context before it goes away.
    #[doc(alias = "userfaultfd_register_range")]
    pub unsafe fn register(self, context: &T, flags: vm_flags_t) -> Result {
        if context.header().mm().as_raw() != self.mm {
            return Err(EINVAL);
        }
        let to = Registration {
            ctx: context.header().as_raw(),
            modes: flags,
        };
        self.change(to, |_, _| {})
    }

    /// Takes the whole range off its contexts, or none of it.
    ///
    /// The range must have been gone through to its end. Calls `done` with each part that was
    /// registered, and the modes that it was registered in, when it is off its context.
    ///
    /// # Errors
    ///
    /// As for [`VmaCursor::register`].
    #[doc(alias = "userfaultfd_clear_vma")]
    pub fn unregister(self, mut done: impl FnMut(Range<usize>, vm_flags_t)) -> Result {
        let mm = self.mm;
        let to = Registration {
            ctx: core::ptr::null_mut(),
            modes: 0,
        };
        self.change(to, |part, modes| {
            if modes & VM_UFFD_WP != 0 {
                // SAFETY: The mm is locked for writing by the type invariants.
                unsafe { bindings::uffd_shim_lift_protection(mm, part.start, part.end) };
            }
            done(part, modes);
        })
    }

    /// Changes what the areas of the range are registered with, all of them or none. Calls `done`
    /// with each part that was changed, and the modes that it had.
    ///
    /// Only an area that is changed in part may have to be split, which may fail. So these come
    /// first: at most two. If there are two, the last one is split only, which changes nothing that
    /// it is registered with, then the first one is changed. After that nothing fails.
    fn change(
        mut self,
        to: Registration,
        mut done: impl FnMut(Range<usize>, vm_flags_t),
    ) -> Result {
        if !self.is_done {
            return Err(EINVAL);
        }
        let start = self.range.start;
        let mut last = None;
        if self.cuts_last {
            self.seek(self.range.end - 1);
            self.find();
            let from = start.max(self.start_of_current());
            if self.cuts_first && from != start {
                last = self.split_last(from, to)?;
            } else {
                // There is no other one. It may have to be split twice, and only once succeed.
                self.seek(from);
                match self.change_next(to) {
                    Ok(Some(part)) => done(part.range, part.before.modes),
                    Ok(None) => {}
                    Err(err) => {
                        self.rejoin(from);
                        return Err(err);
                    }
                }
                self.cuts_first &= from != start;
            }
        }
        if self.cuts_first {
            self.seek(start);
            match self.change_next(to) {
                Ok(Some(part)) => done(part.range, part.before.modes),
                Ok(None) => {}
                Err(err) => {
                    if let Some(last) = last {
                        self.undo(last.part);
                    }
                    return Err(err);
                }
            }
        }
        if let Some(Last {
            part,
            is_changed: true,
        }) = last
        {
            done(part.range, part.before.modes);
        }

        self.seek(start);
        loop {
            cond_resched();
            match self.change_next(to) {
                Ok(Some(part)) => done(part.range, part.before.modes),
                Ok(None) if self.current.is_null() => return Ok(()),
                Ok(None) => {}
                // An area that is changed as a whole is not split.
                Err(err) => {
                    warn_on_once!(true);
                    return Err(err);
                }
            }
        }
    }

    /// Places the cursor before the area of `address`.
    fn seek(&mut self, address: usize) {
        // INVARIANT: The iterator returns null or a valid area.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_rewind(self.vmi.get(), address) };
    }

    /// Moves to the next area of the range.
    fn find(&mut self) {
        // INVARIANT: The iterator returns null or a valid area.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_find(self.vmi.get(), self.range.end) };
    }

    /// Returns where the current area begins.
    fn start_of_current(&self) -> usize {
        self.current().map_or(usize::MAX, |vma| vma.start())
    }

    /// Returns where the current area ends.
    fn end_of_current(&self) -> usize {
        self.current().map_or(0, |vma| vma.end())
    }

    /// Moves to the next area of the range and changes what of it is in the range, unless there is
    /// no need to. Afterwards the cursor is on an area that contains that part.
    fn change_next(&mut self, to: Registration) -> Result<Option<Part>> {
        let before_that = self.current;
        self.find();
        let Some(vma) = self.current() else {
            return Ok(None);
        };
        let before = Registration::of(&vma);
        if !before.has_to_become(&to) {
            return Ok(None);
        }
        let range = self.range.start.max(vma.start())..self.range.end.min(vma.end());
        // What precedes the part is the rest of its area, if that is split there.
        let prev = if vma.start() < range.start {
            self.current
        } else {
            before_that
        };
        self.modify(prev, range.clone(), to)?;
        Ok(Some(Part { range, before }))
    }

    /// Changes what `range` of the current area is registered with. The cursor is then on an area
    /// that contains it.
    fn modify(
        &mut self,
        prev: *mut bindings::vm_area_struct,
        range: Range<usize>,
        to: Registration,
    ) -> Result {
        // INVARIANT: On success the function returns a valid area.
        // SAFETY: By the type invariants the areas are valid and the mm is locked for writing. The
        // range is one of pages of the current area, and the context null or one of this mm.
        self.current = from_err_ptr(unsafe {
            bindings::uffd_shim_vma_modify(
                self.vmi.get(),
                prev,
                self.current,
                range.start,
                range.end,
                to.ctx,
                to.modes,
            )
        })?;
        Ok(())
    }

    /// Splits the last area at the end of the range, so that its part from `from` on can be changed
    /// as a whole. Returns nothing if it need not be changed.
    ///
    /// If the area cannot be split, there may be a neighbour that the part can be merged with: then
    /// it is changed at once.
    fn split_last(&mut self, from: usize, to: Registration) -> Result<Option<Last>> {
        self.seek(from);
        let before_that = self.current;
        self.find();
        let Some(vma) = self.current() else {
            return Ok(None);
        };
        let before = Registration::of(&vma);
        if !before.has_to_become(&to) {
            return Ok(None);
        }
        let range = from..self.range.end;
        let is_split = self.modify(before_that, range.clone(), before).is_ok()
            && self.end_of_current() == range.end;
        if !is_split {
            self.seek(from);
            self.change_next(to)?;
        }
        Ok(Some(Last {
            part: Part { range, before },
            is_changed: !is_split,
        }))
    }

    /// Merges the area that begins at `address`, if one does, with the one that precedes it, if they
    /// are registered alike. No area is needed for that; without memory they stay two.
    fn rejoin(&mut self, address: usize) {
        self.seek(address);
        let prev = self.current;
        self.find();
        let Some(vma) = self.current().filter(|vma| vma.start() == address) else {
            return;
        };
        let (range, before) = (address..vma.end(), Registration::of(&vma));
        let _ = self.modify(prev, range, before);
    }

    /// Makes a part what it was, which also merges it with the rest of its area again.
    ///
    /// No area is needed for that. If there is no memory to merge, a part that was only split stays
    /// an area of its own; one that was changed already stays changed.
    fn undo(&mut self, part: Part) {
        self.seek(part.range.start);
        let before_that = self.current;
        self.find();
        let prev = if self.start_of_current() < part.range.start {
            self.current
        } else {
            before_that
        };
        let _ = self.modify(prev, part.range, part.before);
    }
}

/// What an area is registered with.
#[derive(Copy, Clone)]
struct Registration {
    /// The context, or null.
    ctx: *mut bindings::userfaultfd_ctx,
    /// The modes: bits of [`VM_UFFD_FLAGS`].
    modes: vm_flags_t,
}

impl Registration {
    fn of<T: Context>(vma: &Vma<'_, T>) -> Self {
        Self {
            ctx: vma
                .context()
                .map_or(core::ptr::null_mut(), |context| context.header().as_raw()),
            modes: vma.flags() & VM_UFFD_FLAGS,
        }
    }

    /// Whether an area with this registration has to be changed to get another one. An area that
    /// has all of its modes, and maybe more, stays as it is; otherwise they replace those it has.
    fn has_to_become(&self, to: &Self) -> bool {
        self.ctx != to.ctx || self.modes & to.modes != to.modes
    }
}

/// The part of the last area.
struct Last {
    part: Part,
    /// Whether it was changed, and not only split off.
    is_changed: bool,
}

/// A part of an area that is changed.
struct Part {
    /// Its addresses.
    range: Range<usize>,
    /// What it was registered with.
    before: Registration,
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
