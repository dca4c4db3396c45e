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
    error::{to_result, Error, Result},
    mm::MmWithUser,
};

/// Turns a count of bytes or negative errno into a result.
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
    _mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    // SAFETY: The context is valid and its mm has users; the function checks the range itself.
    bytes(unsafe { bindings::uffd_shim_copy(context.header().as_raw(), dst, src, len, wp) })
}

/// Fills pages at `dst` with zeroes.
#[doc(alias = "mfill_atomic_zeropage")]
pub fn zeropage<T: Context>(context: &T, _mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_zeropage(context.header().as_raw(), dst, len) })
}

/// Maps pages at `dst` that are in the page cache already, write-protected where `wp` says so.
#[doc(alias = "mfill_atomic_continue")]
pub fn resume<T: Context>(
    context: &T,
    _mm: &MmWithUser,
    dst: usize,
    len: usize,
    wp: bool,
) -> Result<u64> {
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_continue(context.header().as_raw(), dst, len, wp) })
}

/// Makes access to the pages at `dst` fail.
#[doc(alias = "mfill_atomic_poison")]
pub fn poison<T: Context>(context: &T, _mm: &MmWithUser, dst: usize, len: usize) -> Result<u64> {
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_poison(context.header().as_raw(), dst, len) })
}

/// Moves pages from `src` to `dst` within the address space. `mode` is that of `UFFDIO_MOVE`.
#[doc(alias = "move_pages")]
pub fn relocate<T: Context>(
    context: &T,
    _mm: &MmWithUser,
    dst: usize,
    src: usize,
    len: usize,
    mode: u64,
) -> Result<u64> {
    // SAFETY: As in `copy`.
    bytes(unsafe { bindings::uffd_shim_move(context.header().as_raw(), dst, src, len, mode) })
}

/// Write-protects pages, or lifts the protection.
#[doc(alias = "mwriteprotect_range")]
pub fn writeprotect<T: Context>(
    context: &T,
    _mm: &MmWithUser,
    start: usize,
    len: usize,
    enable: bool,
) -> Result {
    // SAFETY: As in `copy`.
    to_result(unsafe {
        bindings::uffd_shim_writeprotect(context.header().as_raw(), start, len, enable)
    })
}
