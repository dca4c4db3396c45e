// SPDX-License-Identifier: GPL-2.0

//! Zeroes are added to the file of shared memory. The pages of private memory are not in the file.

use core::ops::Range;
use kernel::{
    error::Result,
    mm::{
        locked::{Private, PteVma},
        pgtable::PmdSlot,
    },
    task::Sleepable,
};

fn add_zeroes(vma: PteVma<'_, Private>, range: Range<usize>, sleep: &mut Sleepable) -> Result {
    match vma.alloc_pte_table(range, sleep) {
        Ok(slot) => PmdSlot::add_zeroes(slot, sleep),
        Err(_) => Ok(()),
    }
}

fn main() {}
