// SPDX-License-Identifier: GPL-2.0

//! Page faults.

use crate::access;
use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::{flags, CurrentTask},
    uapi,
    userfaultfd::{fault::FaultKind, message::PageFault, Fault, FaultOutcome},
    warn_on_once,
};

/// Handles a fault in a registered VMA: `handle_userfault()`.
///
/// The thread sleeps until the fault is resolved, a signal ends the sleep, or the descriptor is
/// closed. Then it repeats the access, or takes the fault again. A fault that cannot be handled
/// this way ends in SIGBUS.
#[inline]
pub(crate) fn handle<'a>(fault: Fault<'a>) -> FaultOutcome<'a> {
    let task = current!();
    if is_refused(&fault, task) {
        return fault.sigbus();
    }
    let fault = match fault.kind() {
        // The lock cannot be dropped, so the thread cannot sleep.
        FaultKind::NoRetry(fault) => return fault.sigbus(),
        FaultKind::Nowait(fault) => return fault.retry(),
        FaultKind::Sleepable(fault) => fault,
    };
    let Some(context) = fault.vma().context() else {
        return fault.sigbus();
    };
    if context.waiters().is_released() {
        // The lock is dropped in any case, because the thread that closes the descriptor waits for
        // it.
        return fault.unlock().retry();
    }

    // The VMA holds no reference, and the lock that protects it is dropped before the sleep.
    let context = ARef::from(context);
    let message = message(context.features(), &fault);
    context.waiters().wait_fault(task, fault, message)
}

/// Returns true if a fault is not to be reported.
#[inline(always)]
fn is_refused(fault: &Fault<'_>, task: &CurrentTask) -> bool {
    // A task on its way out must not be stopped, nor one whose memory is being dumped.
    if task.flags() & (flags::EXITING | flags::DUMPCORE) != 0 {
        return true;
    }
    let Some(context) = fault.vma().context() else {
        return true;
    };
    if cfg!(CONFIG_DEBUG_VM) {
        warn_on_once!(!core::ptr::eq(context.mm(), &**fault.vma().mm()));
        warn_on_once!(!fault.reason().is_valid());
    }
    context.has(uapi::UFFD_FEATURE_SIGBUS)
        || (!fault.is_user() && context.flags() & access::USER_MODE_ONLY != 0)
}

/// Returns the message about a fault, which depends on the features of the context.
#[doc(alias = "userfault_msg")]
#[inline(always)]
fn message(features: u32, fault: &Fault<'_>) -> PageFault {
    let mut flags = 0;
    if fault.is_write() {
        flags |= uapi::UFFD_PAGEFAULT_FLAG_WRITE;
    }
    if fault.reason().is_write_protect() {
        flags |= uapi::UFFD_PAGEFAULT_FLAG_WP;
    }
    if fault.reason().is_minor() {
        flags |= uapi::UFFD_PAGEFAULT_FLAG_MINOR;
    }
    let address = if features & uapi::UFFD_FEATURE_EXACT_ADDRESS != 0 {
        fault.real_address()
    } else {
        fault.address()
    };
    let ptid = if features & uapi::UFFD_FEATURE_THREAD_ID != 0 {
        // CAST: Thread ids are not negative.
        current!().pid_vnr() as u32
    } else {
        0
    };

    PageFault {
        flags: flags.into(),
        address: address as u64,
        ptid,
    }
}
