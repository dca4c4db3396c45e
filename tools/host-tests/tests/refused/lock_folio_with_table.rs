// SPDX-License-Identifier: GPL-2.0

//! The lock of a folio may have to be waited for, so this cannot be done while a page table is locked.

use core::ops::Range;
use kernel::{
    mm::{locked::ShmemVma, pgtable::NoVacancy},
    task::Sleepable,
};

fn lock<S>(
    vma: ShmemVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    let address = range.start;
    vma.pte_vma().with_vacant(range, sleep, |run| {
        drop(vma.lock_folio(address, sleep));
        run.poison()
    })
}

fn main() {}
