// SPDX-License-Identifier: GPL-2.0

//! A huge page that was moved is gone.

use kernel::{error::Result, mm::relocation::Leaf, task::Sleepable};

fn relocate(leaf: Leaf<'_, '_>, sleep: &mut Sleepable) -> Result {
    leaf.relocate(sleep)?;
    leaf.split(sleep)
}

fn main() {}
