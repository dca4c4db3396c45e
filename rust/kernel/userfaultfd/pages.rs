// SPDX-License-Identifier: GPL-2.0

//! Operations on the pages of registered VMAs.
//!
//! Moves and protection are here, and C as a whole. What fills pages is made of the parts that
//! [`target`](super::target) has. All may sleep, because they take the mmap lock or a VMA lock.
//!
//! They fail with `EAGAIN` while [`Context::mmap_changing`] returns true, and otherwise as the
//! pages of the operations in `ioctl_userfaultfd(2)` say.

use super::{context::Context, range::PageRange};
use crate::{
    bindings,
    error::{code::EINVAL, to_result, Error, Result},
    mm::MmWithUser,
    sync::aref::ARef,
    task::Sleepable,
};

/// The pages of the address space of a context, while it has users.
///
/// # Invariants
///
/// `mm` is that of the context.
pub struct Pages<'a> {
    pub(super) context: &'a Context,
    pub(super) mm: ARef<MmWithUser>,
    pub(super) sleep: &'a mut Sleepable,
}

/// Turns a number of bytes or a negative errno into a result.
#[inline(always)]
fn bytes(ret: isize) -> Result<u64> {
    match u64::try_from(ret) {
        Ok(bytes) => Ok(bytes),
        // CAST: An errno fits.
        Err(_) => Err(Error::from_errno(ret as i32)),
    }
}

impl<'a> Pages<'a> {
    /// Returns the pages of a context, or `None` if the address space has no users any more.
    #[inline(always)]
    pub fn new(context: &'a Context, sleep: &'a mut Sleepable) -> Option<Self> {
        let mm = context.mm().mmget_not_zero()?;
        // INVARIANT: It is the mm of the context.
        Some(Self { context, mm, sleep })
    }

    /// Moves pages from `src` within the address space. `mode` is that of `UFFDIO_MOVE`. Returns
    /// the number of bytes that were done. Fails with `EINVAL` if `src` is not as long as `range`.
    #[doc(alias = "move_pages")]
    #[inline(always)]
    pub fn move_from(&mut self, range: PageRange, src: PageRange, mode: u64) -> Result<u64> {
        let (ctx, start, len) = (self.context.as_raw(), range.start(), range.bytes());
        if src.bytes() != len {
            return Err(EINVAL);
        }
        // SAFETY: The context is valid, and by the type invariants its mm has users.
        bytes(unsafe { bindings::uffd_shim_move(ctx, start, src.start(), len, mode) })
    }

    /// Write-protects pages if `enable`, otherwise lifts the protection.
    #[doc(alias = "mwriteprotect_range")]
    #[inline(always)]
    pub fn write_protect(&mut self, range: PageRange, enable: bool) -> Result {
        let (ctx, start, len) = (self.context.as_raw(), range.start(), range.bytes());
        // SAFETY: As in `move_from`.
        match unsafe { bindings::uffd_shim_writeprotect(ctx, start, len, enable) } {
            0 => Ok(()),
            ret => to_result(ret),
        }
    }

    /// Returns what exists at the beginning of `range`, for which an operation has just failed with
    /// `EEXIST`, and the size of the pages there, in bytes. Returns `None` if there is no page,
    /// because `EEXIST` may also stand for a marker, or for a lack of huge pages.
    pub fn existing_at(&mut self, range: PageRange) -> Option<(Existing, usize)> {
        let mut size = 0;
        let (mm, start) = (self.mm.as_raw(), range.start());
        // SAFETY: The mm has users, and the size may be written to.
        match unsafe { bindings::uffd_shim_find_page(mm, start, &mut size) } {
            bindings::uffd_shim_page_UFFD_SHIM_PAGE_MAPPED => Some((Existing::Mapped, size)),
            bindings::uffd_shim_page_UFFD_SHIM_PAGE_UNMAPPED => Some((Existing::Unmapped, size)),
            _ => None,
        }
    }
}

/// What an operation that failed with `EEXIST` has found.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum Existing {
    /// A page that is mapped.
    Mapped,
    /// A page that is in the page cache, or was unmapped since.
    Unmapped,
}
