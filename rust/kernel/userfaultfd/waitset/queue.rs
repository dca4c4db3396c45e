// SPDX-License-Identifier: GPL-2.0

//! Queues whose members live on the stacks of threads and are linked in place.
//!
//! `kernel::list::List` owns its members through a `ListArc`. These members are pinned on a stack,
//! so nothing can own them but their thread. Nothing here knows of locks or tasks.

use crate::prelude::*;
use core::ptr::{self, NonNull};

/// A member of a [`Queue`].
pub(super) trait Linked: Sized {
    /// Returns a pointer to the links of a member.
    ///
    /// # Safety
    ///
    /// `this` must point to a valid member.
    unsafe fn links(this: *mut Self) -> *mut Links<Self>;
}

/// The links of a member of a [`Queue`]. They have no meaning while it is in no queue.
pub(super) struct Links<N> {
    prev: *mut N,
    next: *mut N,
}

impl<N> Links<N> {
    pub(super) const fn new() -> Self {
        Self {
            prev: ptr::null_mut(),
            next: ptr::null_mut(),
        }
    }
}

/// A first-in-first-out queue from whose middle members can be removed.
///
/// # Invariants
///
/// The members form a list from `first` to `last`. Each is valid, and in no other queue.
pub(super) struct Queue<N> {
    first: *mut N,
    last: *mut N,
}

// SAFETY: The queue owns no member. If members may be sent to another thread, that thread may
// access them through the queue.
unsafe impl<N: Send> Send for Queue<N> {}

impl<N: Linked> Queue<N> {
    pub(super) const fn new() -> Self {
        // INVARIANT: There are no members.
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// Returns true if there are no members.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Returns the first member.
    #[inline]
    pub(super) fn front(&self) -> Option<NonNull<N>> {
        NonNull::new(self.first)
    }

    /// Returns the first member for which `fits` returns true.
    pub(super) fn find(&self, fits: impl Fn(NonNull<N>) -> bool) -> Option<NonNull<N>> {
        let mut next = self.front();
        while let Some(member) = next {
            if fits(member) {
                break;
            }
            // SAFETY: Members are valid by the type invariants.
            next = NonNull::new(unsafe { (*N::links(member.as_ptr())).next });
        }
        next
    }

    /// Adds a member at the end.
    ///
    /// # Safety
    ///
    /// `member` must be valid and in no queue, and must leave this one before it becomes invalid.
    #[inline]
    pub(super) unsafe fn push_back(&mut self, member: *mut N) {
        // SAFETY: The safety requirements are the same. `last` is a member, or null if there is
        // none.
        unsafe { self.insert_after(self.last, member) };
    }

    /// Adds a member behind the last one that `is_before` it. The search begins at the end.
    ///
    /// # Safety
    ///
    /// As for [`Queue::push_back`].
    #[inline]
    pub(super) unsafe fn insert_from_back(
        &mut self,
        member: *mut N,
        is_before: impl Fn(NonNull<N>) -> bool,
    ) {
        let mut prev = self.last;
        while let Some(other) = NonNull::new(prev).filter(|other| !is_before(*other)) {
            // SAFETY: Members are valid by the type invariants.
            prev = unsafe { (*N::links(other.as_ptr())).prev };
        }
        // SAFETY: The safety requirements are the same; `prev` is a member, or null.
        unsafe { self.insert_after(prev, member) };
    }

    /// Adds a member in front of the first one that is not `is_before` it. The search begins at the
    /// front.
    ///
    /// # Safety
    ///
    /// As for [`Queue::push_back`].
    pub(super) unsafe fn insert_from_front(
        &mut self,
        member: *mut N,
        is_before: impl Fn(NonNull<N>) -> bool,
    ) {
        let prev = match self.find(|other| !is_before(other)) {
            // SAFETY: Members are valid by the type invariants.
            Some(next) => unsafe { (*N::links(next.as_ptr())).prev },
            None => self.last,
        };
        // SAFETY: The safety requirements are the same; `prev` is a member, or null.
        unsafe { self.insert_after(prev, member) };
    }

    /// Adds a member behind `prev`, or in front of all others if `prev` is null.
    ///
    /// # Safety
    ///
    /// As for [`Queue::push_back`]; `prev` must be null or in this queue.
    #[inline]
    unsafe fn insert_after(&mut self, prev: *mut N, member: *mut N) {
        let next = if prev.is_null() {
            self.first
        } else {
            // SAFETY: `prev` is a member, and members are valid by the type invariants.
            unsafe { (*N::links(prev)).next }
        };
        // SAFETY: `member` is valid by the safety requirements.
        unsafe { *N::links(member) = Links { prev, next } };
        // INVARIANT: The new member is between its neighbours.
        if prev.is_null() {
            self.first = member;
        } else {
            // SAFETY: `prev` is a member, and members are valid by the type invariants.
            unsafe { (*N::links(prev)).next = member };
        }
        if next.is_null() {
            self.last = member;
        } else {
            // SAFETY: `next` is a member, and members are valid by the type invariants.
            unsafe { (*N::links(next)).prev = member };
        }
    }

    /// Removes a member.
    ///
    /// # Safety
    ///
    /// `member` must be in this queue.
    #[inline]
    pub(super) unsafe fn remove(&mut self, member: *mut N) {
        // INVARIANT: The neighbours of the member are linked to each other below.
        // SAFETY: `member` is in the queue by the safety requirements, hence valid.
        let Links { prev, next } = unsafe { N::links(member).read() };
        if prev.is_null() {
            self.first = next;
        } else {
            // SAFETY: `prev` is a member, and members are valid by the type invariants.
            unsafe { (*N::links(prev)).next = next };
        }
        if next.is_null() {
            self.last = prev;
        } else {
            // SAFETY: `next` is a member, and members are valid by the type invariants.
            unsafe { (*N::links(next)).prev = prev };
        }
    }
}

#[kunit_tests(userfaultfd_queue)]
mod tests {
    use super::*;

    struct Member {
        links: Links<Member>,
        key: u64,
        id: usize,
    }

    impl Linked for Member {
        unsafe fn links(this: *mut Self) -> *mut Links<Self> {
            // SAFETY: `this` is valid by the safety requirements.
            unsafe { &raw mut (*this).links }
        }
    }

    fn members<const N: usize>(keys: [u64; N]) -> [Member; N] {
        let mut id = 0;
        keys.map(|key| {
            id += 1;
            Member {
                links: Links::new(),
                key,
                id,
            }
        })
    }

    /// Returns the first members of a queue, and zeroes if there are fewer.
    fn ids(queue: &Queue<Member>) -> [usize; 4] {
        let mut ids = [0; 4];
        let mut next = queue.front();
        for id in &mut ids {
            let Some(member) = next else { break };
            // SAFETY: Members of a queue are valid.
            unsafe {
                *id = (*member.as_ptr()).id;
                next = NonNull::new((*member.as_ptr()).links.next);
            }
        }
        ids
    }

    #[test]
    fn queue_has_places_in_between() {
        let mut members = members([20, 10, 20, 30, 10]);
        let first = members.as_mut_ptr();
        let up_to = |limit| {
            move |other: NonNull<Member>| {
                // SAFETY: Members of a queue are valid.
                unsafe { other.as_ref() }.key <= limit
            }
        };
        let mut queue = Queue::new();
        for (index, key) in [(0, 20), (1, 10), (2, 20)] {
            // SAFETY: The members stay where they are.
            unsafe { queue.insert_from_back(first.add(index), up_to(key)) };
        }
        assert_eq!(ids(&queue), [2, 1, 3, 0]);
        // SAFETY: As above.
        unsafe { queue.insert_from_front(first.add(3), up_to(30)) };
        assert_eq!(ids(&queue), [2, 1, 3, 4]);
        // SAFETY: The member is in the queue.
        unsafe { queue.remove(first) };
        // SAFETY: As above.
        unsafe { queue.insert_from_front(first.add(4), up_to(9)) };
        assert_eq!(ids(&queue), [5, 2, 3, 4]);
        let last = queue.last;
        assert!(ptr::eq(last, &members[3]));
    }

    #[test]
    fn queue_is_first_in_first_out() {
        let mut members = members([0, 0, 0, 0]);
        let first = members.as_mut_ptr();
        let mut queue = Queue::new();
        for index in 0..4 {
            // SAFETY: The members stay where they are.
            unsafe { queue.push_back(first.add(index)) };
        }
        assert_eq!(ids(&queue), [1, 2, 3, 4]);
        // SAFETY: Members of a queue are valid.
        let find = |id| queue.find(|member| unsafe { member.as_ref() }.id == id);
        assert_eq!(find(3).map(NonNull::as_ptr), Some(first.wrapping_add(2)));
        assert!(find(5).is_none());
        // SAFETY: These are in the queue.
        unsafe {
            queue.remove(first.add(1));
            queue.remove(first);
        }
        assert_eq!(ids(&queue), [3, 4, 0, 0]);
        // SAFETY: The one is in the queue and the other one is not.
        unsafe {
            queue.remove(first.add(3));
            queue.push_back(first);
        }
        assert_eq!(ids(&queue), [3, 1, 0, 0]);
        // SAFETY: These are in the queue.
        unsafe {
            queue.remove(first.add(2));
            queue.remove(first);
        }
        assert!(queue.front().is_none());
        assert!(queue.is_empty());
    }
}
