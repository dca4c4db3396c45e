// SPDX-License-Identifier: GPL-2.0

//! The index of the threads that sleep, by address: which shard an address belongs to, and the tree
//! of a shard.
//!
//! `kernel::rbtree::RBTree` allocates its nodes. These nodes live on the stacks of threads, so
//! adding one needs no memory and cannot fail. Nothing here knows of locks or tasks.

use crate::{bindings, prelude::*};
use core::{
    marker::PhantomData,
    ops::Range,
    ptr::{self, NonNull},
};

/// The number of shards of the index.
///
/// Each shard takes 20 bytes of every context (without lock debugging): a lock, the root of a tree
/// and a count. These 160 bytes do not grow with the number of threads. More shards would let more
/// threads enqueue at the same time, but all of them take the one inbox lock as well, and a wake-up
/// of a large range looks at every shard.
pub(super) const SHARDS: usize = 8;

/// The logarithm of the number of consecutive bytes that share a shard.
///
/// Ranges that are resolved at once are rarely longer than a huge page, so they hit one or two
/// shards.
const REGION_SHIFT: u32 = 21;

/// Returns the number of the shard for the region with the number `region`.
///
/// The multiplication spreads regions that are a power of two apart, because the memory of several
/// threads often is.
#[inline(always)]
fn shard_of_region(region: u64) -> usize {
    const GOLDEN_RATIO_64: u64 = 0x61C8_8646_80B5_83EB;
    (region.wrapping_mul(GOLDEN_RATIO_64) >> (u64::BITS - SHARDS.ilog2())) as usize
}

/// Returns the number of the shard for an address.
#[inline(always)]
pub(super) fn shard_of(address: u64) -> usize {
    shard_of_region(address >> REGION_SHIFT)
}

/// Returns the numbers of the shards for the first and for the last address of `range`, if there is
/// no other shard between them. For an empty range these may be any.
#[inline(always)]
pub(super) fn shards_of_short(range: &Range<u64>) -> Option<(usize, usize)> {
    let first = range.start >> REGION_SHIFT;
    let last = range.end.wrapping_sub(1) >> REGION_SHIFT;
    if first == last {
        let shard = shard_of_region(first);
        Some((shard, shard))
    } else if first.wrapping_add(1) == last {
        Some((shard_of_region(first), shard_of_region(last)))
    } else {
        None
    }
}

/// Returns the shards that may have addresses of `range`, a bit for each.
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

/// A member of a [`Tree`].
///
/// # Safety
///
/// `RB` must be the offset of a field that has room for a `struct rb_node`.
pub(super) unsafe trait Indexed: Sized {
    /// The offset of the node of the tree in a member, in bytes.
    const RB: usize;

    /// Returns the address by which a member is found, in bytes. It does not change while the
    /// member is in a tree.
    ///
    /// # Safety
    ///
    /// `this` must point to a valid member.
    unsafe fn address(this: *const Self) -> u64;
}

/// Members ordered by address; those of the same address are in the order in which they came.
///
/// # Invariants
///
/// All nodes of the tree are those of valid members.
pub(super) struct Tree<N> {
    root: bindings::rb_root,
    _members: PhantomData<*mut N>,
}

// SAFETY: The tree owns no member. If members may be sent to another thread, that thread may access
// them through the tree.
unsafe impl<N: Send> Send for Tree<N> {}

impl<N: Indexed> Tree<N> {
    pub(super) const fn new() -> Self {
        // INVARIANT: There are no members.
        Self {
            root: bindings::rb_root {
                rb_node: ptr::null_mut(),
            },
            _members: PhantomData,
        }
    }

    /// Returns the node of a member.
    #[inline(always)]
    fn node_of(member: *mut N) -> *mut bindings::rb_node {
        member.wrapping_byte_add(N::RB).cast()
    }

    /// Returns the member that a node belongs to.
    #[inline(always)]
    fn member_of(rb: *mut bindings::rb_node) -> *mut N {
        rb.wrapping_byte_sub(N::RB).cast()
    }

    /// Returns the address of the member that a node belongs to.
    ///
    /// # Safety
    ///
    /// `rb` must be the node of a valid member.
    #[inline(always)]
    unsafe fn address(rb: *mut bindings::rb_node) -> u64 {
        // SAFETY: The member is valid by the safety requirements.
        unsafe { N::address(Self::member_of(rb)) }
    }

    /// Adds a member.
    ///
    /// # Safety
    ///
    /// `member` must be valid and in no tree, and must leave this one before it becomes invalid.
    #[inline(always)]
    pub(super) unsafe fn insert(&mut self, member: *mut N) {
        let rb = Self::node_of(member);
        let mut parent: *mut bindings::rb_node = ptr::null_mut();
        let mut link: *mut *mut bindings::rb_node = &mut self.root.rb_node;
        // SAFETY: The new member is valid by the safety requirements, the members on the way are
        // by the type invariants; the links are those of the tree.
        unsafe {
            let address = N::address(member);
            while !(*link).is_null() {
                parent = *link;
                link = if address < Self::address(parent) {
                    &raw mut (*parent).rb_left
                } else {
                    &raw mut (*parent).rb_right
                };
            }
            // INVARIANT: The new node is that of a valid member.
            bindings::rb_link_node(rb, parent, link);
            bindings::rb_insert_color(rb, &mut self.root);
        }
    }

    /// Removes a member.
    ///
    /// # Safety
    ///
    /// `member` must be in this tree.
    #[inline]
    pub(super) unsafe fn remove(&mut self, member: *mut N) {
        // SAFETY: The node is in the tree by the safety requirements.
        unsafe { bindings::rb_erase(Self::node_of(member), &mut self.root) };
    }

    /// Returns true if all members are in `range`.
    #[inline(always)]
    pub(super) fn is_within(&self, range: &Range<u64>) -> bool {
        let (mut first, mut last) = (self.root.rb_node, self.root.rb_node);
        if first.is_null() {
            return true;
        }
        // SAFETY: All nodes of the tree are those of valid members by the type invariants.
        unsafe {
            // Most ranges are short, and not around the root.
            if !range.contains(&Self::address(first)) {
                return false;
            }
            while !(*first).rb_left.is_null() {
                first = (*first).rb_left;
            }
            while !(*last).rb_right.is_null() {
                last = (*last).rb_right;
            }
            Self::address(first) >= range.start && Self::address(last) < range.end
        }
    }

    /// Takes all members out at once, which is cheaper than one by one because nothing has to be
    /// balanced.
    ///
    /// # Safety
    ///
    /// Each member must stay valid, and must not be removed, until the result has returned it. The
    /// result must be used up.
    #[inline(always)]
    pub(super) unsafe fn take_all(&mut self) -> Taken<N> {
        // INVARIANT: These are the nodes of the tree, which has no members any more.
        Taken {
            rest: core::mem::replace(&mut self.root.rb_node, ptr::null_mut()),
            _members: PhantomData,
        }
    }

    /// Returns the first member of `range`.
    #[inline]
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
    #[inline]
    pub(super) unsafe fn next_of(&self, member: *mut N, range: &Range<u64>) -> Option<NonNull<N>> {
        // SAFETY: The member is in the tree by the safety requirements.
        let next = unsafe { bindings::rb_next(Self::node_of(member)) };
        self.before_end(next, range)
    }

    /// Returns the member of a node of this tree, unless the node is null or the member is behind
    /// the end of `range`.
    #[inline]
    fn before_end(&self, rb: *mut bindings::rb_node, range: &Range<u64>) -> Option<NonNull<N>> {
        if rb.is_null() {
            return None;
        }
        // SAFETY: All nodes of the tree are those of valid members by the type invariants.
        let address = unsafe { Self::address(rb) };
        if address < range.end {
            NonNull::new(Self::member_of(rb))
        } else {
            None
        }
    }
}

/// Members that were taken out of a tree at once, in the order of their addresses.
///
/// # Invariants
///
/// `rest` is the root of a binary tree of the nodes of valid members, or null.
pub(super) struct Taken<N> {
    rest: *mut bindings::rb_node,
    _members: PhantomData<*mut N>,
}

impl<N: Indexed> Iterator for Taken<N> {
    type Item = NonNull<N>;

    #[inline(always)]
    fn next(&mut self) -> Option<NonNull<N>> {
        let mut first = self.rest;
        if first.is_null() {
            return None;
        }
        // SAFETY: All nodes below are those of valid members by the type invariants.
        unsafe {
            // Rotate, until there is none to the left. Each node gets above just once.
            loop {
                let left = (*first).rb_left;
                if left.is_null() {
                    break;
                }
                (*first).rb_left = (*left).rb_right;
                (*left).rb_right = first;
                first = left;
            }
            // INVARIANT: The first one is left out.
            self.rest = (*first).rb_right;
        }
        NonNull::new(Tree::<N>::member_of(first))
    }
}

#[kunit_tests(userfaultfd_index)]
mod tests {
    use super::*;

    struct Member {
        address: u64,
        rb: bindings::rb_node,
        id: usize,
    }

    // SAFETY: It is the offset of such a field.
    unsafe impl Indexed for Member {
        const RB: usize = core::mem::offset_of!(Self, rb);

        unsafe fn address(this: *const Self) -> u64 {
            // SAFETY: `this` is valid by the safety requirements.
            unsafe { (*this).address }
        }
    }

    fn members<const N: usize>(addresses: [u64; N]) -> [Member; N] {
        let mut id = 0;
        addresses.map(|address| {
            id += 1;
            Member {
                address,
                rb: Default::default(),
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

    #[test]
    fn tree_is_taken_at_once() {
        let mut members = members([0x3000, 0x1000, 0x2000, 0x1000, 0x5000, 0x4000, 0x6000]);
        let first = members.as_mut_ptr();
        let mut tree = Tree::new();
        for index in 0..7 {
            // SAFETY: The members stay where they are.
            unsafe { tree.insert(first.add(index)) };
        }
        assert!(tree.is_within(&(0x1000..0x6001)));
        assert!(!tree.is_within(&(0x1001..0x6001)));
        assert!(!tree.is_within(&(0x1000..0x6000)));

        // SAFETY: The members stay where they are, and in no tree.
        let mut taken = unsafe { tree.take_all() };
        assert!(tree.is_within(&(0..0)));
        for id in [2, 4, 3, 1, 6, 5, 7] {
            // SAFETY: The member is valid.
            let found = taken.next().map(|member| unsafe { member.as_ref() }.id);
            assert_eq!(found, Some(id));
        }
        assert!(taken.next().is_none());
    }

    #[test]
    fn shards_cover_ranges() {
        const REGION: u64 = 1 << REGION_SHIFT;
        let one = |address| 1u32 << shard_of(address);

        let two = |first, last| Some((shard_of(first), shard_of(last)));
        assert_eq!(shards_of_short(&(0..1)), two(0, 0));
        assert_eq!(shards_of_short(&(REGION..2 * REGION)), two(REGION, REGION));
        assert_eq!(shards_of_short(&(REGION - 1..REGION + 1)), two(0, REGION));
        assert_eq!(shards_of_short(&(REGION - 1..2 * REGION + 1)), None);
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
