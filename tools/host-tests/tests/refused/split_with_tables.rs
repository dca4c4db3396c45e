// SPDX-License-Identifier: GPL-2.0

//! To split a folio may sleep, so this cannot be done while page tables are locked.

use kernel::{
    error::Result,
    mm::{
        folio::LockedFolio,
        relocation::{Source, InvalidatedPair},
    },
    task::Sleepable,
};

fn split(tables: &mut InvalidatedPair<'_, '_>, folio: LockedFolio, sleep: &mut Sleepable) -> Result {
    let Some(Source::Swap(swap)) = tables.lock(sleep) else {
        return Ok(());
    };
    folio.split(sleep)?;
    drop(swap);
    Ok(())
}

fn main() {}
