// SPDX-License-Identifier: GPL-2.0

//! Which areas are watched.

use crate::{context::Context, resolve};
use kernel::{
    prelude::*,
    task::cond_resched,
    uaccess::UserPtr,
    uapi,
    userfaultfd::{
        limits::{self, VM_MAYWRITE, VM_UFFD_MISSING},
        uapi::{Answered, Range, Register, Request},
        vma::VmaCursor,
    },
};

/// Moves to the first area of the range that begins at `start`, and checks that one of its pages
/// does, where it has huge ones.
///
/// # Errors
///
/// `EINVAL`
fn enter(cursor: &mut VmaCursor<'_, Context>, start: usize) -> Result {
    let first = cursor.advance().ok_or(EINVAL)?;
    if first.is_hugetlb() && start & (first.pagesize() - 1) != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// `UFFDIO_REGISTER`: watch a range, all of it or none, and answer which operations work on it.
///
/// # Errors
///
/// `EFAULT` where the structure cannot be accessed; `EINVAL` for modes and ranges that make no
/// sense, or where there is something that cannot be watched; `ENOMEM` where the process is gone
/// or there is no memory; `EPERM` for a mapping that could never be written to; `EBUSY` where
/// somebody else watches.
pub(crate) fn register(context: &Context, arg: UserPtr) -> Result {
    let request = Register::read(arg)?;
    let flags = limits::register_flags(request.mode).ok_or(EINVAL)?;
    let (start, end) = resolve::check_range(context, request.range)?;
    let wp_async = context.has(uapi::UFFD_FEATURE_WP_ASYNC);

    let mut has_hugetlb = false;
    {
        // All of the range is registered, or none.
        let mm = context.mm().mmget_not_zero().ok_or(ENOMEM)?;
        let mut guard = mm.mmap_write_lock();
        let mut cursor = VmaCursor::<Context>::new(&mut guard, start, end);

        enter(&mut cursor, start)?;
        while let Some(vma) = cursor.current() {
            if !vma.can_userfault(flags, wp_async) {
                return Err(EINVAL);
            }
            // Pages are filled whether the mapping is writable or not. That must not become a way
            // to write to a file that could not be opened for writing, or is sealed.
            if vma.flags() & VM_MAYWRITE == 0 {
                return Err(EPERM);
            }
            let ends_here = end <= vma.end() && end > vma.start();
            if vma.is_hugetlb() && ends_here && end & (vma.pagesize() - 1) != 0 {
                return Err(EINVAL);
            }
            if vma
                .context()
                .is_some_and(|owner| !core::ptr::eq(owner, context))
            {
                return Err(EBUSY);
            }
            has_hugetlb |= vma.is_hugetlb();
            cond_resched();
            cursor.advance();
        }
        // SAFETY: The areas of a context are taken off it when its descriptor is released, and
        // the descriptor that this is called on has a reference until then.
        unsafe { cursor.register(context, flags)? };
    }

    let mut ioctls = if has_hugetlb {
        limits::RANGE_IOCTLS_BASIC
    } else {
        limits::RANGE_IOCTLS
    };
    if request.mode & limits::REGISTER_MODE_WP == 0 {
        ioctls &= !(1 << uapi::_UFFDIO_WRITEPROTECT);
    }
    if request.mode & limits::REGISTER_MODE_MINOR == 0 {
        ioctls &= !(1 << uapi::_UFFDIO_CONTINUE);
    }
    Register::answer(arg, ioctls)
}

/// `UFFDIO_UNREGISTER`: stop to watch a range, all of it or none, and wake the threads that sleep
/// where it was registered for missing pages.
///
/// # Errors
///
/// `EFAULT` where the structure cannot be accessed; `EINVAL` for a range that makes no sense, that
/// has something which cannot be watched, or that somebody else watches; `ENOMEM` where the process
/// is gone or there is no memory.
pub(crate) fn unregister(context: &Context, arg: UserPtr) -> Result {
    let (start, end) = resolve::check_range(context, Range::read(arg)?)?;
    let wp_async = context.has(uapi::UFFD_FEATURE_WP_ASYNC);

    let mm = context.mm().mmget_not_zero().ok_or(ENOMEM)?;
    let mut guard = mm.mmap_write_lock();
    let mut cursor = VmaCursor::<Context>::new(&mut guard, start, end);

    enter(&mut cursor, start)?;
    while let Some(vma) = cursor.current() {
        let is_foreign = vma
            .context()
            .is_some_and(|owner| !core::ptr::eq(owner, context));
        if is_foreign || !vma.can_userfault(vma.flags(), wp_async) {
            return Err(EINVAL);
        }
        cond_resched();
        cursor.advance();
    }

    cursor.unregister(|part, modes| {
        if modes & VM_UFFD_MISSING != 0 {
            // Nobody is going to resolve their faults any more. Now that the area is locked and off
            // the context, no thread can go to sleep behind this.
            context.waiters().wake(part.start as u64..part.end as u64);
        }
    })
}
