// SPDX-License-Identifier: GPL-2.0

//! A thread does not lock PMD tables that it has locked.

use kernel::{
    mm::relocation::{huge::PmdView, InvalidatedPair, PmdLevel},
    task::Sleepable,
};

fn relocate(
    tables: &mut InvalidatedPair<'_, '_, PmdLevel>,
    sleep: &mut Sleepable,
    other: &mut Sleepable,
) -> usize {
    let first = tables.lock(sleep);
    let second = tables.lock(other);
    let mut moved = 0;
    for view in [first, second] {
        if let Some(PmdView::HugeZero(page)) = view {
            moved += page.relocate();
        }
    }
    moved
}

fn main() {}
