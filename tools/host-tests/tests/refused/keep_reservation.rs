// SPDX-License-Identifier: GPL-2.0

//! A folio of hugetlb that is not mapped gives its reservation back while the mutex of faults is held, so that
//! no other thread looks for it meanwhile. And it gives it to nothing else.

use kernel::{
    mm::{
        folio::NewFolio,
        hugetlb::{HugetlbPage, ReservedFolio},
        locked::Huge,
    },
    task::Sleepable,
};

fn keep<'v>(page: HugetlbPage<'v>, sleep: &'v mut Sleepable) -> Option<ReservedFolio<'v>> {
    let mut faults = page.lock_faults(sleep);
    let mut pte = faults.lock_pte()?;
    pte.alloc_folio()
}

fn drop_last(page: HugetlbPage<'_>, sleep: &mut Sleepable) {
    let mut faults = page.lock_faults(sleep);
    let Some(mut pte) = faults.lock_pte() else {
        return;
    };
    let folio = pte.alloc_folio();
    drop(pte);
    drop(folio);
}

fn forget(folio: ReservedFolio<'_>) -> NewFolio<Huge> {
    NewFolio(folio.0)
}

fn main() {}
