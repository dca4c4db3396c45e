// SPDX-License-Identifier: GPL-2.0

//! Lists that mm keeps between the two halves of an operation.
//!
//! While fork(2) copies areas, and while munmap(2) prepares to remove them, we note what has to be
//! told to user space once the locks are dropped. The list is a `struct list_head` on the stack
//! of mm, which knows nothing of its entries.

use crate::{
    alloc::{flags::GFP_KERNEL, kmem_cache::StaticKmemCache},
    bindings, container_of,
    prelude::*,
};
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};

/// What is kept in a [`Pending`] list.
///
/// # Safety
///
/// [`Note::cache`] must return the same cache each time.
pub unsafe trait Note: Sized + 'static {
    /// Returns where entries come from.
    fn cache() -> &'static StaticKmemCache<Entry<Self>>;
}

/// A [`Note`] in its list.
#[repr(C)]
pub struct Entry<T> {
    links: bindings::list_head,
    data: T,
}

/// A list of `T` behind a `struct list_head` that somebody else owns.
///
/// # Invariants
///
/// `head` is a valid, initialised list head for `'a`, all entries of which are the `links` of an
/// `Entry<T>` that comes from `T::cache()` and belongs to the list.
pub struct Pending<'a, T> {
    head: *mut bindings::list_head,
    _head: PhantomData<&'a mut bindings::list_head>,
    _entries: PhantomData<T>,
}

impl<'a, T: Note> Pending<'a, T> {
    /// Wraps a list.
    ///
    /// # Safety
    ///
    /// `head` must be valid and initialised, not accessed by others for `'a`, and have been filled
    /// through [`Pending`] of the same `T` only.
    pub(super) unsafe fn from_raw(head: *mut bindings::list_head) -> Self {
        // INVARIANT: By the safety requirements.
        Self {
            head,
            _head: PhantomData,
            _entries: PhantomData,
        }
    }

    /// Adds an entry at the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no memory; `data` is dropped then. May sleep.
    pub fn push(&mut self, data: T) -> Result {
        let entry = T::cache().alloc(GFP_KERNEL)?.as_ptr();
        // SAFETY: It is memory for an entry, and nobody else's.
        unsafe { (&raw mut (*entry).data).write(data) };
        // INVARIANT: The entry comes from the cache, and the list now owns it.
        // SAFETY: By the type invariants the list is valid, and the entry is on no list.
        unsafe { bindings::list_add_tail(&raw mut (*entry).links, self.head) };
        Ok(())
    }

    /// Takes the first entry off the list.
    pub fn pop(&mut self) -> Option<T> {
        // SAFETY: By the type invariants the head is valid.
        let first = unsafe { (*self.head).next };
        if ptr::eq(first, self.head) {
            return None;
        }
        // SAFETY: By the type invariants this is an entry of a valid list.
        unsafe { bindings::list_del(first) };
        // SAFETY: By the type invariants it was the `links` of an entry, which the list does not
        // own any more.
        let entry: *mut Entry<T> = unsafe { container_of!(first, Entry<T>, links) };
        // SAFETY: The entry is valid, and its memory is not used after that.
        let data = unsafe { (&raw mut (*entry).data).read() };
        // SAFETY: The pointer is not null. The entry comes from this cache, which is always the
        // same by the safety requirements of `Note`.
        unsafe { T::cache().free(NonNull::new_unchecked(entry)) };
        Some(data)
    }

    /// Goes through the entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let head = self.head;
        // SAFETY: By the type invariants the head is valid.
        let mut next = unsafe { (*head).next };
        core::iter::from_fn(move || {
            if ptr::eq(next, head) {
                return None;
            }
            // SAFETY: By the type invariants this is the `links` of an `Entry`, and the list does
            // not change while it is borrowed.
            let entry = unsafe { &*container_of!(next, Entry<T>, links) };
            next = entry.links.next;
            Some(&entry.data)
        })
    }
}
