// SPDX-License-Identifier: GPL-2.0

//! Two page tables must not be locked at a time: nothing says in which order, and it may be the same one.
//! To make the second one may sleep, too.

use core::ops::Range;
use kernel::{
    mm::{locked::PteVma, pgtable::NoVacancy},
    task::Sleepable,
};

fn nested<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range.clone(), sleep, |run| {
        let second = vma.with_vacant(range, sleep, |run| run.poison());
        run.poison() + second.unwrap_or(0)
    })
}

fn main() {}
