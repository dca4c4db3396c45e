// SPDX-License-Identifier: GPL-2.0

//! The containers of [`waitset`](super::waitset): an index by address, and queues. Their members
//! live on the stacks of threads and are linked in place. Nothing here knows of locks or tasks.

use crate::{bindings, prelude::*};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::{self, NonNull},
};

/// How many shards the index has.
///
/// Each costs 24 bytes of every context (without lock debugging): a lock, the root of a tree and a
/// count. That is 192 bytes for a descriptor, whether used or not, and no more with its use. More
/// of them would let more threads enter at the same time, but all of them also enter the one
/// inbox, and a wake-up of a large range, and the end of a context, look at every shard.
pub(super) const SHARDS: usize = 8;

/// The logarithm of how many bytes of consecutive addresses share a shard.
///
/// Ranges that are resolved at once are rarely longer than a huge page, so they hit one or two
/// shards.
const REGION_SHIFT: u32 = 21;

/// Returns the number of the shard for the region that has number `region`.
///
/// Multiplication spreads regions that are a power of two apart, as the memory of several threads
/// often is.
#[inline]
fn shard_of_region(region: u64) -> usize {
    const GOLDEN_RATIO_64: u64 = 0x61C8_8646_80B5_83EB;
    (region.wrapping_mul(GOLDEN_RATIO_64) >> (u64::BITS - SHARDS.ilog2())) as usize
}

/// Returns the number of the shard for an address.
#[inline]
pub(super) fn shard_of(address: u64) -> usize {
    shard_of_region(address >> REGION_SHIFT)
}

/// Returns the number of the shard for all addresses of `range`, if they are in the same region.
#[inline]
pub(super) fn shard_of_range(range: &Range<u64>) -> Option<usize> {
    let is_one =
        !range.is_empty() && range.start >> REGION_SHIFT == (range.end - 1) >> REGION_SHIFT;
    is_one.then(|| shard_of(range.start))
}

/// Returns which shards may have addresses of `range`, a bit for each.
pub(super) fn shards_of(range: &Range<u64>) -> u32 {
    if range.is_empty() {
        return 0;
    }
    let first = range.start >> REGION_SHIFT;
    let last = (range.end - 1) >> REGION_SHIFT;
    if last - first >= SHARDS as u64 {
        return (1 << SHARDS) - 1;
    }
    (first..=last).fold(0, |shards, region| shards | (1 << shard_of_region(region)))
}

/// A member of a [`Queue`].
pub(super) trait Linked: Sized {
    /// Returns where the links of a member are.
    ///
    /// # Safety
    ///
    /// `this` must be valid.
    unsafe fn links(this: *mut Self) -> *mut Links<Self>;
}

/// The links of a member of a [`Queue`]. They mean nothing while it is in none.
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

/// A first-in-first-out queue of members that live elsewhere and can leave it at any time.
///
/// # Invariants
///
/// The members form a list from `first` to `last`. Each is valid, and in no other queue.
pub(super) struct Queue<N> {
    first: *mut N,
    last: *mut N,
}

// SAFETY: The queue holds pointers to members, which may be accessed from whichever thread has the
// queue if they may be sent there.
unsafe impl<N: Send> Send for Queue<N> {}

impl<N: Linked> Queue<N> {
    pub(super) const fn new() -> Self {
        // INVARIANT: There are no members.
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// Whether there are no members.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Returns the member that is there for the longest time.
    pub(super) fn front(&self) -> Option<NonNull<N>> {
        NonNull::new(self.first)
    }

    /// Returns the first member that `fits`.
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
    pub(super) unsafe fn push_back(&mut self, member: *mut N) {
        // SAFETY: By the safety requirements; `last` is null only if there are no members.
        unsafe { self.insert_after(self.last, member) };
    }

    /// Adds a member behind the last one that `is_before` it, which is looked for from the end.
    ///
    /// # Safety
    ///
    /// As for [`Queue::push_back`].
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
        // SAFETY: By the safety requirements; `prev` is a member, or null.
        unsafe { self.insert_after(prev, member) };
    }

    /// Adds a member in front of the first one that is not `is_before` it, which is looked for from
    /// the front.
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
        // SAFETY: By the safety requirements; `prev` is a member, or null.
        unsafe { self.insert_after(prev, member) };
    }

    /// Adds a member behind `prev`, or in front of all if that is null.
    ///
    /// # Safety
    ///
    /// As for [`Queue::push_back`]; `prev` must be null or in this queue.
    unsafe fn insert_after(&mut self, prev: *mut N, member: *mut N) {
        let next = if prev.is_null() {
            self.first
        } else {
            // SAFETY: Members are valid by the type invariants.
            unsafe { (*N::links(prev)).next }
        };
        // SAFETY: `member` is valid by the safety requirements.
        unsafe { *N::links(member) = Links { prev, next } };
        // INVARIANT: The new member is between its neighbours.
        if prev.is_null() {
            self.first = member;
        } else {
            // SAFETY: Members are valid by the type invariants.
            unsafe { (*N::links(prev)).next = member };
        }
        if next.is_null() {
            self.last = member;
        } else {
            // SAFETY: Members are valid by the type invariants.
            unsafe { (*N::links(next)).prev = member };
        }
    }

    /// Takes a member out.
    ///
    /// # Safety
    ///
    /// `member` must be in this queue.
    pub(super) unsafe fn remove(&mut self, member: *mut N) {
        // INVARIANT: The neighbours of the member are linked to each other below.
        // SAFETY: Members are valid by the type invariants.
        let Links { prev, next } = unsafe { N::links(member).read() };
        if prev.is_null() {
            self.first = next;
        } else {
            // SAFETY: The neighbour is a member, hence valid by the type invariants.
            unsafe { (*N::links(prev)).next = next };
        }
        if next.is_null() {
            self.last = prev;
        } else {
            // SAFETY: The neighbour is a member, hence valid by the type invariants.
            unsafe { (*N::links(next)).prev = prev };
        }
    }
}

/// A member of a [`Tree`].
///
/// # Safety
///
/// The type must be `repr(C)` with room for a `struct rb_node` as its first field.
pub(super) unsafe trait Addressed {
    /// Returns the address by which a member is found, in bytes. It does not change while the
    /// member is in a tree.
    ///
    /// # Safety
    ///
    /// `this` must be valid.
    unsafe fn address(this: *const Self) -> u64;
}

/// Members ordered by address; those of the same address are in the order in which they came.
///
/// # Invariants
///
/// All nodes of the tree are the first fields of valid members.
pub(super) struct Tree<N> {
    root: bindings::rb_root,
    _members: PhantomData<*mut N>,
}

// SAFETY: The tree holds pointers to members, which may be accessed from whichever thread has the
// tree if they may be sent there.
unsafe impl<N: Send> Send for Tree<N> {}

impl<N: Addressed> Tree<N> {
    pub(super) const fn new() -> Self {
        // INVARIANT: There are no members.
        Self {
            root: bindings::rb_root {
                rb_node: ptr::null_mut(),
            },
            _members: PhantomData,
        }
    }

    /// Returns the address of a member.
    ///
    /// # Safety
    ///
    /// `rb` must be the node of a valid member.
    unsafe fn address(rb: *mut bindings::rb_node) -> u64 {
        // SAFETY: The node is the first field by the safety requirements of `Addressed`, and the
        // member is valid by those of this function.
        unsafe { N::address(rb.cast()) }
    }

    /// Adds a member.
    ///
    /// # Safety
    ///
    /// `member` must be valid and in no tree, and must leave this one before it becomes invalid.
    #[inline(always)]
    pub(super) unsafe fn insert(&mut self, member: *mut N) {
        let rb: *mut bindings::rb_node = member.cast();
        let mut parent: *mut bindings::rb_node = ptr::null_mut();
        let mut link: *mut *mut bindings::rb_node = &mut self.root.rb_node;
        // SAFETY: The new member is valid by the safety requirements, those on the way by the type
        // invariants; the links are those of the tree.
        unsafe {
            let address = Self::address(rb);
            while !(*link).is_null() {
                parent = *link;
                link = if address < Self::address(parent) {
                    &raw mut (*parent).rb_left
                } else {
                    &raw mut (*parent).rb_right
                };
            }
            // INVARIANT: The new node is the first field of a valid member.
            bindings::rb_link_node(rb, parent, link);
            bindings::rb_insert_color(rb, &mut self.root);
        }
    }

    /// Takes a member out.
    ///
    /// # Safety
    ///
    /// `member` must be in this tree.
    pub(super) unsafe fn remove(&mut self, member: *mut N) {
        // SAFETY: The node is in the tree by the safety requirements.
        unsafe { bindings::rb_erase(member.cast(), &mut self.root) };
    }

    /// Returns the first member of `range`.
    pub(super) fn first_of(&self, range: &Range<u64>) -> Option<NonNull<N>> {
        let mut rb = self.root.rb_node;
        let mut found = ptr::null_mut();
        while !rb.is_null() {
            // SAFETY: All nodes of the tree are those of valid members by the type invariants.
            unsafe {
                if Self::address(rb) < range.start {
                    rb = (*rb).rb_right;
                } else {
                    found = rb;
                    rb = (*rb).rb_left;
                }
            }
        }
        self.before_end(found, range)
    }

    /// Returns the member of `range` that follows `member`.
    ///
    /// # Safety
    ///
    /// `member` must be in this tree.
    pub(super) unsafe fn next_of(&self, member: *mut N, range: &Range<u64>) -> Option<NonNull<N>> {
        // SAFETY: The member is in the tree by the safety requirements.
        let next = unsafe { bindings::rb_next(member.cast()) };
        self.before_end(next, range)
    }

    /// Returns the member of a node of this tree, unless it is null or behind the end of `range`.
    fn before_end(&self, rb: *mut bindings::rb_node, range: &Range<u64>) -> Option<NonNull<N>> {
        let rb = NonNull::new(rb)?;
        // SAFETY: All nodes of the tree are those of valid members by the type invariants.
        (unsafe { Self::address(rb.as_ptr()) } < range.end).then_some(rb.cast())
    }
}

#[kunit_tests(userfaultfd_index)]
mod tests {
    use super::*;

    #[repr(C)]
    struct Member {
        rb: bindings::rb_node,
        links: Links<Member>,
        address: u64,
        id: usize,
    }

    // SAFETY: The node is the first field.
    unsafe impl Addressed for Member {
        unsafe fn address(this: *const Self) -> u64 {
            // SAFETY: `this` is valid by the safety requirements.
            unsafe { (*this).address }
        }
    }

    impl Linked for Member {
        unsafe fn links(this: *mut Self) -> *mut Links<Self> {
            // SAFETY: `this` is valid.
            unsafe { &raw mut (*this).links }
        }
    }

    fn members<const N: usize>(addresses: [u64; N]) -> [Member; N] {
        let mut id = 0;
        addresses.map(|address| {
            id += 1;
            Member {
                rb: Default::default(),
                links: Links::new(),
                address,
                id,
            }
        })
    }

    /// Takes the members of a range out of a tree, and checks that they are the expected ones.
    fn take(tree: &mut Tree<Member>, range: Range<u64>, expected: &[usize]) {
        let mut expected = expected.iter();
        let mut next = tree.first_of(&range);
        while let Some(member) = next {
            // SAFETY: The member is in the tree, hence valid.
            let id = unsafe {
                next = tree.next_of(member.as_ptr(), &range);
                tree.remove(member.as_ptr());
                (*member.as_ptr()).id
            };
            assert_eq!(expected.next(), Some(&id));
        }
        assert_eq!(expected.next(), None);
    }

    #[test]
    fn tree_finds_ranges() {
        let mut members = members([0x3000, 0x1000, 0x2000, 0x1000, 0x5000]);
        let mut tree = Tree::new();
        for member in &mut members {
            // SAFETY: The members stay where they are.
            unsafe { tree.insert(member) };
        }
        take(&mut tree, 0..0x1000, &[]);
        take(&mut tree, 0x3001..0x5000, &[]);
        take(&mut tree, 0x1000..0x2000, &[2, 4]);
        take(&mut tree, 0x1000..0x2000, &[]);
        take(&mut tree, 0x2000..0x3001, &[3, 1]);
        take(&mut tree, 0..u64::MAX, &[5]);
        assert!(tree.root.rb_node.is_null());
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
                unsafe { other.as_ref() }.address <= limit
            }
        };
        let mut queue = Queue::new();
        for (index, address) in [(0, 20), (1, 10), (2, 20)] {
            // SAFETY: The members stay where they are.
            unsafe { queue.insert_from_back(first.add(index), up_to(address)) };
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

    #[test]
    fn shards_cover_ranges() {
        const REGION: u64 = 1 << REGION_SHIFT;
        let one = |address| 1u32 << shard_of(address);

        assert_eq!(shard_of_range(&(0..1)), Some(shard_of(0)));
        assert_eq!(
            shard_of_range(&(REGION..2 * REGION)),
            Some(shard_of(REGION))
        );
        assert_eq!(shard_of_range(&(REGION - 1..REGION + 1)), None);
        assert_eq!(shard_of_range(&(REGION..REGION)), None);
        assert_eq!(shards_of(&(REGION..REGION + 4096)), one(REGION));
        assert_eq!(shards_of(&(REGION..2 * REGION)), one(REGION));
        assert_eq!(
            shards_of(&(2 * REGION - 4096..2 * REGION + 4096)),
            one(REGION) | one(2 * REGION)
        );
        assert_eq!(shards_of(&(0..u64::MAX)), (1 << SHARDS) - 1);
        assert_eq!(shards_of(&(REGION..REGION)), 0);
        for region in 0..100 {
            let address = region * REGION + 0x7000;
            assert!(shard_of(address) < SHARDS);
            assert!(shards_of(&(0..100 * REGION)) & one(address) != 0);
        }
    }
}
