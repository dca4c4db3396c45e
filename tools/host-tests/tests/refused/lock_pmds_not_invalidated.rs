// SPDX-License-Identifier: GPL-2.0

//! PMD tables are not locked before those that have page tables of their own were told.

use kernel::{mm::relocation::huge::HugePair, task::Sleepable};

fn lock(tables: &mut HugePair<'_, '_>, sleep: &mut Sleepable) {
    tables.lock(sleep);
}

fn main() {}
