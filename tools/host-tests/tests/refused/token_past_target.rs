// SPDX-License-Identifier: GPL-2.0

//! The permission to sleep is lent to `Pages`. So the caller cannot sleep with it while a table is locked.

use kernel::{
    error::Result,
    task::Sleepable,
    userfaultfd::{context::Context, pages::Pages, range::PageRange},
};

fn operations(context: &Context, sleep: &mut Sleepable, range: PageRange) -> Result {
    let Some(mut pages) = Pages::new(context, sleep) else {
        return Ok(());
    };
    let mut target = pages.lock_target(range)?;
    sleep.cond_resched_killable()?;
    target.parts();
    Ok(())
}

fn main() {}
