// SPDX-License-Identifier: GPL-2.0

//! Only `LockedVma::parts` knows that a VMA has page tables, and whose its pages are. So a caller cannot say
//! which one it is, be it in a new value.

use kernel::mm::{locked::PteVma, virt::VmaRef};

fn change<'v, S>(vma: &mut PteVma<'v, S>, other: &'v VmaRef) {
    vma.vma = other;
}

fn main() {}
