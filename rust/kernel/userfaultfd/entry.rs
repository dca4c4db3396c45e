// SPDX-License-Identifier: GPL-2.0

//! The entry points that mm calls, and the operations that they stand for.
//!
//! The C side knows the functions that `include/linux/userfaultfd_k.h` declares.
//! [`declare_userfaultfd!`](crate::declare_userfaultfd) defines them, checked against the
//! declarations, for a type that implements [`Operations`].

use super::{
    context::{Context, MmapChanging},
    event_list::{EventList, PendingFork, PendingUnmap},
    fault::{Fault, FaultOutcome},
    vma::{Vma, VmaMut},
    waitset::Fork,
};
use crate::{
    bindings,
    error::{from_result, Result},
    ffi::{c_int, c_ulong},
    mm::virt::VmaRef,
};
use core::{ops::Range, ptr::NonNull};

/// What userfaultfd does when mm calls it.
pub trait Operations {
    /// Handles a page fault in a registered VMA; `handle_userfault()`.
    ///
    /// Sleeps, unless the fault does not allow it.
    fn handle_fault<'a>(fault: Fault<'a>) -> FaultOutcome<'a>;

    /// Returns true if the kernel itself resolves faults on write-protected pages;
    /// `userfaultfd_wp_async()`. Must not sleep.
    fn is_wp_async(context: &Context) -> bool;

    /// Returns true if missing pages can be write-protected; `userfaultfd_wp_unpopulated()`. Must
    /// not sleep.
    fn is_wp_unpopulated(context: &Context) -> bool;

    /// Returns true if the child of a fork gets a context of its own, because the monitor asked for
    /// the event; `dup_userfaultfd()`. Otherwise its VMAs are not registered. Must not sleep.
    fn wants_fork(context: &Context) -> bool;

    /// Finishes a fork; `dup_userfaultfd_complete()`. Sleeps; no lock is held.
    fn fork_complete(fork: Fork);

    /// Prepares a VMA that was moved; `mremap_userfaultfd_prep()`. The mmap lock is held for
    /// writing.
    ///
    /// Returns `None` if the monitor did not ask for the event.
    fn remap(vma: VmaMut<'_>) -> Option<MmapChanging>;

    /// Finishes a move of `len` bytes; `mremap_userfaultfd_complete()`. Sleeps; no lock is held.
    fn remap_complete(changing: MmapChanging, from: usize, to: usize, len: usize);

    /// Prepares a removal of pages from a VMA; `userfaultfd_remove_prep()`. The mmap lock is held
    /// for reading.
    ///
    /// Returns `None` if the monitor did not ask for the event.
    fn remove(vma: Vma<'_>) -> Option<MmapChanging>;

    /// Tells the monitor about pages that are going to be removed; the second half of
    /// `userfaultfd_remove_prep()`. Sleeps; no lock is held.
    ///
    /// The result is dropped when the pages are gone, maybe with the mmap lock held.
    fn removing(changing: MmapChanging, range: Range<usize>) -> MmapChanging;

    /// Notes that a range of a VMA is going to be unmapped; `userfaultfd_unmap_prep()`. The mmap
    /// lock is held for writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, which makes the operation fail.
    fn unmap(vma: Vma<'_>, range: Range<usize>, unmaps: &mut EventList<'_, PendingUnmap>)
        -> Result;

    /// Finishes an unmapping; `userfaultfd_unmap_complete()`. Sleeps; no lock is held.
    fn unmap_complete(unmap: PendingUnmap);

    /// Creates a descriptor and returns its number; `userfaultfd(2)`.
    ///
    /// # Errors
    ///
    /// As the man page says.
    fn create(flags: u32) -> Result<u32>;
}

/// Handles a fault; `handle_userfault()`.
///
/// # Safety
///
/// `vmf` must be a fault that is being handled, with the fault lock held. The lock is dropped if
/// the result says so, as mm expects it.
#[inline]
pub unsafe fn handle_userfault<T: Operations>(
    vmf: *mut bindings::vm_fault,
    reason: c_ulong,
) -> bindings::vm_fault_t {
    // SAFETY: `vmf` is valid and the lock is held by the safety requirements.
    T::handle_fault(unsafe { Fault::from_raw(&mut *vmf, reason) }).into_raw()
}

/// Wraps a VMA that mm passes.
///
/// # Safety
///
/// `vma` must be valid and locked for `'a`.
#[inline(always)]
unsafe fn wrap<'a>(vma: *mut bindings::vm_area_struct) -> Vma<'a> {
    // SAFETY: `vma` is valid and locked for `'a` by the safety requirements.
    Vma::from_ref(unsafe { VmaRef::from_raw(vma) })
}

/// Implements `userfaultfd_wp_async()`.
///
/// # Safety
///
/// `vma` must be valid and locked.
pub unsafe fn wp_async<T: Operations>(vma: *mut bindings::vm_area_struct) -> bool {
    // SAFETY: `vma` is valid and locked by the safety requirements.
    unsafe { wrap(vma) }.context().is_some_and(T::is_wp_async)
}

/// Implements `userfaultfd_wp_unpopulated()`.
///
/// # Safety
///
/// `vma` must be valid and locked.
pub unsafe fn wp_unpopulated<T: Operations>(vma: *mut bindings::vm_area_struct) -> bool {
    // SAFETY: `vma` is valid and locked by the safety requirements.
    unsafe { wrap(vma) }
        .context()
        .is_some_and(T::is_wp_unpopulated)
}

/// Implements `dup_userfaultfd()`.
///
/// # Safety
///
/// `vma` must be a valid VMA of a process that is being created, `forks` a list that only [`fork`],
/// [`fork_complete`] and [`fork_fail`] work on. One of the latter must be called when the locks are
/// dropped: [`fork_fail`] only if the new address space is thrown away.
pub unsafe fn fork<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    forks: *mut bindings::list_head,
) -> c_int {
    from_result(|| {
        // SAFETY: No other thread sees the VMA of a process that is being created.
        let mut vma = unsafe { VmaMut::from_raw(vma) };
        match vma.context() {
            Some(context) if T::wants_fork(context) => {
                // SAFETY: The list is one of forks by the safety requirements.
                unsafe { EventList::from_raw(forks) }.duplicate(vma)?;
            }
            // The copy of the VMA must not stay with a context of another address space.
            Some(_) => vma.reset(),
            None => {}
        }
        Ok(0)
    })
}

/// Implements `dup_userfaultfd_complete()`.
///
/// # Safety
///
/// `forks` must have been passed to [`fork`], for a fork that succeeded. No lock may be held.
pub unsafe fn fork_complete<T: Operations>(forks: *mut bindings::list_head) {
    // SAFETY: The list is one of forks by the safety requirements.
    let mut forks = unsafe { EventList::from_raw(forks) };
    while let Some(fork) = forks.pop_fork() {
        T::fork_complete(fork);
    }
}

/// Implements `dup_userfaultfd_fail()`: drops the contexts of the child, and lets pages of the
/// parent be filled again. The VMAs of the child go with its address space.
///
/// # Safety
///
/// `forks` must have been passed to [`fork`], for a fork that failed. No lock may be held.
pub unsafe fn fork_fail<T: Operations>(forks: *mut bindings::list_head) {
    // SAFETY: The list is one of forks by the safety requirements.
    let mut forks = unsafe { EventList::<PendingFork>::from_raw(forks) };
    while forks.pop().is_some() {}
}

/// Implements `mremap_userfaultfd_prep()`.
///
/// # Safety
///
/// `vma` must be valid and locked for writing, `vm_ctx` valid and passed to [`remap_complete`] or
/// [`remap_fail`] later, once.
pub unsafe fn remap<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
) {
    // SAFETY: `vma` is valid and locked for writing by the safety requirements.
    if let Some(changing) = T::remap(unsafe { VmaMut::from_raw(vma) }) {
        // SAFETY: `vm_ctx` is valid by the safety requirements.
        unsafe { (*vm_ctx).ctx = changing.into_raw() };
    }
}

/// Takes back what [`remap`] or [`remove`] stored.
///
/// # Safety
///
/// `vm_ctx` must have been passed to one of them, or be null inside.
#[inline(always)]
unsafe fn take_back(vm_ctx: *mut bindings::vm_userfaultfd_ctx) -> Option<MmapChanging> {
    // SAFETY: `vm_ctx` is valid by the safety requirements.
    let ctx = unsafe { core::mem::replace(&mut (*vm_ctx).ctx, core::ptr::null_mut()) };
    let ctx = NonNull::new(ctx)?;
    // SAFETY: The pointer comes from `into_raw`, and was replaced, so it is taken back once.
    Some(unsafe { MmapChanging::from_raw(ctx) })
}

/// Implements `mremap_userfaultfd_complete()`.
///
/// # Safety
///
/// `vm_ctx` must have been passed to [`remap`], or be null inside. No lock may be held.
pub unsafe fn remap_complete<T: Operations>(
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
    from: c_ulong,
    to: c_ulong,
    len: c_ulong,
) {
    // SAFETY: `vm_ctx` was passed to `remap` by the safety requirements.
    if let Some(changing) = unsafe { take_back(vm_ctx) } {
        T::remap_complete(changing, from, to, len);
    }
}

/// Implements `mremap_userfaultfd_fail()`: nothing was moved, so there is nothing to tell.
///
/// # Safety
///
/// `vm_ctx` must have been passed to [`remap`], or be null inside.
pub unsafe fn remap_fail<T: Operations>(vm_ctx: *mut bindings::vm_userfaultfd_ctx) {
    // SAFETY: `vm_ctx` was passed to `remap` by the safety requirements.
    drop(unsafe { take_back(vm_ctx) });
}

/// Implements `userfaultfd_remove_prep()`. Returns true if the mmap lock is still held.
///
/// # Safety
///
/// `vma` must be valid, with the mmap lock held for reading, which this may drop. `vm_ctx` must be
/// valid, null inside, and passed to [`remove_complete`] later.
pub unsafe fn remove<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    start: c_ulong,
    end: c_ulong,
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
) -> bool {
    // SAFETY: `vma` is valid and locked by the safety requirements.
    let vma = unsafe { wrap(vma) };
    let mm = vma.mm().as_raw();
    let Some(changing) = T::remove(vma) else {
        return true;
    };
    // SAFETY: The lock is held by the safety requirements, and the result tells the caller that it
    // was dropped.
    unsafe { bindings::mmap_read_unlock(mm) };
    let changing = T::removing(changing, start..end);
    // SAFETY: `vm_ctx` is valid by the safety requirements.
    unsafe { (*vm_ctx).ctx = changing.into_raw() };
    false
}

/// Implements `userfaultfd_remove_complete()`: the pages are gone, so others can be filled again.
///
/// # Safety
///
/// `vm_ctx` must be null inside, or have been passed to [`remove`], and not be used any more.
pub unsafe fn remove_complete<T: Operations>(vm_ctx: *mut bindings::vm_userfaultfd_ctx) {
    // SAFETY: `vm_ctx` was passed to `remove` by the safety requirements.
    drop(unsafe { take_back(vm_ctx) });
}

/// Implements `userfaultfd_unmap_prep()`.
///
/// # Safety
///
/// `vma` must be valid, with the mmap lock held for writing, `unmaps` a list that only [`unmap`]
/// and [`unmap_complete`] work on.
pub unsafe fn unmap<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    start: c_ulong,
    end: c_ulong,
    unmaps: *mut bindings::list_head,
) -> c_int {
    // SAFETY: `vma` is valid and locked by the safety requirements.
    let vma = unsafe { wrap(vma) };
    if vma.context().is_none() {
        // This is how most VMAs are.
        return 0;
    }
    from_result(|| {
        // SAFETY: The list is one of unmaps by the safety requirements.
        let mut unmaps = unsafe { EventList::from_raw(unmaps) };
        T::unmap(vma, start..end, &mut unmaps)?;
        Ok(0)
    })
}

/// Implements `userfaultfd_unmap_complete()`.
///
/// # Safety
///
/// `unmaps` must have been passed to [`unmap`]. No lock may be held.
pub unsafe fn unmap_complete<T: Operations>(unmaps: *mut bindings::list_head) {
    // SAFETY: The list is one of unmaps by the safety requirements.
    let mut unmaps = unsafe { EventList::from_raw(unmaps) };
    while let Some(unmap) = unmaps.pop() {
        T::unmap_complete(unmap);
    }
}

/// Implements `userfaultfd(2)`.
pub fn create<T: Operations>(flags: c_int) -> c_int {
    // CAST: Both have 32 bits, and the number of a descriptor is not negative as an `int`.
    from_result(|| T::create(flags as u32).map(|fd| fd as c_int))
}

/// Defines the functions that mm calls, for an implementation of [`Operations`].
#[macro_export]
macro_rules! declare_userfaultfd {
    ($ty:ty) => {
        mod userfaultfd_entry_points {
            use super::*;
            use $crate::bindings;
            use $crate::ffi::{c_int, c_ulong};
            use $crate::userfaultfd::entry;

            $crate::declare_userfaultfd! { $ty,
                handle_userfault(vmf: *mut bindings::vm_fault, reason: c_ulong)
                    -> bindings::vm_fault_t = handle_userfault;
                userfaultfd_wp_async(vma: *mut bindings::vm_area_struct) -> bool = wp_async;
                userfaultfd_wp_unpopulated(vma: *mut bindings::vm_area_struct) -> bool
                    = wp_unpopulated;
                dup_userfaultfd(
                    vma: *mut bindings::vm_area_struct,
                    forks: *mut bindings::list_head
                ) -> c_int = fork;
                dup_userfaultfd_complete(forks: *mut bindings::list_head) -> () = fork_complete;
                dup_userfaultfd_fail(forks: *mut bindings::list_head) -> () = fork_fail;
                mremap_userfaultfd_prep(
                    vma: *mut bindings::vm_area_struct,
                    vm_ctx: *mut bindings::vm_userfaultfd_ctx
                ) -> () = remap;
                mremap_userfaultfd_complete(
                    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
                    from: c_ulong,
                    to: c_ulong,
                    len: c_ulong
                ) -> () = remap_complete;
                mremap_userfaultfd_fail(vm_ctx: *mut bindings::vm_userfaultfd_ctx) -> ()
                    = remap_fail;
                userfaultfd_remove_prep(
                    vma: *mut bindings::vm_area_struct,
                    start: c_ulong,
                    end: c_ulong,
                    vm_ctx: *mut bindings::vm_userfaultfd_ctx
                ) -> bool = remove;
                userfaultfd_remove_complete(vm_ctx: *mut bindings::vm_userfaultfd_ctx) -> ()
                    = remove_complete;
                userfaultfd_unmap_prep(
                    vma: *mut bindings::vm_area_struct,
                    start: c_ulong,
                    end: c_ulong,
                    unmaps: *mut bindings::list_head
                ) -> c_int = unmap;
            }

            /// # Safety
            ///
            /// As `include/linux/userfaultfd_k.h` has it.
            #[$crate::prelude::export]
            pub unsafe extern "C" fn userfaultfd_unmap_complete(
                _mm: *mut bindings::mm_struct,
                unmaps: *mut bindings::list_head,
            ) {
                // SAFETY: mm calls this as the function asks for.
                unsafe { entry::unmap_complete::<$ty>(unmaps) }
            }

            /// # Safety
            ///
            /// None: it is unsafe for its C prototype only.
            #[$crate::prelude::export]
            pub unsafe extern "C" fn userfaultfd_rust_create(flags: c_int) -> c_int {
                entry::create::<$ty>(flags)
            }
        }
    };
    ($ty:ty, $($name:ident($($arg:ident: $argty:ty),*) -> $ret:ty = $entry:ident;)*) => {
        $(
            /// # Safety
            ///
            /// As `include/linux/userfaultfd_k.h` has it.
            #[$crate::prelude::export]
            pub unsafe extern "C" fn $name($($arg: $argty),*) -> $ret {
                // SAFETY: mm calls this as the function asks for.
                unsafe { entry::$entry::<$ty>($($arg),*) }
            }
        )*
    };
}
