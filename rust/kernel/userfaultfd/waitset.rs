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
//! what cannot be delivered is not lost. A reader that has to prepare something for an event before
//! *claims* it, and others do not see it meanwhile.
//!
//! # Lock order
//!
//! ```text
//! mmap lock or VMA lock
//!   hugetlb VMA lock
//!     Shard::tree
//!       WaitSet::inbox
//!         the scheduler's locks
//! aio's own lock, irqs off
//!   WaitSet::pollers (the lock within, irqs off)
//!     those of epoll, and the scheduler's
//! ```
//!
//! The lock of the poll queue nests inside locks that are taken in interrupts. It is taken irqs
//! off by the wait queue functions. No other lock here is held around it, so none of them needs
//! irqs to be off.
//!
//! # No wake-up is lost
//!
//! The names in parentheses are those of litmus tests in `Documentation/litmus-tests/userfaultfd/`.
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
//! barrier on both sides at least one of them sees what the other wrote. That holds as well where
//! one thread changes the page table and another one, which knows of that, wakes
//! (`uffd-fault+resolve`). A thread that sees the change takes the fault again. Only the page table
//! is looked at: a page that came into the page cache in another way changes nothing.
//!
//! A wake-up that takes long leaves those alone whose faults have a number from a limit on. It
//! reads the limit with the inbox locked, after the page table was changed. They got their numbers
//! under the same lock, later, and looked at the page table after that: they see the change
//! (`uffd-batch-limit`).
//!
//! *Waking against going to sleep.* A waker sets `woken` in the waiter, then wakes the task. The
//! thread sets its task state, then reads `woken`, then calls the scheduler. `set_state()` has a
//! full barrier and so has the wake-up, which is again store buffering: either the thread sees
//! that it is woken, or the waker sees the task state and makes the task runnable
//! (`uffd-wake+sleep`).
//!
//! *Leaving.* The waker still needs the waiter and the task after that store. It says that it is
//! done with both by setting `released`, as the last thing and with release. A thread that reads
//! that with acquire is free to go; one that does not takes the lock of the shard, under which the
//! waker works. A reader is done with a waiter when it clears `unread`, with release as well. The
//! waker reads `unread` before it sets `released`, and release is cumulative: a thread that sees
//! the latter is ordered after the reader, too (`uffd-leave-without-lock`).
//!
//! *Readers.* A reader looks for a message and queues up to sleep without dropping the inbox lock
//! in between. Under the same lock a message is added and a reader that sleeps is woken, who leaves
//! the queue with that. So while readers sleep there are no more messages than readers on their way
//! to them, whichever of them takes which; only a reader that returns without any breaks this, and
//! calls [`WaitSet::pass_on`]. A reader that is about to die takes no message, because nobody would
//! ever see it again: it passes its wake-up on. Sleeping readers are queued by priority.
//!
//! *Claims.* A reader that claims an event hides it from the others. Whoever looks for a message
//! meanwhile and finds none is noted, with the inbox lock held, and told if the event is offered
//! again. If nobody has looked, nobody is told: the one who could not deliver the event knows.

use crate::{
    bindings,
    error::code::{EAGAIN, ERESTARTSYS},
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        barrier::smp_mb,
        new_spinlock,
        poll::{events, PollQueue},
        Marked, SpinLock, SpinLockGuard,
    },
    task::{cond_resched, CurrentTask, SleepState, Task},
    time::msecs_to_jiffies,
    types::{NotThreadSafe, Opaque},
    userfaultfd::{
        fault::SleepableFault,
        index::{
            shard_of, shard_of_range, shards_of, Addressed, Linked, Links, Queue, Tree, SHARDS,
        },
        Context, FaultOutcome,
    },
};
use core::{cell::UnsafeCell, mem::MaybeUninit, ops::Range, ptr::NonNull};
use pin_init::pin_init_array_from_fn;

/// How many threads are looked at with the lock of a shard held, before it is dropped to let others
/// in.
const WAKE_BATCH: u32 = 32;

/// What wakers and readers see of a [`FaultWaiter`].
#[repr(C)]
struct FaultNode<F> {
    /// Place in the tree; guarded by the lock of the shard. Initialised once it is there.
    rb: MaybeUninit<bindings::rb_node>,
    /// Place in the queue of unread faults; guarded by the inbox lock.
    links: Links<FaultNode<F>>,
    /// Whether the node is in that queue, or not yet there. Cleared with the inbox lock held.
    unread: Atomic<u32>,
    /// Whether a waker took the node out of its shard; written with the lock of the shard held.
    woken: Marked<bool>,
    /// Zero from when the node enters its shard until that waker does not touch it, nor the task,
    /// any more.
    released: Atomic<u32>,
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
    unsafe fn address(this: *const Self) -> u64 {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { (*this).address }
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
    /// The number of nodes in the tree. Changed under the lock, read without. Whoever changes it by
    /// a node that is unread holds the inbox lock as well.
    len: Marked<u32>,
    #[pin]
    tree: SpinLock<Tree<FaultNode<F>>>,
}

impl<F> Shard<F> {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            len: Marked::new(0),
            tree <- new_spinlock!(Tree::new(), "userfaultfd::shard"),
        })
    }
}

/// A thread that sleeps until there is a message. It lives on the stack of that thread; its fields
/// are guarded by the inbox lock.
struct ReaderNode {
    links: Links<ReaderNode>,
    queued: bool,
    /// As [`Task::queue_prio`] was when the reader went to sleep: the lower, the more urgent.
    prio: i32,
    /// It cannot go away before the node does.
    task: NonNull<Task>,
}

// SAFETY: All fields may be accessed from another thread that holds the inbox lock; the task is
// only woken.
unsafe impl Send for ReaderNode {}

impl Linked for ReaderNode {
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// The messages that were not read yet, and who sleeps until there is one.
struct Inbox<F, V> {
    faults: Queue<FaultNode<F>>,
    /// How many faults there are.
    unread: u32,
    /// The sum of [`EventNode::holders`] over all events.
    holders: u32,
    /// Events that a reader may take or claim, in their order.
    events: Queue<EventNode<V>>,
    /// Events that a reader has claimed: as many as there are readers in the middle of that.
    claimed: Queue<EventNode<V>>,
    readers: Queue<ReaderNode>,
    /// The number of the next fault or event.
    next_number: u64,
}

impl<F, V> Inbox<F, V> {
    /// Takes a fault out.
    ///
    /// # Safety
    ///
    /// `node` must be in the queue of faults. It may be gone as soon as it was.
    #[inline]
    unsafe fn remove_fault(&mut self, node: *mut FaultNode<F>) {
        self.unread = self.unread.wrapping_sub(1);
        // SAFETY: By the safety requirements. The store is the last access.
        unsafe {
            self.faults.remove(node);
            (*node).unread.store(0, Release);
        }
    }

    /// Whether there is a message for a reader that has claimed none.
    fn is_readable(&self) -> bool {
        !self.faults.is_empty() || !self.events.is_empty()
    }

    /// Takes an event out of the queue that it is in.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox.
    unsafe fn remove_event(&mut self, node: *mut EventNode<V>) {
        // SAFETY: By the safety requirements; the lock is held. The state tells the queue.
        unsafe {
            match (*node).state {
                EventState::Claimed => self.claimed.remove(node),
                _ => self.events.remove(node),
            }
            self.holders = self.holders.wrapping_sub((*node).holders);
        }
    }

    /// Takes an event out that was delivered, or that nobody is going to read, and wakes the thread
    /// that waits for it.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox. It may be gone as soon as the lock is dropped.
    unsafe fn end_event(&mut self, node: NonNull<EventNode<V>>, state: EventState) {
        let node = node.as_ptr();
        // SAFETY: By the safety requirements; the lock is held. The thread takes it before it goes
        // on, so the node and the task stay until it is dropped.
        unsafe {
            self.remove_event(node);
            (*node).state = state;
            (*node).task.as_ref().wake_up();
        }
    }

    /// Wakes the most urgent reader, and of several the one that sleeps for the longest time.
    #[inline(always)]
    fn wake_reader(&mut self) {
        if let Some(node) = self.readers.front() {
            let node = node.as_ptr();
            // SAFETY: The members of a queue are valid, and the lock is held. The reader takes it
            // before it goes on, so the node and the task stay until it is dropped.
            unsafe {
                self.readers.remove(node);
                (*node).queued = false;
                (*node).task.as_ref().wake_up();
            }
        }
    }
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
    /// Whether there are messages in the inbox. Changed under its lock, read without.
    readable: Marked<u8>,
    /// Whether somebody looked for a message and found none while an event was claimed. Accessed
    /// with the inbox locked.
    missed: Marked<bool>,
    /// Whether the descriptor is closed: no thread may start to sleep.
    released: Marked<bool>,
    /// Whether somebody has ever asked for [`events::OUT`].
    wants_out: Marked<bool>,
    /// Whether a descriptor was ever closed, of which there may be several. Changed with the inbox
    /// locked, read also without.
    was_closed: Marked<bool>,
    #[pin]
    pollers: PollQueue,
}

/// What [`WaitSet::readable`] says: there is nothing in the inbox.
const NOTHING: u8 = 0;
/// There is nothing but events that readers have claimed, and that may be offered again.
const CLAIMED: u8 = 1;
/// There is a message.
const MESSAGE: u8 = 2;

/// The number that tells events apart.
type EventId = u64;

/// How long a thread waits for its event before it looks whether somebody is left who could read
/// it.
const LOOK_AGAIN_MS: u32 = 100;

/// The message that is next in the inbox.
pub enum Front<'a, F, V> {
    /// A thread sleeps in a fault.
    Fault(&'a F),
    /// A thread waits for an event to be read.
    Event(&'a V),
}

/// What a reader did with a message.
pub enum Receipt<R> {
    /// It was delivered. It leaves the inbox, and the thread that waits for an event goes on.
    Delivered(R),
    /// It was not delivered, and stays.
    Left(R),
}

/// An event that one reader has taken upon itself to deliver. Others do not see it meanwhile.
///
/// If the reader drops this and has not delivered the event, it is offered again.
pub struct Claim<'a, F: Copy + Send, V: Event> {
    set: &'a WaitSet<F, V>,
    event: EventId,
}

/// What a [`WaitSet`] needs to know about an event.
pub trait Event: Sync {
    /// Called once when a reader has the event, with the inbox locked, before the thread that waits
    /// for that goes on. Must not sleep.
    ///
    /// Returns whether the mappings do not change any more with that.
    fn delivered(&self) -> bool;

    /// Whether the thread that waits holds up a process that has descriptors: the child of a fork.
    fn holds_up(&self) -> bool;

    /// Returns how many descriptors that process has. Takes spinlocks.
    fn holders(&self) -> u32;

    /// Whether so many references to the descriptor are all that there are. Called with the inbox
    /// locked; must not sleep.
    fn are_all(&self, references: u32) -> bool;
}

impl<F: Copy + Send, V: Event> WaitSet<F, V> {
    /// Makes an empty set.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            shards <- pin_init_array_from_fn(|_| Shard::new()),
            inbox <- new_spinlock!(
                Inbox {
                    faults: Queue::new(),
                    unread: 0,
                    holders: 0,
                    events: Queue::new(),
                    claimed: Queue::new(),
                    readers: Queue::new(),
                    next_number: 0,
                },
                "userfaultfd::inbox"
            ),
            readable: Marked::new(NOTHING),
            missed: Marked::new(false),
            released: Marked::new(false),
            wants_out: Marked::new(false),
            was_closed: Marked::new(false),
            pollers <- crate::new_poll_queue!("userfaultfd::pollers"),
        })
    }

    /// Takes a fault out of the inbox.
    ///
    /// # Safety
    ///
    /// `node` must be in the queue of faults of `inbox`, which is that of this set. It may be gone
    /// as soon as it was taken out.
    #[inline]
    unsafe fn remove_fault(&self, inbox: &mut Inbox<F, V>, node: *mut FaultNode<F>) {
        // SAFETY: By the safety requirements.
        unsafe { inbox.remove_fault(node) };
        // As long as there is another fault, there is a message.
        if inbox.faults.is_empty() {
            self.publish(inbox);
        }
    }

    /// Makes known to those that do not take the lock whether there are messages.
    fn publish(&self, inbox: &Inbox<F, V>) {
        self.readable.write_once(if inbox.is_readable() {
            MESSAGE
        } else if !inbox.claimed.is_empty() {
            CLAIMED
        } else {
            NOTHING
        });
    }

    /// Notes that somebody looks for a message and finds none.
    fn miss(&self, inbox: &Inbox<F, V>) {
        self.missed.write_once(!inbox.claimed.is_empty());
    }

    /// Whether the descriptor is closed. Takes no lock.
    #[inline]
    pub fn is_released(&self) -> bool {
        self.released.read_once()
    }

    /// Notes that the descriptor is closed: no thread starts to sleep any more. The caller then
    /// takes the areas off the context, behind which those are that have not seen this yet, and
    /// calls [`WaitSet::wake_all`].
    pub fn set_released(&self) {
        self.released.write_once(true);
    }

    /// Whether there is a message. It may be gone, or come, at any time.
    ///
    /// For a poller that is in the queue already: if this says no, it is told when one comes. Takes
    /// no lock unless a reader has claimed all that there is.
    pub fn is_readable(&self) -> bool {
        match self.readable.read_once() {
            CLAIMED => {
                let inbox = self.inbox.lock();
                self.miss(&inbox);
                inbox.is_readable()
            }
            readable => readable == MESSAGE,
        }
    }

    /// Notes that a descriptor is being closed. From the first time on, threads whose events hold
    /// up processes look now and then whether somebody is left who could read the events: see
    /// [`WaitSet::wait_event`]. Before that there is a descriptor in a process that runs.
    pub fn look_again(&self) {
        if self.was_closed.read_once() {
            return;
        }
        let inbox = self.inbox.lock();
        self.was_closed.write_once(true);
        for queue in [&inbox.events, &inbox.claimed] {
            queue.find(|node| {
                // SAFETY: The members of a queue are valid, and so are their threads and events
                // while the lock is held.
                unsafe {
                    if (*node.as_ptr()).event.as_ref().holds_up() {
                        (*node.as_ptr()).task.as_ref().wake_up();
                    }
                }
                false
            });
        }
    }

    /// Notes that a poller asks whether the mappings change. It is in the queue already, and looks
    /// whether they do after that.
    pub fn want_out(&self) {
        self.wants_out.write_once(true);
        // Pairs with the full ordering of what lowers the mark that mappings change.
        smp_mb();
    }

    /// Returns the events that pollers are to be told about when the mappings do not change any
    /// more, which the caller has made known with full ordering.
    fn out(&self) -> u32 {
        if self.wants_out.read_once() {
            events::OUT
        } else {
            0
        }
    }

    /// Tells pollers that the mappings do not change any more, as in [`WaitSet::out`].
    pub fn tell_out(&self) {
        let news = self.out();
        if news != 0 {
            self.pollers.wake(news);
        }
    }

    /// Returns the queue that pollers sleep on.
    pub fn pollers(&self) -> &PollQueue {
        &self.pollers
    }

    /// Wakes another reader where there is a message left.
    ///
    /// To be called by a reader that returns although there is one: the wake-up for it may have
    /// been this reader's.
    pub fn pass_on(&self) {
        if self.readable.read_once() == MESSAGE {
            self.inbox.lock().wake_reader();
        }
    }

    /// Sleeps until this thread is woken for a message, or a signal arrives.
    #[inline]
    fn sleep<'a>(
        &'a self,
        task: &CurrentTask,
        mut inbox: SpinLockGuard<'a, Inbox<F, V>>,
    ) -> SpinLockGuard<'a, Inbox<F, V>> {
        let node = UnsafeCell::new(ReaderNode {
            links: Links::new(),
            queued: true,
            prio: task.queue_prio(),
            task: NonNull::from(&**task),
        });
        let ptr = node.get();

        // SAFETY: The node is in no queue. It stays where it is, and leaves the queue below at the
        // latest. The lock that guards the fields of the members is held.
        unsafe {
            inbox
                .readers
                .insert_from_back(ptr, |other| (*other.as_ptr()).prio <= (*ptr).prio);
        }
        task.set_state(SleepState::INTERRUPTIBLE);
        drop(inbox);
        // A thread is running when it comes back.
        task.schedule();

        let mut inbox = self.inbox.lock();
        // SAFETY: The lock that guards the fields is held. While it is queued the node is a member.
        unsafe {
            if (*ptr).queued {
                inbox.readers.remove(ptr);
            }
        }
        inbox
    }

    /// Returns the number of faults that were not read, and that of all threads that sleep in
    /// faults.
    pub fn count(&self) -> (usize, usize) {
        let inbox = self.inbox.lock();
        // Those who are unread stay the same while the lock is held.
        let all: u32 = self.shards.iter().map(|shard| shard.len.read_once()).sum();
        (inbox.unread as usize, all as usize)
    }

    /// Offers the next message to `deliver`: faults in the order in which they happened, and
    /// events in their order when there are no faults.
    ///
    /// `deliver` is called with the inbox locked: it must not sleep, nor drop anything that may.
    ///
    /// # Errors
    ///
    /// If there is no message: `ERESTARTSYS` if a signal is pending, `EAGAIN` if `nonblocking`;
    /// otherwise the thread sleeps until there is one. A thread that is killed meanwhile returns
    /// `ERESTARTSYS` without a message, which would be lost with it.
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
                        unsafe { self.remove_fault(&mut inbox, node.as_ptr()) };
                        ret
                    }
                    Receipt::Left(ret) => ret,
                });
            }
            if let Some(node) = inbox.events.front() {
                // SAFETY: The members of a queue are valid, and the lock is held.
                let receipt = deliver(Front::Event(unsafe { (*node.as_ptr()).event.as_ref() }));
                return Ok(match receipt {
                    Receipt::Delivered(ret) => {
                        // SAFETY: The node is in the queue, whose lock is held.
                        unsafe { self.end_delivered(inbox, node) };
                        ret
                    }
                    Receipt::Left(ret) => ret,
                });
            }

            self.miss(&inbox);
            let task = current!();
            if task.signal_pending() {
                return Err(ERESTARTSYS);
            }
            if nonblocking {
                return Err(EAGAIN);
            }
            // Whether it is a signal that ended the sleep is looked at after the inbox.
            inbox = self.sleep(task, inbox);
            if task.fatal_signal_pending() {
                // The wake-up for what there is may have been ours.
                if inbox.is_readable() {
                    inbox.wake_reader();
                }
                return Err(ERESTARTSYS);
            }
        }
    }

    /// Takes an event out that a reader has, lets the thread that waits for it go on, and tells
    /// pollers what changed with that.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox that is locked.
    unsafe fn end_delivered(
        &self,
        mut inbox: SpinLockGuard<'_, Inbox<F, V>>,
        node: NonNull<EventNode<V>>,
    ) {
        // SAFETY: By the safety requirements; the thread that the event belongs to waits.
        let mut news = if unsafe { (*node.as_ptr()).event.as_ref() }.delivered() {
            self.out()
        } else {
            0
        };
        // SAFETY: By the safety requirements.
        unsafe { inbox.end_event(node, EventState::Read) };
        self.publish(&inbox);
        // A poller that reads one event for each time that it is told that there is something waits
        // to be told about the others.
        if inbox.is_readable() {
            news |= events::IN;
        }
        drop(inbox);
        if news != 0 {
            self.pollers.wake(news);
        }
    }

    /// Claims the first event for this reader, if `wants` it; `wants` is called with the inbox
    /// locked.
    ///
    /// For an event that something has to be done about before it can be delivered. Nobody else
    /// does that meanwhile.
    pub fn claim<R>(&self, wants: impl FnOnce(&V) -> Option<R>) -> Option<(Claim<'_, F, V>, R)> {
        let mut inbox = self.inbox.lock();
        let node = inbox.events.front()?.as_ptr();
        // SAFETY: The members of a queue are valid, and the lock is held.
        let wanted = wants(unsafe { (*node).event.as_ref() })?;
        // SAFETY: The node is in this queue, and in no other one after that.
        let event = unsafe {
            inbox.events.remove(node);
            (*node).state = EventState::Claimed;
            inbox.claimed.push_back(node);
            (*node).id
        };
        self.publish(&inbox);
        // The wake-up for what else there is may have been ours.
        if inbox.is_readable() {
            inbox.wake_reader();
        }
        drop(inbox);
        Some((Claim { set: self, event }, wanted))
    }

    /// Wakes the threads that sleep in faults at the addresses of `range`, in bytes, as this is
    /// called. Those that come later, or fault again, are not waited for.
    ///
    /// A full memory barrier orders what the caller did to the pages before the search for
    /// threads. Sleeps where there are very many threads.
    pub fn wake(&self, range: Range<u64>) {
        self.wake_those(range, |_| true);
    }

    /// Like [`WaitSet::wake`], for threads about whose faults `is_meant` says so.
    #[inline(always)]
    pub fn wake_those(&self, range: Range<u64>, is_meant: impl Fn(&F) -> bool + Copy) {
        // Pairs with the barrier in `CurrentTask::set_state()` of a thread that faults.
        smp_mb();

        if let Some(shard) = shard_of_range(&range) {
            return self.wake_shard(&self.shards[shard], range, is_meant);
        }
        let mut shards = shards_of(&range);
        while shards != 0 {
            let shard = &self.shards[shards.trailing_zeros() as usize];
            self.wake_shard(shard, range.clone(), is_meant);
            shards &= shards - 1;
        }
    }

    /// Does that for one shard, after the barrier.
    #[inline]
    fn wake_shard(
        &self,
        shard: &Shard<F>,
        range: Range<u64>,
        is_meant: impl Fn(&F) -> bool + Copy,
    ) {
        if shard.len.read_once() != 0 {
            self.wake_sleepers(shard, range, is_meant);
        }
    }

    /// Does that for a shard in which threads sleep.
    fn wake_sleepers(
        &self,
        shard: &Shard<F>,
        mut range: Range<u64>,
        is_meant: impl Fn(&F) -> bool + Copy,
    ) {
        let mut limit = u64::MAX;
        while let Some(next) = self.wake_batch(shard, &range, &mut limit, is_meant) {
            range.start = next;
            cond_resched();
        }
    }

    /// Wakes the threads that sleep in faults, and those that wait for events to be read, after
    /// [`WaitSet::set_released`]: none of them sleeps again.
    pub fn wake_all(&self) {
        self.wake(0..u64::MAX);
        while self.abandon_events() {
            cond_resched();
        }
        self.pollers.wake(events::HUP);
    }

    /// Takes [`WAKE_BATCH`] events out of the inbox, which nobody will read, and wakes the threads
    /// that wait for it. Returns whether there are more.
    fn abandon_events(&self) -> bool {
        let mut inbox = self.inbox.lock();
        for _ in 0..WAKE_BATCH {
            let Some(node) = inbox.events.front() else {
                break;
            };
            // SAFETY: The node is in the queue, whose lock is held.
            unsafe { inbox.end_event(node, EventState::Abandoned) };
        }
        self.publish(&inbox);
        !inbox.events.is_empty()
    }

    /// Wakes threads of `range`, but none whose fault has a number from `limit` on. After a look at
    /// [`WAKE_BATCH`] threads returns the address from where to go on, and lowers `limit` to the
    /// number of the next fault, so that those who come meanwhile are left alone.
    #[inline]
    fn wake_batch(
        &self,
        shard: &Shard<F>,
        range: &Range<u64>,
        limit: &mut u64,
        is_meant: impl Fn(&F) -> bool,
    ) -> Option<u64> {
        let mut tree = shard.tree.lock();
        let mut len = shard.len.read_once();
        let mut next = tree.first_of(range);
        let mut seen = 0;
        let mut go_on = None;
        while let Some(node) = next {
            let node = node.as_ptr();
            // SAFETY: The node is in the tree, hence valid and not woken yet, and the lock of the
            // shard is held. The node and its task cannot go away before the last store.
            unsafe {
                if seen == WAKE_BATCH {
                    if *limit == u64::MAX {
                        *limit = self.next_number();
                    }
                    go_on = Some((*node).address);
                    break;
                }
                if (*node).number >= *limit {
                    // So have all others of this address, which came later.
                    seen = seen.wrapping_add(1);
                    next = tree.first_of(&((*node).address.wrapping_add(1)..range.end));
                    continue;
                }
                // Nothing follows the only one.
                next = if len == 1 {
                    None
                } else {
                    tree.next_of(node, range)
                };
                // These are not counted: they would be the first again in the next batch.
                if !is_meant(&(*node).message) {
                    continue;
                }
                seen = seen.wrapping_add(1);
                tree.remove(node);
                // The node was counted.
                len = len.wrapping_sub(1);
                if (*node).unread.load(Relaxed) != 0 {
                    self.forget(node, shard, len);
                } else {
                    // The control dependency orders it after the reader, for `WaitSet::count`.
                    shard.len.write_once(len);
                }
                (*node).woken.write_once(true);
                (*node).task.as_ref().wake_up();
                // This orders all accesses to the node before it; it pairs with the acquire in
                // `FaultWaiter::is_alone`.
                (*node).released.store(1, Release);
            }
        }
        go_on
    }

    /// Returns the number that the next fault is going to have.
    #[inline(never)]
    fn next_number(&self) -> u64 {
        self.inbox.lock().next_number
    }

    /// Takes a fault out of the inbox, unless it was read, and no longer counts it in its shard,
    /// where `len` are left. Whoever sees that, and looks with the inbox locked, finds no message.
    ///
    /// # Safety
    ///
    /// `node` must be valid, and have been in `shard` when its lock was taken, which is held.
    #[inline(never)]
    unsafe fn forget(&self, node: *mut FaultNode<F>, shard: &Shard<F>, len: u32) {
        let mut inbox = self.inbox.lock();
        // SAFETY: The node is valid by the safety requirements, and the lock is held. A node that
        // was in its shard and is unread is in the queue.
        unsafe {
            if (*node).unread.load(Relaxed) != 0 {
                self.remove_fault(&mut inbox, node);
            }
        }
        shard.len.write_once(len);
    }

    /// Sleeps in a fault, if there is still a reason to, until a wake-up for `address` (in bytes,
    /// it is what `message` reports), a signal that matters, or the end of the descriptor; the
    /// fault is to be taken again then.
    ///
    /// The fault lock is dropped before the thread sleeps.
    #[inline(always)]
    pub fn wait_fault<'f, T: Context>(
        &self,
        task: &CurrentTask,
        fault: SleepableFault<'f, T>,
        address: u64,
        message: F,
    ) -> FaultOutcome<'f> {
        let state = fault.blocking_state();
        let waiter = core::pin::pin!(FaultWaiter::new(self, task, address, message));
        let waiter = waiter.as_ref();

        let fault = fault.lock_page_tables();
        // SAFETY: The waiter is new.
        unsafe { waiter.enqueue() };
        // The barrier in here orders the enqueueing before the look at the page tables.
        task.set_state(state);
        let (must_wait, fault) = fault.must_wait_unlock();
        if must_wait && !self.is_released() {
            self.pollers.wake(events::IN);
            // A wake-up may have come before the state was set, and the page may have been
            // protected again since.
            while !waiter.is_woken() {
                // A thread is running when it comes back.
                task.schedule();
                if waiter.is_woken() || task.signal_pending_state(state) {
                    return fault.retry();
                }
                task.set_state(state);
            }
        }
        task.set_running();
        fault.retry()
    }
}

impl<'a, F: Copy + Send, V: Event> Claim<'a, F, V> {
    /// Returns the event, unless the thread that waited for it to be read is gone.
    fn find(&self, inbox: &Inbox<F, V>) -> Option<NonNull<EventNode<V>>> {
        inbox.claimed.find(|node| {
            // SAFETY: The members of a queue are valid, and the lock is held.
            unsafe { (*node.as_ptr()).id == self.event }
        })
    }

    /// Calls `deliver` with the inbox locked: it must not sleep. If it returns true, the event
    /// leaves the inbox, and the thread that waits for it goes on; otherwise it is offered again.
    ///
    /// Returns what `deliver` does, or nothing if nobody waits for the event any more. A thread
    /// that is about to die delivers nothing.
    pub fn deliver(self, deliver: impl FnOnce() -> bool) -> Option<bool> {
        let inbox = self.set.inbox.lock();
        let node = self.find(&inbox)?;
        let delivered = !current!().fatal_signal_pending() && deliver();
        if delivered {
            // SAFETY: The node is in the inbox, which is locked.
            unsafe { self.set.end_delivered(inbox, node) };
        } else {
            self.give_back(inbox, node, false);
        }
        // There is nothing left to give back.
        core::mem::forget(self);
        Some(delivered)
    }

    /// Offers the event again, behind the others: it cannot be delivered now, and should not stand
    /// in their way.
    pub fn defer(self) {
        let inbox = self.set.inbox.lock();
        if let Some(node) = self.find(&inbox) {
            self.give_back(inbox, node, true);
        }
        core::mem::forget(self);
    }

    /// Offers the event again, in its place or behind the others. `node` is the one of the claim.
    fn give_back(
        &self,
        mut inbox: SpinLockGuard<'_, Inbox<F, V>>,
        node: NonNull<EventNode<V>>,
        behind: bool,
    ) {
        let ptr = node.as_ptr();
        // SAFETY: The node is in the queue of those that are claimed, whose lock is held, and in no
        // other one. Few are looked at: those before it were given back as well.
        unsafe {
            inbox.claimed.remove(ptr);
            (*ptr).state = EventState::Unread;
            if behind {
                inbox.events.push_back(ptr);
            } else {
                inbox
                    .events
                    .insert_from_front(ptr, |other| (*other.as_ptr()).id < (*ptr).id);
            }
        }
        self.set.publish(&inbox);
        // A reader that returns without a message passes its wake-up on.
        inbox.wake_reader();
        let missed = self.set.missed.read_once();
        if inbox.claimed.is_empty() {
            self.set.missed.write_once(false);
        }
        drop(inbox);
        if missed {
            self.set.pollers.wake(events::IN);
        }
    }
}

impl<F: Copy + Send, V: Event> Drop for Claim<'_, F, V> {
    fn drop(&mut self) {
        let inbox = self.set.inbox.lock();
        if let Some(node) = self.find(&inbox) {
            self.give_back(inbox, node, false);
        }
    }
}

/// A thread that sleeps in a fault.
///
/// It lives on the stack of that thread, see [`WaitSet::wait_fault`], and leaves the set by itself
/// when it is dropped.
///
/// # Invariants
///
/// While `node.released` is not zero the node is known to this thread only. Otherwise, while
/// `node.woken` is not set, the node is in the shard of its address.
pub struct FaultWaiter<'a, F: Copy + Send, V: Event> {
    set: &'a WaitSet<F, V>,
    // Wakers and readers use it, also while this is being dropped.
    node: Opaque<FaultNode<F>>,
    // It stands for the current thread.
    _nts: NotThreadSafe,
}

impl<'a, F: Copy + Send, V: Event> FaultWaiter<'a, F, V> {
    /// Makes a waiter for the current thread. It must be dropped before the thread goes away, so
    /// it is on the stack.
    #[inline(always)]
    fn new(set: &'a WaitSet<F, V>, task: &CurrentTask, address: u64, message: F) -> Self {
        Self {
            set,
            node: Opaque::new(FaultNode {
                rb: MaybeUninit::uninit(),
                links: Links::new(),
                unread: Atomic::new(1),
                woken: Marked::new(false),
                // INVARIANT: Nobody else knows the node.
                released: Atomic::new(1),
                address,
                number: 0,
                task: NonNull::from(&**task),
                message,
            }),
            _nts: NotThreadSafe,
        }
    }

    fn shard(&self) -> &'a Shard<F> {
        // SAFETY: The address is never changed.
        let address = unsafe { (*self.node.get()).address };
        &self.set.shards[shard_of(address)]
    }

    /// Adds the waiter to its shard and to the inbox, and wakes a reader. From now on wakers and
    /// readers see it.
    ///
    /// The caller then sets the task state, which is a full barrier, and looks whether there is
    /// still a reason to sleep.
    ///
    /// # Safety
    ///
    /// To be called once.
    #[inline(always)]
    unsafe fn enqueue(self: Pin<&Self>) {
        let shard = self.shard();
        let node = self.node.get();

        let mut tree = shard.tree.lock();
        // INVARIANT: The node is added to its shard.
        // SAFETY: By the safety requirements nobody else knows the node, so it is in no tree. It is
        // pinned, and leaves the tree when it is dropped at the latest.
        unsafe {
            (&raw mut (*node).released).write(Atomic::new(0));
            tree.insert(node);
        }

        let mut inbox = self.set.inbox.lock();
        // SAFETY: As above, for the queue. Others find the node in the tree or in the queue, with
        // one of the locks that are held.
        unsafe {
            (*node).number = inbox.next_number;
            inbox.faults.push_back(node);
        }
        inbox.unread = inbox.unread.wrapping_add(1);
        inbox.next_number = inbox.next_number.wrapping_add(1);
        // Whoever sees that finds the message.
        shard.len.write_once(shard.len.read_once().wrapping_add(1));
        self.set.readable.write_once(MESSAGE);
        inbox.wake_reader();
    }

    /// Whether a waker took the waiter out of the set.
    #[inline]
    pub fn is_woken(&self) -> bool {
        // SAFETY: All accesses to the field are marked.
        unsafe { (*self.node.get()).woken.read_once() }
    }

    /// Whether the node is known to this thread only.
    #[inline]
    fn is_alone(&self) -> bool {
        // Pairs with the release in `WaitSet::wake_batch`.
        // SAFETY: Once the node is known to others all accesses to the field are atomic.
        unsafe { (*self.node.get()).released.load(Acquire) != 0 }
    }

    /// Takes the waiter out of the set, unless a waker did.
    #[cold]
    fn leave(&self) {
        let shard = self.shard();
        let mut tree = shard.tree.lock();
        // A waker does all that it does with the lock held.
        if self.is_woken() {
            return;
        }
        let node = self.node.get();
        // SAFETY: By the type invariants the node is in the tree, whose lock is held.
        unsafe {
            tree.remove(node);
            let len = shard.len.read_once().wrapping_sub(1);
            self.set.forget(node, shard, len);
        }
    }
}

impl<F: Copy + Send, V: Event> Drop for FaultWaiter<'_, F, V> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_alone() {
            self.leave();
        }
    }
}

/// How far an event got.
#[derive(Copy, Clone, PartialEq, Eq)]
enum EventState {
    /// It is in [`Inbox::events`], or not there yet.
    Unread,
    /// It is in [`Inbox::claimed`].
    Claimed,
    /// A reader took it out.
    Read,
    /// It was taken out because there are no readers any more.
    Abandoned,
}

/// What readers see of a thread that waits for its event to be read.
struct EventNode<V> {
    links: Links<EventNode<V>>,
    state: EventState,
    id: EventId,
    /// How many references to the descriptor a process has that cannot run before the event ends.
    holders: u32,
    /// The thread that waits, and its event. They cannot go away before the node does.
    task: NonNull<Task>,
    event: NonNull<V>,
}

// SAFETY: All fields may be accessed from another thread that holds the inbox lock, as long as the
// event may be shared; the task is only woken.
unsafe impl<V: Sync> Send for EventNode<V> {}

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

impl<F: Copy + Send, V: Event> WaitSet<F, V> {
    /// Adds an event to the inbox, and sleeps until it was read, a fatal signal arrives,
    /// the descriptor is closed, or nobody is left who could read it.
    ///
    /// The last is the case if all references to the descriptor are those of processes that cannot
    /// run before their events end: the children of forks. Nothing tells when that becomes so, and
    /// it is rare. So the thread looks now and then, once a descriptor was closed.
    pub fn wait_event(&self, event: &V) -> EventOutcome {
        let task = current!();
        let node = UnsafeCell::new(EventNode {
            links: Links::new(),
            state: EventState::Unread,
            id: 0,
            holders: 0,
            task: NonNull::from(&**task),
            event: NonNull::from(event),
        });
        let ptr = node.get();

        let mut inbox = self.inbox.lock();
        if self.is_released() || task.fatal_signal_pending() {
            return EventOutcome::Abandoned;
        }
        // SAFETY: The node is in no queue. It stays where it is until it left the queue, which is
        // before the loop below ends; its fields are accessed with the lock held.
        unsafe {
            (*ptr).id = inbox.next_number;
            inbox.events.push_back(ptr);
        }
        inbox.next_number = inbox.next_number.wrapping_add(1);
        self.readable.write_once(MESSAGE);
        inbox.wake_reader();

        let holds_up = event.holds_up();
        let mut looks = holds_up && self.was_closed.read_once();
        let mut is_new = true;
        let mut is_counted = false;
        let mut holders = 0;
        loop {
            // Whoever wakes this thread takes the lock first.
            task.set_state(SleepState::KILLABLE);
            drop(inbox);
            if core::mem::take(&mut is_new) {
                self.pollers.wake(events::IN);
            }
            // A thread is running when it comes back.
            let mut added = 0;
            if !looks {
                task.schedule();
            } else if task.schedule_timeout(msecs_to_jiffies(LOOK_AGAIN_MS)) == 0 && !is_counted {
                // That process does not run, so its descriptors stay the same.
                is_counted = true;
                holders = event.holders();
                added = holders;
            }

            inbox = self.inbox.lock();
            // SAFETY: The lock is held.
            match unsafe { (*ptr).state } {
                EventState::Read => return EventOutcome::Read,
                EventState::Abandoned => return EventOutcome::Abandoned,
                EventState::Unread | EventState::Claimed => (),
            }
            // One that has no descriptor is not among those that could read.
            looks = holds_up && self.was_closed.read_once() && !(is_counted && holders == 0);
            // SAFETY: The lock is held.
            unsafe { (*ptr).holders = holders };
            inbox.holders = inbox.holders.wrapping_add(added);
            let nobody_reads = holders != 0 && event.are_all(inbox.holders);
            if nobody_reads || task.fatal_signal_pending() {
                // SAFETY: The event was not taken out, so it is in the inbox.
                unsafe { inbox.remove_event(ptr) };
                self.publish(&inbox);
                return EventOutcome::Abandoned;
            }
        }
    }
}
