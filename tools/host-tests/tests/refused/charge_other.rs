// SPDX-License-Identifier: GPL-2.0

//! What is mapped as an anonymous page of private memory must be one page, and not be in a file.

use kernel::{
    error::Result,
    mm::{
        folio::{ChargedFolios, FilledFolio},
        locked::{Huge, Shared},
    },
    task::Sleepable,
};

fn charge_shared(
    folios: &mut ChargedFolios<'_>,
    folio: FilledFolio<Shared>,
    sleep: &mut Sleepable,
) -> Result {
    folios.charge(folio, sleep)
}

fn charge_huge(
    folios: &mut ChargedFolios<'_>,
    folio: FilledFolio<Huge>,
    sleep: &mut Sleepable,
) -> Result {
    folios.charge(folio, sleep)
}

fn main() {}
