// SPDX-License-Identifier: GPL-2.0

//! Memory of which is not known whose it is may be shared. That must not have the zero page.

use core::ops::Range;
use kernel::{
    mm::{
        locked::{Any, PteVma},
        pgtable::{NoVacancy, VacantRun},
    },
    task::Sleepable,
};

fn map_zero_page(
    vma: PteVma<'_, Any>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range, sleep, |run| VacantRun::map_zero_page(run))
}

fn main() {}
