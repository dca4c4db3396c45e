// SPDX-License-Identifier: GPL-2.0

//! The thread that reads.

use super::{
    inbox::{FaultNode, Inbox, ReaderNode},
    queue::Links,
    WaitSet, MESSAGE,
};
use crate::{
    error::code::{EAGAIN, ERESTARTSYS},
    prelude::*,
    sync::SpinLockGuard,
    task::{CurrentTask, SleepState},
    userfaultfd::{message::Message, trace},
};
use core::{cell::UnsafeCell, ptr::NonNull};

/// What a reader did with a message.
pub enum Receipt<R> {
    /// It was delivered. It leaves the inbox, and a thread that waits for an event goes on.
    Delivered(R),
    /// It was not delivered, and stays.
    Kept(R),
}

impl WaitSet {
    /// Offers the next message to `deliver`: faults in the order in which they happened, and events
    /// in their order if there are no faults. Returns `None` if the next message is about a fork,
    /// which has to be [claimed](WaitSet::claim_fork).
    ///
    /// `deliver` is called with the inbox locked: it must not sleep, nor drop anything that may,
    /// nor use the wait set.
    ///
    /// # Errors
    ///
    /// If there is no message: `ERESTARTSYS` if a signal is pending, `EAGAIN` if `nonblocking`;
    /// otherwise the thread sleeps until there is one. A thread that is killed meanwhile returns
    /// `ERESTARTSYS` without a message, because the message would be lost with it.
    #[doc(alias = "userfaultfd_ctx_read")]
    #[inline]
    pub fn receive<R>(
        &self,
        nonblocking: bool,
        deliver: impl FnOnce(&Message) -> Receipt<R>,
    ) -> Result<Option<R>> {
        let mut inbox = self.inbox.lock();
        loop {
            if let Some(node) = inbox.first_fault() {
                // SAFETY: The node is in the inbox, hence valid.
                let message = Message::PageFault(unsafe { (*node.as_ptr()).message });
                return Ok(Some(match deliver(&message) {
                    Receipt::Delivered(ret) => {
                        if trace::is_timed() {
                            // SAFETY: The node is in the inbox, hence valid, and its thread waits.
                            unsafe { self.trace_read(node.as_ptr()) };
                        }
                        inbox.count_read();
                        // SAFETY: The node is in the queue of faults of the inbox.
                        unsafe { self.remove_fault(&mut inbox, node.as_ptr()) };
                        ret
                    }
                    Receipt::Kept(ret) => ret,
                }));
            }
            if let Some(node) = inbox.first_event() {
                // SAFETY: The node is in the inbox, so it is valid and the thread of the event
                // waits.
                let Some(message) = unsafe { (*node.as_ptr()).event.as_ref() }.message() else {
                    return Ok(None);
                };
                return Ok(Some(match deliver(message) {
                    Receipt::Delivered(ret) => {
                        // SAFETY: The node is in the inbox.
                        unsafe { self.end_delivered(inbox, node) };
                        ret
                    }
                    Receipt::Kept(ret) => ret,
                }));
            }

            self.miss(&inbox);
            let task = current!();
            if task.signal_pending() {
                return Err(ERESTARTSYS);
            }
            if nonblocking {
                return Err(EAGAIN);
            }
            // If a signal ends the sleep, the thread looks at the inbox before it looks at signals.
            inbox = self.sleep(task, inbox);
            if task.fatal_signal_pending() {
                // The wake-up for a message that is there may have been this thread's.
                if inbox.is_readable() {
                    wake_reader(inbox);
                }
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Traces that the message of a fault is delivered. The inbox is still locked, so that the
    /// thread cannot be woken, and end its fault, before that.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox, which is locked.
    #[cold]
    unsafe fn trace_read(&self, node: *const FaultNode) {
        // SAFETY: The node is in the inbox by the safety requirements, hence valid, and its thread
        // is there as long. The fields are not changed.
        unsafe {
            let message = Message::PageFault((*node).message);
            trace::read(self, Some(&message), (*node).task.as_ref(), (*node).since);
        }
    }

    /// Sleeps until this thread is woken for a message, or a signal arrives.
    #[inline]
    fn sleep<'a>(
        &'a self,
        task: &CurrentTask,
        mut inbox: SpinLockGuard<'a, Inbox>,
    ) -> SpinLockGuard<'a, Inbox> {
        let node = UnsafeCell::new(ReaderNode {
            links: Links::new(),
            queued: true,
            prio: task.queue_prio(),
            task: NonNull::from(&**task),
        });
        let ptr = node.get();

        // SAFETY: The node is in no queue. It stays in its place, and is removed below.
        unsafe { inbox.add_reader(ptr) };
        task.set_state(SleepState::INTERRUPTIBLE);
        drop(inbox);
        // The task state is running when this returns.
        task.schedule();

        let mut inbox = self.inbox.lock();
        // SAFETY: It was added above.
        unsafe { inbox.remove_reader(ptr) };
        inbox
    }

    /// Wakes another reader if there is a message.
    ///
    /// A reader that returns although there is one calls this, because the wake-up for the message
    /// may have been its own.
    pub fn pass_on(&self) {
        if self.readable.read_once() == MESSAGE {
            wake_reader(self.inbox.lock());
        }
    }
}

/// Drops the lock of the inbox, and wakes a reader.
#[cold]
fn wake_reader(mut inbox: SpinLockGuard<'_, Inbox>) {
    let reader = inbox.take_reader();
    drop(inbox);
    if let Some(reader) = reader {
        reader.wake(false);
    }
}
