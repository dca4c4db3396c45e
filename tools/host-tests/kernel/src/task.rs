// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/task.rs`.

#[path = "../../../../rust/kernel/task/sleepable.rs"]
mod sleepable;
pub use sleepable::Sleepable;

pub fn might_sleep() {}
