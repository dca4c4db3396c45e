// SPDX-License-Identifier: GPL-2.0

//! Only `LockedVma::parts` knows that the memory is of hugetlb.

use kernel::mm::{locked::HugetlbVma, virt::VmaRef};

fn make(vma: &VmaRef) -> HugetlbVma<'_> {
    HugetlbVma(vma)
}

fn main() {}
