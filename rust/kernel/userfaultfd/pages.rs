// SPDX-License-Identifier: GPL-2.0

//! Operations on the pages of registered VMAs.
//!
//! Each takes the context whose VMAs it works on and a proof that the address space of the context
//! has users. Addresses and lengths are in bytes. Operations that fill pages return the number of
//! bytes that were done, which may be smaller than asked for. All of them sleep, because they take
//! the mmap lock or a VMA lock.
//!
//! They fail with `EAGAIN` while [`Context::mmap_changing`] returns true, with `EINVAL` if the
//! address space is not that of the context or a range is not one of whole pages, and otherwise as
//! the pages of the operations in `ioctl_userfaultfd(2)` say.

use super::context::Context;
use crate::{
    bindings,
    error::{code::EINVAL, to_result, Error, Result},
    mm::MmWithUser,
    page::PAGE_MASK,
};

/// Checks what the functions of mm rely on: that the address space is that of the context, and that
/// ranges are of whole pages and do not wrap around.
///
/// Callers have checked this before, with the errors of the interface. It is checked again because
/// the functions below are safe.
#[inline]
fn check(context: &Context, mm: &MmWithUser, starts: &[usize], len: usize) -> Result {
    let is_range = |start: usize| {
        (start | len) & !PAGE_MASK == 0 && len != 0 && start.checked_add(len).is_some()
    };
    if !core::ptr::eq(&**mm, context.mm()) || !starts.iter().all(|start| is_range(*start)) {
        return Err(EINVAL);
    }
    Ok(())
}

/// Turns a number of bytes or a negative errno into a result.
#[inline]
fn bytes(ret: isize) -> Result<u64> {
    match u64::try_from(ret) {
        Ok(bytes) => Ok(bytes),
        // CAST: An errno fits.
        Err(_) => Err(Error::from_errno(ret as i32)),
    }
}

/// Fills pages at `dst` with the contents of the caller's memory at `src`, write-protected if `wp`.
#[doc(alias = "mfill_atomic_copy")]
#[inline]
pub fn mfill_copy(
    context: &Context,
    mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: The context is valid, its mm has users, and the range makes sense.
    bytes(unsafe { bindings::uffd_shim_copy(context.as_raw(), dst, src, len, wp) })
}

/// Fills pages at `dst` with zeroes.
#[doc(alias = "mfill_atomic_zeropage")]
#[inline]
pub fn mfill_zeropage(context: &Context, mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `mfill_copy`.
    bytes(unsafe { bindings::uffd_shim_zeropage(context.as_raw(), dst, len) })
}

/// Maps pages at `dst` that are in the page cache already, write-protected if `wp`.
#[doc(alias = "mfill_atomic_continue")]
#[inline]
pub fn mfill_continue(
    context: &Context,
    mm: &MmWithUser,
    dst: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `mfill_copy`.
    bytes(unsafe { bindings::uffd_shim_continue(context.as_raw(), dst, len, wp) })
}

/// Makes accesses to the pages at `dst` fail.
#[doc(alias = "mfill_atomic_poison")]
#[inline]
pub fn mfill_poison(context: &Context, mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    check(context, mm, &[dst], len)?;
    // SAFETY: As in `mfill_copy`.
    bytes(unsafe { bindings::uffd_shim_poison(context.as_raw(), dst, len) })
}

/// Moves pages from `src` to `dst` within the address space. `mode` is that of `UFFDIO_MOVE`.
#[inline]
pub fn move_pages(
    context: &Context,
    mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    mode: u64,
) -> Result<u64> {
    check(context, mm, &[dst, src], len)?;
    // SAFETY: As in `mfill_copy`.
    bytes(unsafe { bindings::uffd_shim_move(context.as_raw(), dst, src, len, mode) })
}

/// Write-protects pages if `enable`, otherwise lifts the protection.
#[doc(alias = "mwriteprotect_range")]
#[inline]
pub fn mwriteprotect(
    context: &Context,
    mm: &MmWithUser,
    start: usize,
    len: usize,
    enable: bool,
) -> Result {
    check(context, mm, &[start], len)?;
    // SAFETY: As in `mfill_copy`.
    to_result(unsafe { bindings::uffd_shim_writeprotect(context.as_raw(), start, len, enable) })
}

/// What an operation that failed with `EEXIST` has found.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Existing {
    /// A page that is mapped.
    Mapped,
    /// A page that is in the page cache, or was unmapped since.
    Unmapped,
}

/// Returns what exists at `address`, for which an operation has just failed with `EEXIST`, and the
/// size of the pages there, in bytes. Returns `None` if there is no page, because `EEXIST` may also
/// stand for a marker, or for a lack of huge pages.
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
