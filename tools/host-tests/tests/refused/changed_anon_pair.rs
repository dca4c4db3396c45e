// SPDX-License-Identifier: GPL-2.0

//! Only `LockedVmaPair::parts` knows that pages can be moved from one VMA to the other. So a caller
//! cannot say which ones they are, be it in a new value.

use kernel::mm::{locked::AnonPair, virt::VmaRef};

fn change<'v>(vmas: &mut AnonPair<'v>, other: &'v VmaRef) {
    vmas.dst = other;
    vmas.src = other;
}

fn main() {}
