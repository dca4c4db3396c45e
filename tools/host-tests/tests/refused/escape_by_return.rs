// SPDX-License-Identifier: GPL-2.0

//! Entries have nothing in them as long as their table is locked, so they must not be returned.

use core::ops::Range;
use kernel::{
    mm::{locked::PteVma, pgtable::NoVacancy},
    task::Sleepable,
};

fn escape<S>(
    vma: PteVma<'_, S>,
    range: Range<usize>,
    sleep: &mut Sleepable,
) -> Result<usize, NoVacancy> {
    let run = vma.with_vacant(range, sleep, |run| run)?;
    Ok(run.poison())
}

fn main() {}
