// SPDX-License-Identifier: GPL-2.0

//! Once the VMA is locked again, that has the permission to sleep. So what is called in between must not keep
//! it.

use kernel::{
    error::Result,
    userfaultfd::{range::PageRange, target::Target},
};

fn keep(target: Target<'_>, range: PageRange) -> Result {
    let mut kept = None;
    target.unlocked(range, |sleep| {
        kept = Some(sleep);
        Ok(())
    })?;
    if let Some(sleep) = kept {
        sleep.cond_resched_killable()?;
    }
    Ok(())
}

fn main() {}
