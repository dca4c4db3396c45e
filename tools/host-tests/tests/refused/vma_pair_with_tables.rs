// SPDX-License-Identifier: GPL-2.0

//! To lock a VMA may sleep, so this cannot be done while page tables are locked.

use kernel::{
    error::Result,
    mm::{
        relocation::{Source, InvalidatedPair},
        MmWithUser,
    },
    task::Sleepable,
};

fn lock(mm: &MmWithUser, tables: &mut InvalidatedPair<'_, '_>, sleep: &mut Sleepable) -> Result {
    let source = tables.lock(sleep);
    drop(mm.lock_vma_pair_prepare_anon(0, 0, sleep)?);
    if let Some(Source::ZeroPage(page)) = source {
        page.relocate();
    }
    Ok(())
}

fn main() {}
