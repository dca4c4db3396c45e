// SPDX-License-Identifier: GPL-2.0

//! The index of a huge page is in huge pages, and not to be mixed with one in small pages, such as those of
//! `linear_page_index()`.

use kernel::{
    mm::hugetlb::{HugeIndex, HugetlbPage},
    userfaultfd::vma::Vma,
};

fn is_at(page: HugetlbPage<'_>, address: usize) -> bool {
    let index = Vma::from_ref(page.vma().vma()).page_index(address);
    index == page.index()
}

fn make(page: HugetlbPage<'_>, address: usize) -> HugeIndex {
    HugeIndex(Vma::from_ref(page.vma().vma()).page_index(address))
}

fn main() {}
