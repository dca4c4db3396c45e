// SPDX-License-Identifier: GPL-2.0

//! Tasks, signals and the scheduler, with the barriers that those of the kernel have.

use crate::rt::{self, fence, AtomicU32, Condvar, HiddenArc, Life, Mutex, RELAXED};
use core::{
    cell::Cell,
    ops::Deref,
    ptr,
    sync::atomic::Ordering::{Relaxed, SeqCst},
};

const TASK_RUNNING: u32 = 0;
const TASK_INTERRUPTIBLE: u32 = 1;
const TASK_UNINTERRUPTIBLE: u32 = 2;
const TASK_WAKEKILL: u32 = 0x100;
const TASK_NOLOAD: u32 = 0x400;
const TASK_KILLABLE: u32 = TASK_WAKEKILL | TASK_UNINTERRUPTIBLE;
pub(crate) const TASK_NORMAL: u32 = TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE;

/// No signal is pending.
const NO_SIGNAL: u32 = 0;
/// The signals that are pending are not fatal.
const SIGNAL: u32 = 1;
/// The task is killed.
const FATAL_SIGNAL: u32 = 2;

/// As in `rust/kernel/task.rs`.
pub struct Task {
    life: Life,
    state: AtomicU32,
    signal: AtomicU32,
    /// The lock that a wake-up and the scheduler take.
    pi_lock: Mutex<()>,
    woken: Condvar,
}

/// The task of the current thread.
pub struct CurrentTask(Task);

impl Deref for CurrentTask {
    type Target = Task;

    fn deref(&self) -> &Task {
        &self.0
    }
}

rt::thread_local! {
    // That of loom takes no constant.
    #[allow(clippy::missing_const_for_thread_local)]
    static CURRENT: Cell<*const CurrentTask> = Cell::new(ptr::null());
}

pub(crate) fn current_task<'a>() -> &'a CurrentTask {
    let current = CURRENT.with(Cell::get);
    assert!(!current.is_null(), "not in a task");
    // SAFETY: The scenario keeps all tasks to its end.
    unsafe { &*current }
}

/// The reference to a task by which a scenario sends it signals.
pub(crate) struct TaskRef(HiddenArc<CurrentTask>);

impl Clone for TaskRef {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl TaskRef {
    pub(crate) fn new() -> Self {
        Self(HiddenArc::new(CurrentTask(Task {
            life: Life::new(),
            state: AtomicU32::new(TASK_RUNNING),
            signal: AtomicU32::new(NO_SIGNAL),
            pi_lock: Mutex::new(()),
            woken: Condvar::new(),
        })))
    }

    /// Starts the task in a thread.
    pub(crate) fn spawn(&self, body: impl FnOnce() + Send + 'static) -> rt::JoinHandle<()> {
        let this = self.clone();
        rt::spawn(move || this.run(body))
    }

    /// Runs the task. When it has ended, nothing but this reference may be used, and what a
    /// critical section has found that had begun before.
    pub(crate) fn run(&self, body: impl FnOnce()) {
        CURRENT.with(|current| current.set(&*self.0));
        body();
        assert_eq!(
            self.0.state.load(RELAXED),
            TASK_RUNNING,
            "asleep at its end"
        );
        CURRENT.with(|current| current.set(ptr::null()));
        // `do_task_dead()` takes the lock that a wake-up takes: those before are ordered.
        drop(self.0.pi_lock.lock().unwrap());
        if rt::rcu_is_idle() {
            self.0.life.end();
            return;
        }
        let task = self.0.clone();
        rt::call_rcu(move || {
            drop(task.pi_lock.lock().unwrap());
            task.life.end();
        });
    }

    /// Sends a signal.
    pub(crate) fn signal(&self) {
        self.send(SIGNAL, TASK_INTERRUPTIBLE);
    }

    /// Sends a fatal signal.
    pub(crate) fn kill(&self) {
        self.send(FATAL_SIGNAL, TASK_INTERRUPTIBLE | TASK_WAKEKILL);
    }

    fn send(&self, signal: u32, states: u32) {
        self.0.signal.store(signal, Relaxed);
        self.0.wake(states);
    }
}

impl Task {
    /// `wake_up_process()`
    #[track_caller]
    pub(crate) fn wake_up(&self) {
        self.wake_state(TASK_NORMAL);
    }

    /// `wake_up_process_on_current_cpu()`
    #[track_caller]
    pub(crate) fn wake_up_on_current_cpu(&self) {
        self.wake_up();
    }

    #[track_caller]
    pub(crate) fn wake_state(&self, states: u32) {
        self.life.note_use();
        self.wake(states);
    }

    /// `try_to_wake_up()`
    fn wake(&self, states: u32) {
        let lock = self.pi_lock.lock().unwrap();
        // `smp_mb__after_spinlock()`
        fence(SeqCst);
        if self.state.load(RELAXED) & states != 0 {
            self.state.store(TASK_RUNNING, Relaxed);
            self.woken.notify_one();
        }
        rt::accumulate();
        drop(lock);
    }

    pub(crate) fn fatal_signal_pending(&self) -> bool {
        self.signal.load(RELAXED) == FATAL_SIGNAL
    }

    pub(crate) fn signal_pending(&self) -> bool {
        self.signal.load(RELAXED) != NO_SIGNAL
    }

    /// All tasks are equally urgent.
    pub(crate) fn queue_prio(&self) -> i32 {
        0
    }

    pub(crate) fn is_rt_or_dl(&self) -> bool {
        false
    }
}

impl CurrentTask {
    pub(crate) fn flags(&self) -> u32 {
        0
    }

    /// `set_current_state()`
    pub(crate) fn set_state(&self, state: SleepState) {
        self.state.store(state.0, Relaxed);
        fence(SeqCst);
    }

    pub(crate) fn set_running(&self) {
        self.state.store(TASK_RUNNING, Relaxed);
    }

    pub(crate) fn signal_pending_state(&self, state: SleepState) -> bool {
        if state.0 & TASK_INTERRUPTIBLE != 0 {
            self.signal_pending()
        } else {
            state.0 & TASK_WAKEKILL != 0 && self.fatal_signal_pending()
        }
    }

    pub(crate) fn schedule(&self) {
        check_may_sleep();
        let mut lock = self.pi_lock.lock().unwrap();
        // `smp_mb__after_spinlock()`
        fence(SeqCst);
        let state = self.state.load(RELAXED);
        if state != TASK_RUNNING && self.signal_pending_state(SleepState(state)) {
            self.state.store(TASK_RUNNING, Relaxed);
        }
        while self.state.load(RELAXED) != TASK_RUNNING {
            lock = self.woken.wait(lock).unwrap();
        }
    }

    /// The time is always up at once.
    pub(crate) fn schedule_timeout(&self, _timeout: u64) -> u64 {
        self.set_running();
        0
    }
}

/// As in `rust/kernel/task/sleep.rs`.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct SleepState(u32);

impl SleepState {
    pub(crate) const INTERRUPTIBLE: Self = Self(TASK_INTERRUPTIBLE);
    pub(crate) const KILLABLE: Self = Self(TASK_KILLABLE);
    pub(crate) const KILLABLE_NOLOAD: Self = Self(TASK_KILLABLE | TASK_NOLOAD);
    pub(crate) const UNINTERRUPTIBLE: Self = Self(TASK_UNINTERRUPTIBLE);
}

pub(crate) mod flags {
    pub(crate) const EXITING: u32 = 4;
}

pub(crate) fn cond_resched() {
    check_may_sleep();
    rt::pause();
}

/// `might_sleep()`
fn check_may_sleep() {
    assert!(!rt::rcu_is_held(), "sleeps in a critical section");
}
