// SPDX-License-Identifier: GPL-2.0

//! To lock a folio may sleep, so this cannot be done while PMD tables are locked.

use kernel::{
    mm::{
        folio::{Folio, LockedFolio},
        relocation::{huge::PmdView, InvalidatedPair, PmdLevel},
    },
    task::Sleepable,
};

fn lock(
    tables: &mut InvalidatedPair<'_, '_, PmdLevel>,
    sleep: &mut Sleepable,
) -> Option<LockedFolio> {
    let Some(PmdView::Huge(page)) = tables.lock(sleep) else {
        return None;
    };
    let folio = Folio::lock(page.folio().into(), sleep);
    drop(page);
    Some(folio)
}

fn main() {}
