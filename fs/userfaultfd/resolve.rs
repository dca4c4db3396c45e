// SPDX-License-Identifier: GPL-2.0

//! Operations on pages, and wake-ups.

use crate::{context::Context, range::Bounds};
use kernel::{
    error::Error,
    mm::MmWithUser,
    prelude::*,
    uaccess::UserPtr,
    uapi::{UFFD_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_WP},
    userfaultfd::{
        limits, pages,
        uapi::{
            self, Answered, Continue, Copy, Move, Poison, Range, Request, Writeprotect, Zeropage,
        },
    },
};

impl Bounds {
    /// Returns the bounds for the address space of a context.
    fn of(context: &Context) -> Self {
        Self {
            max: limits::task_size(context.mm()),
        }
    }
}

/// Checks that a range is of whole pages and in user space, and returns its first address and the
/// one after its last.
///
/// # Errors
///
/// `EINVAL`
pub(crate) fn check_range(context: &Context, range: Range) -> Result<(usize, usize)> {
    Bounds::of(context).check(range.start, range.len)?;
    // CAST: Addresses in user space fit.
    Ok((range.start as usize, (range.start + range.len) as usize))
}

/// An operation that fills pages.
pub(crate) trait Fill: Answered {
    /// Where pages are filled.
    fn target(&self) -> Range;

    /// The mode, in which [`uapi::MODE_DONTWAKE`] is the same for all.
    fn mode(&self) -> u64;

    /// Checks the arguments, in the order of the C implementation.
    ///
    /// # Errors
    ///
    /// `EINVAL`
    fn check(&self, context: &Context) -> Result;

    /// Fills the pages, and returns how many bytes were done.
    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64>;
}

/// Checks that there are no unknown bits in a mode.
fn check_mode(mode: u64, known: u64) -> Result {
    if mode & !known != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

impl Fill for Copy {
    fn target(&self) -> Range {
        Range {
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
        check_mode(self.mode, uapi::MODE_DONTWAKE | uapi::MODE_WP)
    }

    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
        let wp = self.mode & uapi::MODE_WP != 0;
        pages::copy(
            context,
            mm,
            self.dst as usize,
            self.src as usize,
            self.len as usize,
            wp,
        )
    }
}

impl Fill for Move {
    fn target(&self) -> Range {
        Range {
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
            uapi::MODE_DONTWAKE | uapi::MOVE_MODE_ALLOW_SRC_HOLES,
        )
    }

    fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
        pages::relocate(
            context,
            mm,
            self.dst as usize,
            self.src as usize,
            self.len as usize,
            self.mode,
        )
    }
}

/// Implements [`Fill`] for a structure that has a range and a mode.
macro_rules! fill_range {
    ($ty:ty, $known:expr, $run:expr) => {
        impl Fill for $ty {
            fn target(&self) -> Range {
                self.range
            }

            fn mode(&self) -> u64 {
                self.mode
            }

            fn check(&self, context: &Context) -> Result {
                check_range(context, self.range)?;
                check_mode(self.mode, $known)
            }

            fn run(&self, context: &Context, mm: &MmWithUser) -> Result<u64> {
                let run: fn(&Context, &MmWithUser, usize, usize, u64) -> Result<u64> = $run;
                run(
                    context,
                    mm,
                    self.range.start as usize,
                    self.range.len as usize,
                    self.mode,
                )
            }
        }
    };
}

fill_range!(
    Zeropage,
    uapi::MODE_DONTWAKE,
    |context, mm, start, len, _| { pages::zeropage(context, mm, start, len) }
);

fill_range!(
    Continue,
    uapi::MODE_DONTWAKE | uapi::MODE_WP,
    |context, mm, start, len, mode| {
        pages::resume(context, mm, start, len, mode & uapi::MODE_WP != 0)
    }
);

fill_range!(
    Poison,
    uapi::MODE_DONTWAKE,
    |context, mm, start, len, _| { pages::poison(context, mm, start, len) }
);

/// `UFFDIO_COPY` and the other operations that fill pages: fill them, answer how many bytes were
/// done or why none were, and wake the threads that wait for them.
///
/// If the first page is there already, the threads that wait for it are woken as well: whoever put
/// it there may have left them asleep, or raced with them.
///
/// # Errors
///
/// `EAGAIN` while the mappings change, or where not all was done; `ESRCH` where the process is
/// gone; `EFAULT` where the structure cannot be accessed; `EINVAL` for arguments that make no
/// sense; or what the operation answers.
pub(crate) fn fill<T: Fill>(context: &Context, arg: UserPtr) -> Result {
    let answer = |done: &Result<u64>| {
        let answer = match done {
            Ok(bytes) => *bytes,
            // CAST: The field is signed.
            Err(err) => i64::from(Error::to_errno(*err)) as u64,
        };
        T::answer(arg, answer)
    };

    if context.header().mmap_changing() {
        answer(&Err(EAGAIN))?;
        return Err(EAGAIN);
    }
    let request = T::read(arg)?;
    request.check(context)?;

    let Range { start, len } = request.target();
    let wakes = request.mode() & uapi::MODE_DONTWAKE == 0;
    let done = {
        let mm = context.mm().mmget_not_zero().ok_or(ESRCH)?;
        let done = request.run(context, &mm);
        if done == Err(EEXIST) && wakes {
            wake_existing(context, &mm, start);
        }
        done
    };
    answer(&done)?;

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

/// Wakes the threads that wait for the page that begins at `start`, if it is there.
#[cold]
fn wake_existing(context: &Context, mm: &MmWithUser, start: u64) {
    let Some((page, size)) = pages::existing_at(mm, start as usize) else {
        return;
    };
    let range = start..start.saturating_add(size as u64);
    // A page that is there does not resolve faults on its protection, and one that is not mapped no
    // minor faults.
    let mut others = UFFD_PAGEFAULT_FLAG_WP;
    if page == pages::Existing::Unmapped {
        others |= UFFD_PAGEFAULT_FLAG_MINOR;
    }
    context
        .waiters()
        .wake_those(range, |fault| fault.flags & u64::from(others) == 0);
}

/// `UFFDIO_WRITEPROTECT`: protect pages against writing; or lift the protection, and wake the
/// threads that wait for that.
///
/// # Errors
///
/// As for [`fill`], without an answer in the structure.
pub(crate) fn writeprotect(context: &Context, arg: UserPtr) -> Result {
    if context.header().mmap_changing() {
        return Err(EAGAIN);
    }
    let request = Writeprotect::read(arg)?;
    let (start, end) = check_range(context, request.range)?;
    check_mode(
        request.mode,
        uapi::WRITEPROTECT_MODE_DONTWAKE | uapi::WRITEPROTECT_MODE_WP,
    )?;
    let enable = request.mode & uapi::WRITEPROTECT_MODE_WP != 0;
    let wake = request.mode & uapi::WRITEPROTECT_MODE_DONTWAKE == 0;
    if enable && !wake {
        // Nobody is woken by a protection.
        return Err(EINVAL);
    }

    {
        let mm = context.mm().mmget_not_zero().ok_or(ESRCH)?;
        pages::writeprotect(context, &mm, start, end - start, enable)?;
    }
    if !enable && wake {
        context.waiters().wake(start as u64..end as u64);
    }
    Ok(())
}

/// `UFFDIO_WAKE`: wake the threads that sleep in faults in a range, whether or not something was
/// done about them.
///
/// # Errors
///
/// `EFAULT` where the structure cannot be accessed, `EINVAL` for a range that makes no sense.
pub(crate) fn wake(context: &Context, arg: UserPtr) -> Result {
    let (start, end) = check_range(context, Range::read(arg)?)?;
    context.waiters().wake(start as u64..end as u64);
    Ok(())
}
