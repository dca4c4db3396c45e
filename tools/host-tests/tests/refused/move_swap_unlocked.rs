// SPDX-License-Identifier: GPL-2.0

//! A folio of the swap cache is locked when its page is moved: a reference is not enough.

use kernel::mm::{
    folio::Folio,
    relocation::{OtherFolio, Swap},
    swap::SwapSlot,
};

fn relocate(swap: Swap<'_>, slot: &SwapSlot, cached: Option<&Folio>) -> Result<(), OtherFolio> {
    swap.relocate(slot, cached)
}

fn main() {}
