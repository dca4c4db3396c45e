// SPDX-License-Identifier: GPL-2.0

//! Slab caches for objects of one type.
//!
//! C header: [`include/linux/slab.h`](srctree/include/linux/slab.h).

use super::Flags;
use crate::{
    bindings,
    built_in::BuiltIn,
    error::{code::ENOMEM, Result},
    str::CStr,
    sync::atomic::{Acquire, Atomic, Full, Relaxed},
};
use core::{marker::PhantomData, mem, ptr::NonNull};

/// A named slab cache for objects of type `T` that lives as long as the kernel.
///
/// It is declared as a `static` and created once by [`StaticKmemCache::create`]. It is never
/// destroyed, so it is not for loadable modules.
///
/// Objects that are allocated in large numbers, or that administrators look up in `/proc/slabinfo`,
/// need a dedicated cache. Others are allocated with [`KBox`](super::KBox).
///
/// # Invariants
///
/// `cache` is zero or the address of a `struct kmem_cache` for objects of the size and alignment
/// of `T`, and does not change once it is not zero.
pub struct StaticKmemCache<T> {
    name: &'static CStr,
    cache: Atomic<usize>,
    _objects: PhantomData<fn() -> T>,
}

impl<T> StaticKmemCache<T> {
    /// Names a cache that is not created yet.
    ///
    /// The slab allocator keeps no memory for objects of size zero: they do not compile.
    pub const fn new(name: &'static CStr, _: BuiltIn) -> Self {
        const { assert!(mem::size_of::<T>() != 0 && mem::size_of::<T>() <= u32::MAX as usize) };
        Self {
            name,
            // INVARIANT: The address is zero.
            cache: Atomic::new(0),
            _objects: PhantomData,
        }
    }

    /// Creates the cache. Objects are aligned to hardware cache lines and the cache is not merged
    /// with others, so that `/proc/slabinfo` tells it apart.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. May sleep.
    pub fn create(&'static self) -> Result {
        if self.cache.load(Relaxed) != 0 {
            return Ok(());
        }
        // A few fields that are zero, and the alignment that the type asks for.
        let mut args = bindings::kmem_cache_args {
            align: mem::align_of::<T>() as u32,
            ..Default::default()
        };
        // SAFETY: The name is a string of code that is built into the kernel, so it lives forever.
        let cache = unsafe {
            bindings::__kmem_cache_create_args(
                self.name.as_char_ptr(),
                mem::size_of::<T>() as u32,
                &mut args,
                bindings::SLAB_HWCACHE_ALIGN | bindings::SLAB_NO_MERGE,
            )
        };
        if cache.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: The cache was created for objects of type `T`, and is only put in the place of
        // nothing.
        if self.cache.cmpxchg(0, cache as usize, Full).is_err() {
            // Another thread was faster.
            // SAFETY: The cache was just created, and no other thread knows it.
            unsafe { bindings::kmem_cache_destroy(cache) };
        }
        Ok(())
    }

    fn as_ptr(&self) -> *mut bindings::kmem_cache {
        self.cache.load(Acquire) as *mut bindings::kmem_cache
    }

    /// Allocates memory for one object and leaves it uninitialised.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no memory, or the cache was not created yet.
    pub fn alloc(&self, flags: Flags) -> Result<NonNull<T>> {
        let cache = self.as_ptr();
        if cache.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: By the type invariants this is a valid cache.
        let object = unsafe { bindings::kmem_cache_alloc(cache, flags.as_raw()) };
        NonNull::new(object.cast()).ok_or(ENOMEM)
    }

    /// Frees the memory of an object, without running its destructor.
    ///
    /// # Safety
    ///
    /// `object` must come from [`StaticKmemCache::alloc`] of this cache and must not be used
    /// afterwards.
    pub unsafe fn free(&self, object: NonNull<T>) {
        // SAFETY: By the safety requirements the object belongs to this cache, which therefore
        // exists.
        unsafe { bindings::kmem_cache_free(self.as_ptr(), object.as_ptr().cast()) };
    }
}
