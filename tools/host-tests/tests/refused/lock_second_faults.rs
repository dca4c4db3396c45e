// SPDX-License-Identifier: GPL-2.0

//! A thread locks the mutex for faults in one page at a time. That of another one may be the same.

use kernel::{
    mm::hugetlb::HugetlbPage,
    task::Sleepable,
};

fn lock(first: HugetlbPage<'_>, second: HugetlbPage<'_>, sleep: &mut Sleepable) {
    let faults = first.lock_faults(sleep);
    drop(second.lock_faults(sleep));
    drop(faults);
}

fn main() {}
