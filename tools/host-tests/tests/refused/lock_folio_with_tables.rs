// SPDX-License-Identifier: GPL-2.0

//! To lock a folio may sleep, so this cannot be done while page tables are locked.

use kernel::{
    mm::{
        folio::{Folio, LockedFolio},
        relocation::{Source, InvalidatedPair},
    },
    task::Sleepable,
};

fn lock(tables: &mut InvalidatedPair<'_, '_>, sleep: &mut Sleepable) -> Option<LockedFolio> {
    let Some(Source::Page(page)) = tables.lock(sleep) else {
        return None;
    };
    let folio = Folio::lock(page.folio().into(), sleep);
    drop(page);
    Some(folio)
}

fn main() {}
