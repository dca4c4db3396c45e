// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: what `fs/userfaultfd/` needs from the kernel.
//!
//! A process registers VMAs with a *context*, the object behind a userfaultfd. A thread that faults
//! there sleeps until a monitor has read a message about the fault from the descriptor and resolved
//! it. See `userfaultfd(2)` and `Documentation/admin-guide/mm/userfaultfd.rst`.
//!
//! This module has the mechanism, and `fs/userfaultfd/` has the policy:
//!
//! * [`context`]: the context, its owner, and the mark that the mappings change;
//! * [`waitset`]: threads that sleep in faults and events, and those that read about them;
//! * [`message`]: what is read;
//! * [`fault`]: a page fault with the lock that is held during it;
//! * [`vma`]: VMAs, as far as registration is concerned;
//! * [`range`], [`pages`] and [`target`]: operations that fill, move and write-protect ranges of
//!   pages;
//! * [`event_list`]: lists that mm keeps between the two halves of an operation;
//! * [`trace`]: the tracepoints of all this;
//! * [`supported`] and [`abi`]: what this kernel supports, and how user space says it;
//! * [`Operations`] and [`declare_userfaultfd!`](crate::declare_userfaultfd): the entry points that
//!   mm calls.
//!
//! Calls into the userfaultfd, VMA and page table code of mm go through the shims of
//! `mm/userfaultfd_shim.c`.
//!
//! C header: [`include/linux/userfaultfd_rust.h`](srctree/include/linux/userfaultfd_rust.h)

use crate::prelude::*;

pub mod abi;
pub mod context;
#[doc(hidden)]
pub mod entry;
pub mod event_list;
pub mod fault;
pub mod message;
pub mod pages;
pub mod range;
pub mod supported;
pub mod target;
pub mod trace;
pub mod vma;
pub mod waitset;

pub use context::{Context, ContextOwner, MmapChanging, OpenContext};
pub use entry::Operations;
pub use fault::{Fault, FaultOutcome};

/// Creates the slab caches for contexts and events.
///
/// # Errors
///
/// `ENOMEM`. May sleep.
pub fn create_caches() -> Result {
    event_list::FORKS.create()?;
    event_list::UNMAPS.create()?;
    // Contexts can exist once this cache does, and they need the other two.
    context::CACHE.create()
}
