// SPDX-License-Identifier: GPL-2.0

//! Only `PteVma::with_vacant` knows which entries have nothing in them, and that their table is locked. So
//! a caller cannot say which ones they are, be it in a new value.

use core::ptr::null_mut;
use kernel::mm::{locked::PteVma, pgtable::VacantRun};

fn change<'l, S>(run: &mut VacantRun<'l, S>, vma: PteVma<'l, S>) {
    run.vma = vma;
    run.start = 0;
    run.pte = null_mut();
    run.count = 512;
}

fn main() {}
