// SPDX-License-Identifier: GPL-2.0

//! VMAs, and their registration with a context.

use super::{
    context::{Context, OpenContext},
    supported::{VM_UFFD_FLAGS, VM_UFFD_WP},
};
use crate::{
    bindings,
    error::{code::EINVAL, from_err_ptr, Result},
    mm::{
        virt::{flags, vm_flags_t, VmaRef},
        MmapWriteGuard,
    },
    page::{PAGE_MASK, PAGE_SIZE},
    task::cond_resched,
    types::Opaque,
    warn_on_once,
};
use core::{
    marker::PhantomData,
    ops::{Deref, Range},
};

/// A VMA that may be registered with a context.
#[derive(Copy, Clone)]
pub struct Vma<'a>(&'a VmaRef);

impl Deref for Vma<'_> {
    type Target = VmaRef;

    #[inline]
    fn deref(&self) -> &VmaRef {
        self.0
    }
}

impl<'a> Vma<'a> {
    /// Wraps a VMA.
    #[inline]
    pub fn from_ref(vma: &'a VmaRef) -> Self {
        Self(vma)
    }

    /// Returns the context that the VMA is registered with.
    ///
    /// The VMA holds no reference: the result is borrowed from the lock.
    #[inline]
    pub fn context(&self) -> Option<&'a Context> {
        // SAFETY: The VMA is valid, and the lock that keeps it so keeps the pointer from changing.
        let ctx = unsafe { (*self.as_ptr()).vm_userfaultfd_ctx.ctx };
        // SAFETY: A context stays valid as long as VMAs are registered with it: its owner takes
        // them off with the lock held for writing, see `ContextOwner`.
        unsafe { Context::from_raw(ctx) }
    }

    /// Returns true for a VMA of huge pages (hugetlb).
    #[inline]
    pub fn is_hugetlb(&self) -> bool {
        self.flags() & flags::HUGETLB != 0
    }

    /// Returns the index in the file of the page at an address of the VMA, in pages.
    #[doc(alias = "linear_page_index")]
    pub fn page_index(&self, address: usize) -> usize {
        // SAFETY: The VMA is valid, and the lock that keeps it so keeps this from changing.
        let first = unsafe { (*self.as_ptr()).vm_pgoff };
        first.wrapping_add(address.wrapping_sub(self.start()) / PAGE_SIZE)
    }

    /// Returns the size of the pages of the VMA, in bytes.
    pub fn pagesize(&self) -> usize {
        // SAFETY: The VMA is valid.
        unsafe { bindings::uffd_shim_vma_pagesize(self.as_ptr()) }
    }

    /// Returns true if a VMA of this kind can be registered in the modes that `flags` has.
    pub fn can_userfault(&self, flags: vm_flags_t, wp_async: bool) -> bool {
        // SAFETY: The VMA is valid.
        unsafe { bindings::uffd_shim_vma_can_userfault(self.as_ptr(), flags, wp_async) }
    }
}

/// A VMA that is locked for writing.
///
/// # Invariants
///
/// The VMA is locked for writing, or not visible to other threads yet.
pub struct VmaMut<'a>(Vma<'a>);

impl<'a> Deref for VmaMut<'a> {
    type Target = Vma<'a>;

    fn deref(&self) -> &Vma<'a> {
        &self.0
    }
}

impl VmaMut<'_> {
    /// Wraps a VMA that is locked for writing.
    ///
    /// # Safety
    ///
    /// For the lifetime of the result the VMA must be valid, and locked for writing or not visible
    /// to other threads.
    #[inline(always)]
    pub(super) unsafe fn from_raw(vma: *mut bindings::vm_area_struct) -> Self {
        // INVARIANT: The VMA is locked for writing by the safety requirements.
        // SAFETY: The VMA is valid and locked by the safety requirements.
        Self(Vma::from_ref(unsafe { VmaRef::from_raw(vma) }))
    }

    /// Takes the VMA off its context, and out of all modes.
    #[doc(alias = "userfaultfd_reset_ctx")]
    pub fn reset(&mut self) {
        // SAFETY: By the type invariants the VMA may be written to.
        unsafe { bindings::uffd_shim_vma_reset(self.as_ptr()) };
    }

    /// Moves the VMA to another context, in the same modes.
    ///
    /// # Safety
    ///
    /// The context must have an owner before its last reference goes, or the VMA must go away
    /// before.
    pub(super) unsafe fn set_context(&mut self, context: &Context) {
        // SAFETY: By the type invariants the VMA may be written to.
        unsafe { (*self.as_ptr()).vm_userfaultfd_ctx.ctx = context.as_raw() };
    }
}

/// A cursor over the VMAs of a range of addresses.
///
/// # Invariants
///
/// `vmi` is an initialised iterator over the address space `mm`, which `'a` keeps locked for
/// writing. `current` is null or a valid VMA there.
pub struct VmaCursor<'a> {
    vmi: Opaque<bindings::vma_iterator>,
    mm: *mut bindings::mm_struct,
    current: *mut bindings::vm_area_struct,
    range: Range<usize>,
    /// Set if the first VMA begins before the range.
    cuts_first: bool,
    /// Set if the last VMA ends behind the range.
    cuts_last: bool,
    /// Set if the cursor was moved behind the last VMA.
    is_done: bool,
    _lock: PhantomData<&'a MmapWriteGuard<'a>>,
}

impl<'a> VmaCursor<'a> {
    /// Places the cursor before the first VMA that reaches into `start..end` (addresses in bytes).
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
        }
    }

    /// Moves to the next VMA that begins before the end of the range.
    pub fn advance(&mut self) -> Option<Vma<'_>> {
        let is_first = self.current.is_null();
        self.find();
        self.is_done = self.current.is_null();
        let vma = self.current()?;
        let (starts_before, ends_behind) =
            (vma.start() < self.range.start, vma.end() > self.range.end);
        self.cuts_first |= is_first && starts_before;
        self.cuts_last = ends_behind;
        self.current()
    }

    /// Returns the VMA that the cursor is on.
    pub fn current(&self) -> Option<Vma<'_>> {
        if self.current.is_null() {
            return None;
        }
        // SAFETY: By the type invariants the VMA is valid and the mm is locked.
        Some(Vma::from_ref(unsafe { VmaRef::from_raw(self.current) }))
    }

    /// Registers the whole range with `context`, in the modes that `flags` has, or none of it.
    ///
    /// The caller has advanced the cursor to the end of the range, and checked each VMA.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the context is that of another address space, the range is not one of whole
    /// pages, the cursor is not at the end, there are other flags than those of modes, or a hugetlb
    /// VMA would have to be split within a huge page; `ENOMEM` if there is no memory to split a
    /// VMA, or the process may have no more of them.
    #[doc(alias = "userfaultfd_register_range")]
    pub fn register(self, context: OpenContext<'_>, flags: vm_flags_t) -> Result {
        if context.mm().as_raw() != self.mm || flags == 0 || flags & !VM_UFFD_FLAGS != 0 {
            return Err(EINVAL);
        }
        let to = Registration {
            ctx: context.as_raw(),
            modes: flags,
        };
        self.change(to, |_, _| {})
    }

    /// Takes the whole range off its contexts, or none of it.
    ///
    /// The caller has advanced the cursor to the end of the range. Calls `done` with each part that
    /// was registered, and the modes that it was registered in, when it is off its context.
    ///
    /// # Errors
    ///
    /// As for [`VmaCursor::register`].
    #[doc(alias = "userfaultfd_clear_vma")]
    pub fn unregister(self, mut done: impl FnMut(Range<usize>, vm_flags_t)) -> Result {
        let mm = self.mm;
        self.change(Registration::NONE, |part, modes| {
            if modes & VM_UFFD_WP != 0 {
                // SAFETY: The mm is locked for writing by the type invariants, and a VMA has the
                // part.
                unsafe { lift_protection(bindings::vma_lookup(mm, part.start), &part) };
            }
            done(part, modes);
        })
    }

    /// Changes what the VMAs of the range are registered with, all of them or none. Calls `done`
    /// with each part that was changed, and the modes that it had.
    ///
    /// Only a VMA of which a part is changed may have to be split, which may fail. At most two are,
    /// so these come first. If there are two, the last one is only split, so that its registration
    /// stays as it is, then the first one is changed. After that nothing fails.
    fn change(
        mut self,
        to: Registration,
        mut done: impl FnMut(Range<usize>, vm_flags_t),
    ) -> Result {
        let Range { start, end } = self.range;
        if !self.is_done || start >= end || (start | end) & !PAGE_MASK != 0 {
            return Err(EINVAL);
        }
        let mut last = None;
        if self.cuts_last {
            self.go_to(end - 1);
            let from = start.max(self.start_of_current());
            if self.cuts_first && from != start {
                last = self.split_last(from, to)?;
            } else {
                // There is no other one. It may have to be split twice, and succeed only once.
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
                // A VMA that is changed as a whole is not split.
                Err(err) => {
                    warn_on_once!(true);
                    return Err(err);
                }
            }
        }
    }

    /// Places the cursor before the VMA of `address`.
    fn seek(&mut self, address: usize) {
        // INVARIANT: The iterator returns null or a valid VMA.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_rewind(self.vmi.get(), address) };
    }

    /// Moves to the next VMA of the range.
    fn find(&mut self) {
        // INVARIANT: The iterator returns null or a valid VMA.
        // SAFETY: The iterator is initialised and the mm locked by the type invariants.
        self.current = unsafe { bindings::uffd_shim_vma_find(self.vmi.get(), self.range.end) };
    }

    /// Moves to the VMA of `address`. Returns the VMA that precedes it, or null.
    fn go_to(&mut self, address: usize) -> *mut bindings::vm_area_struct {
        self.seek(address);
        let prev = self.current;
        self.find();
        prev
    }

    /// Returns the first address of the current VMA.
    fn start_of_current(&self) -> usize {
        self.current().map_or(usize::MAX, |vma| vma.start())
    }

    /// Returns the address after the last of the current VMA.
    fn end_of_current(&self) -> usize {
        self.current().map_or(0, |vma| vma.end())
    }

    /// Moves to the next VMA of the range and changes the part of it that is in the range, unless
    /// there is no need to. Afterwards the cursor is on a VMA that contains that part.
    fn change_next(&mut self, to: Registration) -> Result<Option<Part>> {
        let prev = self.current;
        self.find();
        let Some(part) = self.part_to_change(&to) else {
            return Ok(None);
        };
        self.modify(prev, part.range.clone(), to)?;
        Ok(Some(part))
    }

    /// Returns the part of the current VMA that is in the range, if it has to be changed.
    fn part_to_change(&self, to: &Registration) -> Option<Part> {
        let vma = self.current()?;
        let before = Registration::of(&vma);
        if !before.has_to_become(to) {
            return None;
        }
        let range = self.range.start.max(vma.start())..self.range.end.min(vma.end());
        Some(Part { range, before })
    }

    /// Changes the registration of `range`, which is in the current VMA. `prev` precedes this VMA.
    /// The cursor is then on a VMA that contains the range.
    fn modify(
        &mut self,
        prev: *mut bindings::vm_area_struct,
        range: Range<usize>,
        to: Registration,
    ) -> Result {
        // The rest of the VMA precedes the range if the VMA is split there.
        let prev = if self.start_of_current() < range.start {
            self.current
        } else {
            prev
        };
        // INVARIANT: On success the function returns a valid VMA.
        // SAFETY: By the type invariants the VMAs are valid and the mm is locked for writing. The
        // range is one of pages of the current VMA, and the context null or one of this mm.
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

    /// Splits the last VMA at the end of the range, so that its part from `from` on can be changed
    /// as a whole. Returns `None` if the part need not be changed.
    ///
    /// If the VMA cannot be split, there may be a neighbour that the part can be merged with: then
    /// the part is changed at once.
    fn split_last(&mut self, from: usize, to: Registration) -> Result<Option<Last>> {
        let prev = self.go_to(from);
        let Some(part) = self.part_to_change(&to) else {
            return Ok(None);
        };
        let is_split = self.modify(prev, part.range.clone(), part.before).is_ok()
            && self.end_of_current() == part.range.end;
        if !is_split {
            self.seek(from);
            self.change_next(to)?;
        }
        Ok(Some(Last {
            part,
            is_changed: !is_split,
        }))
    }

    /// Merges the VMA that begins at `address`, if there is one, with the VMA that precedes it, if
    /// they are registered alike. No VMA is needed for that; without memory they stay two.
    fn rejoin(&mut self, address: usize) {
        let prev = self.go_to(address);
        let Some(vma) = self.current().filter(|vma| vma.start() == address) else {
            return;
        };
        let (range, before) = (address..vma.end(), Registration::of(&vma));
        let _ = self.modify(prev, range, before);
    }

    /// Makes a part what it was, which also merges it with the rest of its VMA again.
    ///
    /// This needs no more VMAs. If there is no memory to merge, a part that was only split stays a
    /// VMA of its own; one that was changed already, because it could be merged with a neighbour,
    /// stays changed.
    fn undo(&mut self, part: Part) {
        let prev = self.go_to(part.range.start);
        let _ = self.modify(prev, part.range, part.before);
    }
}

/// What a VMA is registered with.
#[derive(Copy, Clone)]
struct Registration {
    /// The context, or null.
    ctx: *mut bindings::userfaultfd_ctx,
    /// The modes: bits of [`VM_UFFD_FLAGS`].
    modes: vm_flags_t,
}

impl Registration {
    const NONE: Self = Self {
        ctx: core::ptr::null_mut(),
        modes: 0,
    };

    fn of(vma: &Vma<'_>) -> Self {
        Self {
            ctx: vma
                .context()
                .map_or(core::ptr::null_mut(), |context| context.as_raw()),
            modes: vma.flags() & VM_UFFD_FLAGS,
        }
    }

    /// Returns true if a VMA with this registration has to be changed to get another one. A VMA
    /// that has all modes of that, and maybe more, stays as it is; otherwise they replace its own.
    fn has_to_become(&self, to: &Self) -> bool {
        self.ctx != to.ctx || self.modes & to.modes != to.modes
    }
}

/// The part of the last VMA.
struct Last {
    part: Part,
    /// Set if the part was changed, and not only split off.
    is_changed: bool,
}

/// A part of a VMA that is changed.
struct Part {
    /// Its addresses.
    range: Range<usize>,
    /// What it was registered with.
    before: Registration,
}

/// Lifts the write protection of a range of pages.
///
/// # Safety
///
/// The VMA is valid and has the range. Its mm is locked for writing.
unsafe fn lift_protection(vma: *mut bindings::vm_area_struct, range: &Range<usize>) {
    let Range { start, end } = *range;
    // SAFETY: By the safety requirements. What it returns does not matter: an error can come from
    // adding protection only.
    unsafe { bindings::uffd_wp_range(vma, start, end.wrapping_sub(start), false) };
}

/// Takes all VMAs off `context`, in an address space whose users may be gone, and lifts their
/// protection.
///
/// A thread that faults meanwhile finds the context released, or the VMA off it: the caller has
/// marked the context before. Sleeps: it takes the mmap lock.
#[doc(alias = "userfaultfd_release_all")]
pub(super) fn release_all(context: &Context) {
    let Some(mm) = context.mm().mmget_not_zero() else {
        return;
    };
    let mut guard = mm.mmap_write_lock();
    let mut cursor = VmaCursor::new(&mut guard, 0, usize::MAX);
    loop {
        cond_resched();
        let prev = cursor.current;
        cursor.find();
        let Some(vma) = cursor.current() else {
            return;
        };
        let (range, was) = (vma.start()..vma.end(), Registration::of(&vma));
        if was.ctx != context.as_raw() {
            continue;
        }
        if was.modes & VM_UFFD_WP != 0 {
            // SAFETY: The VMA is valid, and the mm is locked for writing.
            unsafe { lift_protection(vma.as_ptr(), &range) };
        }
        // A VMA that is changed as a whole is not split.
        warn_on_once!(cursor.modify(prev, range, Registration::NONE).is_err());
    }
}

/// Takes all VMAs off `context`, which belongs to a child whose fork event was not read.
///
/// The child was not started yet, so its address space has users; if it has none, there are no
/// VMAs. Sleeps: it takes the mmap lock.
#[doc(alias = "userfaultfd_release_new")]
pub(super) fn release_new(context: &Context) {
    let Some(mm) = context.mm().mmget_not_zero() else {
        return;
    };
    let mut guard = mm.mmap_write_lock();
    let mut cursor = VmaCursor::new(&mut guard, 0, usize::MAX);
    while let Some(vma) = cursor.advance() {
        if Registration::of(&vma).ctx == context.as_raw() {
            // SAFETY: The VMA is valid, and the mm is locked for writing.
            unsafe { VmaMut::from_raw(vma.as_ptr()) }.reset();
        }
    }
}
