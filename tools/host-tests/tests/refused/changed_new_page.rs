// SPDX-License-Identifier: GPL-2.0

//! Only `ShmemVma::new_page` knows that the VMA has the page, and where its PMD entry is. So a caller cannot
//! say which one it is, be it in a new value.

use core::ptr::null_mut;
use kernel::mm::{
    filemap::NewPage,
    locked::{Shared, ShmemVma},
};

fn change<'v>(page: &mut NewPage<'v>, vma: ShmemVma<'v, Shared>) {
    page.vma = vma;
    page.pmd = null_mut();
    page.address = 0;
}

fn main() {}
