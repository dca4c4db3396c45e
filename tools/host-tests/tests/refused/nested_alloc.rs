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
        let slot = vma.alloc_pte_table(range, sleep);
        run.poison() + slot.map_or(0, |slot| slot.address())
    })
}

fn main() {}
