// SPDX-License-Identifier: GPL-2.0

//! To lock an `anon_vma` may sleep, so this cannot be done while page tables are locked.

use kernel::{
    mm::{
        relocation::{Source, InvalidatedPair},
        rmap::UnlockedRmap,
    },
    task::Sleepable,
};

fn relocate(
    tables: &mut InvalidatedPair<'_, '_>,
    rmap: UnlockedRmap,
    sleep: &mut Sleepable,
) -> Option<usize> {
    let Some(Source::Page(page)) = tables.lock(sleep) else {
        return None;
    };
    page.relocate(rmap.lock(sleep)).ok()
}

fn main() {}
