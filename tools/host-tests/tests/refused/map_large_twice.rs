// SPDX-License-Identifier: GPL-2.0

//! The page table has the reference to a large folio that was mapped.

use kernel::{
    mm::{
        folio::FilledFolio,
        thp::{Large, LargeFolio},
    },
    task::Sleepable,
};

fn map(folio: LargeFolio<'_, FilledFolio<Large>>, sleep: &mut Sleepable) {
    let _ = folio.map(false, sleep);
    let _ = folio.map(false, sleep);
}

fn main() {}
