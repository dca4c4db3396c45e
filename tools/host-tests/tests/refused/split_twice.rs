// SPDX-License-Identifier: GPL-2.0

//! The thread that splits a folio does not know which pages they are afterwards.

use kernel::{error::Result, mm::folio::LockedFolio, task::Sleepable};

fn split(folio: LockedFolio, sleep: &mut Sleepable) -> Result {
    folio.split(sleep)?;
    folio.split(sleep)
}

fn main() {}
