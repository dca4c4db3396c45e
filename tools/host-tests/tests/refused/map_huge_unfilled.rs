// SPDX-License-Identifier: GPL-2.0

//! A folio of hugetlb is mapped only if its contents were set.

use kernel::mm::hugetlb::{ReadyFolio, ReservedFolio};

fn fill(folio: ReservedFolio<'_>) -> ReadyFolio<'_> {
    folio
}

fn main() {}
