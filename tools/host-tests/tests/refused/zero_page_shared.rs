// SPDX-License-Identifier: GPL-2.0

//! The zero page is not one of the file. A write to shared memory would make no copy of it.

use core::ops::Range;
use kernel::{
    mm::{
        locked::{PteVma, Shared},
        pgtable::{NoVacancy, VacantRun},
    },
    task::Sleepable,
};

fn map_zero_page(
    vma: PteVma<'_, Shared>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range, sleep, |run| VacantRun::map_zero_page(run))
}

fn main() {}
