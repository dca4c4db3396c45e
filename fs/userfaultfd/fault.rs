// SPDX-License-Identifier: GPL-2.0

//! Page faults.

use crate::{access, context::Context, message::PageFault};
use kernel::{
    prelude::*,
    sync::aref::ARef,
    task, uapi,
    userfaultfd::{Fault, FaultOutcome},
    warn_on,
};

/// Handles a fault in a registered area.
///
/// The thread sleeps until the fault is resolved, a signal that matters arrives, or the descriptor
/// is closed, and takes the fault again then. A fault that cannot be handled this way ends in
/// SIGBUS.
#[inline]
pub(crate) fn handle(fault: Fault<'_, Context>) -> FaultOutcome {
    let task = current!();

    // A task on its way out is not to be stopped, nor one whose memory is being dumped.
    if task.flags() & (task::flags::EXITING | task::flags::DUMPCORE) != 0 {
        return fault.sigbus();
    }
    let Some(context) = fault.vma().context() else {
        return fault.sigbus();
    };
    if cfg!(CONFIG_DEBUG_VM) {
        warn_on!(!core::ptr::eq(context.mm(), &**fault.vma().mm()));
        warn_on!(!fault.reason().is_valid());
    }

    let features = context.header().features();
    if features & uapi::UFFD_FEATURE_SIGBUS != 0 {
        return fault.sigbus();
    }
    if !fault.is_user() && context.flags() & access::USER_MODE_ONLY != 0 {
        return fault.sigbus();
    }
    if !fault.allows_retry() {
        // There is no way to sleep, and to look at the page again afterwards.
        if cfg!(CONFIG_DEBUG_VM) {
            warn_on!(fault.is_nowait());
        }
        return fault.sigbus();
    }
    if fault.is_nowait() {
        return fault.retry_locked();
    }
    if context.is_released() {
        // The lock goes in any case: whoever closes the descriptor waits for it.
        return fault.unlock().retry();
    }

    // The area holds no reference, and the lock that protects it is going to be dropped.
    let context = ARef::from(context);
    let message = message(features, &fault);
    context
        .waiters()
        .wait_fault(task, fault, message.address, message, || {
            context.is_released()
        })
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
