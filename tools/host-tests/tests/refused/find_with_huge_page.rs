// SPDX-License-Identifier: GPL-2.0

//! The places of the entries are those of the pages that are left, as long as they are used.

use kernel::{
    mm::relocation::{Relocation, Tables},
    task::Sleepable,
};

fn find(pages: &mut Relocation<'_, '_>, sleep: &mut Sleepable) {
    let Ok(Tables::Huge(tables)) = pages.find_tables(true, sleep) else {
        return;
    };
    pages.advance(512);
    tables.invalidate(sleep);
}

fn main() {}
