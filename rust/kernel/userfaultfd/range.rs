// SPDX-License-Identifier: GPL-2.0

//! Ranges of pages that user space asks for.

use super::{abi::UffdioRange, context::Context};
use crate::{page::PAGE_MASK, prelude::*};
use core::ops::Range;

/// A range of whole pages in the user space of a context.
///
/// # Invariants
///
/// The first address and the length are multiples of the page size. The length is not zero, and the
/// range ends at the last address of user space at most, so that it does not wrap around.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: usize,
    len: usize,
}

impl PageRange {
    /// Checks a range of addresses, in bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not a range of whole pages in user space.
    #[doc(alias = "validate_range")]
    #[inline(always)]
    pub fn new(context: &Context, range: UffdioRange) -> Result<Self> {
        Self::within(context.task_size(), range)
    }

    /// Checks a range of addresses that ends at `max` at the latest, in bytes.
    #[inline(always)]
    fn within(max: u64, UffdioRange { start, len }: UffdioRange) -> Result<Self> {
        if start & !(PAGE_MASK as u64) != 0 {
            return Err(EINVAL);
        }
        check_unaligned(max, start, len)?;
        // INVARIANT: This was checked.
        // CAST: Addresses in user space fit.
        Ok(Self {
            start: start as usize,
            len: len as usize,
        })
    }

    /// Returns the first address.
    #[inline]
    pub fn start(self) -> usize {
        self.start
    }

    /// Returns the address behind the last one.
    #[inline]
    pub fn end(self) -> usize {
        // By the type invariants this does not overflow.
        self.start.wrapping_add(self.len)
    }

    /// Returns the length, in bytes.
    #[inline]
    pub fn bytes(self) -> usize {
        self.len
    }

    /// Returns the addresses.
    #[inline]
    pub fn addresses(self) -> Range<u64> {
        self.start as u64..self.end() as u64
    }
}

/// Memory from which whole pages are copied. It need not begin with a page.
///
/// # Invariants
///
/// The length is a multiple of the page size and not zero. The memory ends at the last address of
/// user space at most, so that it does not wrap around.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct CopySource {
    start: usize,
    len: usize,
}

impl CopySource {
    /// Checks an address and a length, in bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the length is not one of whole pages, or if the memory is not in user space.
    #[doc(alias = "validate_unaligned_range")]
    #[inline(always)]
    pub fn new(context: &Context, start: u64, len: u64) -> Result<Self> {
        check_unaligned(context.task_size(), start, len)?;
        // INVARIANT: This was checked.
        // CAST: Addresses in user space fit.
        Ok(Self {
            start: start as usize,
            len: len as usize,
        })
    }

    /// Returns the first address.
    #[inline]
    pub fn start(self) -> usize {
        self.start
    }

    /// Returns the length, in bytes.
    #[inline]
    pub fn bytes(self) -> usize {
        self.len
    }
}

#[inline(always)]
fn check_unaligned(max: u64, start: u64, len: u64) -> Result {
    if len == 0 || len & !(PAGE_MASK as u64) != 0 || start >= max {
        return Err(EINVAL);
    }
    // The sum cannot overflow, because it is at most the bound.
    if len > max - start {
        return Err(EINVAL);
    }
    Ok(())
}

#[kunit_tests(userfaultfd_range)]
mod tests {
    use super::*;
    use crate::page::PAGE_SIZE;

    const PAGE: u64 = PAGE_SIZE as u64;
    const MAX: u64 = 1024 * PAGE;

    fn check(start: u64, len: u64) -> Result {
        let range = PageRange::within(MAX, UffdioRange { start, len })?;
        assert_eq!(range.addresses(), start..start + len);
        assert_eq!(range.bytes() as u64, len);
        Ok(())
    }

    #[test]
    fn whole_pages() {
        assert_eq!(check(16 * PAGE, PAGE), Ok(()));
        assert_eq!(check(16 * PAGE + 1, PAGE), Err(EINVAL));
        assert_eq!(check(16 * PAGE, PAGE - 1), Err(EINVAL));
        assert_eq!(check(16 * PAGE, PAGE + 1), Err(EINVAL));
        assert_eq!(check(16 * PAGE, 0), Err(EINVAL));
        assert_eq!(check_unaligned(MAX, 16 * PAGE + 1, PAGE), Ok(()));
    }

    #[test]
    fn user_space() {
        assert_eq!(check(0, PAGE), Ok(()));
        assert_eq!(check(0, 1024 * PAGE), Ok(()));
        assert_eq!(check(0, 1025 * PAGE), Err(EINVAL));
        assert_eq!(check(1023 * PAGE, PAGE), Ok(()));
        assert_eq!(check(1023 * PAGE, 2 * PAGE), Err(EINVAL));
        assert_eq!(check(1024 * PAGE, PAGE), Err(EINVAL));
        assert_eq!(check(16 * PAGE, 1008 * PAGE), Ok(()));
        assert_eq!(check(16 * PAGE, 1009 * PAGE), Err(EINVAL));
    }

    #[test]
    fn no_overflow() {
        assert_eq!(check(16 * PAGE, 0u64.wrapping_sub(PAGE)), Err(EINVAL));
        assert_eq!(check(0u64.wrapping_sub(PAGE), PAGE), Err(EINVAL));
        assert_eq!(check_unaligned(MAX, u64::MAX, PAGE), Err(EINVAL));
    }
}
