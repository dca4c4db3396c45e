// SPDX-License-Identifier: GPL-2.0

//! That a folio is new, and no other thread knows it, is a promise, for which there is `NewFolio::from_raw`. That it
//! was filled is known to the function that did so.

use core::ptr::NonNull;
use kernel::{
    bindings,
    mm::{
        folio::{FilledFolio, NewFolio},
        locked::Private,
    },
};

fn make(folio: NonNull<bindings::folio>) -> NewFolio<Private> {
    NewFolio(folio)
}

fn make_raw(folio: NonNull<bindings::folio>) -> NewFolio<Private> {
    NewFolio::from_raw(folio)
}

fn make_filled(folio: NonNull<bindings::folio>) -> FilledFolio<Private> {
    FilledFolio(folio)
}

fn main() {}
