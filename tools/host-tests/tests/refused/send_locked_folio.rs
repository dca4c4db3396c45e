// SPDX-License-Identifier: GPL-2.0

//! A lock is given back by the thread that has taken it, so that one must keep what stands for the
//! lock.
//!
//! The method stands for the start of a thread.

use kernel::mm::folio::LockedFolio;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(folio: LockedFolio) {
    Sent(folio).send();
}

fn main() {}
