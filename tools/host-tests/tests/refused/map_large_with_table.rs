// SPDX-License-Identifier: GPL-2.0

//! Mapping a large folio may sleep, so it is not done with a page table locked.

use core::ops::Range;
use kernel::{
    mm::{
        folio::FilledFolio,
        locked::{Private, PteVma},
        thp::{Large, LargeFolio},
    },
    task::Sleepable,
};

fn map(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    folio: LargeFolio<'_, FilledFolio<Large>>,
    sleep: &mut Sleepable,
) {
    let _ = vma.with_vacant(range, sleep, |_| folio.map(false, sleep));
}

fn main() {}
