// SPDX-License-Identifier: GPL-2.0

//! The huge zero page is of no process, and there is no folio to be moved.

use kernel::mm::relocation::huge::HugeZeroPage;

fn is_pinned(page: &HugeZeroPage<'_>) -> bool {
    page.folio().is_maybe_pinned()
}

fn main() {}
