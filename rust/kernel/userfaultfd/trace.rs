// SPDX-License-Identifier: GPL-2.0

//! Tracepoints. While they are off, each costs an instruction where it is.
//!
//! C header: [`include/trace/events/userfaultfd.h`](srctree/include/trace/events/userfaultfd.h)

use super::{
    message::{Message, PageFault},
    waitset::WaitSet,
    Context,
};
use crate::{
    bindings,
    ioctl::_IOC_NR,
    prelude::*,
    task::Task,
    time::{self, jiffies, jiffies_to_msecs, Instant, Jiffies, Monotonic},
    uapi,
};
use core::{ffi::c_void, ops::Range};

/// The tracepoints. Each records what it is given, and does not use the pointer, so all of them are
/// safe to call.
#[allow(clippy::macro_metavars_in_unsafe, clippy::missing_safety_doc)]
mod points {
    /// What tells one descriptor from others.
    type Ctx = *const core::ffi::c_void;

    crate::declare_trace! {
        pub(super) unsafe fn userfaultfd_create(ctx: Ctx);
        pub(super) unsafe fn userfaultfd_release(ctx: Ctx);
        pub(super) unsafe fn userfaultfd_register(
            ctx: Ctx, start: u64, len: u64, mode: u64, ret: i32,
        );
        pub(super) unsafe fn userfaultfd_unregister(ctx: Ctx, start: u64, len: u64, ret: i32);
        pub(super) unsafe fn userfaultfd_fault(ctx: Ctx, address: u64, flags: u64);
        pub(super) unsafe fn userfaultfd_fault_end(
            ctx: Ctx, address: u64, flags: u64, why: u32, slept: u64,
        );
        pub(super) unsafe fn userfaultfd_event(ctx: Ctx, event: u32, start: u64, end: u64);
        pub(super) unsafe fn userfaultfd_event_end(ctx: Ctx, event: u32, why: u32, slept: u64);
        pub(super) unsafe fn userfaultfd_read(
            ctx: Ctx, event: u32, address: u64, tid: i32, queued: u64,
        );
        pub(super) unsafe fn userfaultfd_resolve(
            ctx: Ctx, operation: u32, start: u64, len: u64, done: i64, woken: u64,
        );
    }
}

/// Why a thread goes on that slept, or was about to.
#[derive(Copy, Clone, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Why {
    /// The waker has put in place what the access needs, as it says.
    Resolved = bindings::uffd_trace_why_UFFD_TRACE_RESOLVED,
    /// The waker wants it to look again.
    Woken = bindings::uffd_trace_why_UFFD_TRACE_WOKEN,
    /// A signal is pending.
    Interrupted = bindings::uffd_trace_why_UFFD_TRACE_INTERRUPTED,
    /// There was no reason to sleep any more.
    Unneeded = bindings::uffd_trace_why_UFFD_TRACE_UNNEEDED,
    /// Its event was read.
    Read = bindings::uffd_trace_why_UFFD_TRACE_READ,
    /// No thread is going to read its event.
    Abandoned = bindings::uffd_trace_why_UFFD_TRACE_ABANDONED,
}

/// When a thread began to wait: in nanoseconds of the monotonic clock if a tracepoint that tells
/// the time was on, and in jiffies otherwise, because the clock costs more.
#[derive(Copy, Clone)]
pub(super) struct Since(u64);

impl Since {
    /// Neither of the two gets so large.
    const NANOSECONDS: u64 = 1 << 63;

    /// Returns the time now, in jiffies.
    #[inline(always)]
    pub(super) fn in_jiffies() -> Self {
        // CAST: It is at most as long.
        Self(jiffies() as u64)
    }

    /// Returns the time now, in nanoseconds.
    fn in_nanoseconds() -> Self {
        Self(nanoseconds() | Self::NANOSECONDS)
    }

    /// Returns the time since then in nanoseconds, or zero if it is not known that well.
    fn elapsed(self) -> u64 {
        if self.0 & Self::NANOSECONDS == 0 {
            return 0;
        }
        nanoseconds().saturating_sub(self.0 & !Self::NANOSECONDS)
    }

    /// Returns the time since then in milliseconds.
    pub(super) fn elapsed_ms(self) -> u64 {
        if self.0 & Self::NANOSECONDS == 0 {
            // CAST: It was so long before.
            return jiffies_to_msecs(jiffies().wrapping_sub(self.0 as Jiffies)).into();
        }
        self.elapsed() / NSEC_PER_MSEC
    }
}

const NSEC_PER_MSEC: u64 = time::NSEC_PER_MSEC as u64;

/// Returns the time of the monotonic clock.
fn nanoseconds() -> u64 {
    // CAST: It is not negative.
    Instant::<Monotonic>::now().as_nanos() as u64
}

/// Returns true if a tracepoint that tells the time is on.
#[inline(always)]
pub(super) fn is_timed() -> bool {
    // SAFETY: It is a static key of C.
    #[cfg(CONFIG_TRACEPOINTS)]
    unsafe {
        crate::jump_label::static_branch_unlikely!(
            bindings::uffd_trace_keys,
            bindings::uffd_trace_keys,
            timed
        )
    }
    #[cfg(not(CONFIG_TRACEPOINTS))]
    false
}

/// Returns true if [`resolve`] reports something.
#[inline(always)]
pub fn is_resolve_on() -> bool {
    // SAFETY: It is a static key of C.
    #[cfg(CONFIG_TRACEPOINTS)]
    unsafe {
        crate::jump_label::static_branch_unlikely!(
            bindings::__tracepoint_userfaultfd_resolve,
            bindings::tracepoint,
            key
        )
    }
    #[cfg(not(CONFIG_TRACEPOINTS))]
    false
}

/// Returns the address of the context of a wait set, which tells it from others.
fn id(set: &WaitSet) -> *const c_void {
    core::ptr::from_ref(set)
        .wrapping_byte_sub(Context::WAITERS_OFFSET)
        .cast()
}

/// A descriptor is about to be installed, or the child of a fork has a context that is to have one.
pub(super) fn create(context: &Context) {
    // SAFETY: The pointer is recorded, and not used.
    unsafe { points::userfaultfd_create(id(context.waiters())) };
}

/// The file of a descriptor is released, or no thread is going to read the event of a fork.
pub(super) fn release(context: &Context) {
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_release(id(context.waiters())) };
}

/// A range of addresses was registered, or not. `mode` is that of `UFFDIO_REGISTER`.
pub fn register(context: &Context, range: Range<u64>, mode: u64, done: Result) {
    let (id, len) = (id(context.waiters()), range.end - range.start);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_register(id, range.start, len, mode, errno(done)) };
}

/// A range of addresses was unregistered, or not.
pub fn unregister(context: &Context, range: Range<u64>, done: Result) {
    let (id, len) = (id(context.waiters()), range.end - range.start);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_unregister(id, range.start, len, errno(done)) };
}

fn errno(done: Result) -> i32 {
    done.err().map_or(0, Error::to_errno)
}

/// The current thread is about to sleep in a fault. Returns the time.
#[cold]
pub(super) fn fault(set: &WaitSet, address: u64, flags: u64) -> Since {
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_fault(id(set), address, flags) };
    Since::in_nanoseconds()
}

/// The current thread ends a fault.
pub(super) fn fault_end(set: &WaitSet, message: &PageFault, why: Why, since: Since) {
    let (address, flags) = (message.address, message.flags);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_fault_end(id(set), address, flags, why as u32, since.elapsed()) };
}

/// The current thread is about to wait until its event is read. `message` is `None` for a fork.
pub(super) fn event(set: &WaitSet, message: Option<&Message>) -> Since {
    if !is_timed() {
        return Since::in_jiffies();
    }
    let (event, start, end) = range_of(message);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_event(id(set), event, start, end) };
    Since::in_nanoseconds()
}

/// The current thread waits for its event no longer.
pub(super) fn event_end(set: &WaitSet, message: Option<&Message>, why: Why, since: Since) {
    let (event, ..) = range_of(message);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_event_end(id(set), event, why as u32, since.elapsed()) };
}

/// A message was delivered. `tid` is the thread that it is about, in the first namespace.
pub(super) fn read(set: &WaitSet, message: Option<&Message>, task: &Task, since: Since) {
    let (event, address, _) = range_of(message);
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_read(id(set), event, address, task.pid(), since.elapsed()) };
}

/// Returns the kind of a message, and the range that it is about. For a move that is the new one.
fn range_of(message: Option<&Message>) -> (u32, u64, u64) {
    match message.copied() {
        Some(Message::PageFault(fault)) => (uapi::UFFD_EVENT_PAGEFAULT, fault.address, 0),
        None | Some(Message::Fork { .. }) => (uapi::UFFD_EVENT_FORK, 0, 0),
        Some(Message::Remap { to, len, .. }) => (uapi::UFFD_EVENT_REMAP, to, to.wrapping_add(len)),
        Some(Message::Remove { start, end }) => (uapi::UFFD_EVENT_REMOVE, start, end),
        Some(Message::Unmap { start, end }) => (uapi::UFFD_EVENT_UNMAP, start, end),
    }
}

/// An operation on a range of addresses is done: `cmd` is that of its ioctl, `done` the number of
/// bytes, and `woken` the number of threads that were woken.
pub fn resolve(context: &Context, cmd: u32, range: Range<u64>, done: Result<u64>, woken: u64) {
    let (start, len) = (range.start, range.end.wrapping_sub(range.start));
    let done = match done {
        // CAST: The number of bytes fits.
        Ok(bytes) => bytes as i64,
        Err(err) => err.to_errno().into(),
    };
    let (id, operation) = (id(context.waiters()), _IOC_NR(cmd));
    // SAFETY: As in `create`.
    unsafe { points::userfaultfd_resolve(id, operation, start, len, done, woken) };
}
