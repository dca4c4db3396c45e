// SPDX-License-Identifier: GPL-2.0

//! To map folios locks a page table, so this cannot be done while another one is locked.

use core::ops::Range;
use kernel::{
    mm::{
        folio::ChargedFolios,
        locked::{Private, PteVma},
        pgtable::NoVacancy,
    },
    task::Sleepable,
};

fn map(
    vma: PteVma<'_, Private>,
    range: Range<usize>,
    folios: &mut ChargedFolios<'_>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    vma.with_vacant(range.clone(), sleep, |run| {
        let count = vma.map_folios(range.end, folios, false, sleep);
        run.poison() + count.unwrap_or(0)
    })
}

fn main() {}
