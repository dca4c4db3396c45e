// SPDX-License-Identifier: GPL-2.0

//! Page faults.

use crate::{access, context::Context, message::PageFault};
use kernel::{
    prelude::*,
    sync::aref::ARef,
    task::{flags, CurrentTask},
    uapi,
    userfaultfd::{fault::Kind, Fault, FaultOutcome},
    warn_on_once,
};

/// Handles a fault in a registered area.
///
/// The thread sleeps until the fault is resolved, a signal that matters arrives, or the descriptor
/// is closed, and takes the fault again then. A fault that cannot be handled this way ends in
/// SIGBUS.
#[inline]
pub(crate) fn handle<'a>(fault: Fault<'a, Context>) -> FaultOutcome<'a> {
    let task = current!();
    if is_refused(&fault, task) {
        return fault.sigbus();
    }
    let fault = match fault.kind() {
        // There is no way to sleep, and to look at the page again afterwards.
        Kind::Final(fault) => return fault.sigbus(),
        Kind::Nowait(fault) => return fault.retry(),
        Kind::Sleepable(fault) => fault,
    };
    let Some(context) = fault.vma().context() else {
        return fault.sigbus();
    };
    if context.waiters().is_released() {
        // The lock goes in any case: whoever closes the descriptor waits for it.
        return fault.unlock().retry();
    }

    // The area holds no reference, and the lock that protects it is going to be dropped.
    let context = ARef::from(context);
    let message = message(context.header().features(), &fault);
    context
        .waiters()
        .wait_fault(task, fault, message.address, message)
}

/// Whether a fault is none to report.
#[inline(always)]
fn is_refused(fault: &Fault<'_, Context>, task: &CurrentTask) -> bool {
    // A task on its way out is not to be stopped, nor one whose memory is being dumped.
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

/// Returns what user space reads about a fault, which depends on the features of the context.
#[inline(always)]
fn message(features: u32, fault: &Fault<'_, Context>) -> PageFault {
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
