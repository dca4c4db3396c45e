// SPDX-License-Identifier: GPL-2.0

//! Only `AnonPair::relocation` knows that the VMAs have the pages. So a caller cannot say which
//! ones they are, be it in a new value.

use core::ptr::null_mut;
use kernel::mm::{locked::AnonPair, relocation::Relocation};

fn change<'v>(pages: &mut Relocation<'v, '_>, vmas: AnonPair<'v>) {
    pages.vmas = vmas;
    pages.raw = null_mut();
}

fn main() {}
