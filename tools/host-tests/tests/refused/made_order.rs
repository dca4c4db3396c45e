// SPDX-License-Identifier: GPL-2.0

//! Only the policy of a VMA knows which orders there are, so that none is larger than a page table.

use kernel::mm::thp::Order;

fn main() {
    let _ = Order(12);
}
