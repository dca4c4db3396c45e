// SPDX-License-Identifier: GPL-2.0

//! A thread locks the two tables of one move, and no others: they have no order.

use kernel::{
    mm::relocation::{Source, InvalidatedPair},
    task::Sleepable,
};

fn lock(
    tables: &mut InvalidatedPair<'_, '_>,
    other: &mut InvalidatedPair<'_, '_>,
    sleep: &mut Sleepable,
) -> usize {
    let first = tables.lock(sleep);
    let second = other.lock(sleep);
    match (first, second) {
        (Some(Source::ZeroPage(first)), Some(Source::ZeroPage(second))) => {
            first.relocate() + second.relocate()
        }
        _ => 0,
    }
}

fn main() {}
