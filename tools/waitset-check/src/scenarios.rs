// SPDX-License-Identifier: GPL-2.0

//! What the threads do.

mod events;
mod matrix;
mod others;
mod whole;

use crate::{
    current,
    rt::{self, Arc, HiddenArc, HiddenMutex, JoinHandle},
    sync::aref::ARef,
    task::{SleepState, TaskRef},
    userfaultfd::{
        message::Message,
        waitset::{Event, ForkClaim, Receipt},
        Access, Context, ContextOwner, Ended, MmapChanging,
    },
};
use std::{
    collections::HashSet,
    sync::atomic::{AtomicU32, Ordering},
};

/// How often threads lose the processor in an order without having to wait: most mistakes need one
/// such point or two.
const PREEMPTIONS: usize = 2;

/// Runs `scenario` in all orders, or many times with real threads.
///
/// Prints the number of runs and the time they took.
fn check(name: &str, scenario: impl Fn(&World) + Send + Sync + 'static) {
    check_bounded(name, PREEMPTIONS, scenario);
}

/// Like [`check`], for a scenario that has too many orders: `preemptions` is how often a thread may
/// lose the processor without having to wait.
fn check_bounded(
    name: &str,
    preemptions: usize,
    scenario: impl Fn(&World) + Send + Sync + 'static,
) {
    let begin = std::time::Instant::now();
    let count = explore(preemptions, move || {
        rt::clear_quarantine();
        let world = World::new();
        scenario(&world);
        world.check_end();
    });
    let time = begin.elapsed().as_secs_f64();
    println!("{name:<40} {count:>9} runs {time:>7.2} s");
}

/// Returns the number that an environment variable has.
fn number(name: &str, default: usize) -> usize {
    match std::env::var(name) {
        Ok(value) => value.parse().expect("a number"),
        Err(_) => default,
    }
}

#[cfg(feature = "loom")]
fn explore(preemptions: usize, run: impl Fn() + Send + Sync + 'static) -> usize {
    use std::sync::atomic::AtomicUsize;

    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(number("LOOM_MAX_PREEMPTIONS", preemptions));
    builder.max_branches = 10_000;
    let count = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        run();
    });
    count.load(Ordering::Relaxed)
}

#[cfg(not(feature = "loom"))]
fn explore(_preemptions: usize, run: impl Fn() + Send + Sync + 'static) -> usize {
    let count = number("WAITSET_RUNS", 300);
    for _ in 0..count {
        run();
    }
    count
}

/// What the threads of a scenario share.
struct World {
    context: ARef<Context>,
    ledger: HiddenArc<Ledger>,
}

/// What was reported and read. It is not seen by loom.
#[derive(Default)]
struct Ledger {
    last_id: AtomicU32,
    read: HiddenMutex<HashSet<u32>>,
    /// The number of events and forks that were read.
    events: AtomicU32,
}

impl Ledger {
    fn note(&self, message: &Message) {
        if let Message::PageFault(fault) = message {
            let is_new = self.read.lock().unwrap().insert(fault.ptid);
            assert!(is_new, "a message is read twice");
        } else {
            self.events.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A thread of a scenario.
struct Thread {
    task: TaskRef,
    handle: JoinHandle<()>,
}

impl Thread {
    fn join(self) {
        self.handle.join().expect("no panic");
        // Loom keeps the task for critical sections by itself.
        #[cfg(not(feature = "loom"))]
        crate::rt::synchronize_rcu();
    }

    /// Kills the thread and waits for its end.
    fn kill(self) {
        self.task.kill();
        self.join();
    }
}

impl World {
    fn new() -> Self {
        Self {
            context: Context::new(),
            ledger: HiddenArc::new(Ledger::default()),
        }
    }

    /// The threads are gone: nothing may be left.
    fn check_end(&self) {
        self.check_empty();
        // The fault wakes a reader, if the set still knows one.
        let task = TaskRef::new();
        task.kill();
        task.run(|| self.access(2, Access::Gup, SleepState::KILLABLE));
        self.check_empty();
    }

    fn check_empty(&self) {
        let waiters = self.context.waiters();
        let counters = waiters.counters();
        assert_eq!((counters.pending, counters.total), (0, 0), "a fault stays");
        assert!(!waiters.is_readable(), "a message stays");
        assert!(!self.context.mmap_changing(), "a mark stays");
    }

    fn spawn(&self, body: impl FnOnce(World) + Send + 'static) -> Thread {
        self.spawn_as(&TaskRef::new(), body)
    }

    fn spawn_as(&self, task: &TaskRef, body: impl FnOnce(World) + Send + 'static) -> Thread {
        let world = self.clone();
        Thread {
            task: task.clone(),
            handle: task.spawn(move || body(world)),
        }
    }

    /// Makes the owner of the context. The last reference releases it.
    fn open(&self) -> Arc<ContextOwner> {
        Arc::new(ContextOwner::new(self.context.clone()))
    }

    /// Closes the descriptor when the threads are gone. The release would hide what they left.
    fn close(&self, file: Arc<ContextOwner>) {
        self.check_empty();
        drop(file);
    }

    /// Takes a fault in a page, as a thread does that writes to it. Ends when the page is there, or
    /// for a signal or the release.
    fn fault(&self, page: usize, state: SleepState) {
        self.access(page, Access::Write, state);
    }

    /// Accesses a page. Ends when the page is there, or for a signal or the release.
    fn access(&self, page: usize, access: Access, state: SleepState) {
        let context = &self.context;
        loop {
            let id = self.ledger.last_id.fetch_add(1, Ordering::Relaxed) + 1;
            match context.fault(page, access, state, id) {
                Ended::Unregistered => return,
                Ended::Complete => assert!(
                    context.has_page(page) && context.was_told(page, access, true),
                    "complete, and nobody resolved it"
                ),
                Ended::NoWait => (),
                Ended::Retry
                    if current!().signal_pending_state(state)
                        || context.waiters().is_released() =>
                {
                    return;
                }
                Ended::Retry => {
                    assert!(context.was_told(page, access, false), "woken for nothing");
                }
            }
            // The access is repeated.
            if context.has_page(page) {
                return;
            }
        }
    }

    /// Reads messages and resolves the faults, as a monitor does, until it is killed.
    fn monitor(&self) {
        while let Ok(message) = self.read(false) {
            self.handle(message);
        }
    }

    /// Does what a monitor does about a message, or about a fork if there is none.
    fn handle(&self, message: Option<Message>) {
        match message {
            Some(Message::PageFault(fault)) => {
                self.context.resolve(Context::page_at(fault.address));
            }
            Some(_) => (),
            None => {
                if let Some(claim) = self.context.waiters().claim_fork() {
                    self.deliver(claim);
                }
            }
        }
    }

    /// Like a monitor, but sleeps in `poll()` and never in `read()`.
    fn poll(&self) {
        let waiters = self.context.waiters();
        let task = current!();
        waiters.pollers().join();
        loop {
            task.set_state(SleepState::INTERRUPTIBLE);
            if waiters.is_readable() {
                task.set_running();
                if let Ok(message) = self.read(true) {
                    self.handle(message);
                }
            } else if task.signal_pending() {
                task.set_running();
                break;
            } else {
                task.schedule();
            }
        }
        waiters.pollers().leave();
    }

    /// Tells of an event that has no address, and waits until it was read, unless the thread is
    /// killed or the descriptor released.
    fn change(&self) {
        let message = Message::Remap {
            from: 0,
            to: 0,
            len: 0,
        };
        Event::changed(MmapChanging::new(self.context.clone()), message);
        self.check_event();
    }

    fn fork(&self) {
        Context::fork(self.context.clone());
        self.check_event();
    }

    fn check_event(&self) {
        assert!(
            self.ledger.events.load(Ordering::Relaxed) != 0
                || current!().fatal_signal_pending()
                || self.context.waiters().is_released(),
            "woken for nothing"
        );
    }

    fn read(&self, nonblocking: bool) -> crate::error::Result<Option<Message>> {
        self.context.waiters().receive(nonblocking, |message| {
            self.ledger.note(message);
            Receipt::Delivered(*message)
        })
    }

    /// Delivers a fork.
    fn deliver(&self, claim: ForkClaim<'_>) {
        let delivered = claim.deliver(|| {
            self.ledger.events.fetch_add(1, Ordering::Relaxed);
            true
        });
        match delivered {
            // The descriptor of the child is closed.
            Some(Ok(child)) => drop(child),
            Some(Err(claim)) => drop(claim),
            None => (),
        }
    }
}

/// Starts a thread that faults.
fn fault(world: &World, page: usize) -> Thread {
    world.spawn(move |world| world.fault(page, SleepState::INTERRUPTIBLE))
}

/// Starts a thread that reads messages and resolves the faults.
fn monitor(world: &World) -> Thread {
    world.spawn(|world| world.monitor())
}

impl Clone for World {
    fn clone(&self) -> Self {
        Self {
            context: self.context.clone(),
            ledger: self.ledger.clone(),
        }
    }
}
