// SPDX-License-Identifier: GPL-2.0

//! One thread may sleep, which says nothing about another one: that may hold a spinlock, or be in a
//! critical section.
//!
//! The method stands for the start of a thread.

use kernel::task::Sleepable;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(sleep: Sleepable) {
    Sent(sleep).send();
}

fn main() {}
