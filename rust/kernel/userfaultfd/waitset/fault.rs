// SPDX-License-Identifier: GPL-2.0

//! The thread that sleeps in a fault, and the thread that wakes it.

use super::{
    inbox::{FaultNode, Inbox},
    index::{shard_of, shard_of_range, shards_of, Tree},
    queue::Links,
    WaitSet, MESSAGE, WAKE_BATCH,
};
use crate::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        barrier::smp_mb,
        new_spinlock,
        poll_queue::events,
        ReadOnceCell, SpinLock,
    },
    task::{cond_resched, CurrentTask},
    types::{NotThreadSafe, Opaque},
    userfaultfd::{fault::SleepableFault, message::PageFault, FaultOutcome},
};
use core::{mem::MaybeUninit, ops::Range, ptr::NonNull};

/// A part of the index.
#[pin_data]
pub(super) struct Shard {
    /// The number of nodes in the tree. Written with the lock held, read without. A thread that
    /// counts a node whose message is unread holds the inbox lock as well.
    len: ReadOnceCell<u32>,
    #[pin]
    tree: SpinLock<Tree<FaultNode>>,
}

impl Shard {
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            len: ReadOnceCell::new(0),
            tree <- new_spinlock!(Tree::new(), "userfaultfd::shard"),
        })
    }

    /// Returns the number of threads that sleep in the shard. Takes no lock.
    #[inline(always)]
    pub(super) fn len(&self) -> u32 {
        self.len.read_once()
    }
}

/// A thread that sleeps in a fault.
///
/// It lives on the stack of that thread, see [`WaitSet::wait_fault`], and leaves the set by itself
/// when it is dropped.
///
/// # Invariants
///
/// While `node.unlinked` is not zero only this thread knows the node. Otherwise, while `node.woken`
/// is not set, the node is in the shard of its address.
struct FaultWaiter<'a> {
    set: &'a WaitSet,
    // Wakers and readers use the node, also while this is being dropped.
    node: Opaque<FaultNode>,
    // The node stands for the current thread.
    _nts: NotThreadSafe,
}

impl WaitSet {
    /// Sleeps in a fault, unless it was resolved already, until a wake-up for the address of
    /// `message`, a signal that ends the sleep, or the release of the descriptor. The fault is
    /// taken again then.
    ///
    /// The fault lock is dropped before the thread sleeps.
    #[doc(alias = "handle_userfault")]
    #[inline(always)]
    pub fn wait_fault<'f>(
        &self,
        task: &CurrentTask,
        fault: SleepableFault<'f>,
        message: PageFault,
    ) -> FaultOutcome<'f> {
        let state = fault.blocking_state();
        let waiter = core::pin::pin!(FaultWaiter::new(self, task, message));
        let waiter = waiter.as_ref();

        let fault = fault.lock_page_tables();
        // SAFETY: This is the only call for the waiter.
        unsafe { waiter.enqueue() };
        // The barrier in `set_state` orders the enqueueing before the look at the page tables.
        task.set_state(state);
        let (must_wait, fault) = fault.must_wait_unlock();
        if must_wait && !self.is_released() {
            self.pollers.wake(events::IN);
            // A waker may have come before the state was set, and another thread may have protected
            // the page again since.
            while !waiter.is_woken() {
                // The task state is running when this returns.
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

    /// Wakes the threads that sleep in faults at the addresses of `range`, in bytes. Threads that
    /// fault after this was called may stay asleep.
    ///
    /// A full memory barrier orders what the caller did to the pages before the search for threads.
    /// Sleeps if there are many threads.
    #[doc(alias = "wake_userfault")]
    #[inline]
    pub fn wake(&self, range: Range<u64>) {
        self.wake_matching(range, |_| true);
    }

    /// Like [`WaitSet::wake`], for the threads for whose faults `matches` returns true. It is
    /// called with a spinlock held: it must not sleep, nor use the wait set.
    #[inline(always)]
    pub fn wake_matching(&self, range: Range<u64>, matches: impl Fn(&PageFault) -> bool + Copy) {
        // Pairs with the barrier in `CurrentTask::set_state()` of a thread that faults.
        smp_mb();

        if let Some(shard) = shard_of_range(&range) {
            let shard = &self.shards[shard];
            if shard.len() != 0 {
                self.wake_shard(shard, range, matches);
            }
            return;
        }
        let mut shards = shards_of(&range);
        while shards != 0 {
            let shard = &self.shards[shards.trailing_zeros() as usize];
            if shard.len() != 0 {
                self.wake_shard(shard, range.clone(), matches);
            }
            shards &= shards - 1;
        }
    }

    /// Wakes the waiters of `range` in `shard`. The caller has issued the full barrier.
    fn wake_shard(
        &self,
        shard: &Shard,
        mut range: Range<u64>,
        matches: impl Fn(&PageFault) -> bool + Copy,
    ) {
        let mut limit = u64::MAX;
        while let Some(next) = self.wake_batch(shard, &range, &mut limit, matches) {
            range.start = next;
            cond_resched();
        }
    }

    /// Wakes up to [`WAKE_BATCH`] waiters of `range`, but none with a sequence number of at least
    /// `limit`. If there may be more, lowers `limit` to the number of the next fault, so that the
    /// next batch skips threads that enqueue meanwhile, and returns the address at which that batch
    /// begins.
    #[inline]
    fn wake_batch(
        &self,
        shard: &Shard,
        range: &Range<u64>,
        limit: &mut u64,
        matches: impl Fn(&PageFault) -> bool,
    ) -> Option<u64> {
        let mut tree = shard.tree.lock();
        let mut len = shard.len();
        let mut next = tree.first_of(range);
        let mut seen = 0;
        let mut go_on = None;
        while let Some(node) = next {
            let node = node.as_ptr();
            // SAFETY: The node is in the tree, hence valid and not woken yet, and the lock of the
            // shard is held. The node and its task stay until the last store.
            unsafe {
                if seen == WAKE_BATCH {
                    if *limit == u64::MAX {
                        *limit = self.next_seq();
                    }
                    go_on = Some((*node).message.address);
                    break;
                }
                if (*node).seq >= *limit {
                    // Later waiters of this address have higher numbers: go to the next address.
                    seen = seen.wrapping_add(1);
                    next = tree.first_of(&((*node).message.address.wrapping_add(1)..range.end));
                    continue;
                }
                // Nothing follows the only one.
                next = if len == 1 {
                    None
                } else {
                    tree.next_of(node, range)
                };
                // Not counted, because a batch of such waiters would begin at the same address
                // again, and never advance.
                if !matches(&(*node).message) {
                    continue;
                }
                seen = seen.wrapping_add(1);
                tree.remove(node);
                // The node was counted.
                len = len.wrapping_sub(1);
                if (*node).unread.load(Relaxed) != 0 {
                    self.dequeue(node, shard, len);
                } else {
                    // The control dependency orders it after the reader, for `WaitSet::count`.
                    shard.len.write_once(len);
                }
                (*node).woken.write_once(true);
                (*node).task.as_ref().wake_up();
                // This orders all accesses to the node before it; it pairs with the acquire in
                // `FaultWaiter::is_unlinked`.
                (*node).unlinked.store(1, Release);
            }
        }
        go_on
    }

    /// Returns the sequence number that the next fault gets.
    #[inline(never)]
    fn next_seq(&self) -> u64 {
        self.inbox.lock().next_seq()
    }

    /// Removes a fault from the inbox.
    ///
    /// # Safety
    ///
    /// `node` must be in the queue of faults of `inbox`, which must be that of this set. The node
    /// may be gone when this returns.
    #[inline(always)]
    pub(super) unsafe fn remove_fault(&self, inbox: &mut Inbox, node: *mut FaultNode) {
        // SAFETY: The safety requirements are the same.
        if unsafe { inbox.remove_fault(node) } {
            // As long as there is another fault, the inbox has a message.
            self.publish(inbox);
        }
    }

    /// Removes a waiter from the inbox if it is unread, then publishes the new length of its shard.
    /// A thread that sees the new length and then locks the inbox does not find the message.
    ///
    /// # Safety
    ///
    /// `node` must be valid, and have been in `shard` when its lock was taken, which is held.
    #[inline(never)]
    unsafe fn dequeue(&self, node: *mut FaultNode, shard: &Shard, len: u32) {
        let mut inbox = self.inbox.lock();
        // SAFETY: The node is valid by the safety requirements. If it was in its shard and is
        // unread, it is in the queue.
        unsafe {
            if (*node).unread.load(Relaxed) != 0 {
                self.remove_fault(&mut inbox, node);
            }
        }
        shard.len.write_once(len);
    }
}

impl<'a> FaultWaiter<'a> {
    /// Creates a waiter for the current thread, on whose stack it stays.
    #[inline(always)]
    fn new(set: &'a WaitSet, task: &CurrentTask, message: PageFault) -> Self {
        Self {
            set,
            node: Opaque::new(FaultNode {
                rb: MaybeUninit::uninit(),
                links: Links::new(),
                unread: Atomic::new(1),
                woken: ReadOnceCell::new(false),
                // INVARIANT: No other thread knows the node.
                unlinked: Atomic::new(1),
                seq: 0,
                task: NonNull::from(&**task),
                message,
            }),
            _nts: NotThreadSafe,
        }
    }

    #[inline(always)]
    fn shard(&self) -> &'a Shard {
        // SAFETY: The message is never changed.
        let address = unsafe { (*self.node.get()).message.address };
        &self.set.shards[shard_of(address)]
    }

    /// Adds the waiter to its shard and to the inbox, and wakes a reader. From now on wakers and
    /// readers see it.
    ///
    /// The caller then sets the task state, which is a full barrier, and checks if there is still a
    /// reason to sleep.
    ///
    /// # Safety
    ///
    /// This must be called once.
    #[inline(always)]
    unsafe fn enqueue(self: Pin<&Self>) {
        let shard = self.shard();
        let node = self.node.get();

        let mut tree = shard.tree.lock();
        // INVARIANT: The node is added to its shard.
        // SAFETY: No other thread knows the node, because this is called once, so it is in no tree.
        // It is pinned, and leaves the tree when it is dropped at the latest.
        unsafe {
            (&raw mut (*node).unlinked).write(Atomic::new(0));
            tree.insert(node);
        }

        let mut inbox = self.set.inbox.lock();
        // SAFETY: As for the tree. Other threads find the node in the tree or in the queue, with
        // one of the locks that are held.
        unsafe { inbox.add_fault(node) };
        // A thread that sees this finds the message.
        shard.len.write_once(shard.len().wrapping_add(1));
        self.set.readable.write_once(MESSAGE);
        inbox.wake_reader();
    }

    /// Returns true if a waker took the waiter out of the set.
    #[inline(always)]
    fn is_woken(&self) -> bool {
        // SAFETY: All accesses to the field are marked.
        unsafe { (*self.node.get()).woken.read_once() }
    }

    /// Returns true if no other thread knows the node.
    #[inline(always)]
    fn is_unlinked(&self) -> bool {
        // Pairs with the release in `WaitSet::wake_batch`.
        // SAFETY: Once other threads know the node all accesses to the field are atomic.
        unsafe { (*self.node.get()).unlinked.load(Acquire) != 0 }
    }

    /// Takes the waiter out of the set, unless a waker did.
    #[cold]
    fn leave(&self) {
        let shard = self.shard();
        let mut tree = shard.tree.lock();
        // A waker holds the lock until it is done with the node.
        if self.is_woken() {
            return;
        }
        let node = self.node.get();
        // SAFETY: By the type invariants the node is in the tree, whose lock is held.
        unsafe {
            tree.remove(node);
            self.set.dequeue(node, shard, shard.len().wrapping_sub(1));
        }
    }
}

impl Drop for FaultWaiter<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if !self.is_unlinked() {
            self.leave();
        }
    }
}
