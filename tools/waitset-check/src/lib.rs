// SPDX-License-Identifier: GPL-2.0

//! The wait set of `rust/kernel/userfaultfd/`, compiled for the host and run in all orders.
//!
//! The files of the wait set and that of faults are the real ones, unchanged: those in
//! `src/userfaultfd` are links to them. All that they use of the kernel has a stand-in here: locks,
//! atomics, tasks, the scheduler, poll queues, trees, VMAs and contexts. `rt` has the threads and
//! atomics below the stand-ins: those of loom, which tries all orders of the threads and all values
//! that a weakly ordered read may return; or real ones, for the sanitizers.
//!
//! # What is checked
//!
//! - *No wake-up is lost.* A thread that sleeps for ever is a deadlock, which loom reports.
//! - *Each message is read once at most, and none is lost.* The scenarios keep a ledger of what was
//!   read. A monitor resolves what it reads and nothing else, so a lost message is a thread that
//!   sleeps for ever.
//! - *No node is used after its thread left.* Fields that several threads access have a
//!   [`Life`](rt::Life), and so have tasks. It fails if an access is not ordered before the end.
//!   Loom does not see the plain fields; the sanitizers do.
//! - *A fault ends as it has to.* Scenarios keep what wakers said. A fault is complete if one of
//!   them resolved it, and is taken again if a signal, the release, or a wake-up that resolves
//!   nothing ended it, or if nobody repeats the access, as in GUP.
//! - *No thread sleeps in a critical section of RCU*, which it is in while it holds a spinlock, or a
//!   reader that it has to wake.
//! - *Nothing stays.* At the end the set is empty, and its counters are zero. One more fault wakes
//!   a reader that is still queued though its thread is gone.
//!
//! # How
//!
//! ```text
//! cargo xtask protocol
//! cargo test --release -p waitset-check --lib --features loom -- --nocapture
//! cargo run -p waitset-check [NAME...]
//! ```
//!
//! The first command does what the other two do: it runs the scenarios under loom, then makes the
//! mistakes of `mutants.txt`, each of which has to be found. Some are for the sanitizers, which run
//! the same scenarios with real threads. They need a nightly toolchain, and are left out without
//! one. Its standard library is not instrumented, hence the locks in `rt::real` and `thread.supp`.
//!
//! A thread loses the processor twice in an order without having to wait, or as often as
//! `LOOM_MAX_PREEMPTIONS` says. Where threads wait they switch in all orders. Three threads run
//! besides the one that starts them. Some scenarios have four, which lose the processor once.
//! `WAITSET_RUNS` is the number of runs with real threads.
//!
//! # What is not checked
//!
//! - `WAKE_WHOLE` is 4,096 and `WAKE_BATCH` 32, so a waker of all threads of a shard needs no batch.
//!   The variant `small-batches` of `mutants.txt` makes them 0 and 1, and so do the mistakes with
//!   batches.
//! - A thread that wakes a reader may leave its CPU to it, and is not preempted before. Loom has no
//!   CPUs and no priorities, so it does not tell how long a reader sleeps that was taken out.
//! - The tree is not the kernel's: loom cannot run C. `host-tests` has the kernel's.
//! - The time after which the thread of a fork looks for readers is always up at once, and finds
//!   that the child has no descriptor.
//!
//! # The memory model
//!
//! Loom knows that of C11, which is weaker than that of the kernel in two ways that the wait set
//! relies on; the stand-ins make up for them:
//!
//! - A release in the kernel is cumulative over what the thread has read, be it with a plain marked
//!   read: a release here is an acquire fence and a release.
//! - `smp_mb()` is a fence of the kind `SeqCst`, which loom implements as a total order. A wake-up
//!   and `set_current_state()` have one, as in the kernel.
//!
//! Control and address dependencies need nothing: loom never lets a write overtake a read.
//!
//! RCU keeps tasks. A thread is in a critical section while it holds a spinlock, and the
//! [`Life`](rt::Life) of a task ends when all have ended that threads were in when it exited. Loom
//! does not see this. An exit and a wake-up take the same lock, as in the kernel, so loom tries both
//! orders of them.

#![cfg(test)]
#![allow(dead_code)]

mod rt;
mod stand_ins;
mod userfaultfd;

mod scenarios;

// The files of the wait set expect these in their crate.
use stand_ins::{bindings, error, mm, prelude, sync, task, time, types, uapi};

/// As in `rust/kernel/task.rs`.
macro_rules! current {
    () => {
        $crate::task::current_task()
    };
}
use current;

/// As in `rust/kernel/sync/poll_queue.rs`.
macro_rules! new_poll_queue {
    ($name:literal) => {
        $crate::sync::poll_queue::PollQueue::new()
    };
}
use new_poll_queue;

/// As in `rust/kernel/bug.rs`.
macro_rules! warn_on_once {
    ($condition:expr) => {
        assert!(!$condition)
    };
}
use warn_on_once;
