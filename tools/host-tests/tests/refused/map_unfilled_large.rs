// SPDX-License-Identifier: GPL-2.0

//! A large folio is filled before it is mapped.

use kernel::{
    mm::{
        folio::NewFolio,
        thp::{Large, LargeFolio},
    },
    task::Sleepable,
};

fn map(folio: LargeFolio<'_, NewFolio<Large>>, sleep: &mut Sleepable) {
    let _ = folio.map(false, sleep);
}

fn main() {}
