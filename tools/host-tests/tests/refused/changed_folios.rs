// SPDX-License-Identifier: GPL-2.0

//! Only `ChargedFolios::charge` knows which folios there are, and to whose memory cgroup they were charged. So
//! a caller cannot say which ones are left, or of which VMA they are, be it in a new value.

use kernel::mm::{
    folio::ChargedFolios,
    locked::{Private, PteVma},
};

fn change<'v>(folios: &mut ChargedFolios<'v>, vma: PteVma<'v, Private>) {
    folios.vma = vma;
    folios.taken = 0;
}

fn main() {}
