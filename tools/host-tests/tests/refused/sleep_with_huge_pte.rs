// SPDX-License-Identifier: GPL-2.0

//! While the page table of a huge page is locked, the thread must not sleep: not to allocate, nor to wait for
//! the lock of a folio.

use kernel::{
    mm::hugetlb::{HugetlbPage, HugePte},
    task::Sleepable,
};

fn allocate(pte: &mut HugePte<'_>) {
    let Some(entry) = pte.lock_none() else {
        return;
    };
    let folio = pte.alloc_folio();
    drop(folio);
    entry.poison();
}

fn lock(pte: &mut HugePte<'_>) {
    let Some(entry) = pte.lock_none() else {
        return;
    };
    let folio = pte.lock_folio();
    drop(folio);
    entry.poison();
}

fn sleep(page: HugetlbPage<'_>, sleep: &mut Sleepable) {
    let mut faults = page.lock_faults(sleep);
    let Some(mut pte) = faults.lock_pte() else {
        return;
    };
    let entry = pte.lock_none();
    let _ = sleep.cond_resched_killable();
    drop(entry);
}

fn main() {}
