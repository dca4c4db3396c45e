// SPDX-License-Identifier: GPL-2.0

//! Real threads, for the sanitizers.
//!
//! The standard library of a toolchain is not instrumented, so the locks are made here: the thread
//! sanitizer has to see their atomics.

use std::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicI32, Ordering},
    thread::yield_now,
};

pub(crate) use std::{
    sync::atomic::{fence, AtomicU32},
    thread::{spawn, JoinHandle},
    thread_local,
};

pub(crate) use {Arc as HiddenArc, Mutex as HiddenMutex};

/// The thread sanitizer does not know fences, so [`RELAXED`] acquires.
pub(crate) fn accumulate() {}

/// A plain marked read. Loom checks the weaker order.
pub(crate) const RELAXED: Ordering = Ordering::Acquire;

/// Gives other threads the processor.
pub(crate) fn pause() {
    yield_now();
}

/// The sanitizers see uses of values that are gone.
pub(crate) struct Life;

impl Life {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn note_use(&self) {}

    pub(crate) fn end(&self) {}
}

/// Memory for a value. It is on the heap, which the sanitizers watch best.
pub(crate) struct Memory<T>(*mut T);

impl<T> Memory<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Box::into_raw(Box::new(value)))
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        // SAFETY: The memory comes from a box.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

pub(crate) fn clear_quarantine() {}

/// The number of critical sections. It orders those that end before a grace period, and nothing
/// else, so that it hides no race.
static SECTIONS: AtomicU32 = AtomicU32::new(0);

pub(crate) fn rcu_read_lock() {
    SECTIONS.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn rcu_read_unlock() {
    SECTIONS.fetch_sub(1, Ordering::Release);
}

/// Waits for the critical sections that have begun.
pub(crate) fn synchronize_rcu() {
    while SECTIONS.load(Ordering::Acquire) != 0 {
        yield_now();
    }
}

pub(crate) fn rcu_is_held() -> bool {
    false
}

pub(crate) fn rcu_is_idle() -> bool {
    true
}

/// A task stays until the grace period after its end, so there is nothing to do.
pub(crate) fn call_rcu(_callback: impl FnOnce()) {}

/// That of the standard library ends with a fence.
pub(crate) struct Arc<T>(*mut Counted<T>);

struct Counted<T> {
    count: AtomicU32,
    value: T,
}

// SAFETY: As for the one of the standard library.
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: As for the one of the standard library.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Self {
        let count = AtomicU32::new(1);
        Self(Box::into_raw(Box::new(Counted { count, value })))
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: The reference keeps it.
        unsafe { &*self.0 }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.counted().count.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.counted().count.fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: This was the last reference.
            drop(unsafe { Box::from_raw(self.0) });
        }
    }
}

/// A lock for one writer (-1) or several readers.
pub(crate) struct RwLock<T> {
    state: AtomicI32,
    value: UnsafeCell<T>,
}

// SAFETY: As for the lock of the standard library.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: As for the lock of the standard library.
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

pub(crate) struct RwLockReadGuard<'a, T>(&'a RwLock<T>);
pub(crate) struct RwLockWriteGuard<'a, T>(&'a RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            state: AtomicI32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn read(&self) -> Result<RwLockReadGuard<'_, T>, ()> {
        loop {
            let state = self.state.load(Ordering::Relaxed);
            if state >= 0 && self.swap(state, state + 1) {
                return Ok(RwLockReadGuard(self));
            }
            yield_now();
        }
    }

    pub(crate) fn write(&self) -> Result<RwLockWriteGuard<'_, T>, ()> {
        while !self.swap(0, -1) {
            yield_now();
        }
        Ok(RwLockWriteGuard(self))
    }

    fn swap(&self, old: i32, new: i32) -> bool {
        self.state
            .compare_exchange(old, new, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The lock is held for reading.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::Release);
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The lock is held for writing.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: The lock is held for writing.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.0.state.store(0, Ordering::Release);
    }
}

/// A spinlock.
pub(crate) struct Mutex<T>(RwLock<T>);
pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>, RwLockWriteGuard<'a, T>);

// SAFETY: As for the lock of the standard library.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(value))
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, T>, ()> {
        Ok(MutexGuard(self, self.0.write()?))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.1
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.1
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A thread that waits looks again and again.
pub(crate) struct Condvar;

impl Condvar {
    pub(crate) fn new() -> Self {
        Self
    }

    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> Result<MutexGuard<'a, T>, ()> {
        let lock = guard.0;
        drop(guard);
        yield_now();
        lock.lock()
    }

    pub(crate) fn notify_one(&self) {}
}
