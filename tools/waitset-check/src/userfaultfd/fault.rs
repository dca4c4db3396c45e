// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/userfaultfd/fault.rs`: a fault, with the fault lock held.

use crate::{
    rt::{AtomicU32, RwLockReadGuard, RELAXED},
    task::SleepState,
};
use core::marker::PhantomData;

pub struct SleepableFault<'a> {
    lock: RwLockReadGuard<'a, bool>,
    page: &'a AtomicU32,
    state: SleepState,
}

pub struct WalkableFault<'a>(SleepableFault<'a>);

pub struct UnlockedFault<'a>(PhantomData<&'a ()>);

pub struct FaultOutcome<'a>(PhantomData<&'a ()>);

impl<'a> SleepableFault<'a> {
    pub(super) fn new(
        lock: RwLockReadGuard<'a, bool>,
        page: &'a AtomicU32,
        state: SleepState,
    ) -> Self {
        Self { lock, page, state }
    }

    pub(crate) fn blocking_state(&self) -> SleepState {
        self.state
    }

    pub(crate) fn lock_page_tables(self) -> WalkableFault<'a> {
        WalkableFault(self)
    }
}

impl<'a> WalkableFault<'a> {
    pub(crate) fn must_wait_unlock(self) -> (bool, UnlockedFault<'a>) {
        let must_wait = self.0.page.load(RELAXED) == 0;
        drop(self.0.lock);
        (must_wait, UnlockedFault(PhantomData))
    }
}

impl<'a> UnlockedFault<'a> {
    pub(crate) fn retry(self) -> FaultOutcome<'a> {
        FaultOutcome(PhantomData)
    }
}
