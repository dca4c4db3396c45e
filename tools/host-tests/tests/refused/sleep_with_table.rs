// SPDX-License-Identifier: GPL-2.0

//! A page table is locked with a spinlock, so the thread must not sleep. It has lent the permission.

use core::ops::Range;
use kernel::{
    mm::{locked::PteVma, pgtable::NoVacancy},
    task::Sleepable,
};

fn sleep_with_table<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range, sleep, |run| {
        let _ = sleep.cond_resched_killable();
        run.poison()
    })
}

fn main() {}
