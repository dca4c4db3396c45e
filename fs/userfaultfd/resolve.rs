// SPDX-License-Identifier: GPL-2.0

//! Operations on pages, and wake-ups.

use crate::{fill, protect, relocate};
use core::ops::Range;
use kernel::{
    error::Error,
    prelude::*,
    task::Sleepable,
    uaccess::UserPtr,
    uapi::{UFFD_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_WP},
    userfaultfd::{
        abi::{
            self, Answered, Request, UffdioContinue, UffdioCopy, UffdioMove, UffdioPoison,
            UffdioRange, UffdioWriteprotect, UffdioZeropage,
        },
        fault::Wakeup,
        pages::{Existing, Pages},
        range::{CopySource, PageRange},
        trace, Context,
    },
};

/// An operation that fills pages.
pub(crate) trait Fill: Answered {
    /// Where the pages come from.
    type Source;

    /// Returns the mode.
    fn mode(&self) -> u64;

    /// Checks the arguments, in the order of the C implementation. Returns the pages that are
    /// filled, and where they come from.
    ///
    /// # Errors
    ///
    /// `EINVAL`
    fn check(&self, context: &Context) -> Result<(PageRange, Self::Source)>;

    /// Returns what a thread that waits for one of the pages can do when this is done.
    fn wakeup(&self) -> Wakeup;

    /// Fills the pages, and returns the number of bytes that were done.
    ///
    /// # Errors
    ///
    /// Those of the operation in [`Pages`].
    fn run(&self, pages: &mut Pages<'_>, range: PageRange, source: Self::Source) -> Result<u64>;
}

/// An operation that fills pages and whose arguments are a range and a mode.
trait FillRange: Answered {
    /// The bits that the mode may have.
    const MODES: u64;

    fn range(&self) -> UffdioRange;

    fn mode(&self) -> u64;

    /// Returns what [`Fill::wakeup`] does.
    fn wakeup(&self) -> Wakeup;

    /// Fills the pages, as [`Fill::run`] does.
    fn run(&self, pages: &mut Pages<'_>, range: PageRange) -> Result<u64>;
}

impl<T: FillRange> Fill for T {
    type Source = ();

    #[inline(always)]
    fn mode(&self) -> u64 {
        FillRange::mode(self)
    }

    #[inline(always)]
    fn check(&self, context: &Context) -> Result<(PageRange, ())> {
        let range = PageRange::new(context, self.range())?;
        check_mode(FillRange::mode(self), T::MODES)?;
        Ok((range, ()))
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        FillRange::wakeup(self)
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange, (): ()) -> Result<u64> {
        FillRange::run(self, pages, range)
    }
}

/// Checks that there are no unknown bits in a mode.
#[inline(always)]
fn check_mode(mode: u64, known: u64) -> Result {
    if mode & !known != 0 {
        return Err(EINVAL);
    }
    Ok(())
}

impl Fill for UffdioCopy {
    type Source = CopySource;

    #[inline(always)]
    fn mode(&self) -> u64 {
        self.mode
    }

    #[inline(always)]
    fn check(&self, context: &Context) -> Result<(PageRange, CopySource)> {
        let (start, len) = (self.dst, self.len);
        let src = CopySource::new(context, self.src, len)?;
        let range = PageRange::new(context, UffdioRange { start, len })?;
        check_mode(self.mode, abi::MODE_DONTWAKE | abi::COPY_MODE_WP)?;
        Ok((range, src))
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        if self.mode & abi::COPY_MODE_WP == 0 {
            Wakeup::WRITE
        } else {
            Wakeup::READ
        }
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange, src: CopySource) -> Result<u64> {
        fill::copy(pages, range, src, self.mode & abi::COPY_MODE_WP != 0)
    }
}

impl Fill for UffdioMove {
    type Source = PageRange;

    #[inline(always)]
    fn mode(&self) -> u64 {
        self.mode
    }

    #[inline(always)]
    fn check(&self, context: &Context) -> Result<(PageRange, PageRange)> {
        // Pages move within an address space, by one of its own threads.
        if !current!()
            .mm()
            .is_some_and(|mm| core::ptr::eq(&**mm, context.mm()))
        {
            return Err(EINVAL);
        }
        let (dst, src, len) = (self.dst, self.src, self.len);
        let range = PageRange::new(context, UffdioRange { start: dst, len })?;
        let source = PageRange::new(context, UffdioRange { start: src, len })?;
        check_mode(
            self.mode,
            abi::MODE_DONTWAKE | abi::MOVE_MODE_ALLOW_SRC_HOLES,
        )?;
        Ok((range, source))
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        if self.mode & abi::MOVE_MODE_ALLOW_SRC_HOLES == 0 {
            Wakeup::WRITE
        } else {
            // There may be no page.
            Wakeup::LOOK_AGAIN
        }
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange, src: PageRange) -> Result<u64> {
        let allow_holes = self.mode & abi::MOVE_MODE_ALLOW_SRC_HOLES != 0;
        relocate::relocate(pages, range, src, allow_holes)
    }
}

impl FillRange for UffdioZeropage {
    const MODES: u64 = abi::MODE_DONTWAKE;

    #[inline(always)]
    fn range(&self) -> UffdioRange {
        self.range
    }

    #[inline(always)]
    fn mode(&self) -> u64 {
        self.mode
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        // A shared mapping gets a page of its own. Others get the zero page, of which a write makes
        // a copy.
        Wakeup::READ.or(Wakeup::WRITE_SHARED)
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange) -> Result<u64> {
        fill::zeropage(pages, range)
    }
}

impl FillRange for UffdioContinue {
    const MODES: u64 = abi::MODE_DONTWAKE | abi::CONTINUE_MODE_WP;

    #[inline(always)]
    fn range(&self) -> UffdioRange {
        self.range
    }

    #[inline(always)]
    fn mode(&self) -> u64 {
        self.mode
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        if self.mode & abi::CONTINUE_MODE_WP == 0 {
            // A write to a private mapping makes a copy of the page.
            Wakeup::READ.or(Wakeup::WRITE_SHARED)
        } else {
            Wakeup::READ
        }
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange) -> Result<u64> {
        fill::map_existing(pages, range, self.mode & abi::CONTINUE_MODE_WP != 0)
    }
}

impl FillRange for UffdioPoison {
    const MODES: u64 = abi::MODE_DONTWAKE;

    #[inline(always)]
    fn range(&self) -> UffdioRange {
        self.range
    }

    #[inline(always)]
    fn mode(&self) -> u64 {
        self.mode
    }

    #[inline(always)]
    fn wakeup(&self) -> Wakeup {
        // The fault finds out that the access fails.
        Wakeup::LOOK_AGAIN
    }

    #[inline(always)]
    fn run(&self, pages: &mut Pages<'_>, range: PageRange) -> Result<u64> {
        fill::poison(pages, range)
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
#[inline(never)]
pub(crate) fn run<T: Fill>(context: &Context, arg: UserPtr, sleep: &mut Sleepable) -> Result {
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
        return Err(failed(context, T::CMD, 0..0, EAGAIN, 0));
    }
    let request = T::read(arg)?;
    let (range, source) = request.check(context)?;

    let wakes = request.mode() & abi::MODE_DONTWAKE == 0;
    let done = {
        let Some(mut pages) = Pages::new(context, sleep) else {
            return Err(ESRCH);
        };
        request.run(&mut pages, range, source).map_err(|err| {
            let woken = if err == EEXIST && wakes {
                wake_existing(context, &mut pages, range)
            } else {
                0
            };
            failed(context, T::CMD, range.addresses(), err, woken)
        })
    };
    if let Err(err) = report(&done) {
        return Err(match done {
            Ok(_) => failed(context, T::CMD, range.addresses(), err, 0),
            // It was reported with its own error.
            Err(_) => err,
        });
    }

    let done = done?;
    succeeded(context, T::CMD, range, done, || {
        wakes.then(|| request.wakeup())
    });
    if done == range.bytes() as u64 {
        Ok(())
    } else {
        context.failures().count(EAGAIN);
        Err(EAGAIN)
    }
}

/// Ends an operation that has done a number of bytes, from the beginning of `range`. With a
/// wake-up, the threads that wait for them are woken.
#[inline(always)]
fn succeeded(
    context: &Context,
    cmd: u32,
    range: PageRange,
    done: u64,
    wakeup: impl Fn() -> Option<Wakeup>,
) {
    if trace::is_resolve_on() {
        return succeeded_traced(context, cmd, range, done, wakeup());
    }
    if let Some(wakeup) = wakeup() {
        wake_done(context, range, done, wakeup);
    }
}

#[cold]
fn succeeded_traced(
    context: &Context,
    cmd: u32,
    range: PageRange,
    done: u64,
    wakeup: Option<Wakeup>,
) {
    let woken = wakeup.map_or(0, |wakeup| wake_done(context, range, done, wakeup));
    trace::resolve(context, cmd, range.addresses(), Ok(done), woken);
}

#[inline(always)]
fn wake_done(context: &Context, range: PageRange, done: u64, wakeup: Wakeup) -> u64 {
    let start = range.start() as u64;
    let range = start..start.wrapping_add(done);
    context.waiters().wake(range, wakeup)
}

/// Counts and traces an operation that has failed. Returns its error.
#[cold]
fn failed(context: &Context, cmd: u32, range: Range<u64>, err: Error, woken: u64) -> Error {
    context.failures().count(err);
    trace::resolve(context, cmd, range, Err(err), woken);
    err
}

/// Wakes the threads that wait for the first page of `range`, if it exists. Returns their number.
#[cold]
fn wake_existing(context: &Context, pages: &mut Pages<'_>, range: PageRange) -> u64 {
    let Some((page, size)) = pages.existing_at(range) else {
        return 0;
    };
    let start = range.start() as u64;
    // A page that exists does not resolve faults on its protection, and no minor faults if it is
    // not mapped.
    let mut others = UFFD_PAGEFAULT_FLAG_WP;
    if page == Existing::Unmapped {
        others |= UFFD_PAGEFAULT_FLAG_MINOR;
    }
    context.waiters().wake_matching(
        start..start.saturating_add(size as u64),
        Wakeup::LOOK_AGAIN,
        |fault| fault.flags & u64::from(others) == 0,
    )
}

/// `UFFDIO_WRITEPROTECT`: write-protects pages; or lifts the protection, and wakes the threads that
/// wait for that.
///
/// # Errors
///
/// As for [`run`], without a report in the structure.
#[doc(alias = "userfaultfd_writeprotect")]
#[inline(never)]
pub(crate) fn writeprotect(context: &Context, arg: UserPtr, sleep: &mut Sleepable) -> Result {
    const CMD: u32 = UffdioWriteprotect::CMD;

    if context.mmap_changing() {
        return Err(failed(context, CMD, 0..0, EAGAIN, 0));
    }
    let request = UffdioWriteprotect::read(arg)?;
    let range = PageRange::new(context, request.range)?;
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
        let Some(mut pages) = Pages::new(context, sleep) else {
            return Err(ESRCH);
        };
        protect::write_protect(&mut pages, range, enable)
            .map_err(|err| failed(context, CMD, range.addresses(), err, 0))?;
    }
    succeeded(context, CMD, range, range.bytes() as u64, || {
        (!enable && wake).then_some(Wakeup::UNPROTECTED)
    });
    Ok(())
}

/// `UFFDIO_WAKE`: wakes the threads that sleep in faults in a range, resolved or not.
///
/// # Errors
///
/// `EFAULT` if the structure cannot be accessed, `EINVAL` for an invalid range.
#[doc(alias = "userfaultfd_wake")]
#[inline(never)]
pub(crate) fn wake(context: &Context, arg: UserPtr) -> Result {
    let range = PageRange::new(context, UffdioRange::read(arg)?)?;
    let bytes = range.bytes() as u64;
    succeeded(context, UffdioRange::CMD, range, bytes, || {
        Some(Wakeup::LOOK_AGAIN)
    });
    Ok(())
}
