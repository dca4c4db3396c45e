// SPDX-License-Identifier: GPL-2.0

//! Only `PteVma::shmem` knows that the memory has a file.

use kernel::mm::locked::{Private, PteVma, ShmemVma};

fn make(vma: PteVma<'_, Private>) -> ShmemVma<'_, Private> {
    ShmemVma(vma)
}

fn main() {}
