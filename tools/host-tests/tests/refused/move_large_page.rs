// SPDX-License-Identifier: GPL-2.0

//! A page that is part of a folio of several cannot be moved.

use kernel::mm::{
    relocation::{LargePage, OtherFolio, Page},
    rmap::RmapLock,
};

fn relocate(page: LargePage<'_>, rmap: RmapLock) -> Result<usize, OtherFolio> {
    Page::relocate(page, rmap)
}

fn main() {}
