// SPDX-License-Identifier: GPL-2.0

//! Locks are given back by the thread that has taken them, so that one must keep what stands for the
//! locks.
//!
//! The method stands for the start of a thread.

use kernel::mm::relocation::huge::HugePage;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(page: HugePage<'_>) {
    Sent(page).send();
}

fn main() {}
