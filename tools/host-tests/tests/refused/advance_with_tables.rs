// SPDX-License-Identifier: GPL-2.0

//! The tables are those of the first page: they are found anew if that is another one.

use kernel::{
    mm::relocation::{NoTables, Relocation, Tables},
    task::Sleepable,
};

fn advance(pages: &mut Relocation<'_, '_>, sleep: &mut Sleepable) -> Result<(), NoTables> {
    if let Tables::Pte(tables) = pages.find_tables(true, sleep)? {
        pages.advance(1);
        drop(tables.invalidate(sleep));
    }
    Ok(())
}

fn main() {}
