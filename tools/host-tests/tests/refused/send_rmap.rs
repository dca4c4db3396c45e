// SPDX-License-Identifier: GPL-2.0

//! A lock is given back by the thread that has taken it, so that one must keep what stands for the
//! lock.
//!
//! The method stands for the start of a thread.

use kernel::mm::rmap::RmapLock;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(rmap: RmapLock) {
    Sent(rmap).send();
}

fn main() {}
