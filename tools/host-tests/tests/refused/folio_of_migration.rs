// SPDX-License-Identifier: GPL-2.0

//! An entry for a huge page that migrates has no folio.

use kernel::mm::relocation::huge::PmdView;

fn is_pinned(view: PmdView<'_>) -> bool {
    match view {
        PmdView::Huge(page) => page.folio().is_maybe_pinned(),
        PmdView::Migration(page) => page.folio().is_maybe_pinned(),
        _ => false,
    }
}

fn main() {}
