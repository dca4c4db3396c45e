// SPDX-License-Identifier: GPL-2.0

//! A folio of any memory may be of many pages, so zeroes for one do not fill it.
//!
//! This is so for a huge page.

use kernel::mm::folio::{FilledFolio, NewFolio};

/// As such a VMA.
struct Many(());

fn zero(folio: NewFolio<Many>, address: usize) -> FilledFolio<Many> {
    folio.zero(address)
}

fn main() {}
