// SPDX-License-Identifier: GPL-2.0

//! To make a page table may sleep, so this cannot be done while another one is locked.

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
        let result = vma.alloc_pte_table(range.start, sleep);
        run.poison() + usize::from(result.is_ok())
    })
}

fn main() {}
