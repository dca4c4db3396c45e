// SPDX-License-Identifier: GPL-2.0

//! What an entry was does not say where it is, so a thread cannot wait for it.

use kernel::{mm::relocation::huge::PmdView, task::Sleepable};

fn wait(view: &PmdView<'_>, sleep: &mut Sleepable) {
    if let PmdView::Migration = view {
        view.wait_for_migration(sleep);
    }
}

fn main() {}
