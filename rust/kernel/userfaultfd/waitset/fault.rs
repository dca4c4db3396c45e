// SPDX-License-Identifier: GPL-2.0

//! The thread that sleeps in a fault, and the thread that wakes it.

use super::{
    inbox::{FaultNode, Inbox, TakenReader},
    index::{shard_of, shards_of, shards_of_short, Tree},
    queue::Links,
    WaitSet, MESSAGE, WAKE_BATCH, WAKE_WHOLE,
};
use crate::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        barrier::smp_mb,
        poll_queue::events,
        ReadOnceCell, SpinLock, SpinLockGuard,
    },
    task::{cond_resched, CurrentTask},
    types::{NotThreadSafe, Opaque},
    userfaultfd::{
        fault::{SleepableFault, UnlockedFault, Wakeup},
        message::PageFault,
        trace::{self, Since, Why},
        FaultOutcome,
    },
};
use core::{mem::MaybeUninit, ops::Range, ptr::NonNull};

/// A part of the index.
#[derive(Copy, Clone)]
struct Shard<'a> {
    /// The number of threads that sleep in it. Written with the lock of the tree held, read
    /// without. A thread that counts a node whose message is unread holds the inbox lock as well.
    len: &'a ReadOnceCell<u32>,
    tree: &'a SpinLock<Tree<FaultNode>>,
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
    /// `message`, a signal that ends the sleep, or the release of the descriptor. Unless the waker
    /// has put in place what the access needs, the fault is taken again then.
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
        let since = if trace::is_timed() {
            trace::fault(self, message.address, message.flags)
        } else {
            Since::in_jiffies()
        };
        let waiter = core::pin::pin!(FaultWaiter::new(self, task, message, since));
        let waiter = waiter.as_ref();

        let fault = fault.lock_page_tables();
        // SAFETY: This is the only call for the waiter.
        let reader = unsafe { waiter.enqueue() };
        // The barrier in `set_state` orders the enqueueing before the look at the page tables.
        task.set_state(state);
        let (must_wait, fault) = fault.must_wait_unlock();
        // If no other thread sleeps, the thread that is told of this one has nothing else to do.
        // This thread is about to sleep until that is done, so the other one may have the CPU,
        // unless more urgent threads use it.
        let hands_over = must_wait && self.sleepers() == 1 && !task.is_rt_or_dl();
        if let Some(reader) = reader {
            reader.wake(hands_over);
        }
        if must_wait && !self.is_released() {
            self.pollers.wake_from(events::IN, hands_over);
            // A waker may have come before the state was set, and another thread may have protected
            // the page again since.
            while waiter.wakeup().is_none() {
                // The task state is running when this returns.
                task.schedule();
                if waiter.wakeup().is_some() || task.signal_pending_state(state) {
                    return waiter.end(fault, Why::Interrupted);
                }
                task.set_state(state);
            }
        }
        task.set_running();
        waiter.end(fault, Why::Unneeded)
    }

    /// Wakes the threads that sleep in faults at the addresses of `range`, in bytes, and tells them
    /// what was done to the pages. Threads that fault after this was called may stay asleep.
    ///
    /// A full memory barrier orders what the caller did to the pages before the search for threads.
    /// Sleeps if there are many threads. Returns the number of threads that were woken.
    #[doc(alias = "wake_userfault")]
    #[inline(always)]
    pub fn wake(&self, range: Range<u64>, wakeup: Wakeup) -> u64 {
        // Pairs with the barrier in `CurrentTask::set_state()` of a thread that faults.
        smp_mb();

        // Mostly no thread sleeps there, and ranges are short.
        let is_empty = |shard: usize| self.lens[shard].read_once() == 0;
        match shards_of_short(&range) {
            Some((first, last)) if first == last => {
                if is_empty(first) {
                    0
                } else {
                    self.wake_shard(self.shard(first), range, wakeup)
                }
            }
            Some((first, last)) if is_empty(first) && is_empty(last) => 0,
            _ => self.wake_shards(range, wakeup),
        }
    }

    /// Like [`WaitSet::wake`], for the threads for whose faults `matches` returns true. It is
    /// called with a spinlock held: it must not sleep, nor use the wait set.
    pub fn wake_matching(
        &self,
        range: Range<u64>,
        wakeup: Wakeup,
        matches: impl Fn(&PageFault) -> bool + Copy,
    ) -> u64 {
        // As in `wake`.
        smp_mb();

        let mut woken: u64 = 0;
        self.for_each_shard(&range, |shard| {
            let tree = shard.tree.lock();
            let more = self.wake_in_batches(shard, tree, range.clone(), wakeup, matches);
            woken = woken.wrapping_add(more);
        });
        woken
    }

    /// Returns for how many milliseconds the thread has slept that has slept in a fault for the
    /// longest time, or zero if none does. Sleeps if there are many threads.
    pub fn longest_wait(&self) -> u64 {
        let mut longest = 0;
        self.for_each_shard(&(0..u64::MAX), |shard| {
            let mut rest = 0..u64::MAX;
            loop {
                let (wait, next) = longest_of(&shard.tree.lock(), &rest);
                longest = longest.max(wait);
                match next {
                    Some(next) => rest.start = next,
                    None => break,
                }
                cond_resched();
            }
        });
        longest
    }

    /// Returns a shard by its number.
    #[inline(always)]
    fn shard(&self, number: usize) -> Shard<'_> {
        Shard {
            len: &self.lens[number],
            tree: &self.shards[number],
        }
    }

    /// Calls `f` for each shard that may have threads in `range`.
    #[inline(always)]
    fn for_each_shard<'a>(&'a self, range: &Range<u64>, mut f: impl FnMut(Shard<'a>)) {
        let mut shards = shards_of(range);
        while shards != 0 {
            let shard = self.shard(shards.trailing_zeros() as usize);
            if shard.len.read_once() != 0 {
                f(shard);
            }
            shards &= shards - 1;
        }
    }

    /// Wakes the waiters of `range`, which may be in several shards. The caller has issued the full
    /// barrier.
    #[inline(never)]
    fn wake_shards(&self, range: Range<u64>, wakeup: Wakeup) -> u64 {
        let mut woken: u64 = 0;
        self.for_each_shard(&range, |shard| {
            woken = woken.wrapping_add(self.wake_shard(shard, range.clone(), wakeup));
            cond_resched();
        });
        woken
    }

    /// Wakes the waiters of `range` in `shard`. The caller has issued the full barrier.
    fn wake_shard(&self, shard: Shard<'_>, range: Range<u64>, wakeup: Wakeup) -> u64 {
        let mut tree = shard.tree.lock();
        let mut len = shard.len.read_once();
        let woken = len;
        if len > WAKE_WHOLE || !tree.is_within(&range) {
            return self.wake_in_batches(shard, tree, range, wakeup, |_| true);
        }
        // SAFETY: The lock is held until all have been woken, so they are valid, and leave by this
        // way only.
        for node in unsafe { tree.take_all() } {
            len = len.wrapping_sub(1);
            // SAFETY: The node was in the tree, hence valid and not woken yet, and the lock of the
            // shard is held.
            unsafe { self.wake_node(node.as_ptr(), shard, len, wakeup) };
        }
        woken.into()
    }

    /// Wakes the waiters of `range` in `shard` for whose faults `matches` returns true. `tree` is
    /// that of the shard.
    #[inline(never)]
    fn wake_in_batches<'a>(
        &self,
        shard: Shard<'a>,
        mut tree: SpinLockGuard<'a, Tree<FaultNode>>,
        mut range: Range<u64>,
        wakeup: Wakeup,
        matches: impl Fn(&PageFault) -> bool + Copy,
    ) -> u64 {
        let mut limit = u64::MAX;
        let mut woken: u64 = 0;
        loop {
            let len = shard.len.read_once();
            let next = self.wake_batch(shard, &mut tree, &range, &mut limit, wakeup, matches);
            woken = woken.wrapping_add(len.wrapping_sub(shard.len.read_once()).into());
            let Some(next) = next else {
                return woken;
            };
            range.start = next;
            drop(tree);
            cond_resched();
            tree = shard.tree.lock();
        }
    }

    /// Wakes up to [`WAKE_BATCH`] waiters of `range`, but none with a sequence number of at least
    /// `limit`. If there may be more, lowers `limit` to the number of the next fault, so that the
    /// next batch skips threads that enqueue meanwhile, and returns the address at which that batch
    /// begins.
    #[inline]
    fn wake_batch(
        &self,
        shard: Shard<'_>,
        tree: &mut Tree<FaultNode>,
        range: &Range<u64>,
        limit: &mut u64,
        wakeup: Wakeup,
        matches: impl Fn(&PageFault) -> bool,
    ) -> Option<u64> {
        let mut len = shard.len.read_once();
        let mut next = tree.first_of(range);
        let mut seen = 0;
        let mut go_on = None;
        while let Some(node) = next {
            let node = node.as_ptr();
            // SAFETY: The node is in the tree, hence valid and not woken yet, and the lock of the
            // shard is held.
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
                len = len.wrapping_sub(1);
                self.wake_node(node, shard, len, wakeup);
            }
        }
        go_on
    }

    /// Wakes a waiter that was taken out of the tree, which leaves `len` in the shard.
    ///
    /// # Safety
    ///
    /// `node` must be valid, have been in `shard` when its lock was taken, which is held, and not
    /// have been woken yet. It may be gone when this returns.
    #[inline(always)]
    unsafe fn wake_node(&self, node: *mut FaultNode, shard: Shard<'_>, len: u32, wakeup: Wakeup) {
        // SAFETY: The node is valid by the safety requirements, and it and its task stay until the
        // last store.
        unsafe {
            if ReadOnceCell::from_ptr((*node).unread.as_ptr()).read_once() != 0 {
                self.dequeue(node, shard, len, 0);
            } else {
                // The control dependency orders it after the reader, for `WaitSet::count`.
                shard.len.write_once(len);
            }
            (*node).woken.write_once(wakeup.into_raw());
            (*node).task.as_ref().wake_up();
            // This orders all accesses to the node before it; it pairs with the acquire in
            // `FaultWaiter::is_unlinked`.
            (*node).unlinked.store(1, Release);
        }
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
    /// A thread that sees the new length and then locks the inbox does not find the message. `left`
    /// is the number of waiters that this counts as not woken.
    ///
    /// # Safety
    ///
    /// `node` must be valid, and have been in `shard` when its lock was taken, which is held.
    #[inline(never)]
    unsafe fn dequeue(&self, node: *mut FaultNode, shard: Shard<'_>, len: u32, left: u64) {
        let mut inbox = self.inbox.lock();
        inbox.count_left(left);
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

/// Returns for how many milliseconds a thread has slept at some of the addresses of `range`, of all
/// these threads the longest time; and where the other addresses begin.
fn longest_of(tree: &Tree<FaultNode>, range: &Range<u64>) -> (u64, Option<u64>) {
    let mut longest = 0;
    let mut seen: u32 = 0;
    let mut rest = range.clone();
    while let Some(node) = tree.first_of(&rest) {
        // SAFETY: Nodes in the tree are valid, and its lock is held. The fields are never changed.
        let (address, since) =
            unsafe { ((*node.as_ptr()).message.address, (*node.as_ptr()).since) };
        if seen == WAKE_BATCH {
            return (longest, Some(address));
        }
        seen = seen.wrapping_add(1);
        longest = longest.max(since.elapsed_ms());
        // Of the threads at one address, the first one came first.
        match address.checked_add(1) {
            Some(next) => rest.start = next,
            None => break,
        }
    }
    (longest, None)
}

impl<'a> FaultWaiter<'a> {
    /// Creates a waiter for the current thread, on whose stack it stays.
    #[inline(always)]
    fn new(set: &'a WaitSet, task: &CurrentTask, message: PageFault, since: Since) -> Self {
        Self {
            set,
            node: Opaque::new(FaultNode {
                rb: MaybeUninit::uninit(),
                links: Links::new(),
                unread: Atomic::new(1),
                woken: ReadOnceCell::new(0),
                // INVARIANT: No other thread knows the node.
                unlinked: Atomic::new(1),
                seq: 0,
                task: NonNull::from(&**task),
                message,
                since,
            }),
            _nts: NotThreadSafe,
        }
    }

    #[inline(always)]
    fn shard(&self) -> Shard<'a> {
        // SAFETY: The message is never changed.
        let address = unsafe { (*self.node.get()).message.address };
        self.set.shard(shard_of(address))
    }

    /// Adds the waiter to its shard and to the inbox. From now on wakers and readers see it.
    ///
    /// Returns a reader, which the caller wakes after it has dropped the fault lock.
    ///
    /// The caller then sets the task state, which is a full barrier, and checks if there is still a
    /// reason to sleep.
    ///
    /// # Safety
    ///
    /// This must be called once.
    #[inline(always)]
    unsafe fn enqueue(self: Pin<&Self>) -> Option<TakenReader> {
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
        shard.len.write_once(shard.len.read_once().wrapping_add(1));
        self.set.readable.write_once(MESSAGE);
        inbox.take_reader()
    }

    /// Returns what the waker said that took the waiter out of the set, if there was one.
    #[inline(always)]
    fn wakeup(&self) -> Option<Wakeup> {
        // SAFETY: All accesses to the field are marked.
        Wakeup::from_raw(unsafe { (*self.node.get()).woken.read_once() })
    }

    /// Ends the fault; `unwoken` tells why if no waker came.
    #[inline(always)]
    fn end<'f>(&self, fault: UnlockedFault<'f>, unwoken: Why) -> FaultOutcome<'f> {
        let wakeup = self.wakeup();
        if trace::is_timed() {
            self.trace_end(fault.access(), wakeup, unwoken);
        }
        fault.end(wakeup)
    }

    /// Traces the end of the fault. `access` is what a waker had to know.
    #[cold]
    fn trace_end(&self, access: Option<Wakeup>, wakeup: Option<Wakeup>, unwoken: Why) {
        let why = match wakeup {
            None => unwoken,
            Some(wakeup) if wakeup.resolves(access) => Why::Resolved,
            Some(_) => Why::Woken,
        };
        // SAFETY: The fields are never changed.
        let (message, since) = unsafe { (&(*self.node.get()).message, (*self.node.get()).since) };
        trace::fault_end(self.set, message, why, since);
    }

    /// Returns true if no other thread knows the node.
    #[inline(always)]
    fn is_unlinked(&self) -> bool {
        // Pairs with the release in `WaitSet::wake_node`.
        // SAFETY: Once other threads know the node all accesses to the field are atomic.
        unsafe { (*self.node.get()).unlinked.load(Acquire) != 0 }
    }

    /// Takes the waiter out of the set, unless a waker did.
    #[cold]
    fn leave(&self) {
        let shard = self.shard();
        let mut tree = shard.tree.lock();
        // A waker holds the lock until it is done with the node.
        if self.wakeup().is_some() {
            return;
        }
        let node = self.node.get();
        let len = shard.len.read_once().wrapping_sub(1);
        // SAFETY: By the type invariants the node is in the tree, whose lock is held.
        unsafe {
            tree.remove(node);
            self.set.dequeue(node, shard, len, 1);
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
