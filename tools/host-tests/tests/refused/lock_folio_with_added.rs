// SPDX-License-Identifier: GPL-2.0

//! A thread locks one folio at a time, but for those that it tries to lock. One that was added is
//! locked.

use kernel::{
    error::{code::ENOMEM, Result},
    mm::{
        filemap::NewPage,
        folio::FilledFolio,
        locked::{Shared, ShmemVma},
    },
    task::Sleepable,
};

fn lock(
    vma: ShmemVma<'_, Shared>,
    page: NewPage<'_>,
    folio: FilledFolio<Shared>,
    sleep: &mut Sleepable,
) -> Result {
    let added = page.add(folio, sleep).map_err(|_| ENOMEM)?;
    drop(vma.lock_folio(0, sleep)?);
    drop(added);
    Ok(())
}

fn main() {}
