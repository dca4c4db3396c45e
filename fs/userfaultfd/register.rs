// SPDX-License-Identifier: GPL-2.0

//! Registration of VMAs.

use kernel::{
    mm::virt::vm_flags_t,
    prelude::*,
    task::cond_resched,
    uaccess::UserPtr,
    uapi,
    userfaultfd::{
        abi::{Answered, Request, UffdioRange, UffdioRegister},
        fault::Wakeup,
        range::PageRange,
        supported::{self, VM_MAYWRITE, VM_UFFD_MISSING},
        trace,
        vma::VmaCursor,
        Context, OpenContext,
    },
};

/// Moves to the first VMA of the range that begins at `start`. If it is a hugetlb VMA, one of its
/// pages has to begin there.
///
/// # Errors
///
/// `EINVAL`
fn enter(cursor: &mut VmaCursor<'_>, start: usize) -> Result {
    let first = cursor.advance().ok_or(EINVAL)?;
    if first.is_hugetlb() && start & (first.pagesize() - 1) != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// `UFFDIO_REGISTER`: registers a range, all of it or none, and tells which operations work on it.
///
/// # Errors
///
/// `EFAULT` if the structure cannot be accessed; `EINVAL` for invalid modes and ranges, or if there
/// is a VMA that cannot be registered; `ENOMEM` if the process is gone or there is no memory;
/// `EPERM` for a mapping that can never be written to; `EBUSY` if a VMA is registered with another
/// descriptor.
#[doc(alias = "userfaultfd_register")]
pub(crate) fn register(context: OpenContext<'_>, arg: UserPtr) -> Result {
    let request = UffdioRegister::read(arg)?;
    let flags = supported::register_flags(request.mode).ok_or(EINVAL)?;
    let range = PageRange::new(&context, request.range)?;
    let done = register_range(context, range, flags);
    trace::register(&context, range.addresses(), request.mode, done.map(|_| ()));

    let mut ioctls = if done? {
        supported::RANGE_IOCTLS_BASIC
    } else {
        supported::RANGE_IOCTLS
    };
    if request.mode & supported::REGISTER_MODE_WP == 0 {
        ioctls &= !(1 << uapi::_UFFDIO_WRITEPROTECT);
    }
    if request.mode & supported::REGISTER_MODE_MINOR == 0 {
        ioctls &= !(1 << uapi::_UFFDIO_CONTINUE);
    }
    UffdioRegister::answer(arg, ioctls)
}

/// Registers a range. Returns true if there is hugetlb memory in it.
fn register_range(context: OpenContext<'_>, range: PageRange, flags: vm_flags_t) -> Result<bool> {
    let (start, end) = (range.start(), range.end());
    let wp_async = context.has(uapi::UFFD_FEATURE_WP_ASYNC);
    let mm = context.mm().mmget_not_zero().ok_or(ENOMEM)?;
    let mut guard = mm.mmap_write_lock();
    let mut cursor = VmaCursor::new(&mut guard, start, end);
    let mut has_hugetlb = false;

    enter(&mut cursor, start)?;
    while let Some(vma) = cursor.current() {
        if !vma.can_userfault(flags, wp_async) {
            return Err(EINVAL);
        }
        // Pages can be filled even if the mapping is not writable. This must not become a way to
        // write to a file that could not be opened for writing, or is sealed.
        if vma.flags() & VM_MAYWRITE == 0 {
            return Err(EPERM);
        }
        let ends_here = end <= vma.end() && end > vma.start();
        if vma.is_hugetlb() && ends_here && end & (vma.pagesize() - 1) != 0 {
            return Err(EINVAL);
        }
        if vma
            .context()
            .is_some_and(|other| !core::ptr::eq(other, context.get()))
        {
            return Err(EBUSY);
        }
        has_hugetlb |= vma.is_hugetlb();
        cond_resched();
        cursor.advance();
    }
    cursor.register(context, flags)?;
    Ok(has_hugetlb)
}

/// `UFFDIO_UNREGISTER`: unregisters a range, all of it or none, and wakes the threads that sleep in
/// the VMAs that were registered for missing pages.
///
/// # Errors
///
/// `EFAULT` if the structure cannot be accessed; `EINVAL` for an invalid range, or if there is a
/// VMA that cannot be registered or is registered with another descriptor; `ENOMEM` if the process
/// is gone or there is no memory.
#[doc(alias = "userfaultfd_unregister")]
pub(crate) fn unregister(context: &Context, arg: UserPtr) -> Result {
    let range = PageRange::new(context, UffdioRange::read(arg)?)?;
    let done = unregister_range(context, range);
    trace::unregister(context, range.addresses(), done);
    done
}

fn unregister_range(context: &Context, range: PageRange) -> Result {
    let (start, end) = (range.start(), range.end());
    let wp_async = context.has(uapi::UFFD_FEATURE_WP_ASYNC);

    let mm = context.mm().mmget_not_zero().ok_or(ENOMEM)?;
    let mut guard = mm.mmap_write_lock();
    let mut cursor = VmaCursor::new(&mut guard, start, end);

    enter(&mut cursor, start)?;
    while let Some(vma) = cursor.current() {
        let is_foreign = vma
            .context()
            .is_some_and(|other| !core::ptr::eq(other, context));
        if is_foreign || !vma.can_userfault(vma.flags(), wp_async) {
            return Err(EINVAL);
        }
        cond_resched();
        cursor.advance();
    }

    cursor.unregister(|part, modes| {
        if modes & VM_UFFD_MISSING != 0 {
            // These faults are not going to be resolved. No thread can go to sleep any more,
            // because the VMA is locked and off the context.
            let range = part.start as u64..part.end as u64;
            context.waiters().wake(range, Wakeup::LOOK_AGAIN);
        }
    })
}
