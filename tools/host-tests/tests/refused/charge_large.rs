// SPDX-License-Identifier: GPL-2.0

//! A large folio was charged when it was allocated, and is not charged again.

use kernel::{
    mm::{
        folio::{ChargedFolios, FilledFolio},
        thp::Large,
    },
    task::Sleepable,
};

fn charge(folios: &mut ChargedFolios<'_>, folio: FilledFolio<Large>, sleep: &mut Sleepable) {
    let _ = folios.charge(folio, sleep);
}

fn main() {}
