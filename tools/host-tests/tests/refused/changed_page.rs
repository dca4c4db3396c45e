// SPDX-License-Identifier: GPL-2.0

//! Only `InvalidatedPair::lock` knows what the entry of a page is. So a caller cannot say that it is one
//! that is mapped once, be it in a new value.

use kernel::mm::relocation::{Page, Swap};

fn change<'l>(page: &mut Page<'l>, swap: Swap<'l>) {
    page.0 = swap.0;
}

fn main() {}
