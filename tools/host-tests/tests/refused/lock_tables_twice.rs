// SPDX-License-Identifier: GPL-2.0

//! The tables of a page are locked once: what was found out is about the entries there.

use kernel::{
    mm::relocation::{Source, InvalidatedPair},
    task::Sleepable,
};

fn lock(tables: &mut InvalidatedPair<'_, '_>, sleep: &mut Sleepable, other: &mut Sleepable) -> usize {
    let first = tables.lock(sleep);
    let second = tables.lock(other);
    match (first, second) {
        (Some(Source::ZeroPage(first)), Some(Source::ZeroPage(second))) => {
            first.relocate() + second.relocate()
        }
        _ => 0,
    }
}

fn main() {}
