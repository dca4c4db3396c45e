// SPDX-License-Identifier: GPL-2.0

//! The tables are not locked before those that have page tables of their own were told.

use kernel::{
    mm::relocation::{InvalidatedPair, PteLevel, TablePair},
    task::Sleepable,
};

fn lock(mut tables: TablePair<'_, '_>, sleep: &mut Sleepable) {
    InvalidatedPair::<PteLevel>::lock(&mut tables, sleep);
}

fn main() {}
