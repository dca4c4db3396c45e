// SPDX-License-Identifier: GPL-2.0

//! Private memory may be anonymous, and has no file then.

use core::ops::Range;
use kernel::{
    mm::{
        locked::{Private, PteVma, ShmemVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn map(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    ShmemVma::map_cached(vma.shmem(), range, false, sleep)
}

fn main() {}
