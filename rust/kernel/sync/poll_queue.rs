// SPDX-License-Identifier: GPL-2.0

//! Wait queues for the pollers of a file.
//!
//! C header: [`include/linux/poll.h`](srctree/include/linux/poll.h)

use crate::{bindings, prelude::*, sync::LockClassKey, task::TASK_NORMAL, types::Opaque};
use core::marker::PhantomPinned;

/// A wait queue for the pollers of a file, woken with the events that happened.
///
/// Unlike [`PollCondVar`](super::poll::PollCondVar) it passes the events on, so that pollers that
/// wait for others stay asleep; and it may be dropped in a context that must not sleep. In
/// exchange, only the file abstractions of this crate can register it: they guarantee that it
/// outlives the file.
#[pin_data]
pub struct PollQueue {
    #[pin]
    inner: Opaque<bindings::wait_queue_head>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: A `struct wait_queue_head` may be used on any thread.
unsafe impl Send for PollQueue {}
// SAFETY: A `struct wait_queue_head` has a lock of its own.
unsafe impl Sync for PollQueue {}

impl PollQueue {
    /// Constructs a new initialiser.
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid while the closure is called and both `name` and `key` have
            // static lifetimes so they live indefinitely.
            inner <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
            _pin: PhantomPinned,
        })
    }

    /// Wakes all pollers that wait for one of `events`, and at most one of those that registered
    /// for exclusive wake-ups.
    ///
    /// `events` is a combination of the constants in [`events`]. A full memory barrier orders the
    /// update that made the events happen before the check for pollers.
    ///
    /// May be called from any context but an NMI, and on `PREEMPT_RT` from one that may sleep.
    #[doc(alias = "wake_up_poll")]
    #[inline]
    pub fn wake(&self, events: u32) {
        self.wake_from(events, false);
    }

    /// Like [`PollQueue::wake`]. If `leaves_cpu`, because the current thread is about to sleep,
    /// pollers are woken on this CPU if possible.
    #[doc(alias = "wake_up_poll_on_current_cpu")]
    #[inline]
    pub fn wake_from(&self, events: u32, leaves_cpu: bool) {
        // SAFETY: `inner` is an initialised wait queue.
        if unsafe { bindings::wq_has_sleeper(self.inner.get()) } {
            let key = events as usize as *mut crate::ffi::c_void;
            // SAFETY: `inner` is an initialised wait queue; the key of a poll queue is a set of
            // events and no pointer.
            unsafe {
                if leaves_cpu {
                    bindings::__wake_up_on_current_cpu(self.inner.get(), TASK_NORMAL, key);
                } else {
                    bindings::__wake_up(self.inner.get(), TASK_NORMAL, 1, key);
                }
            }
        }
    }

    /// Registers the queue with a poll table.
    ///
    /// # Safety
    ///
    /// `file` and `table` must be the arguments of a `poll` operation that is under way, and the
    /// queue must stay alive until `file` is released.
    #[inline]
    pub unsafe fn register(&self, file: *mut bindings::file, table: *mut bindings::poll_table) {
        // SAFETY: The file and the table are valid by the safety requirements. A poller that
        // registers through the table leaves the queue when the file is released at the latest.
        unsafe { bindings::poll_wait(file, self.inner.get(), table) };
    }
}

/// Creates a [`PollQueue`] initialiser with the given name and a newly-created lock class.
#[macro_export]
macro_rules! new_poll_queue {
    ($($name:literal)?) => {
        $crate::sync::poll_queue::PollQueue::new(
            $crate::optional_name!($($name)?), $crate::static_lock_class!()
        )
    };
}

/// Events of `poll(2)` and `epoll(7)`: `EPOLL*`.
pub mod events {
    use crate::bindings;

    /// There is something to read.
    pub const IN: u32 = bindings::EPOLLIN;
    /// An operation that corresponds to writing does not have to wait.
    pub const OUT: u32 = bindings::EPOLLOUT;
    /// An error condition.
    pub const ERR: u32 = bindings::EPOLLERR;
    /// The other side is gone.
    pub const HUP: u32 = bindings::EPOLLHUP;
}
