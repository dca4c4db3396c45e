// SPDX-License-Identifier: GPL-2.0

//! Two folios must not be locked at a time: nothing says in which order, and it may be the same one. To lock the
//! second one may sleep, too.

use core::ops::Range;
use kernel::{error::Result, mm::locked::ShmemVma, task::Sleepable};

fn lock<S>(vma: ShmemVma<'_, S>, range: Range<usize>, sleep: &mut Sleepable) -> Result {
    let first = vma.lock_folio(range.start, sleep)?;
    let second = vma.lock_folio(range.end, sleep)?;
    drop(first);
    drop(second);
    Ok(())
}

fn main() {}
