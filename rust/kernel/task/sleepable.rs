// SPDX-License-Identifier: GPL-2.0

//! The permission to sleep.

use super::might_sleep;
use crate::{
    bindings,
    error::{code::EINTR, Result},
    types::NotThreadSafe,
};

/// The current thread may sleep.
///
/// What sleeps takes this token by `&mut`. What must not sleep borrows it for as long as it lasts,
/// for example while a page table is locked. So the compiler refuses code in between that sleeps,
/// if that takes the token. It does not know of guards that do not borrow the token, such as those
/// of spinlocks: a thread that holds one must not use the token.
///
/// # Invariants
///
/// The thread held no lock when the token was made. What was taken since, and must not be held
/// while the thread sleeps, borrows the token.
pub struct Sleepable {
    // It is about one thread.
    _nts: NotThreadSafe,
}

impl Sleepable {
    /// Creates the token.
    ///
    /// # Safety
    ///
    /// The current thread holds no lock and can be preempted. It has no other token.
    #[inline]
    #[track_caller]
    pub unsafe fn new() -> Self {
        if cfg!(CONFIG_DEBUG_ATOMIC_SLEEP) {
            might_sleep();
        }
        // INVARIANT: By the safety requirements.
        Self {
            _nts: NotThreadSafe,
        }
    }

    /// Lets other tasks run if one is due.
    ///
    /// # Errors
    ///
    /// `EINTR` if a fatal signal is pending.
    #[doc(alias = "cond_resched")]
    #[doc(alias = "fatal_signal_pending")]
    #[inline]
    pub fn cond_resched_killable(&mut self) -> Result {
        // SAFETY: By the type invariants the thread may sleep, because nothing borrows the token.
        if unsafe { bindings::cond_resched_killable() } {
            return Err(EINTR);
        }
        Ok(())
    }
}
