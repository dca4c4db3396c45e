// SPDX-License-Identifier: GPL-2.0

//! Only `LockedVma::parts` knows that the memory is of hugetlb, and how large its pages are.

use kernel::mm::{locked::HugetlbVma, virt::VmaRef};

fn make<'v>(other: &mut HugetlbVma<'v>, vma: &'v VmaRef) {
    other.vma = vma;
    other.page_shift = 12;
}

fn main() {}
