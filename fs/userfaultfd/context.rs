// SPDX-License-Identifier: GPL-2.0

//! What is behind a descriptor.

use crate::{event::Event, message::PageFault};
use kernel::{
    alloc::kmem_cache::StaticKmemCache,
    c_str, impl_userfaultfd_context,
    mm::Mm,
    prelude::*,
    static_lock_class,
    sync::{aref::ARef, Marked},
    userfaultfd::{
        header,
        limits::FEATURE_INITIALIZED,
        waitset::{FaultWaiter, WaitSet},
        Header,
    },
};

/// A context: the address space that a descriptor manages, what was agreed upon about it, and the
/// threads that wait.
///
/// It is reference-counted. References are held by the descriptor, by threads that sleep in a
/// fault or wait for an event to be read, and by a fork whose event was not read yet. The areas
/// that are registered hold none: they are taken off the context before the descriptor goes.
#[repr(C)]
#[pin_data]
pub(crate) struct Context {
    #[pin]
    header: Header,
    /// What the descriptor was created with: [`file::SHARED_FLAGS`](crate::file::SHARED_FLAGS) and
    /// [`access::USER_MODE_ONLY`](crate::access::USER_MODE_ONLY).
    flags: u32,
    /// Whether the descriptor is closed: no thread may start to sleep.
    released: Marked<bool>,
    #[pin]
    waiters: WaitSet<PageFault, Event>,
}

// What a thread that sleeps in a fault has on its stack.
static_assert!(size_of::<FaultWaiter<'_, PageFault, Event>>() <= 128);

/// Where contexts come from.
pub(crate) static CACHE: StaticKmemCache<Context> =
    StaticKmemCache::new(c_str!("userfaultfd_ctx_cache"));

impl_userfaultfd_context!(Context, header, CACHE);

impl Context {
    /// Makes a context for `mm`, with the flags of its descriptor and its features.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory. May sleep.
    pub(crate) fn new(mm: &Mm, flags: u32, features: u32) -> Result<ARef<Self>> {
        header::new_context(pin_init!(Self {
            header <- Header::new(
                mm,
                features,
                c_str!("userfaultfd::map_changing_lock"),
                static_lock_class!(),
            ),
            flags,
            released: Marked::new(false),
            waiters <- WaitSet::new(),
        }))
    }

    /// Returns the part that mm knows.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the address space.
    pub(crate) fn mm(&self) -> &Mm {
        self.header.mm()
    }

    /// Returns the flags that the descriptor was created with.
    pub(crate) fn flags(&self) -> u32 {
        self.flags
    }

    /// Whether `feature`, one of `UFFD_FEATURE_*`, was agreed upon. Takes no lock.
    pub(crate) fn has(&self, feature: u32) -> bool {
        self.header.features() & feature != 0
    }

    /// Whether the handshake was made.
    pub(crate) fn is_initialized(&self) -> bool {
        self.has(FEATURE_INITIALIZED)
    }

    /// Whether the descriptor is closed.
    pub(crate) fn is_released(&self) -> bool {
        self.released.read_once()
    }

    /// Notes that the descriptor is closed.
    pub(crate) fn set_released(&self) {
        self.released.write_once(true);
    }

    /// Returns the threads that wait.
    pub(crate) fn waiters(&self) -> &WaitSet<PageFault, Event> {
        &self.waiters
    }
}
