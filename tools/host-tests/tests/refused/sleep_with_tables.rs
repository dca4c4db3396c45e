// SPDX-License-Identifier: GPL-2.0

//! Nothing sleeps while page tables are locked.

use kernel::{
    mm::relocation::{Source, InvalidatedPair},
    task::Sleepable,
};

fn sleep_with_tables(tables: &mut InvalidatedPair<'_, '_>, sleep: &mut Sleepable) -> usize {
    let Some(Source::ZeroPage(page)) = tables.lock(sleep) else {
        return 0;
    };
    let _ = sleep.cond_resched_killable();
    page.relocate()
}

fn main() {}
