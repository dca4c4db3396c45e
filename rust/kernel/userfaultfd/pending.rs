// SPDX-License-Identifier: GPL-2.0

//! Lists that mm keeps between the two halves of an operation.
//!
//! While fork(2) copies areas, and while munmap(2) prepares to remove them, we note what has to be
//! told to user space once the locks are dropped. The list is a `struct list_head` on the stack
//! of mm, which knows nothing of its entries.

use crate::{alloc::flags::GFP_KERNEL, bindings, container_of, prelude::*};
use core::marker::PhantomData;

#[repr(C)]
struct Entry<T> {
    links: bindings::list_head,
    data: T,
}

/// A list of `T` behind a `struct list_head` that somebody else owns.
///
/// # Invariants
///
/// `head` is a valid, initialised list head for `'a`, all entries of which are the `links` of an
/// `Entry<T>` in a box that the list owns.
pub struct Pending<'a, T> {
    head: *mut bindings::list_head,
    _head: PhantomData<&'a mut bindings::list_head>,
    _entries: PhantomData<T>,
}

impl<'a, T> Pending<'a, T> {
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
        let entry = KBox::into_raw(KBox::new(
            Entry {
                links: Default::default(),
                data,
            },
            GFP_KERNEL,
        )?);
        // INVARIANT: The entry comes from a box, which the list now owns.
        // SAFETY: By the type invariants the list is valid, and the entry is on no list.
        unsafe { bindings::list_add_tail(&raw mut (*entry).links, self.head) };
        Ok(())
    }

    /// Takes the first entry off the list.
    pub fn pop(&mut self) -> Option<T> {
        // SAFETY: By the type invariants the head is valid.
        let first = unsafe { (*self.head).next };
        if core::ptr::eq(first, self.head) {
            return None;
        }
        // SAFETY: By the type invariants this is an entry of a valid list.
        unsafe { bindings::list_del(first) };
        // SAFETY: By the type invariants it was the `links` of an `Entry` in a box, which the list
        // does not own any more.
        let entry = unsafe { KBox::from_raw(container_of!(first, Entry<T>, links)) };
        Some(KBox::into_inner(entry).data)
    }

    /// Goes through the entries in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let head = self.head;
        // SAFETY: By the type invariants the head is valid.
        let mut next = unsafe { (*head).next };
        core::iter::from_fn(move || {
            if core::ptr::eq(next, head) {
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
