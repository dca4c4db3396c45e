// SPDX-License-Identifier: GPL-2.0

//! The entry of a huge page keeps its folio, as long as the tables are locked.

use kernel::mm::{
    relocation::{huge::HugePage, OtherFolio},
    rmap::RmapLock,
};

fn relocate(page: HugePage<'_>, rmap: RmapLock) -> Result<bool, OtherFolio> {
    let folio = page.folio();
    page.relocate(rmap)?;
    Ok(folio.is_large())
}

fn main() {}
