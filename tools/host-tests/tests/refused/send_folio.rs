// SPDX-License-Identifier: GPL-2.0

//! A folio is a pointer that is followed when it is dropped. It is not said that another thread may
//! do so.
//!
//! The method stands for the start of a thread.

use kernel::mm::folio::NewFolio;

struct Sent<T>(T);

impl<T: Send> Sent<T> {
    fn send(self) {}
}

fn send(folio: NewFolio<()>) {
    Sent(folio).send();
}

fn main() {}
