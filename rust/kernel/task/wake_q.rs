// SPDX-License-Identifier: GPL-2.0

//! Wake queues: tasks that are chosen under a lock and woken after it is released.
//!
//! C header: [`include/linux/sched/wake_q.h`](srctree/include/linux/sched/wake_q.h).

use crate::{bindings, prelude::*, sync::aref::ARef, task::Task, types::Opaque};
use core::marker::PhantomPinned;

/// The end marker of a wake queue, `WAKE_Q_TAIL`.
const TAIL: *mut bindings::wake_q_node = 1 as *mut bindings::wake_q_node;

/// A list of tasks that are woken when it is dropped.
///
/// Declare it before taking the lock under which tasks are added, so that it is dropped, and the
/// tasks woken, after the lock was released.
///
/// # Invariants
///
/// `head` is an initialised `struct wake_q_head`, which owns a reference to each task on it.
#[pin_data(PinnedDrop)]
pub struct WakeQ {
    #[pin]
    head: Opaque<bindings::wake_q_head>,
    // The head points into itself.
    #[pin]
    _pin: PhantomPinned,
}

impl WakeQ {
    /// Creates an empty wake queue.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: This is what `wake_q_init` writes.
            // SAFETY: `slot` is valid for writes while the closure is called.
            head <- Opaque::ffi_init(|slot: *mut bindings::wake_q_head| unsafe {
                (*slot).first = TAIL;
                (*slot).lastp = &raw mut (*slot).first;
            }),
            _pin: PhantomPinned,
        })
    }

    /// Adds a task, which is woken when the queue is dropped, or earlier where it is on another
    /// queue already.
    ///
    /// Whatever the task waits for must have been made true before.
    #[doc(alias = "wake_q_add_safe")]
    pub fn add(self: Pin<&mut Self>, task: ARef<Task>) {
        let task = ARef::into_raw(task).as_ptr().cast();
        // SAFETY: By the type invariants the head is initialised, and `&mut` makes us its only
        // user. The function takes over the reference to the task, which keeps it valid.
        unsafe { bindings::wake_q_add_safe(self.head.get(), task) };
    }
}

#[pinned_drop]
impl PinnedDrop for WakeQ {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the head is initialised, and it is not used afterwards.
        unsafe { bindings::wake_up_q(self.head.get()) };
    }
}
