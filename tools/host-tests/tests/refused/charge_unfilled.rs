// SPDX-License-Identifier: GPL-2.0

//! A folio that was not filled has what was in it before: maybe secrets of another process.

use kernel::{
    error::Result,
    mm::{
        folio::{ChargedFolios, NewFolio},
        locked::Private,
    },
    task::Sleepable,
};

fn charge(
    folios: &mut ChargedFolios<'_>,
    folio: NewFolio<Private>,
    sleep: &mut Sleepable,
) -> Result {
    folios.charge(folio, sleep)
}

fn main() {}
