// SPDX-License-Identifier: GPL-2.0

//! A lock is given back by the thread that has taken it, so that one must keep what stands for the
//! lock.
//!
//! The method stands for the start of a thread.

use kernel::mm::relocation::Page;

struct Locked<'l>(Page<'l>);

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(page: Locked<'_>) {
    Sent(page).send();
}

fn main() {}
