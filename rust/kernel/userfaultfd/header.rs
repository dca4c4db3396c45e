// SPDX-License-Identifier: GPL-2.0

//! The part of a context that mm knows.

use crate::{
    alloc::{flags::GFP_KERNEL_ACCOUNT, kmem_cache::StaticKmemCache},
    bindings,
    fs::anon_inode::BoundFile,
    mm::Mm,
    prelude::*,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        atomic::{Atomic, Full, Relaxed},
        LockClassKey, Marked, Refcount,
    },
    types::Opaque,
};
use core::{mem::ManuallyDrop, ptr::NonNull};

/// The `struct userfaultfd_ctx` of a context, and its reference count.
///
/// # Invariants
///
/// `raw` is initialised and owns an `mmgrab` reference to `raw.mm`, which does not change.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Header {
    #[pin]
    raw: Opaque<bindings::userfaultfd_ctx>,
    refcount: Refcount,
    flags: u32,
}

// SAFETY: All that is reached through a shared reference is atomic, constant, or a lock.
unsafe impl Send for Header {}
// SAFETY: As above.
unsafe impl Sync for Header {}

/// A context: what stands behind a userfaultfd.
///
/// Implement it with [`impl_userfaultfd_context!`](crate::impl_userfaultfd_context).
///
/// # Safety
///
/// The type must be `repr(C)` with a [`Header`] as its first field, so that a pointer to one is a
/// pointer to the other, and all its values must come from [`new_context`]. There must be one such
/// type in a kernel: it is the type of the context of every area.
pub unsafe trait Context: AlwaysRefCounted + Sized + Send + Sync + 'static {
    /// Where the memory of contexts comes from.
    fn cache() -> &'static StaticKmemCache<Self>;

    /// Called when a [`MmapChanging`] is dropped that was the last one which was not lowered: the
    /// mappings do not change any more. Must not sleep.
    fn mmap_unchanged(&self);

    /// Returns the part that mm knows.
    fn header(&self) -> &Header {
        // SAFETY: The header is the first field by the safety requirements of the trait.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

impl Header {
    /// Makes a header with a reference count of one for a context that manages `mm`.
    ///
    /// `flags` are those of [`Header::flags`], `features` are as in [`Header::features`].
    pub fn new(
        mm: &Mm,
        flags: u32,
        features: u32,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        let mm = ARef::from(mm);
        pin_init!(Self {
            // INVARIANT: All fields are written, and the reference to `mm` is handed over.
            // SAFETY: `slot` is valid for writes while the closure is called, and the name and the
            // key live for ever.
            raw <- Opaque::ffi_init(move |slot: *mut bindings::userfaultfd_ctx| unsafe {
                (&raw mut (*slot).features).write(features);
                bindings::__init_rwsem(
                    &raw mut (*slot).map_changing_lock,
                    name.as_char_ptr(),
                    key.as_ptr(),
                );
                (&raw mut (*slot).mmap_changing.counter).write(0);
                (&raw mut (*slot).mm).write(ARef::into_raw(mm).as_ptr().cast());
            }),
            refcount: Refcount::new(1),
            flags,
        })
    }

    /// Returns the pointer that mm uses for the context.
    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::userfaultfd_ctx {
        self.raw.get()
    }

    /// Returns the address space that the context manages. It may have lost its users.
    #[inline]
    pub fn mm(&self) -> &Mm {
        // SAFETY: By the type invariants we own a reference to the mm, and it never changes.
        unsafe { Mm::from_raw((*self.as_raw()).mm) }
    }

    /// Returns the flags that the context was made with.
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Returns the features that were agreed upon: bits `UFFD_FEATURE_*` and
    /// [`limits::FEATURE_INITIALIZED`](super::limits::FEATURE_INITIALIZED), or zero before the
    /// handshake. Takes no lock.
    #[inline]
    pub fn features(&self) -> u32 {
        // SAFETY: By the type invariants the field is initialised. This `read_volatile` corresponds
        // to a `READ_ONCE()`: the field is written once, by `set_features`.
        unsafe { (&raw const (*self.as_raw()).features).read_volatile() }
    }

    /// Sets the features, once.
    ///
    /// # Errors
    ///
    /// `EINVAL` where they are set already.
    pub fn set_features(&self, features: u32) -> Result {
        // SAFETY: By the type invariants the field is initialised. It is written here only.
        let field = unsafe { Atomic::from_ptr(&raw mut (*self.as_raw()).features) };
        match field.cmpxchg(0, features, Full) {
            Ok(_) => Ok(()),
            Err(_) => Err(EINVAL),
        }
    }

    #[inline]
    fn mmap_changing_atomic(&self) -> &Atomic<i32> {
        // SAFETY: By the type invariants the field is initialised. C code accesses it with
        // `atomic_*` functions.
        unsafe { Atomic::from_ptr(&raw mut (*self.as_raw()).mmap_changing.counter) }
    }

    /// Whether the layout of the address space is changing, and an event about it not yet read.
    #[inline]
    pub fn mmap_changing(&self) -> bool {
        // SAFETY: By the type invariants the field is initialised. This `read_volatile` corresponds
        // to the `READ_ONCE()` of an `atomic_read()`.
        unsafe { (&raw const (*self.as_raw()).mmap_changing.counter).read_volatile() != 0 }
    }
}

#[pinned_drop]
impl PinnedDrop for Header {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants we own an `mmgrab` reference.
        unsafe { bindings::mmdrop((*self.as_raw()).mm) };
    }
}

/// Returns how many descriptors of `file` the process with the address space `mm` has in a table
/// that the current task does not use. Zero if the kernel cannot find that process, which it needs
/// `CONFIG_MEMCG` for. Takes spinlocks.
pub fn descriptors_of(mm: &Mm, file: &BoundFile) -> u32 {
    // SAFETY: The mm is valid, and the file is only compared with others.
    unsafe { bindings::uffd_shim_descriptors_of(mm.as_raw(), file.as_ptr()) }
}

/// Allocates and initialises a context, which is charged to the memory cgroup of the current task.
///
/// # Errors
///
/// `ENOMEM` where there is no memory, or what `init` answers. May sleep.
pub fn new_context<T: Context>(init: impl PinInit<T>) -> Result<ARef<T>> {
    let slot = T::cache().alloc(GFP_KERNEL_ACCOUNT)?;
    // SAFETY: The slot is valid memory for a `T` that nobody else knows and that is not moved. The
    // initialiser cannot fail.
    match unsafe { init.__pinned_init(slot.as_ptr()) } {
        Ok(()) => {}
        Err(never) => match never {},
    }
    // SAFETY: The header starts with a reference count of one, which is handed over.
    Ok(unsafe { ARef::from_raw(slot) })
}

/// Implements [`AlwaysRefCounted::inc_ref`] for a context.
#[doc(hidden)]
#[inline]
pub fn inc_ref<T: Context>(context: &T) {
    context.header().refcount.inc();
}

/// Implements [`AlwaysRefCounted::dec_ref`] for a context.
///
/// # Safety
///
/// As for [`AlwaysRefCounted::dec_ref`].
#[doc(hidden)]
#[inline]
pub unsafe fn dec_ref<T: Context>(context: NonNull<T>) {
    // SAFETY: The caller gives up an increment, which kept the context alive until now.
    if unsafe { context.as_ref() }.header().refcount.dec_and_test() {
        // SAFETY: That was the last reference, so nobody else can get at the context.
        unsafe { core::ptr::drop_in_place(context.as_ptr()) };
        // SAFETY: By the safety requirements of `Context` it comes from the cache; see
        // `new_context`.
        unsafe { T::cache().free(context) };
    }
}

/// Implements [`Context`] for a `repr(C)` type whose first field is the header.
///
/// # Safety
///
/// Values of the type must be made by [`new_context`] only, and the type must be the only one of
/// the kernel that this is invoked for: the contexts of all areas are taken for values of it.
///
/// ```ignore
/// // SAFETY: ...
/// impl_userfaultfd_context!(unsafe impl for Context { header, waiters, CACHE });
/// ```
#[macro_export]
macro_rules! impl_userfaultfd_context {
    (unsafe impl for $ty:ty { $header:ident, $waiters:ident, $cache:ident }) => {
        const _: () = assert!(
            ::core::mem::offset_of!($ty, $header) == 0,
            "the header comes first",
        );
        // A raw pointer, so that nothing that merely stands for a header will do.
        const _: fn(*const $ty) -> *const $crate::userfaultfd::Header =
            // SAFETY: This is never called.
            |context| unsafe { &raw const (*context).$header };

        // SAFETY: The header is the first field as checked above. The rest is for the invoker to
        // see to.
        unsafe impl $crate::userfaultfd::Context for $ty {
            fn cache() -> &'static $crate::alloc::kmem_cache::StaticKmemCache<Self> {
                &$cache
            }

            fn mmap_unchanged(&self) {
                self.$waiters.tell_out();
            }
        }

        // SAFETY: The count is kept by the header that each value has.
        unsafe impl $crate::sync::aref::AlwaysRefCounted for $ty {
            fn inc_ref(&self) {
                $crate::userfaultfd::header::inc_ref(self);
            }

            unsafe fn dec_ref(context: ::core::ptr::NonNull<Self>) {
                // SAFETY: The safety requirements are the same.
                unsafe { $crate::userfaultfd::header::dec_ref(context) };
            }
        }
    };
}

/// Keeps the pages of a context from being filled while the layout of its address space changes.
///
/// [`Header::mmap_changing`] is true from when this is made until it is [lowered](Self::lower) or
/// dropped. It owns a reference to the context; dropping it may sleep.
pub struct MmapChanging<T: Context> {
    context: ARef<T>,
    is_raised: Marked<bool>,
}

impl<T: Context> MmapChanging<T> {
    /// Raises the mark.
    ///
    /// Waits for operations on pages that are under way, so that those that come later see the
    /// mark. Sleeps; the mmap lock may be held.
    pub fn new(context: ARef<T>) -> Self {
        let header = context.header();
        // SAFETY: The pointer is valid since it comes from a reference.
        let lock = unsafe { &raw mut (*header.as_raw()).map_changing_lock };
        // SAFETY: The semaphore is initialised by the type invariants of `Header`.
        unsafe { bindings::down_write(lock) };
        header.mmap_changing_atomic().add(1, Relaxed);
        // SAFETY: It was taken above.
        unsafe { bindings::up_write(lock) };
        Self {
            context,
            is_raised: Marked::new(true),
        }
    }

    /// Lowers the mark, unless that was done before. Of two threads that may do it one must wait
    /// for the other, or both hold a lock.
    ///
    /// Returns whether the address space does not change any more with that, for which pollers of
    /// `OUT` wait: the caller tells them.
    #[must_use]
    pub fn lower(&self) -> bool {
        if !self.is_raised.read_once() {
            return false;
        }
        self.is_raised.write_once(false);
        let before = self
            .context
            .header()
            .mmap_changing_atomic()
            .fetch_add(-1, Full);
        crate::warn_on_once!(before <= 0);
        before == 1
    }

    /// Returns the context.
    pub fn context(&self) -> &ARef<T> {
        &self.context
    }

    /// Hands the mark, and the reference, to mm. Returns null if the mark was lowered before.
    pub(super) fn into_raw(self) -> *mut bindings::userfaultfd_ctx {
        if !self.is_raised.read_once() {
            return core::ptr::null_mut();
        }
        ManuallyDrop::new(self).context.header().as_raw()
    }

    /// Takes back what [`MmapChanging::into_raw`] gave.
    ///
    /// # Safety
    ///
    /// `raw` must come from [`MmapChanging::into_raw`] of the same `T`, and be taken back once.
    pub(super) unsafe fn from_raw(raw: NonNull<bindings::userfaultfd_ctx>) -> Self {
        Self {
            // SAFETY: A pointer to the header is one to the context; the reference is ours by the
            // safety requirements.
            context: unsafe { ARef::from_raw(raw.cast()) },
            is_raised: Marked::new(true),
        }
    }
}

impl<T: Context> Drop for MmapChanging<T> {
    fn drop(&mut self) {
        if self.lower() {
            self.context.mmap_unchanged();
        }
    }
}
