// SPDX-License-Identifier: GPL-2.0

//! Only `PteVma::alloc_pte_table` knows that the VMA has the page, and where its PMD entry is. So a caller
//! cannot say which one it is, be it in a new value.

use core::ptr::null_mut;
use kernel::mm::{locked::PteVma, pgtable::PmdSlot};

fn change<'v, S>(slot: &mut PmdSlot<'v, S>, vma: PteVma<'v, S>) {
    slot.vma = vma;
    slot.pmd = null_mut();
    slot.address = 0;
}

fn main() {}
