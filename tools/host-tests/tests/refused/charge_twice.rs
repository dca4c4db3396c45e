// SPDX-License-Identifier: GPL-2.0

//! There is one reference to a folio. Two lists that have it would free it twice, and so would one.

use kernel::{
    error::Result,
    mm::{
        folio::{ChargedFolios, FilledFolio},
        locked::Private,
    },
    task::Sleepable,
};

fn charge(
    folios: &mut ChargedFolios<'_>,
    folio: FilledFolio<Private>,
    sleep: &mut Sleepable,
) -> Result {
    folios.charge(folio, sleep)?;
    folios.charge(folio, sleep)
}

fn main() {}
