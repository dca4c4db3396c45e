// SPDX-License-Identifier: GPL-2.0

//! Lists of events that mm keeps between the two halves of an operation.
//!
//! While fork(2) copies VMAs and munmap(2) prepares to remove them, locks are held. What has to be
//! told to user space is noted in a list, and told when the locks are dropped. The list is a
//! `struct list_head` on the stack of mm, which knows nothing of its items.

use super::{
    context::{Context, ContextOwner, MmapChanging},
    vma::VmaMut,
    waitset::Fork,
};
use crate::{
    alloc::{flags::GFP_KERNEL, kmem_cache::StaticKmemCache},
    bindings, built_in, c_str, container_of,
    prelude::*,
    sync::aref::ARef,
};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::{self, NonNull},
};

/// What is kept in an [`EventList`].
///
/// # Safety
///
/// [`ListItem::cache`] must return the same cache each time.
pub unsafe trait ListItem: Sized + 'static {
    /// Returns the cache for the items.
    #[doc(hidden)]
    fn cache() -> &'static StaticKmemCache<Item<Self>>;
}

/// A [`ListItem`] in its list.
pub struct Item<T> {
    links: bindings::list_head,
    data: T,
}

/// A list of `T` behind a `struct list_head` of mm.
///
/// # Invariants
///
/// `head` is a valid, initialised list head for `'a`, all items of which are the `links` of an
/// `Item<T>` that comes from `T::cache()` and belongs to the list.
pub struct EventList<'a, T> {
    head: *mut bindings::list_head,
    _head: PhantomData<&'a mut bindings::list_head>,
    _items: PhantomData<T>,
}

/// A context whose address space is being duplicated, in a list until fork(2) has dropped its
/// locks. C: `struct userfaultfd_fork_ctx`.
pub(super) struct PendingFork {
    /// The mark on the context of the parent.
    changing: MmapChanging,
    /// The context of the child. VMAs of the child are registered with it.
    child: ARef<Context>,
}

/// A range that is being unmapped, in a list until munmap(2) has dropped its lock. C: `struct
/// userfaultfd_unmap_ctx`.
pub struct PendingUnmap {
    /// The mark on the context.
    pub changing: MmapChanging,
    /// The addresses, in bytes.
    pub range: Range<usize>,
}

pub(super) static FORKS: StaticKmemCache<Item<PendingFork>> =
    StaticKmemCache::new(c_str!("userfaultfd_fork"), built_in!());
pub(super) static UNMAPS: StaticKmemCache<Item<PendingUnmap>> =
    StaticKmemCache::new(c_str!("userfaultfd_unmap"), built_in!());

// SAFETY: The cache is a static.
unsafe impl ListItem for PendingFork {
    #[inline]
    fn cache() -> &'static StaticKmemCache<Item<Self>> {
        &FORKS
    }
}

// SAFETY: The cache is a static.
unsafe impl ListItem for PendingUnmap {
    #[inline]
    fn cache() -> &'static StaticKmemCache<Item<Self>> {
        &UNMAPS
    }
}

impl EventList<'_, PendingFork> {
    /// Moves a VMA of a child from the context of the parent to that of the child, which is created
    /// for the first VMA of a context. May sleep; both mmap locks are held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`
    #[doc(alias = "dup_userfaultfd")]
    pub(super) fn duplicate(&mut self, mut vma: VmaMut<'_>) -> Result {
        let Some(parent) = vma.context() else {
            return Ok(());
        };
        let known = self
            .iter()
            .find(|fork| ptr::eq::<Context>(&**fork.changing.context(), parent));
        let child = match known {
            Some(fork) => fork.child.clone(),
            None => {
                let child = Context::new(vma.mm(), parent.flags(), parent.features())?;
                self.push(PendingFork {
                    changing: MmapChanging::new(ARef::from(parent)),
                    child: child.clone(),
                })?;
                child
            }
        };
        // SAFETY: If the fork succeeds the child gets an owner, see `pop_fork`. If it fails the VMA
        // goes away with the address space, and nothing looks at it before.
        unsafe { vma.set_context(&child) };
        Ok(())
    }

    /// Removes the first item, of a fork that succeeded.
    pub(super) fn pop_fork(&mut self) -> Option<Fork> {
        let PendingFork { changing, child } = self.pop()?;
        let child = ContextOwner::new(child);
        Some(Fork { changing, child })
    }
}

impl<'a, T: ListItem> EventList<'a, T> {
    /// Wraps a list.
    ///
    /// # Safety
    ///
    /// `head` must be valid and initialised, not accessed by others for `'a`, and have been filled
    /// through [`EventList`] of the same `T` only.
    pub(super) unsafe fn from_raw(head: *mut bindings::list_head) -> Self {
        // INVARIANT: The safety requirements are the same.
        Self {
            head,
            _head: PhantomData,
            _items: PhantomData,
        }
    }

    /// Adds an item at the end.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `data` is dropped then. May sleep.
    pub fn push(&mut self, data: T) -> Result {
        let item = T::cache().alloc(GFP_KERNEL)?.as_ptr();
        // SAFETY: `item` is memory for an item, which no other thread knows.
        unsafe { (&raw mut (*item).data).write(data) };
        // INVARIANT: The item comes from the cache, and the list now owns it.
        // SAFETY: By the type invariants the list is valid, and the item is on no list.
        unsafe { bindings::list_add_tail(&raw mut (*item).links, self.head) };
        Ok(())
    }

    /// Removes the first item.
    pub(super) fn pop(&mut self) -> Option<T> {
        // SAFETY: By the type invariants the head is valid.
        let first = unsafe { (*self.head).next };
        if ptr::eq(first, self.head) {
            return None;
        }
        // SAFETY: By the type invariants this is an item of a valid list.
        unsafe { bindings::list_del(first) };
        // SAFETY: By the type invariants it was the `links` of an item, which the list does not own
        // any more.
        let item: *mut Item<T> = unsafe { container_of!(first, Item<T>, links) };
        // SAFETY: The item is valid, and its memory is not used after that.
        let data = unsafe { (&raw mut (*item).data).read() };
        // SAFETY: The pointer is not null. The item comes from this cache, which is always the same
        // by the safety requirements of `ListItem`.
        unsafe { T::cache().free(NonNull::new_unchecked(item)) };
        Some(data)
    }

    /// Returns the items in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let head = self.head;
        // SAFETY: By the type invariants the head is valid.
        let mut next = unsafe { (*head).next };
        core::iter::from_fn(move || {
            if ptr::eq(next, head) {
                return None;
            }
            // SAFETY: By the type invariants this is the `links` of an `Item`, and the list does
            // not change while it is borrowed.
            let item = unsafe { &*container_of!(next, Item<T>, links) };
            next = item.links.next;
            Some(&item.data)
        })
    }
}
