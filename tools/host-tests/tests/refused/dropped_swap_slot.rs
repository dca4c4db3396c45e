// SPDX-License-Identifier: GPL-2.0

//! A page that is swapped out is moved while its device is kept in use.

use kernel::mm::{
    relocation::{OtherFolio, Swap},
    swap::SwapSlot,
};

fn relocate(swap: Swap<'_>, slot: SwapSlot) -> Result<(), OtherFolio> {
    drop(slot);
    swap.relocate(&slot, None)
}

fn main() {}
