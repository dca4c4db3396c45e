// SPDX-License-Identifier: GPL-2.0

//! A thread that waits until a page has migrated sleeps, so it cannot have locked page tables.

use kernel::{
    mm::relocation::{Source, InvalidatedPair},
    task::Sleepable,
};

fn wait(mut tables: InvalidatedPair<'_, '_>, sleep: &mut Sleepable) {
    let source = tables.lock(sleep);
    tables.wait_for_migration(sleep);
    if let Some(Source::ZeroPage(page)) = source {
        page.relocate();
    }
}

fn main() {}
