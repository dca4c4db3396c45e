// SPDX-License-Identifier: GPL-2.0

//! Loom.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    mem::{self, MaybeUninit},
    ptr,
    sync::atomic::{AtomicU32 as RealU32, Ordering},
};

pub(crate) use ::loom::{
    sync::{
        atomic::{fence, AtomicU32},
        Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard,
    },
    thread::{spawn, JoinHandle},
    thread_local,
};

/// A reference that loom does not see.
pub(crate) use std::sync::Arc as HiddenArc;

/// A lock that loom does not see.
pub(crate) use std::sync::Mutex as HiddenMutex;

/// Issues what a release needs to be cumulative.
pub(crate) fn accumulate() {
    fence(Ordering::Acquire);
}

/// A plain marked read.
pub(crate) const RELAXED: Ordering = Ordering::Relaxed;

/// Gives other threads the processor.
pub(crate) fn pause() {}

/// The time in which a value may be used.
///
/// Fails if the value is used after its end, or if a use and the end are not ordered.
pub(crate) struct Life {
    state: RealU32,
    uses: ::loom::cell::UnsafeCell<()>,
}

// SAFETY: Nothing is in the cell. Loom fails if threads do not access it in an order.
unsafe impl Sync for Life {}

const ALIVE: u32 = 0x600d_a11e;
const ENDED: u32 = 0x0dea_df00;

impl Life {
    pub(crate) fn new() -> Self {
        Self {
            state: RealU32::new(ALIVE),
            uses: ::loom::cell::UnsafeCell::new(()),
        }
    }

    /// Notes a use.
    pub(crate) fn note_use(&self) {
        let state = self.state.load(Ordering::Relaxed);
        assert_eq!(state, ALIVE, "used after its thread left");
        self.uses.with(|_| ());
    }

    /// Notes the end.
    pub(crate) fn end(&self) {
        if std::thread::panicking() {
            return;
        }
        let state = self.state.swap(ENDED, Ordering::Relaxed);
        assert_eq!(state, ALIVE, "ended twice");
        self.uses.with_mut(|_| ());
    }
}

std::thread_local! {
    /// The memory of values that are gone. It stays until the next execution, so that a thread that
    /// uses such a value finds its [`Life`].
    static QUARANTINE: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// Memory for a value.
pub(crate) struct Memory<T: 'static>(*mut T);

impl<T: 'static> Memory<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::into_raw(Box::new(value)))
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl<T: 'static> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: The memory comes from a box of that type, whose value is not used any more.
        let memory = unsafe {
            ptr::drop_in_place(self.0);
            Box::from_raw(self.0.cast::<MaybeUninit<T>>())
        };
        QUARANTINE.with_borrow_mut(|quarantine| quarantine.push(memory));
    }
}

/// Frees what the last execution left.
pub(crate) fn clear_quarantine() {
    QUARANTINE.with_borrow_mut(Vec::clear);
    RCU.with_borrow_mut(|rcu| *rcu = Rcu::new());
}

/// RCU, as far as it keeps tasks. Loom does not see it: what has to be ordered takes a lock of its
/// own besides.
struct Rcu {
    last: u32,
    /// The critical sections that threads are in.
    sections: Vec<u32>,
    /// What is called when the critical sections have ended that a thread was in before.
    callbacks: Vec<(Vec<u32>, Callback)>,
}

type Callback = Box<dyn FnOnce()>;

impl Rcu {
    const fn new() -> Self {
        Self {
            last: 0,
            sections: Vec::new(),
            callbacks: Vec::new(),
        }
    }

    fn begin(&mut self) -> u32 {
        self.last += 1;
        self.sections.push(self.last);
        self.last
    }

    /// Ends a critical section, and returns the callbacks that waited for nothing else.
    fn end(&mut self, section: u32) -> Vec<Callback> {
        self.sections.retain(|other| *other != section);
        for (sections, _) in &mut self.callbacks {
            sections.retain(|other| *other != section);
        }
        let callbacks = mem::take(&mut self.callbacks);
        let (ready, rest): (Vec<_>, _) = callbacks
            .into_iter()
            .partition(|(sections, _)| sections.is_empty());
        self.callbacks = rest;
        ready.into_iter().map(|(_, callback)| callback).collect()
    }
}

std::thread_local! {
    // The threads of loom are coroutines of one thread.
    static RCU: RefCell<Rcu> = const { RefCell::new(Rcu::new()) };
}

thread_local! {
    /// The critical section of a thread, and how often it was begun.
    static SECTION: Cell<(u32, u32)> = Cell::new((0, 0));
}

/// Begins a critical section, or goes on with that of the thread.
pub(crate) fn rcu_read_lock() {
    SECTION.with(|current| {
        let (section, depth) = current.get();
        current.set(match depth {
            0 => (RCU.with_borrow_mut(Rcu::begin), 1),
            _ => (section, depth + 1),
        });
    });
}

pub(crate) fn rcu_read_unlock() {
    if std::thread::panicking() {
        return;
    }
    let (section, depth) = SECTION.with(Cell::get);
    SECTION.with(|current| current.set((section, depth - 1)));
    if depth == 1 {
        for callback in RCU.with_borrow_mut(|rcu| rcu.end(section)) {
            callback();
        }
    }
}

/// Returns true if the current thread is in a critical section.
pub(crate) fn rcu_is_held() -> bool {
    SECTION.with(|current| current.get().1 != 0)
}

/// Returns true if no thread is in a critical section.
pub(crate) fn rcu_is_idle() -> bool {
    RCU.with_borrow(|rcu| rcu.sections.is_empty())
}

/// Calls `callback` when the critical sections have ended that threads are in.
pub(crate) fn call_rcu(callback: impl FnOnce() + 'static) {
    RCU.with_borrow_mut(|rcu| {
        let sections = rcu.sections.clone();
        rcu.callbacks.push((sections, Box::new(callback)));
    });
}
