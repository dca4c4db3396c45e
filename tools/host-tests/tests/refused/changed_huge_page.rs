// SPDX-License-Identifier: GPL-2.0

//! Only `HugetlbVma::page` knows that the VMA has the page, and only the functions that lock something know
//! what is locked. So a caller cannot say so, be it in a value that it has.

use kernel::mm::hugetlb::{FaultMutex, HugetlbPage, HugePte, ReadyFolio, SharedFolio, VacantHugePte};

fn change<'v>(
    page: &mut HugetlbPage<'v>,
    other: HugetlbPage<'v>,
    faults: &mut FaultMutex<'v, '_>,
    pte: &mut HugePte<'v>,
    entry: &mut VacantHugePte<'v, ()>,
) {
    page.address = 0;
    faults.page = other;
    pte.0.page = other;
    entry.place.page = other;
}

fn make(folio: SharedFolio<'_>) -> ReadyFolio<'_> {
    ReadyFolio(folio.0)
}

fn main() {}
