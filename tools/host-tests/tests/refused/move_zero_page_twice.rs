// SPDX-License-Identifier: GPL-2.0

//! Once a page was moved, the tables are not locked any more, and the entry is another one.

use kernel::mm::relocation::ZeroPage;

fn relocate(page: ZeroPage<'_>) -> usize {
    page.relocate() + page.relocate()
}

fn main() {}
