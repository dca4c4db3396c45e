// SPDX-License-Identifier: GPL-2.0

//! A page that is mapped is counted for the memory cgroup, and others can read it. So it is charged, and
//! filled before.

use kernel::{
    mm::{
        folio::{FilledFolio, NewFolio},
        locked::{Private, PteVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn map_new(
    vma: PteVma<'_, Private>,
    folio: &mut NewFolio<Private>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.map_folios(vma.vma().start(), folio, false, sleep)
}

fn map_filled(
    vma: PteVma<'_, Private>,
    folio: &mut FilledFolio<Private>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.map_folios(vma.vma().start(), folio, false, sleep)
}

fn main() {}
