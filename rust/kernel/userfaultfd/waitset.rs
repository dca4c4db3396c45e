// SPDX-License-Identifier: GPL-2.0

//! Threads that sleep in faults and events, and the threads that read about them.
//!
//! # Structure
//!
//! A [`FaultWaiter`] lives on the stack of the thread that faults, pinned. From the fault to the
//! wake-up it is in one *shard* of an index: a tree of the sleeping threads ordered by the address
//! that their messages report. 2 MiB of consecutive addresses are in the same shard. Waking a range
//! of addresses looks at the shards that the range can hit, skips those that are empty without
//! taking their lock, and finds the first thread of the range in a time that depends on the
//! logarithm of the number of threads in the shard. The index needs no memory but that of the
//! waiters, so it cannot fail and there is nothing to charge for.
//!
//! Until its message is read, the waiter is also in the *inbox*: the queue of unread faults, in
//! the order of the faults across all shards. Events have a queue of their own there, which is
//! read when there are no faults. A message leaves the inbox when it was delivered, and not before:
//! what cannot be delivered is not lost.
//!
//! # Lock order
//!
//! ```text
//! mmap lock or VMA lock
//!   hugetlb VMA lock
//!     Shard::tree
//!       WaitSet::inbox
//!         WaitSet::readers (the lock within)
//! aio's own lock, irqs off
//!   WaitSet::pollers (the lock within, irqs off)
//! ```
//!
//! The lock of the poll queue nests inside locks that are taken in interrupts. It is taken irqs
//! off by the wait queue functions, and nothing is taken inside it. No other lock here is held
//! around it, so none of them needs irqs to be off.
//!
//! # No wake-up is lost
//!
//! *Resolving against sleeping.* The thread that faults makes itself known, then looks whether the
//! page is still missing; the thread that resolves the fault changes the page table, then looks
//! for sleeping threads:
//!
//! ```text
//! FaultWaiter::enqueue           change the page table
//!   Shard::len = len + 1         smp_mb() in WaitSet::wake
//! set_state(): smp_mb()          read Shard::len
//! read the page table
//! ```
//!
//! This is the store buffering pattern (SB+fencembonceonces in `tools/memory-model/`): with a full
//! barrier on both sides at least one of them sees what the other wrote.
//!
//! *Waking against going to sleep.* A waker stores `WOKEN` in the waiter, then wakes the task. The
//! thread sets its task state, then reads the waiter, then calls the scheduler. `set_state()` has a
//! full barrier and so has the wake-up, which is again store buffering: either the thread sees
//! `WOKEN`, or the waker sees the task state and makes the task runnable.
//!
//! *Readers.* A reader looks for a message and goes to sleep without dropping the inbox lock in
//! between, and a message is added under that lock: either the reader sees it, or whoever added it
//! sees that somebody sleeps. One reader is woken for a message. It may find another message than
//! the one that it was woken for: each message gets a wake-up sooner or later, so as many readers
//! are woken as there are messages. Who takes a wake-up without a message, or is the reason that a
//! message was taken without a wake-up, calls [`WaitSet::pass_on`]: a reader that leaves a message
//! behind, and a thread that turns out not to sleep after its message was visible.

use crate::{
    bindings,
    error::code::{EAGAIN, ERESTARTSYS},
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{Acquire, Atomic, Relaxed, Release},
        barrier::smp_mb,
        new_condvar, new_spinlock,
        poll::{events, PollQueue},
        CondVar, SpinLock,
    },
    task::{cond_resched, wake_q::WakeQ, SleepState, Task},
    types::NotThreadSafe,
    userfaultfd::index::{shard_of, shards_of, Addressed, Linked, Links, Queue, Tree, SHARDS},
};
use core::{
    cell::{Cell, UnsafeCell},
    marker::PhantomPinned,
    ops::Range,
    ptr::NonNull,
};
use pin_init::pin_init_array_from_fn;

/// How many threads are woken with the lock of a shard held, before it is dropped to let others
/// in.
const WAKE_BATCH: usize = 64;

/// The waiter was never added to the set.
const IDLE: u32 = 0;
/// The waiter is in its shard.
const QUEUED: u32 = 1;
/// A waker took the waiter out and does not touch it any more.
const WOKEN: u32 = 2;

/// What wakers and readers see of a [`FaultWaiter`].
#[repr(C)]
struct FaultNode<F> {
    /// Place in the tree; guarded by the lock of the shard.
    rb: bindings::rb_node,
    /// Place in the queue of unread faults; guarded by the inbox lock.
    links: Links<FaultNode<F>>,
    /// Whether the node is in that queue; guarded by the inbox lock.
    unread: bool,
    /// `IDLE`, `QUEUED` or `WOKEN`; written with the lock of the shard held.
    state: Atomic<u32>,
    /// The address that the message reports, in bytes.
    address: u64,
    /// The number of the fault, in the order of the faults.
    number: u64,
    /// The thread that sleeps. It cannot go away before the node does.
    task: NonNull<Task>,
    message: F,
}

// SAFETY: All fields may be accessed from another thread that holds the locks which guard them, as
// long as the message may be; the task is only woken.
unsafe impl<F: Send> Send for FaultNode<F> {}

// SAFETY: The type is `repr(C)` and `rb` is its first field.
unsafe impl<F> Addressed for FaultNode<F> {
    fn address(&self) -> u64 {
        self.address
    }
}

impl<F> Linked for FaultNode<F> {
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// A part of the index.
#[pin_data]
struct Shard<F> {
    /// The number of nodes in the tree. Changed under the lock, read without.
    len: Atomic<u32>,
    #[pin]
    tree: SpinLock<Tree<FaultNode<F>>>,
}

impl<F> Shard<F> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            len: Atomic::new(0),
            tree <- new_spinlock!(Tree::new(), "userfaultfd::shard"),
        })
    }
}

/// The messages that were not read yet.
struct Inbox<F, V> {
    faults: Queue<FaultNode<F>>,
    events: Queue<EventNode<V>>,
    /// The number of the next fault.
    next_fault: u64,
    /// The number of the next event.
    next_event: u64,
}

/// The threads that sleep in faults and events of a context, and those that read about them.
///
/// `F` is the message of a fault, `V` is an event.
#[pin_data]
pub struct WaitSet<F, V> {
    #[pin]
    shards: [Shard<F>; SHARDS],
    #[pin]
    inbox: SpinLock<Inbox<F, V>>,
    /// The number of messages in the inbox. Changed under its lock, read without.
    readable: Atomic<u32>,
    /// The number of threads that sleep in [`WaitSet::receive`]. Changed under the inbox lock.
    sleeping_readers: Atomic<u32>,
    #[pin]
    readers: CondVar,
    #[pin]
    pollers: PollQueue,
}

/// The number that tells events apart.
pub type EventId = u64;

/// The message that is next in the inbox.
pub enum Front<'a, F, V> {
    /// A thread sleeps in a fault.
    Fault(&'a F),
    /// A thread waits for an event to be read.
    Event(EventId, &'a V),
}

/// What a reader did with a message.
pub enum Receipt<R> {
    /// It was delivered. It leaves the inbox, and the thread that waits for an event goes on.
    Delivered(R),
    /// It was not delivered, and stays.
    Left(R),
}

impl<F: Copy + Send, V: Send> WaitSet<F, V> {
    /// Makes an empty set.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            shards <- pin_init_array_from_fn(|_| Shard::new()),
            inbox <- new_spinlock!(
                Inbox {
                    faults: Queue::new(),
                    events: Queue::new(),
                    next_fault: 0,
                    next_event: 0,
                },
                "userfaultfd::inbox"
            ),
            readable: Atomic::new(0),
            sleeping_readers: Atomic::new(0),
            readers <- new_condvar!("userfaultfd::readers"),
            pollers <- crate::new_poll_queue!("userfaultfd::pollers"),
        })
    }

    /// Makes the number of messages known to those that do not take the lock.
    fn publish(&self, inbox: &Inbox<F, V>) {
        self.readable
            .store((inbox.faults.len() + inbox.events.len()) as u32, Relaxed);
    }

    /// Whether there is a message. Takes no lock: it may be gone, or come, at any time.
    pub fn is_readable(&self) -> bool {
        self.readable.load(Relaxed) != 0
    }

    /// Returns the queue that pollers sleep on.
    pub fn pollers(&self) -> &PollQueue {
        &self.pollers
    }

    /// Wakes a reader, and the pollers, for a message that was added.
    fn notify(&self) {
        // The message was added under the inbox lock, and a reader counts itself under it too.
        if self.sleeping_readers.load(Relaxed) != 0 {
            self.readers.notify_one();
        }
        self.pollers.wake(events::IN);
    }

    /// Wakes another reader where there is a message left.
    ///
    /// To be called by a reader that returns although there is one: the wake-up for it may have
    /// been this reader's.
    pub fn pass_on(&self) {
        if self.is_readable() {
            self.readers.notify_one();
        }
    }

    /// Returns the number of faults that were not read, and that of all threads that sleep in
    /// faults.
    pub fn count(&self) -> (usize, usize) {
        let unread = self.inbox.lock().faults.len();
        let all: u32 = self
            .shards
            .iter()
            .map(|shard| shard.len.load(Relaxed))
            .sum();
        (unread, unread.max(all as usize))
    }

    /// Offers the next message to `deliver`: faults in the order in which they happened, and
    /// events in their order when there are no faults.
    ///
    /// `deliver` is called with the inbox locked: it must not sleep, nor drop anything that may.
    ///
    /// # Errors
    ///
    /// Where there is no message: `ERESTARTSYS` if a signal is pending, `EAGAIN` if `nonblocking`;
    /// otherwise the thread sleeps until there is one.
    pub fn receive<R>(
        &self,
        nonblocking: bool,
        deliver: impl FnOnce(Front<'_, F, V>) -> Receipt<R>,
    ) -> Result<R> {
        let mut inbox = self.inbox.lock();
        loop {
            if let Some(node) = inbox.faults.front() {
                // SAFETY: The members of a queue are valid, and the lock is held.
                let receipt = deliver(Front::Fault(unsafe { &(*node.as_ptr()).message }));
                return Ok(match receipt {
                    Receipt::Delivered(ret) => {
                        // SAFETY: The node is in the queue, whose lock is held.
                        unsafe {
                            inbox.faults.remove(node.as_ptr());
                            (*node.as_ptr()).unread = false;
                        }
                        self.publish(&inbox);
                        ret
                    }
                    Receipt::Left(ret) => ret,
                });
            }
            if let Some(node) = inbox.events.front() {
                let node = node.as_ptr();
                // SAFETY: The members of a queue are valid, and the lock is held.
                let receipt = deliver(unsafe { Front::Event((*node).id, &(*node).event) });
                return Ok(match receipt {
                    Receipt::Delivered(ret) => {
                        // SAFETY: The node is in the queue, whose lock is held. The thread that
                        // waits takes the lock before it goes on, so the node is valid until we
                        // drop it.
                        unsafe {
                            inbox.events.remove(node);
                            (*node).state = EventState::Read;
                            (*node).task.as_ref().wake_up();
                        }
                        self.publish(&inbox);
                        // Whoever reads one event for each time that it is told that there is
                        // something waits to be told about the others.
                        if inbox.events.front().is_some() {
                            drop(inbox);
                            self.notify();
                        }
                        ret
                    }
                    Receipt::Left(ret) => ret,
                });
            }

            if current!().signal_pending() {
                return Err(ERESTARTSYS);
            }
            if nonblocking {
                return Err(EAGAIN);
            }
            let sleeping = self.sleeping_readers.load(Relaxed);
            self.sleeping_readers.store(sleeping + 1, Relaxed);
            // Whether it is a signal that ended the sleep is looked at after the inbox.
            let _ = self.readers.wait_interruptible(&mut inbox);
            let sleeping = self.sleeping_readers.load(Relaxed);
            self.sleeping_readers.store(sleeping - 1, Relaxed);
        }
    }

    /// Moves an event behind the others, if it is the first one: it cannot be delivered now, and
    /// should not stand in their way.
    pub fn defer(&self, event: EventId) {
        let mut inbox = self.inbox.lock();
        if let Some(node) = inbox.events.front() {
            // SAFETY: The members of a queue are valid, and the lock is held. The node stays a
            // member.
            unsafe {
                if (*node.as_ptr()).id == event {
                    inbox.events.remove(node.as_ptr());
                    inbox.events.push_back(node.as_ptr());
                }
            }
        }
    }

    /// Wakes the threads that sleep in faults at the addresses of `range`, in bytes, as this is
    /// called. Those that come later, or fault again, are not waited for.
    ///
    /// A full memory barrier orders what the caller did to the pages before the search for
    /// threads. Sleeps where there are very many threads.
    pub fn wake(&self, range: Range<u64>) {
        // Pairs with the barrier in `CurrentTask::set_state()` of a thread that faults.
        smp_mb();

        let mut limit = None;
        let mut shards = shards_of(&range);
        while shards != 0 {
            let index = shards.trailing_zeros() as usize;
            shards &= shards - 1;
            let shard = &self.shards[index];
            let mut range = range.clone();
            while shard.len.load(Relaxed) != 0 {
                match self.wake_batch(shard, &range, &mut limit) {
                    Some(next) => range.start = next,
                    None => break,
                }
                cond_resched();
            }
        }
    }

    /// Wakes the threads that sleep in faults, and those that wait for events to be read. For a
    /// context that was released: none of them sleeps again.
    pub fn wake_all(&self) {
        self.wake(0..u64::MAX);

        let inbox = self.inbox.lock();
        let mut next = inbox.events.front();
        while let Some(node) = next {
            // SAFETY: The members of a queue are valid, and the lock is held.
            unsafe {
                (*node.as_ptr()).task.as_ref().wake_up();
                next = inbox.events.after(node);
            }
        }
        drop(inbox);

        self.pollers.wake(events::HUP);
    }

    /// Wakes up to [`WAKE_BATCH`] threads of `range`, and returns the address from where to go on
    /// if there are more.
    ///
    /// `limit` is set to the number of the next fault, if it was not yet; faults from that on are
    /// left alone.
    fn wake_batch(
        &self,
        shard: &Shard<F>,
        range: &Range<u64>,
        limit: &mut Option<u64>,
    ) -> Option<u64> {
        // The tasks are woken when this is dropped, which is after the locks are.
        pin_init::stack_pin_init!(let wake_q = WakeQ::new());

        let mut tree = shard.tree.lock();
        let mut next = tree.first_of(range);
        next?;
        let mut inbox = self.inbox.lock();
        let limit = *limit.get_or_insert(inbox.next_fault);
        let mut woken = 0;
        let mut go_on = None;
        while let Some(node) = next {
            let node = node.as_ptr();
            // SAFETY: The node is in the tree, hence valid and not woken yet, and both locks that
            // guard its fields are held. Its task cannot go away before the node does, and that
            // is not before the store.
            unsafe {
                next = tree.next_of(node, range);
                if (*node).number >= limit {
                    continue;
                }
                if woken == WAKE_BATCH {
                    go_on = Some((*node).address);
                    break;
                }
                tree.remove(node);
                if (*node).unread {
                    inbox.faults.remove(node);
                    (*node).unread = false;
                }
                let task = ARef::from((*node).task.as_ref());
                // The node may be gone right after this. The release orders all accesses to it
                // before that; it pairs with the acquire in `FaultWaiter::is_woken`.
                (*node).state.store(WOKEN, Release);
                wake_q.as_mut().add(task);
            }
            shard.len.store(shard.len.load(Relaxed) - 1, Relaxed);
            woken += 1;
        }
        self.publish(&inbox);
        go_on
    }

    /// Calls `wait` with a waiter for the current thread that the set does not know yet. The
    /// waiter is on the stack, and has left the set when this returns.
    ///
    /// `address` is the address that `message` reports, in bytes. Sleeps only if `wait` does.
    pub fn with_waiter<R>(
        &self,
        address: u64,
        message: F,
        wait: impl FnOnce(Pin<&FaultWaiter<'_, F, V>>) -> R,
    ) -> R {
        pin_init::stack_pin_init!(let waiter = FaultWaiter::new(self, address, message));
        wait(waiter.as_ref())
    }
}

/// A thread that sleeps in a fault.
///
/// It lives on the stack of that thread, see [`WaitSet::with_waiter`], and leaves the set by itself
/// when it is dropped.
///
/// # Invariants
///
/// While `node.state` is `QUEUED`, the node is in the shard of its address. When it is `IDLE` or
/// `WOKEN`, the node is known to this thread only.
#[pin_data(PinnedDrop)]
pub struct FaultWaiter<'a, F: Copy + Send, V: Send> {
    set: &'a WaitSet<F, V>,
    #[pin]
    node: UnsafeCell<FaultNode<F>>,
    /// Whether readers were told about the message.
    announced: Cell<bool>,
    #[pin]
    _pin: PhantomPinned,
    // It stands for the current thread.
    _nts: NotThreadSafe,
}

impl<'a, F: Copy + Send, V: Send> FaultWaiter<'a, F, V> {
    /// Makes a waiter for the current thread. It must be dropped before the thread goes away, so
    /// it is on the stack.
    fn new(set: &'a WaitSet<F, V>, address: u64, message: F) -> impl PinInit<Self> + 'a
    where
        F: 'a,
    {
        pin_init!(Self {
            set,
            // INVARIANT: The state is `IDLE`.
            node: UnsafeCell::new(FaultNode {
                rb: Default::default(),
                links: Links::new(),
                unread: false,
                state: Atomic::new(IDLE),
                address,
                number: 0,
                task: NonNull::from(&**current!()),
                message,
            }),
            announced: Cell::new(false),
            _pin: PhantomPinned,
            _nts: NotThreadSafe,
        })
    }

    fn shard(&self) -> &'a Shard<F> {
        // SAFETY: The address is never changed.
        let address = unsafe { (*self.node.get()).address };
        &self.set.shards[shard_of(address)]
    }

    fn state(&self) -> &Atomic<u32> {
        // SAFETY: The field is only accessed atomically.
        unsafe { &(*self.node.get()).state }
    }

    /// Adds the waiter to its shard and to the inbox. From now on wakers and readers see it.
    ///
    /// The caller then sets the task state, which is a full barrier, looks whether there is still
    /// a reason to sleep, and calls [`FaultWaiter::announce`] before it sleeps.
    pub fn enqueue(self: Pin<&Self>) {
        if self.state().load(Relaxed) != IDLE {
            return;
        }
        let shard = self.shard();
        let mut tree = shard.tree.lock();
        let mut inbox = self.set.inbox.lock();
        // INVARIANT: The node is added to its shard, and the state says so.
        // SAFETY: The node is idle, hence in no tree and no queue. It is pinned, and leaves both
        // when it is dropped at the latest.
        unsafe {
            let node = self.node.get();
            (*node).state.store(QUEUED, Relaxed);
            (*node).unread = true;
            (*node).number = inbox.next_fault;
            tree.insert(node);
            inbox.faults.push_back(node);
        }
        inbox.next_fault += 1;
        self.set.publish(&inbox);
        shard.len.store(shard.len.load(Relaxed) + 1, Relaxed);
    }

    /// Tells readers and pollers about the message.
    pub fn announce(&self) {
        self.announced.set(true);
        self.set.notify();
    }

    /// Whether a waker took the waiter out of the set.
    pub fn is_woken(&self) -> bool {
        // Pairs with the release in `WaitSet::wake_batch`.
        self.state().load(Acquire) == WOKEN
    }

    /// Takes the waiter out of the set, unless a waker did.
    fn leave(&self) {
        if self.state().load(Acquire) != QUEUED {
            return;
        }
        let shard = self.shard();
        let mut tree = shard.tree.lock();
        // A waker changes the state with the lock held.
        if self.state().load(Relaxed) != QUEUED {
            return;
        }
        let node = self.node.get();
        let mut inbox = self.set.inbox.lock();
        // SAFETY: By the type invariants the node is in the tree. The locks that guard its fields
        // are held.
        unsafe {
            tree.remove(node);
            if (*node).unread {
                inbox.faults.remove(node);
            }
        }
        self.set.publish(&inbox);
        shard.len.store(shard.len.load(Relaxed) - 1, Relaxed);
    }
}

#[pinned_drop]
impl<F: Copy + Send, V: Send> PinnedDrop for FaultWaiter<'_, F, V> {
    fn drop(self: Pin<&mut Self>) {
        self.leave();
        // A reader may have found this message when it was woken for another one, which nobody was
        // woken for then.
        if !self.announced.get() && self.state().load(Relaxed) != IDLE {
            self.set.pass_on();
        }
    }
}

/// How far an event got.
#[derive(Copy, Clone, PartialEq, Eq)]
enum EventState {
    /// It is in the inbox, or not there yet.
    Unread,
    /// A reader took it out.
    Read,
}

/// What readers see of an [`EventWaiter`].
struct EventNode<V> {
    links: Links<EventNode<V>>,
    state: EventState,
    id: EventId,
    /// The thread that waits. It cannot go away before the node does.
    task: NonNull<Task>,
    event: V,
}

// SAFETY: All fields may be accessed from another thread that holds the inbox lock, as long as the
// event may be; the task is only woken.
unsafe impl<V: Send> Send for EventNode<V> {}

impl<V> Linked for EventNode<V> {
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// How the wait for an event to be read ended.
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum EventOutcome {
    /// A reader has it.
    Read,
    /// Nobody will read it.
    Abandoned,
}

impl<F: Copy + Send, V: Send> WaitSet<F, V> {
    /// Adds an event to the inbox, and sleeps until it was read, a fatal signal arrives, or
    /// `released` says that there will be no readers any more (for which [`WaitSet::wake_all`]
    /// wakes the thread). Hands the event back then.
    pub fn wait_event(&self, event: V, released: impl Fn() -> bool) -> (EventOutcome, V) {
        let node = UnsafeCell::new(EventNode {
            links: Links::new(),
            state: EventState::Unread,
            id: 0,
            task: NonNull::from(&**current!()),
            event,
        });
        let ptr = node.get();

        let mut inbox = self.inbox.lock();
        if released() || current!().fatal_signal_pending() {
            drop(inbox);
            return (EventOutcome::Abandoned, node.into_inner().event);
        }
        // SAFETY: The node is in no queue. It stays where it is until it left the queue, which is
        // before the loop below ends; its fields are accessed with the lock held.
        unsafe {
            (*ptr).id = inbox.next_event;
            inbox.events.push_back(ptr);
        }
        inbox.next_event += 1;
        self.publish(&inbox);
        drop(inbox);
        self.notify();

        let outcome = loop {
            current!().set_state(SleepState::KILLABLE);
            let mut inbox = self.inbox.lock();
            // SAFETY: The lock is held.
            if unsafe { (*ptr).state } == EventState::Read {
                break EventOutcome::Read;
            }
            if released() || current!().fatal_signal_pending() {
                // SAFETY: The event was not read, so it is in the queue.
                unsafe { inbox.events.remove(ptr) };
                self.publish(&inbox);
                break EventOutcome::Abandoned;
            }
            drop(inbox);
            current!().schedule();
        };
        current!().set_running();

        (outcome, node.into_inner().event)
    }
}
