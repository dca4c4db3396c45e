// SPDX-License-Identifier: GPL-2.0

//! A page table is unlocked by the thread that has locked it, and the other one would not know
//! when.
//!
//! The method stands for the start of a thread.

use kernel::mm::pgtable::VacantRun;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(run: VacantRun<'_, ()>) {
    Sent(run).send();
}

fn main() {}
