// SPDX-License-Identifier: GPL-2.0

//! A thread does not sleep while PMD tables are locked.

use kernel::{
    mm::relocation::{huge::PmdView, InvalidatedPair, PmdLevel},
    task::Sleepable,
};

fn relocate(tables: &mut InvalidatedPair<'_, '_, PmdLevel>, sleep: &mut Sleepable) -> usize {
    let Some(PmdView::HugeZero(page)) = tables.lock(sleep) else {
        return 0;
    };
    let _ = sleep.cond_resched_killable();
    page.relocate()
}

fn main() {}
