// SPDX-License-Identifier: GPL-2.0

//! There is one reference to a folio. The caller that fills it gives that away, and so may have freed it.

use kernel::{
    error::Result,
    mm::{
        folio::{FilledFolio, NewFolio},
        locked::Private,
    },
    task::Sleepable,
};

fn fill(
    folio: NewFolio<Private>,
    src: usize,
    sleep: &mut Sleepable,
) -> Result<FilledFolio<Private>> {
    let _ = folio.copy_from_user_nofault(src);
    folio.copy_from_user(src, sleep)
}

fn main() {}
