// SPDX-License-Identifier: GPL-2.0

//! To lock an `anon_vma` may sleep, so this cannot be done while PMD tables are locked.

use kernel::{
    mm::{
        relocation::{huge::PmdView, InvalidatedPair, PmdLevel},
        rmap::UnlockedRmap,
    },
    task::Sleepable,
};

fn relocate(
    tables: &mut InvalidatedPair<'_, '_, PmdLevel>,
    rmap: UnlockedRmap,
    sleep: &mut Sleepable,
) -> Option<usize> {
    let Some(PmdView::Huge(page)) = tables.lock(sleep) else {
        return None;
    };
    page.relocate(rmap.lock(sleep)).ok()
}

fn main() {}
