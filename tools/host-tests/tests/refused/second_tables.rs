// SPDX-License-Identifier: GPL-2.0

//! The tables are those of the first page: they are found anew if that is another one.

use kernel::{
    mm::relocation::{NoTables, Relocation},
    task::Sleepable,
};

fn find(pages: &mut Relocation<'_, '_>, sleep: &mut Sleepable) -> Result<(), NoTables> {
    let first = pages.find_tables(true, sleep)?;
    let second = pages.find_tables(true, sleep)?;
    drop(first);
    drop(second);
    Ok(())
}

fn main() {}
