// SPDX-License-Identifier: GPL-2.0

//! Entries that were set have something in them. To set them once more would lose it.

use core::ops::Range;
use kernel::{
    mm::{
        locked::{Private, PteVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn use_twice(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range, sleep, |run| {
        run.map_zero_page();
        run.poison()
    })
}

fn main() {}
