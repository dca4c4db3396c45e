// SPDX-License-Identifier: GPL-2.0

//! What an implementation of userfaultfd needs from the kernel.
//!
//! A process registers parts of its address space with a *context*, the object behind a
//! userfaultfd. A thread that faults there sleeps until somebody who holds the descriptor has
//! read a message about the fault and resolved it. See `userfaultfd(2)` and
//! `Documentation/admin-guide/mm/userfaultfd.rst`.
//!
//! This module holds no policy. It offers:
//!
//! * [`header`]: the part of a context that mm knows, its reference count and its memory;
//! * [`fault`]: a page fault with the lock that is held during it;
//! * [`vma`]: the areas of an address space, as far as registration is concerned;
//! * [`pages`]: operations that fill, move and write-protect pages;
//! * [`waitset`]: threads that sleep in faults and events, and those that read about them;
//! * [`pending`]: lists that mm keeps for us between the two halves of an operation;
//! * [`limits`] and [`uapi`]: what this kernel supports, and how user space says it;
//! * [`Operations`] and [`declare_userfaultfd!`](crate::declare_userfaultfd): the entry points
//!   that mm calls.
//!
//! All calls into mm go through the shims of `mm/userfaultfd_shim.c`.
//!
//! C header: [`include/linux/userfaultfd_rust.h`](srctree/include/linux/userfaultfd_rust.h)

use crate::{error::to_result, prelude::*};

#[doc(hidden)]
pub mod entry;
pub mod fault;
pub mod header;
mod index;
pub mod limits;
pub mod pages;
pub mod pending;
pub mod uapi;
pub mod vma;
pub mod waitset;

pub use entry::Operations;
pub use fault::{Fault, FaultOutcome};
pub use header::{Context, Header, MmapChanging};

/// Creates `/sys/kernel/mm/userfaultfd/implementation`.
///
/// # Errors
///
/// `ENOMEM` where there is no memory. May sleep.
pub fn announce_in_sysfs() -> Result {
    // SAFETY: Just an FFI call, made once during initialisation.
    to_result(unsafe { crate::bindings::uffd_shim_sysfs_init() })
}
