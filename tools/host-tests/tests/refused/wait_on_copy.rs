// SPDX-License-Identifier: GPL-2.0

//! A thread waits at the place of an entry. What was read there is no such place: its lock is not
//! that of the table.

use kernel::{
    bindings::pmd_t,
    mm::relocation::huge::PmdSlot,
    task::Sleepable,
};

fn wait(mut slot: PmdSlot<'_>, mut value: pmd_t, sleep: &mut Sleepable) {
    slot.pmd = &raw mut value;
    slot.wait_for_migration(sleep);
}

fn main() {}
