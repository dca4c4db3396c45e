// SPDX-License-Identifier: GPL-2.0

//! Operations on pages, and wake-ups.

use crate::range::{self, Bounds};
use kernel::{
    error::Error,
    mm::MmWithUser,
    prelude::*,
    uaccess::UserPtr,
    uapi::{UFFD_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_WP},
    userfaultfd::{
        abi::{
            self, Answered, Request, UffdioContinue, UffdioCopy, UffdioMove, UffdioPoison,
            UffdioRange, UffdioWriteprotect, UffdioZeropage,
        },
        pages, Context,
    },
};

/// An operation that fills pages.
pub(crate) trait Fill: Answered {
    /// Returns the range of pages that are filled.
    fn target(&self) -> UffdioRange;

    /// Returns the mode.
    fn mode(&self) -> u64;

    /// Checks the arguments, in the order of the C implementation.
    ///
    /// # Errors
    ///
    /// `EINVAL`
    fn check(&self, context: &Context) -> Result;

    /// Fills the pages, and returns the number of bytes that were done.
    ///
    /// # Errors
    ///
    /// Those of the operation in [`pages`].
    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64>;
}

/// An operation that fills pages and whose arguments are a range and a mode.
trait FillRange: Answered {
    /// The bits that the mode may have.
    const MODES: u64;

    fn range(&self) -> UffdioRange;

    fn mode(&self) -> u64;

    /// Fills `len` bytes at `start`.
    fn run(&self, context: &Context, mm: &MmWithUser, start: usize, len: usize) -> Result<u64>;
}

impl<T: FillRange> Fill for T {
    fn target(&self) -> UffdioRange {
        self.range()
    }

    fn mode(&self) -> u64 {
        FillRange::mode(self)
    }

    fn check(&self, context: &Context) -> Result {
        range::check(context, self.range())?;
        check_mode(FillRange::mode(self), T::MODES)
    }

    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
        let UffdioRange { start, len } = self.range();
        FillRange::run(self, context, mm, addr(start), addr(len))
    }
}

/// Checks that there are no unknown bits in a mode.
fn check_mode(mode: u64, known: u64) -> Result {
    if mode & !known != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

/// Returns an address or length that was checked against the bounds of user space, in bytes.
fn addr(addr: u64) -> usize {
    // CAST: Addresses in user space fit.
    addr as usize
}

impl Fill for UffdioCopy {
    fn target(&self) -> UffdioRange {
        UffdioRange {
            start: self.dst,
            len: self.len,
        }
    }

    fn mode(&self) -> u64 {
        self.mode
    }

    fn check(&self, context: &Context) -> Result {
        let bounds = Bounds::of(context);
        bounds.check_unaligned(self.src, self.len)?;
        bounds.check(self.dst, self.len)?;
        check_mode(self.mode, abi::MODE_DONTWAKE | abi::COPY_MODE_WP)
    }

    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
        let (dst, src, len) = (addr(self.dst), addr(self.src), addr(self.len));
        pages::mfill_copy(
            context,
            mm,
            dst,
            src,
            len,
            self.mode & abi::COPY_MODE_WP != 0,
        )
    }
}

impl Fill for UffdioMove {
    fn target(&self) -> UffdioRange {
        UffdioRange {
            start: self.dst,
            len: self.len,
        }
    }

    fn mode(&self) -> u64 {
        self.mode
    }

    fn check(&self, context: &Context) -> Result {
        // Pages move within an address space, by one of its own threads.
        if !current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(&**mm, context.mm()))
        {
            return Err(EINVAL);
        }
        let bounds = Bounds::of(context);
        bounds.check(self.dst, self.len)?;
        bounds.check(self.src, self.len)?;
        check_mode(
            self.mode,
            abi::MODE_DONTWAKE | abi::MOVE_MODE_ALLOW_SRC_HOLES,
        )
    }

    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
        let (dst, src, len) = (addr(self.dst), addr(self.src), addr(self.len));
        pages::move_pages(context, mm, dst, src, len, self.mode)
    }
}

impl FillRange for UffdioZeropage {
    const MODES: u64 = abi::MODE_DONTWAKE;

    fn range(&self) -> UffdioRange {
        self.range
    }

    fn mode(&self) -> u64 {
        self.mode
    }

    fn run(&self, context: &Context, mm: &MmWithUser, start: usize, len: usize) -> Result<u64> {
        pages::mfill_zeropage(context, mm, start, len)
    }
}

impl FillRange for UffdioContinue {
    const MODES: u64 = abi::MODE_DONTWAKE | abi::CONTINUE_MODE_WP;

    fn range(&self) -> UffdioRange {
        self.range
    }

    fn mode(&self) -> u64 {
        self.mode
    }

    fn run(&self, context: &Context, mm: &MmWithUser, start: usize, len: usize) -> Result<u64> {
        pages::mfill_continue(
            context,
            mm,
            start,
            len,
            self.mode & abi::CONTINUE_MODE_WP != 0,
        )
    }
}

impl FillRange for UffdioPoison {
    const MODES: u64 = abi::MODE_DONTWAKE;

    fn range(&self) -> UffdioRange {
        self.range
    }

    fn mode(&self) -> u64 {
        self.mode
    }

    fn run(&self, context: &Context, mm: &MmWithUser, start: usize, len: usize) -> Result<u64> {
        pages::mfill_poison(context, mm, start, len)
    }
}

/// `UFFDIO_COPY` and the other operations that fill pages: fills them, reports the number of bytes
/// that were done or why none were, and wakes the threads that wait for them.
///
/// If the first page exists already, the threads that wait for it are woken as well, because the
/// operation that filled it may have left them asleep, or raced with them.
///
/// # Errors
///
/// `EAGAIN` while the mappings change, or if not all was done; `ESRCH` if the process is gone;
/// `EFAULT` if the structure cannot be accessed; `EINVAL` for invalid arguments; or the error of
/// the operation.
#[doc(alias = "userfaultfd_copy")]
#[doc(alias = "userfaultfd_zeropage")]
#[doc(alias = "userfaultfd_continue")]
#[doc(alias = "userfaultfd_poison")]
#[doc(alias = "userfaultfd_move")]
pub(crate) fn fill<T: Fill>(context: &Context, arg: UserPtr) -> Result {
    let report = |done: &Result<u64>| {
        T::answer(
            arg,
            match done {
                Ok(bytes) => *bytes,
                // CAST: The field is signed.
                Err(err) => i64::from(Error::to_errno(*err)) as u64,
            },
        )
    };

    if context.mmap_changing() {
        report(&Err(EAGAIN))?;
        return Err(EAGAIN);
    }
    let request = T::read(arg)?;
    request.check(context)?;

    let UffdioRange { start, len } = request.target();
    let wakes = request.mode() & abi::MODE_DONTWAKE == 0;
    let done = {
        let mm = context.mm().mmget_not_zero().ok_or(ESRCH)?;
        let done = request.run(context, &mm);
        if done == Err(EEXIST) && wakes {
            wake_existing(context, &mm, start);
        }
        done
    };
    report(&done)?;

    let done = done?;
    if wakes {
        context.waiters().wake(start..start.saturating_add(done));
    }
    if done == len {
        Ok(())
    } else {
        Err(EAGAIN)
    }
}

/// Wakes the threads that wait for the page at `start`, if it exists.
#[cold]
fn wake_existing(context: &Context, mm: &MmWithUser, start: u64) {
    let Some((page, size)) = pages::existing_at(mm, addr(start)) else {
        return;
    };
    let range = start..start.saturating_add(size as u64);
    // A page that exists does not resolve faults on its protection, and no minor faults if it is
    // not mapped.
    let mut others = UFFD_PAGEFAULT_FLAG_WP;
    if page == pages::Existing::Unmapped {
        others |= UFFD_PAGEFAULT_FLAG_MINOR;
    }
    context
        .waiters()
        .wake_matching(range, |fault| fault.flags & u64::from(others) == 0);
}

/// `UFFDIO_WRITEPROTECT`: write-protects pages; or lifts the protection, and wakes the threads that
/// wait for that.
///
/// # Errors
///
/// As for [`fill`], without a report in the structure.
#[doc(alias = "userfaultfd_writeprotect")]
pub(crate) fn writeprotect(context: &Context, arg: UserPtr) -> Result {
    if context.mmap_changing() {
        return Err(EAGAIN);
    }
    let request = UffdioWriteprotect::read(arg)?;
    let (start, end) = range::check(context, request.range)?;
    check_mode(
        request.mode,
        abi::WRITEPROTECT_MODE_DONTWAKE | abi::WRITEPROTECT_MODE_WP,
    )?;
    let enable = request.mode & abi::WRITEPROTECT_MODE_WP != 0;
    let wake = request.mode & abi::WRITEPROTECT_MODE_DONTWAKE == 0;
    if enable && !wake {
        // A protection wakes no thread.
        return Err(EINVAL);
    }

    {
        let mm = context.mm().mmget_not_zero().ok_or(ESRCH)?;
        pages::mwriteprotect(context, &mm, start, end - start, enable)?;
    }
    if !enable && wake {
        context.waiters().wake(start as u64..end as u64);
    }
    Ok(())
}

/// `UFFDIO_WAKE`: wakes the threads that sleep in faults in a range, resolved or not.
///
/// # Errors
///
/// `EFAULT` if the structure cannot be accessed, `EINVAL` for an invalid range.
#[doc(alias = "userfaultfd_wake")]
pub(crate) fn wake(context: &Context, arg: UserPtr) -> Result {
    let (start, end) = range::check(context, UffdioRange::read(arg)?)?;
    context.waiters().wake(start as u64..end as u64);
    Ok(())
}
