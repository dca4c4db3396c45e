// SPDX-License-Identifier: GPL-2.0

//! Operations on the pages of registered areas.
//!
//! Each takes the context whose areas it works on and a proof that the address space of the
//! context has users. Addresses and lengths are in bytes. Those that fill pages return how many
//! bytes were done, which may be fewer than asked for. All of them sleep.
//!
//! They fail with `EAGAIN` while [`Header::mmap_changing`](super::Header::mmap_changing), besides
//! what `userfaultfd(2)` and the pages of the operations in `ioctl_userfaultfd(2)` list.

use super::header::Context;
use crate::{
    bindings,
    error::{code::EINVAL, to_result, Error, Result},
    mm::MmWithUser,
    page::PAGE_MASK,
};

/// Checks what the functions of mm rely on: that the address space is the one of the context, and
/// that ranges are of whole pages and do not wrap around.
///
/// Callers have checked that already, with the errors of the interface.
#[inline]
fn check<T: Context>(context: &T, mm: &MmWithUser, starts: &[usize], len: usize) -> Result {
    let is_range = |start: usize| {
        (start | len) & !PAGE_MASK == 0 && len != 0 && start.checked_add(len).is_some()
    };
    if !core::ptr::eq(&**mm, context.header().mm()) || !starts.iter().all(|start| is_range(*start))
    {
        return Err(EINVAL);
    }
    Ok(())
}

/// Turns a count of bytes or negative errno into a result.
#[inline]
fn bytes(ret: isize) -> Result<u64> {
    match u64::try_from(ret) {
        Ok(bytes) => Ok(bytes),
        Err(_) => Err(Error::from_errno(ret as i32)),
    }
}

/// Fills pages at `dst` with the contents of the caller's memory at `src`, write-protected where
/// `wp` says so.
#[doc(alias = "mfill_atomic_copy")]
pub fn copy<T: Context>(
    context: &T,
    mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: The context is valid, its mm has users, and the range makes sense.
    bytes(unsafe { bindings::uffd_shim_copy(context.header().as_raw(), dst, src, len, wp) })
}

/// Fills pages at `dst` with zeroes.
#[doc(alias = "mfill_atomic_zeropage")]
pub fn zeropage<T: Context>(context: &T, mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_zeropage(context.header().as_raw(), dst, len) })
}

/// Maps pages at `dst` that are in the page cache already, write-protected where `wp` says so.
#[doc(alias = "mfill_atomic_continue")]
pub fn resume<T: Context>(
    context: &T,
    mm: &MmWithUser,
    dst: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_continue(context.header().as_raw(), dst, len, wp) })
}

/// Makes access to the pages at `dst` fail.
#[doc(alias = "mfill_atomic_poison")]
pub fn poison<T: Context>(context: &T, mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_poison(context.header().as_raw(), dst, len) })
}

/// Moves pages from `src` to `dst` within the address space. `mode` is that of `UFFDIO_MOVE`.
#[doc(alias = "move_pages")]
pub fn relocate<T: Context>(
    context: &T,
    mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    mode: u64,
) -> Result<u64> {
    check(context, mm, &[dst, src], len)?;
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_move(context.header().as_raw(), dst, src, len, mode) })
}

/// Write-protects pages, or lifts the protection.
#[doc(alias = "mwriteprotect_range")]
pub fn writeprotect<T: Context>(
    context: &T,
    mm: &MmWithUser,
    start: usize,
    len: usize,
    enable: bool,
) -> Result {
    check(context, mm, &[start], len)?;
    // SAFETY: As in `copy`.
    to_result(unsafe {
        bindings::uffd_shim_writeprotect(context.header().as_raw(), start, len, enable)
    })
}

/// What an operation on a page that is there already has found.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Existing {
    /// It is mapped.
    Mapped,
    /// It is in the page cache, or was unmapped since.
    Unmapped,
}

/// Returns the page at `address`, about which an operation has just answered `EEXIST`, and the size
/// of the pages there, in bytes. Returns nothing if there is none: `EEXIST` may also stand for a
/// marker, or for a lack of huge pages.
///
/// Sleeps: it takes the mmap lock.
pub fn existing_at(mm: &MmWithUser, address: usize) -> Option<(Existing, usize)> {
    let mut size = 0;
    // SAFETY: The mm has users, and the size may be written to.
    match unsafe { bindings::uffd_shim_find_page(mm.as_raw(), address, &mut size) } {
        bindings::uffd_shim_page_UFFD_SHIM_PAGE_MAPPED => Some((Existing::Mapped, size)),
        bindings::uffd_shim_page_UFFD_SHIM_PAGE_UNMAPPED => Some((Existing::Unmapped, size)),
        _ => None,
    }
}
