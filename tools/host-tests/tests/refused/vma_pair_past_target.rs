// SPDX-License-Identifier: GPL-2.0

//! What two VMAs are may change once they are not locked any more.

use kernel::{
    error::Result,
    userfaultfd::{pages::Pages, range::PageRange},
};

fn keep(pages: &mut Pages<'_>, dst: PageRange, src: PageRange) -> Result<Option<usize>> {
    let mut target = pages.lock_target_pair(dst, src)?;
    let (vmas, _) = target.parts();
    drop(target);
    Ok(vmas.map(|vmas| vmas.src().start()))
}

fn main() {}
