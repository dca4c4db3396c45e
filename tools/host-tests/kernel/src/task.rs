// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/task.rs`.

#[path = "../../../../rust/kernel/task/sleepable.rs"]
mod sleepable;
pub use sleepable::Sleepable;

pub struct Task;

impl Task {
    pub fn fatal_signal_pending(&self) -> bool {
        false
    }
}

pub fn cond_resched() {}

pub fn might_sleep() {}
