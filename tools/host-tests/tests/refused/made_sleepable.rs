// SPDX-License-Identifier: GPL-2.0

//! That the thread may sleep is a promise, for which `Sleepable::new` is unsafe.

use kernel::{task::Sleepable, types::NotThreadSafe};

fn make() -> Sleepable {
    let _nts = NotThreadSafe;
    Sleepable { _nts }
}

fn main() {}
