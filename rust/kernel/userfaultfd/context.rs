// SPDX-License-Identifier: GPL-2.0

//! Contexts: the objects behind userfaultfds.

use super::{trace, vma, waitset::WaitSet};
use crate::{
    alloc::{flags::GFP_KERNEL_ACCOUNT, kmem_cache::StaticKmemCache},
    bindings, built_in, c_str,
    ffi::c_void,
    fs::anon_inode::{BoundFile, HasBoundFile},
    mm::Mm,
    prelude::*,
    static_lock_class,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        atomic::{Atomic, Full, Relaxed},
        ReadOnceCell, Refcount,
    },
    types::{ForeignOwnable, Opaque},
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{self, NonNull},
};

/// A bit among the features of a context: the handshake was made. User space does not see it.
pub const FEATURE_INITIALIZED: u32 = 1 << 31;

/// The memory of contexts comes from here. Half of a context is the index of the threads that
/// sleep, see [`waitset`](super::waitset).
pub(super) static CACHE: StaticKmemCache<Context> =
    StaticKmemCache::new(c_str!("userfaultfd_ctx_cache"), built_in!());

/// How often operations on pages have failed.
pub struct Failures {
    eexist: Atomic<u64>,
    eagain: Atomic<u64>,
    enoent: Atomic<u64>,
}

impl Failures {
    const fn new() -> Self {
        Self {
            eexist: Atomic::new(0),
            eagain: Atomic::new(0),
            enoent: Atomic::new(0),
        }
    }

    /// Counts a failure, if it is one of those that are counted.
    #[cold]
    pub fn count(&self, err: Error) {
        let counter = match err {
            EEXIST => &self.eexist,
            EAGAIN => &self.eagain,
            ENOENT => &self.enoent,
            _ => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Returns the numbers of failures with `EEXIST`, `EAGAIN` and `ENOENT`.
    pub fn counts(&self) -> [u64; 3] {
        [&self.eexist, &self.eagain, &self.enoent].map(|counter| counter.load(Relaxed))
    }
}

/// A context: the address space that a userfaultfd manages, what was negotiated, and the threads
/// that wait.
///
/// It is reference-counted. The [`ContextOwner`], the threads that sleep in a fault or wait for an
/// event to be read, and a fork whose event was not read yet hold references. VMAs do not: they are
/// taken off the context before its owner is gone.
///
/// C: `struct userfaultfd_ctx`, of which mm knows the first field.
///
/// # Invariants
///
/// `raw` is initialised and owns an `mmgrab` reference to `raw.mm`, which does not change.
#[repr(C)]
#[pin_data(PinnedDrop)]
pub struct Context {
    #[pin]
    raw: Opaque<bindings::userfaultfd_ctx>,
    refcount: Refcount,
    flags: u32,
    /// The file of the descriptor.
    file: BoundFile,
    #[pin]
    waiters: WaitSet,
    failures: Failures,
}

const _: () = assert!(core::mem::offset_of!(Context, raw) == 0);

// SAFETY: The fields of `raw` that Rust code accesses are atomic or constant, and `mm` may be
// dropped on any thread. The compiler checks the other fields below.
unsafe impl Send for Context {}
// SAFETY: As for `Send`.
unsafe impl Sync for Context {}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Refcount>();
    is_send_and_sync::<BoundFile>();
    is_send_and_sync::<WaitSet>();
    is_send_and_sync::<Failures>();
};

impl Context {
    /// Where the wait set is in a context, in bytes.
    pub(super) const WAITERS_OFFSET: usize = core::mem::offset_of!(Self, waiters);

    /// Allocates a context for `mm`. It is charged to the memory cgroup of the current task.
    ///
    /// `flags` are those that the descriptor is created with, `features` are as in
    /// [`Context::features`]. May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`
    pub fn new(mm: &Mm, flags: u32, features: u32) -> Result<ARef<Self>> {
        let mm = ARef::from(mm);
        let init = pin_init!(Self {
            // INVARIANT: All fields are written, and the reference to `mm` is handed over.
            // SAFETY: `slot` is valid for writes while the closure is called, and the name and the
            // key are static.
            raw <- Opaque::ffi_init(move |slot: *mut bindings::userfaultfd_ctx| unsafe {
                (&raw mut (*slot).features).write(features);
                bindings::__init_rwsem(
                    &raw mut (*slot).map_changing_lock,
                    c_str!("userfaultfd::map_changing_lock").as_char_ptr(),
                    static_lock_class!().as_ptr(),
                );
                (&raw mut (*slot).mmap_changing.counter).write(0);
                (&raw mut (*slot).mm).write(ARef::into_raw(mm).as_ptr().cast());
            }),
            refcount: Refcount::new(1),
            flags,
            file: BoundFile::new(),
            waiters <- WaitSet::new(),
            failures: Failures::new(),
        });

        let slot = CACHE.alloc(GFP_KERNEL_ACCOUNT)?;
        // SAFETY: `slot` is valid memory for a context that no other thread knows, and the context
        // is not moved out of it.
        match unsafe { init.__pinned_init(slot.as_ptr()) } {
            Ok(()) => {}
            Err(never) => match never {},
        }
        // SAFETY: The context starts with a reference count of one, which is handed over.
        Ok(unsafe { ARef::from_raw(slot) })
    }

    /// Returns the pointer that mm uses for the context.
    #[inline]
    pub(super) fn as_raw(&self) -> *mut bindings::userfaultfd_ctx {
        self.raw.get()
    }

    /// Returns the context that mm uses a pointer for, or `None` for null.
    ///
    /// # Safety
    ///
    /// `raw` must be null, or point to a context that is valid for `'a`.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(raw: *mut bindings::userfaultfd_ctx) -> Option<&'a Self> {
        // SAFETY: `raw` is the first field of a context, which is valid by the safety requirements.
        unsafe { raw.cast::<Self>().as_ref() }
    }

    /// Returns the address space that the context manages. Its users may be gone.
    #[inline]
    pub fn mm(&self) -> &Mm {
        // SAFETY: By the type invariants the context owns a reference to the mm, which never
        // changes.
        unsafe { Mm::from_raw((*self.as_raw()).mm) }
    }

    /// Returns the first address after user space, in bytes.
    #[inline]
    pub fn task_size(&self) -> u64 {
        // SAFETY: The mm is valid. exec writes the field before a program of that mm runs, and
        // there is no context for the mm before that.
        (unsafe { (*self.mm().as_raw()).__bindgen_anon_1.task_size }) as u64
    }

    /// Returns the flags that the descriptor was created with.
    #[inline]
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Returns the features that were negotiated: bits `UFFD_FEATURE_*` and
    /// [`FEATURE_INITIALIZED`], or zero before the handshake. Takes no lock.
    #[inline]
    pub fn features(&self) -> u32 {
        // SAFETY: By the type invariants the field is initialised. `set_features` changes it once,
        // and the plain reads of mm come after that, because no VMA is registered before.
        unsafe { ReadOnceCell::from_ptr(&raw mut (*self.as_raw()).features) }.read_once()
    }

    /// Returns true if `feature`, one of `UFFD_FEATURE_*`, was negotiated. Takes no lock.
    #[inline]
    pub fn has(&self, feature: u32) -> bool {
        self.features() & feature != 0
    }

    /// Returns true if the handshake was made. Takes no lock.
    #[inline]
    pub fn is_initialized(&self) -> bool {
        self.has(FEATURE_INITIALIZED)
    }

    /// Sets the features, once.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they are set already.
    pub fn set_features(&self, features: u32) -> Result {
        // SAFETY: By the type invariants the field is initialised. It is written here only.
        let field = unsafe { Atomic::from_ptr(&raw mut (*self.as_raw()).features) };
        match field.cmpxchg(0, features, Full) {
            Ok(_) => Ok(()),
            Err(_) => Err(EINVAL),
        }
    }

    /// Returns the threads that wait.
    #[inline]
    pub fn waiters(&self) -> &WaitSet {
        &self.waiters
    }

    /// Returns how often operations on pages have failed.
    #[inline]
    pub fn failures(&self) -> &Failures {
        &self.failures
    }

    /// Returns true if the layout of the address space is changing: see [`MmapChanging`]. Takes no
    /// lock.
    #[inline]
    pub fn mmap_changing(&self) -> bool {
        // SAFETY: By the type invariants the field is initialised. All accesses to it are atomic,
        // and this is an `atomic_read()`.
        unsafe { ReadOnceCell::from_ptr(&raw mut (*self.as_raw()).mmap_changing.counter) }
            .read_once()
            != 0
    }

    #[inline]
    fn mmap_changing_atomic(&self) -> &Atomic<i32> {
        // SAFETY: By the type invariants the field is initialised. C code accesses it with
        // `atomic_*` functions.
        unsafe { Atomic::from_ptr(&raw mut (*self.as_raw()).mmap_changing.counter) }
    }

    /// Returns the number of descriptors of this context that the process with the address space
    /// `mm` has, in a table that the current task does not use. Takes spinlocks.
    ///
    /// Returns zero if the kernel cannot find that process, for which it needs `CONFIG_MEMCG`.
    pub(super) fn descriptors_of(&self, mm: &Mm) -> u32 {
        // SAFETY: The mm is valid, and the file is only compared with others.
        unsafe { bindings::uffd_shim_descriptors_of(mm.as_raw(), self.file.as_ptr()) }
    }

    /// Returns true if there are just `count` references to the file of the descriptor. Must not
    /// sleep.
    pub(super) fn has_file_references(&self, count: u32) -> bool {
        self.file.has_references(count)
    }
}

#[pinned_drop]
impl PinnedDrop for Context {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariants the context owns an `mmgrab` reference.
        unsafe { bindings::mmdrop((*self.as_raw()).mm) };
    }
}

// SAFETY: The count is kept in the context, which is freed when it drops to zero.
unsafe impl AlwaysRefCounted for Context {
    #[doc(alias = "userfaultfd_ctx_get")]
    #[inline]
    fn inc_ref(&self) {
        self.refcount.inc();
    }

    #[doc(alias = "userfaultfd_ctx_put")]
    #[inline]
    unsafe fn dec_ref(context: NonNull<Self>) {
        // SAFETY: The caller gives up a reference, which kept the context alive until now.
        if unsafe { context.as_ref() }.refcount.dec_and_test() {
            // SAFETY: That was the last reference, so no other thread has access to the context.
            unsafe { ptr::drop_in_place(context.as_ptr()) };
            // SAFETY: All contexts come from the cache, see `Context::new`.
            unsafe { CACHE.free(context) };
        }
    }
}

/// The owner of a context: the file of its descriptor, or the thread that forks until a reader has
/// made the descriptor of the child.
///
/// VMAs are registered with a context only while it has an owner. If an owner is dropped, no thread
/// goes to sleep any more, all VMAs are taken off the context, and all threads that wait are
/// woken. Dropping one sleeps: it takes the mmap lock.
///
/// # Invariants
///
/// The VMAs of the context are taken off it before this value is gone, unless there is another
/// owner.
pub struct ContextOwner(ARef<Context>);

impl ContextOwner {
    /// Makes the first owner of a context.
    pub fn new(context: ARef<Context>) -> Self {
        trace::create(&context);
        Self::following(context)
    }

    /// Makes another owner. The one before it is given up.
    pub(super) fn following(context: ARef<Context>) -> Self {
        // INVARIANT: `drop` takes the VMAs off.
        Self(context)
    }

    /// Gives the ownership up. Another owner has it, or has seen to the VMAs.
    pub(super) fn disarm(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and not dropped.
        drop(unsafe { ptr::read(&this.0) });
    }

    /// Drops the owner of the context of a child whose event was not read. The child has not run.
    pub(super) fn abandon(self) {
        vma::release_new(&self.0);
        trace::release(&self.0);
        self.disarm();
    }

    /// Returns the context.
    pub(super) fn context(&self) -> &ARef<Context> {
        &self.0
    }
}

impl Drop for ContextOwner {
    #[doc(alias = "userfaultfd_release")]
    fn drop(&mut self) {
        // No thread starts to sleep after this. A thread that has not seen this yet has found the
        // VMA registered, so it holds the lock that the next step waits for.
        self.0.waiters.set_released();
        vma::release_all(&self.0);
        self.0.waiters.wake_all();
        trace::release(&self.0);
    }
}

// SAFETY: The pointer comes from an `ARef`, so it is aligned and not null, and the reference keeps
// the context alive until `from_foreign`.
unsafe impl ForeignOwnable for ContextOwner {
    const FOREIGN_ALIGN: usize = core::mem::align_of::<Context>();

    type Borrowed<'a> = OpenContext<'a>;
    type BorrowedMut<'a> = OpenContext<'a>;

    fn into_foreign(self) -> *mut c_void {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and not dropped.
        ARef::into_raw(unsafe { ptr::read(&this.0) })
            .as_ptr()
            .cast()
    }

    unsafe fn from_foreign(ptr: *mut c_void) -> Self {
        // SAFETY: `ptr` comes from `into_foreign`, which kept the reference.
        Self(unsafe { ARef::from_raw(NonNull::new_unchecked(ptr.cast())) })
    }

    #[inline]
    unsafe fn borrow<'a>(ptr: *mut c_void) -> OpenContext<'a> {
        // INVARIANT: The value that `into_foreign` took is an owner, and stays for `'a`.
        // SAFETY: `ptr` comes from `into_foreign`, and the context stays valid for `'a`.
        OpenContext(unsafe { &*ptr.cast() })
    }

    #[inline]
    unsafe fn borrow_mut<'a>(ptr: *mut c_void) -> OpenContext<'a> {
        // SAFETY: The safety requirements are stronger than those of `borrow`.
        unsafe { <Self as ForeignOwnable>::borrow(ptr) }
    }
}

// SAFETY: It is always the same field.
unsafe impl HasBoundFile for ContextOwner {
    fn bound_file(&self) -> &BoundFile {
        &self.0.file
    }
}

/// A context whose descriptor stays open for `'a`.
///
/// # Invariants
///
/// The context has a [`ContextOwner`] for `'a`.
#[derive(Copy, Clone)]
pub struct OpenContext<'a>(&'a Context);

impl Deref for OpenContext<'_> {
    type Target = Context;

    #[inline]
    fn deref(&self) -> &Context {
        self.0
    }
}

impl<'a> OpenContext<'a> {
    /// Returns the context, for as long as the descriptor stays open.
    #[inline]
    pub fn get(self) -> &'a Context {
        self.0
    }
}

/// A mark on a context that its address space is changing: no pages can be filled meanwhile.
///
/// [`Context::mmap_changing`] returns true from when this is made until it is
/// lowered or dropped. It owns a reference to the context; dropping it may sleep.
pub struct MmapChanging {
    context: ARef<Context>,
    is_raised: ReadOnceCell<bool>,
}

impl MmapChanging {
    /// Raises the mark.
    ///
    /// Waits for operations on pages that are under way, so that later ones see the mark. Sleeps;
    /// the mmap lock may be held.
    pub fn new(context: ARef<Context>) -> Self {
        // SAFETY: By the type invariants of `Context` the semaphore is initialised.
        unsafe {
            let lock = &raw mut (*context.as_raw()).map_changing_lock;
            bindings::down_write(lock);
            context.mmap_changing_atomic().add(1, Relaxed);
            bindings::up_write(lock);
        }
        Self {
            context,
            is_raised: ReadOnceCell::new(true),
        }
    }

    /// Lowers the mark, unless that was done before. The caller makes sure that no other thread
    /// does it at the same time.
    ///
    /// Returns true if the address space does not change any more, so that the caller has to tell
    /// the pollers of `EPOLLOUT`.
    #[must_use]
    pub(super) fn lower(&self) -> bool {
        if !self.is_raised.read_once() {
            return false;
        }
        self.is_raised.write_once(false);
        let before = self.context.mmap_changing_atomic().fetch_add(-1, Full);
        crate::warn_on_once!(before <= 0);
        before == 1
    }

    /// Returns the context.
    pub fn context(&self) -> &ARef<Context> {
        &self.context
    }

    /// Hands the mark and the reference to mm. Returns null if the mark was lowered before.
    pub(super) fn into_raw(self) -> *mut bindings::userfaultfd_ctx {
        if !self.is_raised.read_once() {
            return ptr::null_mut();
        }
        ManuallyDrop::new(self).context.as_raw()
    }

    /// Takes back what [`MmapChanging::into_raw`] returned.
    ///
    /// # Safety
    ///
    /// `raw` must come from [`MmapChanging::into_raw`], and be taken back once.
    pub(super) unsafe fn from_raw(raw: NonNull<bindings::userfaultfd_ctx>) -> Self {
        Self {
            // SAFETY: `raw` is the first field of a context, and `into_raw` kept the reference.
            context: unsafe { ARef::from_raw(raw.cast()) },
            is_raised: ReadOnceCell::new(true),
        }
    }
}

impl Drop for MmapChanging {
    fn drop(&mut self) {
        if self.lower() {
            self.context.waiters.tell_out();
        }
    }
}
