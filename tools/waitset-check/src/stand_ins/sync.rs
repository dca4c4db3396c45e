// SPDX-License-Identifier: GPL-2.0

//! Locks and atomics.

use super::pin_init::{Made, PinInit};
use crate::rt;
use core::ops::{Deref, DerefMut};

pub(crate) use read_once::ReadOnceCell;

/// As in `rust/kernel/sync/aref.rs`.
pub(crate) mod aref {
    use crate::rt::Arc;
    use core::ops::Deref;

    pub struct ARef<T>(Arc<T>);

    impl<T> ARef<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Arc::new(value))
        }
    }

    impl<T> Clone for ARef<T> {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl<T> Deref for ARef<T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }
}

/// As in `rust/kernel/sync/atomic.rs`.
pub(crate) mod atomic {
    use super::read_once::{ReadOnceCell, Word};
    use crate::rt;
    use core::sync::atomic::Ordering;

    pub(crate) use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

    pub(crate) struct Atomic<T>(ReadOnceCell<T>);

    impl<T: Word> Atomic<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(ReadOnceCell::new(value))
        }

        #[track_caller]
        pub(crate) fn load(&self, order: Ordering) -> T {
            self.0.load(match order {
                Relaxed => rt::RELAXED,
                order => order,
            })
        }

        #[track_caller]
        pub(crate) fn store(&self, value: T, order: Ordering) {
            if order == Release {
                rt::accumulate();
            }
            self.0.store(value, order);
        }

        /// For [`ReadOnceCell::from_ptr`] only.
        pub(crate) fn as_ptr(&self) -> *mut ReadOnceCell<T> {
            core::ptr::from_ref(&self.0).cast_mut()
        }
    }
}

/// As in `rust/kernel/sync/barrier.rs`.
pub(crate) mod barrier {
    use crate::rt::fence;
    use core::sync::atomic::Ordering;

    pub(crate) fn smp_mb() {
        fence(Ordering::SeqCst);
    }
}

/// As in `rust/kernel/sync/read_once.rs`.
mod read_once {
    use crate::rt::{self, AtomicU32, Life};
    use core::{marker::PhantomData, sync::atomic::Ordering};

    pub(crate) struct ReadOnceCell<T> {
        life: Life,
        value: AtomicU32,
        _value: PhantomData<T>,
    }

    pub(crate) trait Word: Copy {
        fn into_u32(self) -> u32;
        fn from_u32(value: u32) -> Self;
    }

    impl Word for bool {
        fn into_u32(self) -> u32 {
            self.into()
        }

        fn from_u32(value: u32) -> Self {
            value != 0
        }
    }

    impl Word for u8 {
        fn into_u32(self) -> u32 {
            self.into()
        }

        fn from_u32(value: u32) -> Self {
            // CAST: It comes from `into_u32`.
            value as u8
        }
    }

    impl Word for u32 {
        fn into_u32(self) -> u32 {
            self
        }

        fn from_u32(value: u32) -> Self {
            value
        }
    }

    impl<T: Word> ReadOnceCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self {
                life: Life::new(),
                value: AtomicU32::new(value.into_u32()),
                _value: PhantomData,
            }
        }

        pub(crate) unsafe fn from_ptr<'a>(ptr: *mut Self) -> &'a Self {
            // SAFETY: The caller passes a pointer to a value that stays.
            unsafe { &*ptr }
        }

        #[track_caller]
        pub(crate) fn read_once(&self) -> T {
            self.load(rt::RELAXED)
        }

        #[track_caller]
        pub(crate) fn write_once(&self, value: T) {
            self.store(value, Ordering::Relaxed);
        }

        #[track_caller]
        pub(super) fn load(&self, order: Ordering) -> T {
            self.life.note_use();
            T::from_u32(self.value.load(order))
        }

        #[track_caller]
        pub(super) fn store(&self, value: T, order: Ordering) {
            self.life.note_use();
            self.value.store(value.into_u32(), order);
        }
    }

    impl<T> Drop for ReadOnceCell<T> {
        fn drop(&mut self) {
            self.life.end();
        }
    }
}

/// As in `rust/kernel/sync/rcu.rs`.
pub(crate) mod rcu {
    use crate::rt;

    pub(crate) struct SchedGuard(());

    pub(crate) fn read_lock_sched() -> SchedGuard {
        rt::rcu_read_lock();
        SchedGuard(())
    }

    impl Drop for SchedGuard {
        fn drop(&mut self) {
            rt::rcu_read_unlock();
        }
    }
}

/// As in `rust/kernel/sync/lock/spinlock.rs`.
pub(crate) struct SpinLock<T>(rt::Mutex<T>);

impl<T> SpinLock<T> {
    pub(crate) fn new(value: T) -> impl PinInit<Self> {
        Made(Self(rt::Mutex::new(value)))
    }

    #[track_caller]
    pub(crate) fn lock(&self) -> SpinLockGuard<'_, T> {
        let guard = self.0.lock().unwrap();
        rt::rcu_read_lock();
        SpinLockGuard(guard)
    }
}

pub(crate) struct SpinLockGuard<'a, T>(rt::MutexGuard<'a, T>);

impl<T> Deref for SpinLockGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for SpinLockGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for SpinLockGuard<'_, T> {
    fn drop(&mut self) {
        // As on PREEMPT_RT, where the critical section of RCU ends first.
        rt::rcu_read_unlock();
        rt::accumulate();
    }
}

macro_rules! new_spinlock {
    ($value:expr, $name:literal) => {
        $crate::sync::SpinLock::new($value)
    };
}
pub(crate) use new_spinlock;

/// As in `rust/kernel/sync/poll_queue.rs`.
pub(crate) mod poll_queue {
    use crate::{
        rt::{fence, AtomicU32, Mutex, RELAXED},
        stand_ins::pin_init::{Made, PinInit},
        task::{current_task, Task, TASK_NORMAL},
    };
    use core::{
        ptr::{self, NonNull},
        sync::atomic::Ordering,
    };

    /// Pollers that are in the queue.
    pub(crate) struct PollQueue {
        len: AtomicU32,
        pollers: Mutex<Pollers>,
    }

    struct Pollers(Vec<NonNull<Task>>);

    // SAFETY: Other threads only wake the tasks.
    unsafe impl Send for Pollers {}

    impl PollQueue {
        pub(crate) fn new() -> impl PinInit<Self> {
            Made(Self {
                len: AtomicU32::new(0),
                pollers: Mutex::new(Pollers(Vec::new())),
            })
        }

        /// All pollers wait for all events here.
        pub(crate) fn wake(&self, _events: u32) {
            fence(Ordering::SeqCst);
            if self.len.load(RELAXED) == 0 {
                return;
            }
            for task in &self.pollers.lock().unwrap().0 {
                // SAFETY: A poller leaves the queue before its task is gone.
                unsafe { task.as_ref() }.wake_state(TASK_NORMAL);
            }
        }

        pub(crate) fn wake_from(&self, events: u32, _leaves_cpu: bool) {
            self.wake(events);
        }

        /// Adds the current thread.
        pub(crate) fn join(&self) {
            let mut pollers = self.pollers.lock().unwrap();
            pollers.0.push(NonNull::from(&**current_task()));
            // CAST: There are few.
            self.len.store(pollers.0.len() as u32, Ordering::Relaxed);
        }

        /// Removes the current thread.
        pub(crate) fn leave(&self) {
            let mut pollers = self.pollers.lock().unwrap();
            let current: &Task = current_task();
            pollers.0.retain(|task| !ptr::eq(task.as_ptr(), current));
            // CAST: There are few.
            self.len.store(pollers.0.len() as u32, Ordering::Relaxed);
        }
    }

    pub(crate) mod events {
        pub(crate) const IN: u32 = 1;
        pub(crate) const OUT: u32 = 4;
        pub(crate) const HUP: u32 = 0x10;
    }
}
