// SPDX-License-Identifier: GPL-2.0

//! A huge page is mapped with the mutex of its faults held: the entry borrows that.

use kernel::{
    mm::hugetlb::{HugetlbPage, ReadyFolio},
    task::Sleepable,
};

fn drop_first(page: HugetlbPage<'_>, sleep: &mut Sleepable) {
    let mut faults = page.lock_faults(sleep);
    let Some(mut pte) = faults.lock_pte() else {
        return;
    };
    drop(faults);
    drop(pte.lock_none());
}

fn keep<'v>(page: HugetlbPage<'v>, sleep: &'v mut Sleepable) -> Option<ReadyFolio<'v>> {
    let mut faults = page.lock_faults(sleep);
    let mut pte = faults.lock_pte()?;
    pte.lock_folio()
}

fn main() {}
