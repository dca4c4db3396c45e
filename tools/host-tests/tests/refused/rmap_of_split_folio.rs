// SPDX-License-Identifier: GPL-2.0

//! A folio that was split is unlocked.

use kernel::{
    error::Result,
    mm::{
        folio::LockedFolio,
        rmap::{NoRmap, RmapLock},
    },
    task::Sleepable,
};

fn split(folio: LockedFolio, sleep: &mut Sleepable) -> Result<Result<RmapLock, NoRmap>> {
    folio.split(sleep)?;
    Ok(folio.try_lock_rmap())
}

fn main() {}
