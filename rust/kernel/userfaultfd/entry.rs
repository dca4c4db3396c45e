// SPDX-License-Identifier: GPL-2.0

//! The entry points that mm calls, and the operations that they stand for.
//!
//! The C side knows the functions that `include/linux/userfaultfd_k.h` declares.
//! [`declare_userfaultfd!`](crate::declare_userfaultfd) defines them, checked against the
//! declarations, for a type that implements [`Operations`].

use super::{
    fault::{Fault, FaultOutcome},
    header::{Context, MmapChanging},
    pending::{Note, Pending},
    vma::{Vma, VmaMut},
};
use crate::{
    bindings,
    error::{from_result, Result},
    ffi::{c_int, c_ulong},
    mm::virt::VmaRef,
};
use core::{ops::Range, ptr::NonNull};

/// What an implementation of userfaultfd does when mm calls it.
pub trait Operations: Context {
    /// What is noted about a context while its address space is duplicated.
    type Fork: Note;

    /// What is noted about a range that is unmapped.
    type Unmap: Note;

    /// Handles a page fault in a registered area; `handle_userfault()`.
    ///
    /// Sleeps, unless the fault does not allow it.
    fn handle_fault<'a>(fault: Fault<'a, Self>) -> FaultOutcome<'a>;

    /// Whether faults on write-protected pages are resolved by the kernel;
    /// `userfaultfd_wp_async()`. Must not sleep.
    fn is_wp_async(&self) -> bool;

    /// Whether pages that are missing can be write-protected; `userfaultfd_wp_unpopulated()`.
    /// Must not sleep.
    fn is_wp_unpopulated(&self) -> bool;

    /// Prepares an area of a new process whose original is registered; `dup_userfaultfd()`.
    ///
    /// `vma` is the copy. Both mmap locks are held for writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, which makes the fork fail.
    fn fork(vma: VmaMut<'_, Self>, forks: &mut Pending<'_, Self::Fork>) -> Result;

    /// The process was duplicated; `dup_userfaultfd_complete()`. Sleeps; no lock is held.
    fn fork_complete(fork: Self::Fork);

    /// The process could not be duplicated; `dup_userfaultfd_fail()`. Its areas must not be looked
    /// at. Sleeps; no lock is held.
    fn fork_fail(fork: Self::Fork);

    /// Prepares an area that was moved; `mremap_userfaultfd_prep()`. The mmap lock is held for
    /// writing.
    ///
    /// Returns nothing where nobody wants to know.
    fn remap(vma: VmaMut<'_, Self>) -> Option<MmapChanging<Self>>;

    /// The area was moved; `mremap_userfaultfd_complete()`. Sleeps; no lock is held.
    fn remap_complete(changing: MmapChanging<Self>, from: usize, to: usize, len: usize);

    /// Whether somebody wants to know that pages of `vma` are removed; `userfaultfd_remove_prep()`.
    fn remove(vma: Vma<'_, Self>) -> Option<MmapChanging<Self>>;

    /// Pages are about to be removed; the second half of `userfaultfd_remove_prep()`. Sleeps; no
    /// lock is held.
    ///
    /// What this returns is dropped when the pages are gone, maybe with the mmap lock held.
    fn removing(changing: MmapChanging<Self>, range: Range<usize>) -> MmapChanging<Self>;

    /// Notes that a range of `vma` is going to be unmapped; `userfaultfd_unmap_prep()`. The mmap
    /// lock is held for writing.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, which makes the operation fail.
    fn unmap(
        vma: Vma<'_, Self>,
        range: Range<usize>,
        unmaps: &mut Pending<'_, Self::Unmap>,
    ) -> Result;

    /// The range was unmapped; `userfaultfd_unmap_complete()`. Sleeps; no lock is held.
    fn unmap_complete(unmap: Self::Unmap);

    /// Creates a descriptor; `userfaultfd(2)`. Returns its number.
    ///
    /// # Errors
    ///
    /// As the man page says.
    fn create(flags: u32) -> Result<u32>;
}

/// # Safety
///
/// `vmf` must be a fault that is being handled, with the fault lock held. This drops the lock as
/// `handle_userfault()` does.
pub unsafe fn handle_userfault<T: Operations>(
    vmf: *mut bindings::vm_fault,
    reason: c_ulong,
) -> bindings::vm_fault_t {
    // SAFETY: By the safety requirements. The contexts are those of the one implementation.
    T::handle_fault(unsafe { Fault::from_raw(&mut *vmf, reason) }).into_raw()
}

/// Wraps an area that mm passes.
///
/// # Safety
///
/// `vma` must be valid and locked for `'a`.
unsafe fn area<'a, T: Operations>(vma: *mut bindings::vm_area_struct) -> Vma<'a, T> {
    // SAFETY: By the safety requirements. The contexts are those of the one implementation.
    unsafe { Vma::from_ref(VmaRef::from_raw(vma)) }
}

/// # Safety
///
/// `vma` must be valid and locked.
pub unsafe fn wp_async<T: Operations>(vma: *mut bindings::vm_area_struct) -> bool {
    // SAFETY: By the safety requirements.
    unsafe { area::<T>(vma) }
        .context()
        .is_some_and(T::is_wp_async)
}

/// # Safety
///
/// `vma` must be valid and locked.
pub unsafe fn wp_unpopulated<T: Operations>(vma: *mut bindings::vm_area_struct) -> bool {
    // SAFETY: By the safety requirements.
    unsafe { area::<T>(vma) }
        .context()
        .is_some_and(T::is_wp_unpopulated)
}

/// # Safety
///
/// `vma` must be a valid area of a process that is being created, `forks` a list that only
/// [`fork`], [`fork_complete`] and [`fork_fail`] work on.
pub unsafe fn fork<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    forks: *mut bindings::list_head,
) -> c_int {
    from_result(|| {
        // SAFETY: By the safety requirements.
        let vma = unsafe { VmaMut::from_raw(vma) };
        // SAFETY: By the safety requirements.
        T::fork(vma, &mut unsafe { Pending::from_raw(forks) })?;
        Ok(0)
    })
}

/// # Safety
///
/// As for [`fork`], with the locks dropped.
pub unsafe fn fork_complete<T: Operations>(forks: *mut bindings::list_head) {
    // SAFETY: By the safety requirements.
    let mut forks = unsafe { Pending::from_raw(forks) };
    while let Some(fork) = forks.pop() {
        T::fork_complete(fork);
    }
}

/// # Safety
///
/// As for [`fork`], with the locks dropped.
pub unsafe fn fork_fail<T: Operations>(forks: *mut bindings::list_head) {
    // SAFETY: By the safety requirements.
    let mut forks = unsafe { Pending::from_raw(forks) };
    while let Some(fork) = forks.pop() {
        T::fork_fail(fork);
    }
}

/// # Safety
///
/// `vma` must be valid and locked for writing, `vm_ctx` valid and passed to [`remap_complete`] or
/// [`remap_fail`] later, once.
pub unsafe fn remap<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
) {
    // SAFETY: By the safety requirements.
    if let Some(changing) = T::remap(unsafe { VmaMut::from_raw(vma) }) {
        // SAFETY: By the safety requirements.
        unsafe { (*vm_ctx).ctx = changing.into_raw() };
    }
}

/// Takes back what [`remap`] or [`remove`] left.
///
/// # Safety
///
/// `vm_ctx` must have been passed to one of them, or be null inside.
unsafe fn taken_back<T: Operations>(
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
) -> Option<MmapChanging<T>> {
    // SAFETY: By the safety requirements it is valid.
    let ctx = unsafe { core::mem::replace(&mut (*vm_ctx).ctx, core::ptr::null_mut()) };
    let ctx = NonNull::new(ctx)?;
    // SAFETY: By the safety requirements it comes from `into_raw`, and is taken back once.
    Some(unsafe { MmapChanging::from_raw(ctx) })
}

/// # Safety
///
/// `vm_ctx` must have been passed to [`remap`], or be null inside.
pub unsafe fn remap_complete<T: Operations>(
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
    from: c_ulong,
    to: c_ulong,
    len: c_ulong,
) {
    // SAFETY: By the safety requirements.
    if let Some(changing) = unsafe { taken_back::<T>(vm_ctx) } {
        T::remap_complete(changing, from, to, len);
    }
}

/// # Safety
///
/// `vm_ctx` must have been passed to [`remap`], or be null inside.
pub unsafe fn remap_fail<T: Operations>(vm_ctx: *mut bindings::vm_userfaultfd_ctx) {
    // Nothing was moved, so there is nothing to tell: the mark goes.
    // SAFETY: By the safety requirements.
    drop(unsafe { taken_back::<T>(vm_ctx) });
}

/// Returns whether the mmap lock is still held.
///
/// # Safety
///
/// `vma` must be valid, with the mmap lock held for reading; this may drop the lock. `vm_ctx` must
/// be valid, null inside, and passed to [`remove_complete`] later.
pub unsafe fn remove<T: Operations>(
    vma: *mut bindings::vm_area_struct,
    start: c_ulong,
    end: c_ulong,
    vm_ctx: *mut bindings::vm_userfaultfd_ctx,
) -> bool {
    // SAFETY: By the safety requirements.
    let area = unsafe { area::<T>(vma) };
    let mm = area.mm().as_raw();
    let Some(changing) = T::remove(area) else {
        return true;
    };
    // SAFETY: The lock is held by the safety requirements, and the caller learns that it is not
    // any more.
    unsafe { bindings::mmap_read_unlock(mm) };
    let changing = T::removing(changing, start..end);
    // SAFETY: By the safety requirements.
    unsafe { (*vm_ctx).ctx = changing.into_raw() };
    false
}

/// # Safety
///
/// `vm_ctx` must be null inside, or have been passed to [`remove`], and not be used any more.
pub unsafe fn remove_complete<T: Operations>(vm_ctx: *mut bindings::vm_userfaultfd_ctx) {
    // The pages are gone: the mark goes.
    // SAFETY: By the safety requirements.
    drop(unsafe { taken_back::<T>(vm_ctx) });
}

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
    from_result(|| {
        // SAFETY: By the safety requirements.
        let mut unmaps = unsafe { Pending::from_raw(unmaps) };
        // SAFETY: By the safety requirements.
        T::unmap(unsafe { area(vma) }, start..end, &mut unmaps)?;
        Ok(0)
    })
}

/// # Safety
///
/// As for [`unmap`], with the lock dropped.
pub unsafe fn unmap_complete<T: Operations>(unmaps: *mut bindings::list_head) {
    // SAFETY: By the safety requirements.
    let mut unmaps = unsafe { Pending::from_raw(unmaps) };
    while let Some(unmap) = unmaps.pop() {
        T::unmap_complete(unmap);
    }
}

/// Implements the system call.
pub fn create<T: Operations>(flags: c_int) -> c_int {
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
