// SPDX-License-Identifier: GPL-2.0

//! Only `ShmemVma::lock_folio` knows that a folio is locked, and which page it has. So a caller cannot say which
//! folio it is, nor for which address or VMA, be it in a new value.

use core::ptr::NonNull;
use kernel::{
    bindings,
    mm::{filemap::CachedFolio, locked::ShmemVma},
};

fn change<'v, S>(folio: &mut CachedFolio<'v, '_, S>, vma: ShmemVma<'v, S>, address: usize) {
    folio.vma = vma;
    folio.address = address;
}

fn replace<S>(folio: &mut CachedFolio<'_, '_, S>, other: NonNull<bindings::folio>) {
    folio.folio = other;
}

fn main() {}
