// SPDX-License-Identifier: GPL-2.0

//! To make a page table may sleep, so this cannot be done while others are locked.

use kernel::{
    mm::relocation::{Relocation, Source, InvalidatedPair},
    task::Sleepable,
};

fn find(
    tables: &mut InvalidatedPair<'_, '_>,
    other: &mut Relocation<'_, '_>,
    sleep: &mut Sleepable,
) -> usize {
    let Some(Source::ZeroPage(page)) = tables.lock(sleep) else {
        return 0;
    };
    let _ = other.find_tables(true, sleep);
    page.relocate()
}

fn main() {}
