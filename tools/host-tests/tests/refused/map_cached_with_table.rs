// SPDX-License-Identifier: GPL-2.0

//! To map pages of a file locks a page table, so this cannot be done while another one is locked.

use core::ops::Range;
use kernel::{
    mm::{locked::ShmemVma, pgtable::NoVacancy},
    task::Sleepable,
};

fn map<S>(
    vma: ShmemVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.pte_vma().with_vacant(range.clone(), sleep, |run| {
        let count = vma.map_cached(range, false, sleep);
        run.poison() + count.unwrap_or(0)
    })
}

fn main() {}
