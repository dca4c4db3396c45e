// SPDX-License-Identifier: GPL-2.0

//! A thread that waits until a huge page has migrated sleeps, so it cannot have locked PMD tables.

use kernel::{
    mm::relocation::{huge::PmdView, InvalidatedPair, PmdLevel},
    task::Sleepable,
};

fn wait(mut tables: InvalidatedPair<'_, '_, PmdLevel>, sleep: &mut Sleepable) {
    let view = tables.lock(sleep);
    tables.into_source().wait_for_migration(sleep);
    if let Some(PmdView::HugeZero(page)) = view {
        page.relocate();
    }
}

fn main() {}
