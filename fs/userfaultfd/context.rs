// SPDX-License-Identifier: GPL-2.0

//! What is behind a descriptor.

use crate::{event::Event, message::PageFault};
use kernel::{
    alloc::kmem_cache::StaticKmemCache,
    built_in, c_str,
    fs::anon_inode::BoundFile,
    impl_has_bound_file, impl_userfaultfd_context,
    mm::Mm,
    prelude::*,
    static_lock_class,
    sync::aref::ARef,
    userfaultfd::{header, limits::FEATURE_INITIALIZED, waitset::WaitSet, Header},
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
    /// The file behind the descriptor.
    file: BoundFile,
    #[pin]
    waiters: WaitSet<PageFault, Event>,
}

/// Where contexts come from. Half of a context is the index of threads that sleep, see
/// [`kernel::userfaultfd::waitset`]. It does not grow, however many threads sleep: they bring along
/// what they need.
pub(crate) static CACHE: StaticKmemCache<Context> =
    StaticKmemCache::new(c_str!("userfaultfd_ctx_cache"), built_in!());

// SAFETY: The fields are private, and values are made by `Context::new` only, which goes through
// `new_context`. This is the one implementation of userfaultfd in Rust.
impl_userfaultfd_context!(unsafe impl for Context { header, waiters, CACHE });

impl_has_bound_file!(impl HasBoundFile for Context { self.file });

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
                flags,
                features,
                c_str!("userfaultfd::map_changing_lock"),
                static_lock_class!(),
            ),
            file: BoundFile::new(),
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

    /// Returns what the descriptor was created with:
    /// [`file::SHARED_FLAGS`](crate::file::SHARED_FLAGS) and
    /// [`access::USER_MODE_ONLY`](crate::access::USER_MODE_ONLY).
    pub(crate) fn flags(&self) -> u32 {
        self.header.flags()
    }

    /// Whether `feature`, one of `UFFD_FEATURE_*`, was agreed upon. Takes no lock.
    pub(crate) fn has(&self, feature: u32) -> bool {
        self.header.features() & feature != 0
    }

    /// Whether the handshake was made.
    pub(crate) fn is_initialized(&self) -> bool {
        self.has(FEATURE_INITIALIZED)
    }

    /// Returns the threads that wait.
    pub(crate) fn waiters(&self) -> &WaitSet<PageFault, Event> {
        &self.waiters
    }
}
