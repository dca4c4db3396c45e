// SPDX-License-Identifier: GPL-2.0

//! A page table is locked with a spinlock, so the thread must not read what may have to be read from a disk.

use core::ops::Range;
use kernel::{
    mm::{
        folio::NewFolio,
        locked::{Private, PteVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn fill(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    folio: NewFolio<Private>,
    sleep: &mut Sleepable,
) -> Result<bool, NoVacancy> {
    vma.with_vacant(range.clone(), sleep, |run| {
        run.poison();
        folio.copy_from_user(range.end, sleep).is_ok()
    })
}

fn main() {}
