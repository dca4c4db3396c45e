// SPDX-License-Identifier: GPL-2.0

//! Threads that sleep in faults and events, and the threads that read about them.
//!
//! # Structure
//!
//! A fault waiter lives on the stack of the thread that faults, pinned. From the fault to the
//! wake-up it is in one *shard* of an index: a tree of the sleeping threads, ordered by the address
//! that their messages report. 2 MiB of consecutive addresses share a shard. A waker looks at the
//! shards that its range can hit, skips empty ones without taking their lock, and finds the first
//! thread of the range in a time that depends on the logarithm of the number of threads in the
//! shard. The index needs no memory but that of the waiters, so it cannot fail, and there is
//! nothing to charge.
//!
//! Until its message is read, the waiter is also in the *inbox*: the queue of unread faults, in the
//! order of the faults across all shards. Events have a queue of their own there, which is read if
//! there are no faults. A message leaves the inbox when it was delivered and not before, so that a
//! message that cannot be delivered is not lost. A reader that has to prepare something for an
//! event *claims* it first, and other readers do not see it meanwhile.
//!
//! C has wait queues instead: `fault_pending_wqh` and `fault_wqh` for unread and read faults,
//! `event_wqh` for events, and `fd_wqh` for readers and pollers.
//!
//! | module | |
//! |---|---|
//! | `fault` | the thread that faults, and the waker |
//! | `reader` | the thread that reads |
//! | `event` | the thread that waits for its event to be read, and claims |
//! | `inbox` | the unread messages, and the nodes through which threads know each other |
//! | `index`, `queue` | the containers |
//!
//! Counters use wrapping arithmetic because `CONFIG_RUST_OVERFLOW_CHECKS` would add a panic to each
//! of them. The path of a fault is `#[inline(always)]`, because each call that it does not make
//! saves some instructions of every fault.
//!
//! The lock order is in `Documentation/mm/userfaultfd-rust.rst`.
//!
//! # No wake-up is lost
//!
//! The names in parentheses are those of litmus tests in `Documentation/litmus-tests/userfaultfd/`.
//!
//! *Resolving against sleeping.* The thread that faults enqueues itself, then checks if the page is
//! still missing. The thread that resolves the fault changes the page table, then looks for
//! sleeping threads:
//!
//! ```text
//! FaultWaiter::enqueue           change the page table
//!   length of the shard + 1      smp_mb() in WaitSet::wake
//! set_state(): smp_mb()          read the length of the shard
//! read the page table
//! ```
//!
//! This is the store buffering pattern (SB+fencembonceonces in `tools/memory-model/`): because both
//! sides have a full barrier, at least one of them sees what the other wrote. This also holds if
//! one thread changes the page table and another one, which knows of the change, wakes
//! (`uffd-fault+resolve`). A thread that sees the change takes the fault again. The thread looks at
//! the page table only: a page that enters the page cache and is not mapped does not end the wait.
//!
//! The waker tells the thread what it knows of the page ([`Wakeup`]). That is advice: a thread that
//! repeats its access and finds that the page is gone faults anew.
//!
//! A waker that drops the shard lock between batches skips waiters that enqueued after it began:
//! those with a sequence number of at least `limit`. It samples `limit` under the inbox lock, after
//! the page table was changed. A waiter gets its number under the same lock and checks the page
//! table later, so every skipped waiter sees the change (`uffd-batch-limit`).
//!
//! *Waking against going to sleep.* A waker sets `woken` in the waiter, then wakes the task. The
//! thread sets its task state, then reads `woken`, then calls the scheduler. `set_state()` has a
//! full barrier and so has the wake-up, so this is store buffering again: either the thread sees
//! that it is woken, or the waker sees the task state and makes the task runnable
//! (`uffd-wake+sleep`).
//!
//! *Leaving.* After setting `woken` the waker still uses the waiter and its task. Its last access
//! is a store-release to `unlinked`. A thread that reads it with load-acquire may return and reuse
//! its stack; otherwise it takes the shard lock, which the waker holds until it is done. A reader
//! is done with a waiter when it clears `unread`, with release as well. The waker reads `unread`
//! before it sets `unlinked`, and release is cumulative: a thread that sees the latter is ordered
//! after the reader, too (`uffd-leave-without-lock`).
//!
//! *Readers.* A reader that finds no message queues up to sleep without dropping the inbox lock in
//! between. A thread that adds a message holds the same lock and takes one sleeping reader out of
//! the queue, which it wakes. So while readers sleep, there is a reader that was taken out and has
//! not run yet for each unread message. The lock is dropped before the reader is woken, so that the
//! reader does not have to wait for it. The thread is not preempted in between, because until then
//! the reader sleeps with the messages of other threads unread. The reader may run already then,
//! because of a signal, and even exit, but RCU keeps its task (`uffd-reader-exits`). If it sleeps
//! for another reason by then, it is woken without need, which all code that sleeps has to expect.
//! With `PREEMPT_RT` the reader is woken before the lock is dropped. Only a reader that
//! returns without a message breaks this, so it wakes another one, for example with
//! [`WaitSet::pass_on`]. A reader that is about to die takes no message, because the message would
//! be lost with it: it passes its wake-up on. Sleeping readers are queued by priority.
//!
//! *Claims.* A reader that claims an event hides it from the others. A reader or poller that finds
//! no message meanwhile sets `missed`, with the inbox lock held, so that pollers are told if the
//! event is offered again. If no thread has looked, none is told, because the reader that could not
//! deliver the event knows: its `read()` fails, or it tries again.

mod event;
mod fault;
mod inbox;
mod index;
mod queue;
mod reader;

pub use event::{Event, Fork, ForkClaim};
pub use reader::Receipt;

use crate::{
    prelude::*,
    sync::{
        new_spinlock,
        poll_queue::{events, PollQueue},
        ReadOnceCell, SpinLock,
    },
    task::cond_resched,
    userfaultfd::fault::Wakeup,
};
use inbox::{FaultNode, Inbox};
use index::{Tree, SHARDS};
use pin_init::pin_init_array_from_fn;

/// The number of threads that are woken with a lock held, before it is dropped to let others in.
const WAKE_BATCH: u32 = 32;

/// The number of threads that are woken with a lock held if no other thread sleeps in their shard.
/// To wake all is cheaper than to wake some, and while the lock is dropped another waker would have
/// to find those that are left. The C implementation wakes any number with its lock held.
const WAKE_WHOLE: u32 = 128 * WAKE_BATCH;

/// The threads that sleep in faults and events of a context, and those that read about them.
#[pin_data]
pub struct WaitSet {
    /// The index of the threads that sleep in faults.
    #[pin]
    shards: [SpinLock<Tree<FaultNode>>; SHARDS],
    /// The number of threads in each shard.
    lens: [ReadOnceCell<u32>; SHARDS],
    #[pin]
    inbox: SpinLock<Inbox>,
    /// What the inbox has: [`NOTHING`], [`CLAIMED`] or [`MESSAGE`]. Written with the inbox locked,
    /// read without.
    readable: ReadOnceCell<u8>,
    /// Set if a reader or poller found no message while an event was claimed. Accessed with the
    /// inbox locked.
    missed: ReadOnceCell<bool>,
    /// Set when the file of the descriptor is released: no thread may start to sleep.
    released: ReadOnceCell<bool>,
    /// Set when a poller asks for [`events::OUT`] for the first time.
    wants_out: ReadOnceCell<bool>,
    /// Set when a descriptor of the file is closed, of which there may be several. Written with the
    /// inbox locked, read without.
    was_closed: ReadOnceCell<bool>,
    #[pin]
    pollers: PollQueue,
}

/// The inbox is empty.
const NOTHING: u8 = 0;
/// The inbox has only events that readers have claimed, and that may be offered again.
const CLAIMED: u8 = 1;
/// The inbox has a message.
const MESSAGE: u8 = 2;

/// What there is in a wait set, and what happened to it so far.
pub struct Counters {
    /// The number of faults whose messages were not read yet.
    pub pending: u32,
    /// The number of threads that sleep in faults.
    pub total: u32,
    /// The number of faults on missing pages that were reported.
    pub missing: u64,
    /// The number of faults on write-protected pages.
    pub write_protected: u64,
    /// The number of faults on pages that are not mapped.
    pub minor: u64,
    /// The number of messages that were read.
    pub read: u64,
    /// The number of threads that wakers have taken out of the set.
    pub woken: u64,
}

impl WaitSet {
    /// Creates an empty set.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            shards <- pin_init_array_from_fn(|_| {
                new_spinlock!(Tree::new(), "userfaultfd::shard")
            }),
            lens: [const { ReadOnceCell::new(0) }; SHARDS],
            inbox <- new_spinlock!(Inbox::new(), "userfaultfd::inbox"),
            readable: ReadOnceCell::new(NOTHING),
            missed: ReadOnceCell::new(false),
            released: ReadOnceCell::new(false),
            wants_out: ReadOnceCell::new(false),
            was_closed: ReadOnceCell::new(false),
            pollers <- crate::new_poll_queue!("userfaultfd::pollers"),
        })
    }

    /// Publishes what the inbox has, for threads that do not take its lock.
    fn publish(&self, inbox: &Inbox) {
        self.readable.write_once(if inbox.is_readable() {
            MESSAGE
        } else if inbox.has_claims() {
            CLAIMED
        } else {
            NOTHING
        });
    }

    /// Returns true if the file of the descriptor is released. Takes no lock.
    #[inline]
    pub fn is_released(&self) -> bool {
        self.released.read_once()
    }

    /// Notes that the file of the descriptor is released: no thread starts to sleep any more.
    pub(super) fn set_released(&self) {
        self.released.write_once(true);
    }

    /// Wakes all threads that sleep in faults or wait for events to be read. None of them sleeps
    /// again, because [`WaitSet::set_released`] was called before.
    pub(super) fn wake_all(&self) {
        self.wake(0..u64::MAX, Wakeup::LOOK_AGAIN);
        while self.abandon_events() {
            cond_resched();
        }
        self.pollers.wake(events::HUP);
    }

    /// Returns true if there is a message. It may be gone, or come, at any time.
    ///
    /// A poller that is in the queue already and for which this returns false is told when a
    /// message comes. Takes no lock unless readers have claimed all that there is.
    #[inline]
    pub fn is_readable(&self) -> bool {
        match self.readable.read_once() {
            CLAIMED => self.is_readable_besides_claims(),
            readable => readable == MESSAGE,
        }
    }

    #[cold]
    fn is_readable_besides_claims(&self) -> bool {
        let inbox = self.inbox.lock();
        self.miss(&inbox);
        inbox.is_readable()
    }

    /// Notes that the current thread looks for a message and finds none.
    #[inline]
    fn miss(&self, inbox: &Inbox) {
        self.missed.write_once(inbox.has_claims());
    }

    /// Notes that a poller asks for [`events::OUT`]. The caller is in the queue already, and checks
    /// [`Context::mmap_changing`](super::Context::mmap_changing) after this.
    pub fn want_out(&self) {
        self.wants_out.write_once(true);
        // Pairs with the full ordering of `MmapChanging::lower`.
        crate::sync::barrier::smp_mb();
    }

    /// Returns [`events::OUT`] if a poller may wait for it, otherwise nothing. The caller has
    /// lowered the last mark that the mappings change.
    fn out(&self) -> u32 {
        if self.wants_out.read_once() {
            events::OUT
        } else {
            0
        }
    }

    /// Tells pollers that the mappings do not change any more. The caller has lowered the last mark
    /// that they do.
    pub(super) fn tell_out(&self) {
        let news = self.out();
        if news != 0 {
            self.pollers.wake(news);
        }
    }

    /// Returns the queue that pollers sleep on.
    #[inline]
    pub fn pollers(&self) -> &PollQueue {
        &self.pollers
    }

    /// Returns what happened so far.
    pub fn counters(&self) -> Counters {
        let inbox = self.inbox.lock();
        // No unread fault comes or goes while the lock is held.
        let (pending, total) = (inbox.unread(), self.sleepers());
        let [missing, write_protected, minor] = inbox.fault_counts();
        // All that were not woken sleep still, or left by themselves.
        let all = missing.wrapping_add(write_protected).wrapping_add(minor);
        let woken = all.wrapping_sub(inbox.left()).wrapping_sub(total.into());
        Counters {
            pending,
            total,
            missing,
            write_protected,
            minor,
            read: inbox.read(),
            woken,
        }
    }

    /// Returns the number of threads that sleep in faults. Takes no lock.
    #[inline(always)]
    fn sleepers(&self) -> u32 {
        let lens = self.lens.iter().map(ReadOnceCell::read_once);
        lens.fold(0, u32::wrapping_add)
    }
}
