// SPDX-License-Identifier: GPL-2.0

//! The messages that were not read yet, and the nodes through which threads know each other.

use super::{
    event::Event,
    index::Indexed,
    queue::{Linked, Links, Queue},
};
use crate::{
    bindings,
    sync::{
        atomic::{Atomic, Release},
        rcu, ReadOnceCell,
    },
    task::Task,
    uapi,
    userfaultfd::{message::PageFault, trace::Since},
};
use core::{
    mem::{offset_of, MaybeUninit},
    ptr::NonNull,
};

/// What wakers and readers see of a thread that sleeps in a fault.
#[repr(C)]
pub(super) struct FaultNode {
    /// Place in the tree; guarded by the lock of the shard. Initialised once it is there.
    pub(super) rb: MaybeUninit<bindings::rb_node>,
    /// Place in the queue of unread faults; guarded by the inbox lock.
    pub(super) links: Links<FaultNode>,
    /// Not zero while the node is in that queue, or not yet there. Cleared with the inbox locked.
    pub(super) unread: Atomic<u32>,
    /// The [`Wakeup`] of the waker that took the node out of its shard, or zero. Written with the
    /// lock of the shard held.
    ///
    /// [`Wakeup`]: crate::userfaultfd::fault::Wakeup
    pub(super) woken: ReadOnceCell<u8>,
    /// Zero while other threads know the node. The waker sets it as its last access to the node and
    /// the task.
    pub(super) unlinked: Atomic<u32>,
    /// The sequence number of the fault.
    pub(super) seq: u64,
    /// The thread that sleeps. It does not exit before the node is gone.
    pub(super) task: NonNull<Task>,
    pub(super) message: PageFault,
    /// When the thread began to sleep.
    pub(super) since: Since,
}

// SAFETY: Another thread that holds the locks which guard the fields may access all of them; it
// only wakes the task.
unsafe impl Send for FaultNode {}

// SAFETY: It is the offset of such a field.
unsafe impl Indexed for FaultNode {
    const RB: usize = offset_of!(Self, rb);

    #[inline(always)]
    unsafe fn address(this: *const Self) -> u64 {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { (*this).message.address }
    }
}

impl Linked for FaultNode {
    #[inline(always)]
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// A thread that sleeps until there is a message. The node lives on the stack of that thread; its
/// fields are guarded by the inbox lock.
pub(super) struct ReaderNode {
    pub(super) links: Links<ReaderNode>,
    pub(super) queued: bool,
    /// [`Task::queue_prio`] when the reader went to sleep: the lower, the more urgent.
    pub(super) prio: i32,
    /// It does not exit before the node is gone.
    pub(super) task: NonNull<Task>,
}

// SAFETY: Another thread that holds the inbox lock may access all fields; it only wakes the task.
unsafe impl Send for ReaderNode {}

impl Linked for ReaderNode {
    #[inline(always)]
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// How far an event got.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum EventState {
    /// It is among the unread events, or not there yet.
    Unread,
    /// A reader has claimed it.
    Claimed,
    /// A reader took it out.
    Read,
    /// It was taken out because there are no readers any more.
    Abandoned,
}

/// What readers see of a thread that waits for its event to be read. Its fields are guarded by the
/// inbox lock.
pub(super) struct EventNode {
    pub(super) links: Links<EventNode>,
    pub(super) state: EventState,
    /// The sequence number of the event, which tells it apart from others.
    pub(super) seq: u64,
    /// The number of references to the descriptor in a process that cannot run before the event
    /// ends.
    pub(super) holders: u32,
    /// The thread that waits, and its event. Neither goes away before the node.
    pub(super) task: NonNull<Task>,
    pub(super) event: NonNull<Event>,
    pub(super) since: Since,
}

// SAFETY: Another thread that holds the inbox lock may access all fields, because events may be
// shared; it only wakes the task.
unsafe impl Send for EventNode {}

impl Linked for EventNode {
    #[inline(always)]
    unsafe fn links(this: *mut Self) -> *mut Links<Self> {
        // SAFETY: `this` is valid by the safety requirements.
        unsafe { &raw mut (*this).links }
    }
}

/// The messages that were not read yet, and the threads that sleep until there is one.
pub(super) struct Inbox {
    faults: Queue<FaultNode>,
    /// The number of faults.
    unread: u32,
    /// The sum of [`EventNode::holders`] over all events.
    pub(super) holders: u32,
    /// Events that a reader may take or claim, in their order.
    events: Queue<EventNode>,
    /// Events that readers have claimed.
    claimed: Queue<EventNode>,
    readers: Queue<ReaderNode>,
    /// The sequence number of the next fault or event.
    next_seq: u64,
    /// The numbers of faults so far: on missing pages, on write-protected ones, and on pages that
    /// are not mapped. No fault is of two kinds, so the last number is zero.
    fault_counts: [u64; 4],
    /// The number of messages that were read so far.
    read: u64,
    /// The number of threads that were not woken, but left by themselves.
    left: u64,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            faults: Queue::new(),
            unread: 0,
            holders: 0,
            events: Queue::new(),
            claimed: Queue::new(),
            readers: Queue::new(),
            next_seq: 0,
            fault_counts: [0; 4],
            read: 0,
            left: 0,
        }
    }

    /// Returns true if there is a message that is not claimed.
    #[inline]
    pub(super) fn is_readable(&self) -> bool {
        !self.faults.is_empty() || !self.events.is_empty()
    }

    /// Returns true if an event is claimed.
    #[inline]
    pub(super) fn has_claims(&self) -> bool {
        !self.claimed.is_empty()
    }

    /// Returns the number of unread faults.
    pub(super) fn unread(&self) -> u32 {
        self.unread
    }

    /// Returns the numbers of faults so far: on missing pages, on write-protected ones, and on
    /// pages that are not mapped.
    pub(super) fn fault_counts(&self) -> [u64; 3] {
        let [missing, write_protected, minor, _] = self.fault_counts;
        [missing, write_protected, minor]
    }

    /// Returns the number of messages that were read so far.
    pub(super) fn read(&self) -> u64 {
        self.read
    }

    /// Returns the number of threads so far that left by themselves.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Counts threads that leave by themselves.
    pub(super) fn count_left(&mut self, threads: u64) {
        self.left = self.left.wrapping_add(threads);
    }

    /// Counts a message that was read.
    #[inline(always)]
    pub(super) fn count_read(&mut self) {
        self.read = self.read.wrapping_add(1);
    }

    /// Returns the sequence number that the next fault or event gets.
    #[inline]
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    #[inline(always)]
    fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq = seq.wrapping_add(1);
        seq
    }

    /// Returns the fault that is read next.
    #[inline(always)]
    pub(super) fn first_fault(&self) -> Option<NonNull<FaultNode>> {
        self.faults.front()
    }

    /// Adds a fault, which gets the next sequence number.
    ///
    /// # Safety
    ///
    /// `node` must be valid and in no queue, and must be removed before it becomes invalid.
    #[inline(always)]
    pub(super) unsafe fn add_fault(&mut self, node: *mut FaultNode) {
        // SAFETY: The safety requirements cover both.
        unsafe {
            (*node).seq = self.take_seq();
            self.faults.push_back(node);
            self.count_fault((*node).message.flags);
        }
        self.unread = self.unread.wrapping_add(1);
    }

    /// Counts a fault with the flags of its message.
    #[inline(always)]
    fn count_fault(&mut self, flags: u64) {
        const WP: u64 = uapi::UFFD_PAGEFAULT_FLAG_WP as u64;
        const MINOR: u64 = uapi::UFFD_PAGEFAULT_FLAG_MINOR as u64;
        // The flags are neighbours, which saves branches. CAST: Only they are left.
        let kind = ((flags & (WP | MINOR)) / WP) as usize;
        self.fault_counts[kind] = self.fault_counts[kind].wrapping_add(1);
    }

    /// Removes a fault. Returns true if there is no other one.
    ///
    /// # Safety
    ///
    /// `node` must be in the queue of faults. It may be gone when this returns.
    #[inline(always)]
    pub(super) unsafe fn remove_fault(&mut self, node: *mut FaultNode) -> bool {
        self.unread = self.unread.wrapping_sub(1);
        // SAFETY: The node is in the queue by the safety requirements. The store is the last access
        // to it.
        unsafe {
            self.faults.remove(node);
            (*node).unread.store(0, Release);
        }
        self.faults.is_empty()
    }

    /// Returns the event that is read next if there are no faults.
    #[inline]
    pub(super) fn first_event(&self) -> Option<NonNull<EventNode>> {
        self.events.front()
    }

    /// Adds an event, which gets the next sequence number.
    ///
    /// # Safety
    ///
    /// `node` must be valid and in no queue, and must be removed before it becomes invalid.
    pub(super) unsafe fn add_event(&mut self, node: *mut EventNode) {
        // SAFETY: The safety requirements cover both.
        unsafe {
            (*node).seq = self.take_seq();
            self.events.push_back(node);
        }
    }

    /// Removes an event from the queue that it is in.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox.
    pub(super) unsafe fn remove_event(&mut self, node: *mut EventNode) {
        // SAFETY: The node is in the inbox by the safety requirements; its state tells the queue.
        unsafe {
            match (*node).state {
                EventState::Claimed => self.claimed.remove(node),
                _ => self.events.remove(node),
            }
            self.holders = self.holders.wrapping_sub((*node).holders);
        }
    }

    /// Removes an event that was delivered, or that no thread is going to read, and wakes the
    /// thread that waits for it.
    ///
    /// # Safety
    ///
    /// `node` must be in the inbox. It may be gone when the lock is dropped.
    pub(super) unsafe fn end_event(&mut self, node: NonNull<EventNode>, state: EventState) {
        let node = node.as_ptr();
        // SAFETY: The node is in the inbox by the safety requirements. The thread takes the lock
        // before it goes on, so the node and the task stay until the lock is dropped.
        unsafe {
            self.remove_event(node);
            (*node).state = state;
            (*node).task.as_ref().wake_up();
        }
    }

    /// Hides the first event from other readers, and returns its sequence number.
    pub(super) fn claim_first_event(&mut self) -> Option<u64> {
        let node = self.events.front()?.as_ptr();
        // SAFETY: The node is a member of this queue, and of no other one when it was removed.
        unsafe {
            self.events.remove(node);
            (*node).state = EventState::Claimed;
            self.claimed.push_back(node);
            Some((*node).seq)
        }
    }

    /// Returns the claimed event with a sequence number, unless its thread does not wait any more.
    pub(super) fn claimed_event(&self, seq: u64) -> Option<NonNull<EventNode>> {
        self.claimed.find(|node| {
            // SAFETY: The members of a queue are valid.
            unsafe { (*node.as_ptr()).seq == seq }
        })
    }

    /// Offers a claimed event to readers again: in its place, or behind the other events.
    ///
    /// # Safety
    ///
    /// `node` must be in the queue of claimed events.
    pub(super) unsafe fn offer_event(&mut self, node: NonNull<EventNode>, behind: bool) {
        let node = node.as_ptr();
        // SAFETY: The node is in the one queue by the safety requirements, and in no other one when
        // it was removed. The search is short, because the events before this one were offered
        // again as well.
        unsafe {
            self.claimed.remove(node);
            (*node).state = EventState::Unread;
            if behind {
                self.events.push_back(node);
            } else {
                self.events
                    .insert_from_front(node, |other| (*other.as_ptr()).seq < (*node).seq);
            }
        }
    }

    /// Calls `visit` for each event.
    pub(super) fn for_each_event(&self, visit: impl Fn(&EventNode)) {
        for queue in [&self.events, &self.claimed] {
            queue.find(|node| {
                // SAFETY: The members of a queue are valid.
                visit(unsafe { node.as_ref() });
                false
            });
        }
    }

    /// Queues a reader behind those that are at least as urgent.
    ///
    /// # Safety
    ///
    /// `node` must be valid and in no queue, and must be removed before it becomes invalid.
    #[inline]
    pub(super) unsafe fn add_reader(&mut self, node: *mut ReaderNode) {
        // SAFETY: The safety requirements are the same. The members of a queue are valid.
        unsafe {
            self.readers
                .insert_from_back(node, |other| (*other.as_ptr()).prio <= (*node).prio);
            (*node).queued = true;
        }
    }

    /// Removes a reader, unless it was woken.
    ///
    /// # Safety
    ///
    /// `node` must be valid, and [`Inbox::add_reader`] must have been called with it.
    #[inline]
    pub(super) unsafe fn remove_reader(&mut self, node: *mut ReaderNode) {
        // SAFETY: A node that says so is in the queue.
        unsafe {
            if (*node).queued {
                self.readers.remove(node);
            }
        }
    }

    /// Takes the most urgent reader out of the queue; of several, the one that sleeps for the
    /// longest time. The caller wakes it when it has dropped the lock, so that the reader finds it
    /// free, and does not sleep before.
    ///
    /// With `PREEMPT_RT` this wakes the reader itself, because a thread that holds a spinlock is
    /// preempted there, and must not drop one while it cannot be.
    #[inline(always)]
    pub(super) fn take_reader(&mut self) -> Option<TakenReader> {
        let node = self.readers.front()?.as_ptr();
        // SAFETY: The members of a queue are valid.
        unsafe {
            self.readers.remove(node);
            (*node).queued = false;
            if cfg!(CONFIG_PREEMPT_RT) {
                (*node).task.as_ref().wake_up();
                return None;
            }
            // INVARIANT: A reader that is in the queue has not exited, because it takes the lock
            // before it goes on, and the lock is held until the critical section has begun.
            Some(TakenReader {
                task: (*node).task,
                _rcu: rcu::read_lock_sched(),
            })
        }
    }
}

/// A reader that was taken out of the queue and has to be woken. It may have been woken otherwise
/// meanwhile, and does not mind being woken once more.
///
/// The current thread is not preempted until it has woken the reader: others that have messages for
/// the same reader do not find it any more.
///
/// # Invariants
///
/// The task had not exited when the critical section of RCU began, so RCU keeps it until that ends.
#[must_use]
pub(super) struct TakenReader {
    task: NonNull<Task>,
    _rcu: rcu::SchedGuard,
}

impl TakenReader {
    /// Wakes the reader; if `leaves_cpu`, because the current thread is about to sleep, on this CPU
    /// if possible.
    #[inline(always)]
    pub(super) fn wake(self, leaves_cpu: bool) {
        // SAFETY: The task is valid by the type invariants.
        let task = unsafe { self.task.as_ref() };
        if leaves_cpu {
            task.wake_up_on_current_cpu();
        } else {
            task.wake_up();
        }
    }
}
