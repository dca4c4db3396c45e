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

// What a descriptor has besides its file, inode and dentry, which take more than a kilobyte. Half
// of it is the index, see `kernel::userfaultfd::waitset`. In C it is 192 bytes, but there the
// threads that sleep are on lists. However many threads sleep, it does not grow: they bring along
// what they need. Locks that are debugged, or sleep, are larger.
static_assert!(
    cfg!(any(
        CONFIG_DEBUG_SPINLOCK,
        CONFIG_DEBUG_LOCK_ALLOC,
        CONFIG_DEBUG_RWSEMS,
        CONFIG_PREEMPT_RT
    )) || size_of::<Context>() <= 384
);

/// Where contexts come from.
pub(crate) static CACHE: StaticKmemCache<Context> =
    StaticKmemCache::new(c_str!("userfaultfd_ctx_cache"));

// SAFETY: The fields are private, and values are made by `Context::new` only, which goes through
// `new_context`. This is the one implementation of userfaultfd in Rust.
impl_userfaultfd_context!(unsafe impl for Context { header, CACHE });

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
