// SPDX-License-Identifier: GPL-2.0

//! A target that was unlocked is gone. If it is locked again, that is a new one, which was checked.

use kernel::{
    error::Result,
    userfaultfd::{range::PageRange, target::Target},
};

fn tracks_writes(target: Target<'_>, range: PageRange) -> Result<bool> {
    target.unlocked(range, |_| Ok(()))?;
    Ok(target.tracks_writes())
}

fn main() {}
