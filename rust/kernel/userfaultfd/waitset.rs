// SPDX-License-Identifier: GPL-2.0

//! Threads that sleep in faults and events, and the threads that read about them.
//!
//! # Structure
//!
//! A [`FaultWaiter`] lives on the stack of the thread that faults, pinned. From the fault to the
//! wake-up it is in one *shard* of an index: a tree of the sleeping threads ordered by the address
//! that their messages report. All addresses of a region of [`REGION_SIZE`] bytes are in the same
//! shard. Waking a range of addresses looks at the shards that the range can hit, skips those that
//! are empty without taking their lock, and finds the first thread of the range in a time that
//! depends on the logarithm of the number of threads in the shard. The index needs no memory but
//! that of the waiters, so it cannot fail and there is nothing to charge for.
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
//! sees that somebody sleeps. One reader is woken for a message. A reader that leaves a message
//! behind calls [`WaitSet::pass_on`].

use crate::{
    bindings, container_of,
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
    task::{wake_q::WakeQ, Task, TASK_KILLABLE},
    types::NotThreadSafe,
};
use core::{
    cell::UnsafeCell,
    marker::{PhantomData, PhantomPinned},
    ops::Range,
    ptr::{self, NonNull},
};
use pin_init::pin_init_array_from_fn;

/// How many shards the index has.
///
/// Each costs 16 bytes of every context (without lock debugging): a lock, a count and the root of
/// a tree. More of them would let more threads enter at the same time, but all of them also enter
/// the one inbox, and a wake-up of a large range looks at every shard.
const SHARDS: usize = 16;

/// The logarithm of [`REGION_SIZE`].
const REGION_SHIFT: u32 = 21;

/// How many bytes of consecutive addresses share a shard.
///
/// Ranges that are resolved at once are rarely longer than a huge page, so they hit one or two
/// shards.
pub const REGION_SIZE: u64 = 1 << REGION_SHIFT;

/// How many threads are woken with the lock of a shard held, before it is dropped to let others
/// in.
const WAKE_BATCH: usize = 64;

/// Returns the number of the shard for the region that has number `region`.
///
/// Multiplication spreads regions that are a power of two apart, as the memory of several threads
/// often is.
fn shard_of_region(region: u64) -> usize {
    const GOLDEN_RATIO_64: u64 = 0x61C8_8646_80B5_83EB;
    (region.wrapping_mul(GOLDEN_RATIO_64) >> (u64::BITS - SHARDS.ilog2())) as usize
}

/// Returns the number of the shard for an address.
fn shard_of(address: u64) -> usize {
    shard_of_region(address >> REGION_SHIFT)
}

/// Returns which shards may have addresses of `range`, a bit for each.
fn shards_of(range: &Range<u64>) -> u32 {
    let first = range.start >> REGION_SHIFT;
    let last = range.end.saturating_sub(1) >> REGION_SHIFT;
    if last - first >= SHARDS as u64 {
        return (1 << SHARDS) - 1;
    }
    (first..=last).fold(0, |shards, region| shards | (1 << shard_of_region(region)))
}

/// A member of a [`Queue`].
trait Linked: Sized {
    /// Returns where the links of a member are.
    ///
    /// # Safety
    ///
    /// `this` must be valid.
    unsafe fn links(this: *mut Self) -> *mut Links<Self>;
}

/// The links of a member of a [`Queue`].
struct Links<N> {
    prev: *mut N,
    next: *mut N,
}

impl<N> Links<N> {
    const fn new() -> Self {
        Self {
            prev: ptr::null_mut(),
            next: ptr::null_mut(),
        }
    }
}

/// A first-in-first-out queue of members that live elsewhere and can leave it at any time.
///
/// # Invariants
///
/// The members form a list from `first` to `last`. Each is valid, and in no other queue.
struct Queue<N> {
    first: *mut N,
    last: *mut N,
    len: usize,
}

impl<N: Linked> Queue<N> {
    const fn new() -> Self {
        // INVARIANT: There are no members.
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
            len: 0,
        }
    }

    fn front(&self) -> Option<NonNull<N>> {
        NonNull::new(self.first)
    }

    /// # Safety
    ///
    /// `member` must be valid and in no queue, and must leave this one before it becomes invalid.
    unsafe fn push_back(&mut self, member: *mut N) {
        // SAFETY: `member` is valid by the safety requirements.
        unsafe {
            *N::links(member) = Links {
                prev: self.last,
                next: ptr::null_mut(),
            }
        };
        if self.last.is_null() {
            self.first = member;
        } else {
            // SAFETY: `last` is a member, hence valid by the type invariants.
            unsafe { (*N::links(self.last)).next = member };
        }
        // INVARIANT: The new member follows the one that was last.
        self.last = member;
        self.len += 1;
    }

    /// # Safety
    ///
    /// `member` must be in this queue.
    unsafe fn remove(&mut self, member: *mut N) {
        // SAFETY: Members are valid by the type invariants.
        let Links { prev, next } = unsafe { N::links(member).replace(Links::new()) };
        if prev.is_null() {
            self.first = next;
        } else {
            // SAFETY: The neighbour is a member, hence valid by the type invariants.
            unsafe { (*N::links(prev)).next = next };
        }
        if next.is_null() {
            self.last = prev;
        } else {
            // SAFETY: The neighbour is a member, hence valid by the type invariants.
            unsafe { (*N::links(next)).prev = prev };
        }
        // INVARIANT: The neighbours of the member are linked to each other.
        self.len -= 1;
    }
}

/// The waiter was never added to the set.
const IDLE: u32 = 0;
/// The waiter is in its shard.
const QUEUED: u32 = 1;
/// A waker took the waiter out and does not touch it any more.
const WOKEN: u32 = 2;

/// What wakers and readers see of a [`FaultWaiter`].
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
    /// The thread that sleeps. It cannot go away before the node does.
    task: NonNull<Task>,
    message: F,
}

impl<F> Linked for FaultNode<F> {
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// The threads of a shard, ordered by address. Threads of the same address are in the order of
/// their faults.
///
/// # Invariants
///
/// All nodes of the tree are the `rb` of valid [`FaultNode`]s.
struct Tree<F> {
    root: bindings::rb_root,
    _nodes: PhantomData<*mut FaultNode<F>>,
}

// SAFETY: The tree holds pointers to nodes that may be accessed from any thread which holds the
// lock of the shard.
unsafe impl<F: Send> Send for Tree<F> {}

impl<F> Tree<F> {
    const fn new() -> Self {
        // INVARIANT: There are no nodes.
        Self {
            root: bindings::rb_root {
                rb_node: ptr::null_mut(),
            },
            _nodes: PhantomData,
        }
    }

    /// Returns the node that `rb` is part of.
    fn node(rb: *mut bindings::rb_node) -> *mut FaultNode<F> {
        // SAFETY: By the type invariants all nodes are part of a `FaultNode`.
        unsafe { container_of!(rb, FaultNode<F>, rb) }
    }

    /// # Safety
    ///
    /// `node` must be valid and in no tree, and must leave this one before it becomes invalid.
    unsafe fn insert(&mut self, node: *mut FaultNode<F>) {
        let mut parent: *mut bindings::rb_node = ptr::null_mut();
        let mut link: *mut *mut bindings::rb_node = &mut self.root.rb_node;
        // SAFETY: The new node is valid by the safety requirements, those on the way by the type
        // invariants; the links are those of the tree.
        unsafe {
            while !(*link).is_null() {
                parent = *link;
                link = if (*node).address < (*Self::node(parent)).address {
                    &raw mut (*parent).rb_left
                } else {
                    &raw mut (*parent).rb_right
                };
            }
            bindings::rb_link_node(&raw mut (*node).rb, parent, link);
            bindings::rb_insert_color(&raw mut (*node).rb, &mut self.root);
        }
    }

    /// # Safety
    ///
    /// `node` must be in this tree.
    unsafe fn remove(&mut self, node: *mut FaultNode<F>) {
        // SAFETY: The node is in the tree by the safety requirements.
        unsafe { bindings::rb_erase(&raw mut (*node).rb, &mut self.root) };
    }

    /// Returns the first node of `range`.
    fn first_of(&self, range: &Range<u64>) -> Option<NonNull<FaultNode<F>>> {
        let mut rb = self.root.rb_node;
        let mut found = None;
        while !rb.is_null() {
            let node = Self::node(rb);
            // SAFETY: All nodes of the tree are valid by the type invariants.
            unsafe {
                if (*node).address < range.start {
                    rb = (*rb).rb_right;
                } else {
                    found = NonNull::new(node);
                    rb = (*rb).rb_left;
                }
            }
        }
        // SAFETY: As above.
        found.filter(|node| unsafe { (*node.as_ptr()).address } < range.end)
    }

    /// Returns the node of `range` that follows `node`, which must be in this tree.
    fn next_of(
        &self,
        node: *mut FaultNode<F>,
        range: &Range<u64>,
    ) -> Option<NonNull<FaultNode<F>>> {
        // SAFETY: All nodes of the tree are valid by the type invariants.
        let rb = NonNull::new(unsafe { bindings::rb_next(&raw const (*node).rb) })?;
        let next = Self::node(rb.as_ptr());
        // SAFETY: As above.
        if unsafe { (*next).address } < range.end {
            NonNull::new(next)
        } else {
            None
        }
    }
}

/// A part of the index.
#[pin_data]
struct Shard<F> {
    /// The number of nodes in the tree. Changed under the lock, read without.
    len: Atomic<u32>,
    #[pin]
    tree: SpinLock<Tree<F>>,
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
    /// The number of the next event.
    next_event: u64,
}

// SAFETY: The queues hold pointers to nodes that may be accessed from any thread which holds the
// inbox lock.
unsafe impl<F: Send, V: Send> Send for Inbox<F, V> {}

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
            .store((inbox.faults.len + inbox.events.len) as u32, Relaxed);
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
        let unread = self.inbox.lock().faults.len;
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

    /// Wakes the threads that sleep in faults at the addresses of `range`, in bytes.
    ///
    /// A full memory barrier orders what the caller did to the pages before the search for
    /// threads. Sleeps where there are very many threads.
    pub fn wake(&self, range: Range<u64>) {
        // Pairs with the barrier in `CurrentTask::set_state()` of a thread that faults.
        smp_mb();

        let mut shards = shards_of(&range);
        while shards != 0 {
            let index = shards.trailing_zeros() as usize;
            shards &= shards - 1;
            let shard = &self.shards[index];
            while shard.len.load(Relaxed) != 0 && self.wake_batch(shard, &range) {
                crate::task::cond_resched();
            }
        }
    }

    /// Wakes the threads that sleep in faults, and those that wait for events to be read. For a
    /// context that was released: none of them sleeps again.
    pub fn wake_all(&self) {
        self.wake(0..u64::MAX);

        let inbox = self.inbox.lock();
        let mut node = inbox.events.first;
        while !node.is_null() {
            // SAFETY: The members of a queue are valid, and the lock is held.
            unsafe {
                (*node).task.as_ref().wake_up();
                node = (*node).links.next;
            }
        }
        drop(inbox);

        self.pollers.wake(events::HUP);
    }

    /// Wakes up to [`WAKE_BATCH`] threads, and returns whether there may be more.
    fn wake_batch(&self, shard: &Shard<F>, range: &Range<u64>) -> bool {
        // The tasks are woken when this is dropped, which is after the locks are.
        pin_init::stack_pin_init!(let wake_q = WakeQ::new());

        let mut tree = shard.tree.lock();
        let mut next = tree.first_of(range);
        if next.is_none() {
            return false;
        }
        let mut inbox = self.inbox.lock();
        for _ in 0..WAKE_BATCH {
            let Some(node) = next else {
                break;
            };
            let node = node.as_ptr();
            next = tree.next_of(node, range);
            // SAFETY: The node is in the tree, hence valid and not woken yet, and both locks that
            // guard its fields are held. Its task cannot go away before the node does, and that
            // is not before the store.
            unsafe {
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
        }
        self.publish(&inbox);
        next.is_some()
    }
}

/// A thread that sleeps in a fault.
///
/// It lives on the stack of that thread, pinned, and leaves the set by itself when it is dropped.
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
    #[pin]
    _pin: PhantomPinned,
    // It stands for the current thread.
    _nts: NotThreadSafe,
}

impl<'a, F: Copy + Send, V: Send> FaultWaiter<'a, F, V> {
    /// Makes a waiter for the current thread that `set` does not know yet.
    ///
    /// `address` is the address that `message` reports, in bytes.
    pub fn new(set: &'a WaitSet<F, V>, address: u64, message: F) -> impl PinInit<Self> + 'a
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
                task: NonNull::from(&**current!()),
                message,
            }),
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
            tree.insert(node);
            inbox.faults.push_back(node);
        }
        self.set.publish(&inbox);
        shard.len.store(shard.len.load(Relaxed) + 1, Relaxed);
    }

    /// Tells readers and pollers about the message.
    pub fn announce(&self) {
        self.set.notify();
    }

    /// Whether a waker took the waiter out of the set.
    pub fn is_woken(&self) -> bool {
        // Pairs with the release in `WaitSet::wake_batch`.
        self.state().load(Acquire) == WOKEN
    }
}

#[pinned_drop]
impl<F: Copy + Send, V: Send> PinnedDrop for FaultWaiter<'_, F, V> {
    fn drop(self: Pin<&mut Self>) {
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
            current!().set_state(TASK_KILLABLE);
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
