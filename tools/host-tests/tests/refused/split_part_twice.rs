// SPDX-License-Identifier: GPL-2.0

//! A huge page that was split is none any more.

use kernel::{error::Result, mm::relocation::huge::PartOfHuge, task::Sleepable};

fn split(part: PartOfHuge<'_, '_>, sleep: &mut Sleepable) -> Result {
    part.split(sleep)?;
    part.split(sleep)
}

fn main() {}
