// SPDX-License-Identifier: GPL-2.0

//! What a task needs to sleep by itself: states, signals, and the scheduler.
//!
//! C headers: [`include/linux/sched.h`](srctree/include/linux/sched.h),
//! [`include/linux/sched/signal.h`](srctree/include/linux/sched/signal.h)

use super::{
    CurrentTask, Pid, Task, MAX_SCHEDULE_TIMEOUT, TASK_INTERRUPTIBLE, TASK_KILLABLE,
    TASK_UNINTERRUPTIBLE,
};
use crate::{
    bindings,
    ffi::{c_int, c_uint},
    time::Jiffies,
};
use core::ptr;

impl Task {
    /// Determines whether a fatal signal is pending for the given task.
    #[inline]
    pub fn fatal_signal_pending(&self) -> bool {
        // SAFETY: It's always safe to call `fatal_signal_pending` on a valid task.
        unsafe { bindings::fatal_signal_pending(self.as_ptr()) != 0 }
    }

    /// Returns the priority by which the task is to be queued: the lower, the more urgent. Tasks
    /// that are not of the real-time or deadline classes are all equally urgent.
    ///
    /// Another thread may change it at any time.
    #[inline]
    pub fn queue_prio(&self) -> c_int {
        // SAFETY: By the type invariant, `self.0` is a valid task. This `read_volatile` corresponds
        // to a `READ_ONCE()`.
        let prio = unsafe { (&raw const (*self.as_ptr()).prio).read_volatile() };
        // CAST: It is a small number.
        prio.min(bindings::MAX_RT_PRIO as c_int)
    }

    /// Wakes up the task, on this CPU if possible.
    ///
    /// It suits a thread that is going to sleep until `self` has done something.
    #[cfg(CONFIG_USERFAULTFD_RUST)]
    #[inline]
    pub fn wake_up_on_current_cpu(&self) {
        // SAFETY: As for `wake_up_process`, it is always safe to call on a valid task.
        unsafe { bindings::wake_up_process_on_current_cpu(self.as_ptr()) };
    }

    /// Determines whether the task is of the real-time or the deadline class.
    #[doc(alias = "rt_or_dl_task")]
    #[inline]
    pub fn is_rt_or_dl(&self) -> bool {
        self.queue_prio() < bindings::MAX_RT_PRIO as c_int
    }

    /// Returns the PID of the given task as seen from the pid namespace of the current task, or
    /// zero if it is not visible there.
    #[doc(alias = "task_pid_vnr")]
    #[inline]
    pub fn pid_vnr(&self) -> Pid {
        // SAFETY: By the type invariant, `self.0` is a valid task; a null namespace stands for
        // that of the current task.
        unsafe {
            bindings::__task_pid_nr_ns(
                self.as_ptr(),
                bindings::pid_type_PIDTYPE_PID,
                ptr::null_mut(),
            )
        }
    }
}

/// A state that a task sleeps in, see [`CurrentTask::set_state`].
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct SleepState(c_int);

impl SleepState {
    /// Any signal ends the sleep.
    pub const INTERRUPTIBLE: Self = Self(TASK_INTERRUPTIBLE);
    /// A fatal signal ends the sleep.
    pub const KILLABLE: Self = Self(TASK_KILLABLE);
    /// A fatal signal ends the sleep, which does not count as load.
    pub const KILLABLE_NOLOAD: Self = Self(TASK_KILLABLE | bindings::TASK_NOLOAD as c_int);
    /// No signal ends the sleep.
    pub const UNINTERRUPTIBLE: Self = Self(TASK_UNINTERRUPTIBLE);
}

/// Bits of `task_struct::flags`, see [`CurrentTask::flags`].
pub mod flags {
    /// The task is on its way out.
    pub const EXITING: u32 = bindings::PF_EXITING;
    /// The task writes a core dump.
    pub const DUMPCORE: u32 = bindings::PF_DUMPCORE;
}

impl CurrentTask {
    /// Returns the per-process flags, a combination of the constants in [`flags`].
    #[inline]
    pub fn flags(&self) -> u32 {
        // SAFETY: Only the task itself writes its flags, and `self` is the current task.
        unsafe { (*self.as_ptr()).flags }
    }

    /// Sets the state that the next [`CurrentTask::schedule`] sleeps in.
    ///
    /// It is followed by a full memory barrier: what this thread reads afterwards, the condition
    /// that it is about to sleep on for example, is read after the state is visible to wakers.
    ///
    /// Between this call and [`CurrentTask::schedule`] or [`CurrentTask::set_running`] the caller
    /// must not do anything that sleeps by itself: that would lose the state.
    #[doc(alias = "set_current_state")]
    #[inline]
    pub fn set_state(&self, state: SleepState) {
        // SAFETY: It is safe to set the state of the current task to one that it sleeps in.
        unsafe { bindings::set_current_state(state.0 as c_uint) };
    }

    /// Declares the task runnable again after [`CurrentTask::set_state`].
    #[doc(alias = "__set_current_state")]
    #[inline]
    pub fn set_running(&self) {
        // SAFETY: It is always safe to make the current task runnable.
        unsafe { bindings::__set_current_state(bindings::TASK_RUNNING) };
    }

    /// Determines whether a signal is pending that interrupts a sleep in `state`.
    #[inline]
    pub fn signal_pending_state(&self, state: SleepState) -> bool {
        // SAFETY: It's always safe to call `signal_pending_state` on the current task.
        unsafe { bindings::signal_pending_state(state.0 as c_uint, self.as_ptr()) != 0 }
    }

    /// Gives up the processor for at most `timeout` jiffies, and sleeps unless the task is
    /// runnable. The task is runnable again when this returns.
    ///
    /// Returns the number of jiffies that were left.
    ///
    /// This function can only be used in a nonatomic context.
    #[inline]
    pub fn schedule_timeout(&self, timeout: Jiffies) -> Jiffies {
        let timeout = timeout.try_into().unwrap_or(MAX_SCHEDULE_TIMEOUT);
        // SAFETY: As for `schedule`. The result is not negative.
        unsafe { bindings::schedule_timeout(timeout) as Jiffies }
    }

    /// Gives up the processor, and sleeps unless the task is runnable.
    ///
    /// This function can only be used in a nonatomic context.
    #[inline]
    pub fn schedule(&self) {
        // SAFETY: `schedule` may be called from any context that may sleep. This is checked with
        // debugging options and not by the type system.
        unsafe { bindings::schedule() };
    }
}

/// Lets other tasks run if one is due.
///
/// This function can only be used in a nonatomic context.
#[inline]
pub fn cond_resched() {
    // SAFETY: Always safe to call in a context that may sleep; debugging options check this.
    unsafe { bindings::cond_resched() };
}
