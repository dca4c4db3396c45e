// SPDX-License-Identifier: GPL-2.0

//! In a shared mapping, a folio of hugetlb is mapped only if it was added to the file.

use kernel::mm::hugetlb::{ReadyFolio, SharedFolio};

fn add(folio: SharedFolio<'_>) -> ReadyFolio<'_> {
    folio
}

fn main() {}
