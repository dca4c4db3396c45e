// SPDX-License-Identifier: GPL-2.0

//! Only what locks a folio knows which one is locked. So a caller cannot say which one it is, be it
//! in a new value.

use core::ptr::NonNull;
use kernel::mm::folio::{Folio, LockedFolio};

fn change(folio: &mut LockedFolio, other: &Folio) {
    folio.folio = NonNull::from(other);
}

fn main() {}
