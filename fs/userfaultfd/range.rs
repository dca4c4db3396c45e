// SPDX-License-Identifier: GPL-2.0

//! Checks of ranges of addresses.

use kernel::{
    page::PAGE_MASK,
    prelude::*,
    userfaultfd::{abi::UffdioRange, Context},
};

/// Checks that a range is of whole pages and in user space, and returns its first address and the
/// one after its last.
///
/// # Errors
///
/// `EINVAL`
#[doc(alias = "validate_range")]
pub(crate) fn check(context: &Context, range: UffdioRange) -> Result<(usize, usize)> {
    Bounds::of(context).check(range.start, range.len)?;
    // CAST: Addresses in user space fit.
    Ok((range.start as usize, (range.start + range.len) as usize))
}

/// The addresses that a range may have, in bytes.
pub(crate) struct Bounds {
    /// The first address after user space.
    pub(crate) max: u64,
}

impl Bounds {
    /// Returns the bounds of the address space of a context.
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            max: context.task_size(),
        }
    }

    /// Checks a range whose length is that of whole pages, and whose start is any address.
    ///
    /// # Errors
    ///
    /// `EINVAL`
    #[doc(alias = "validate_unaligned_range")]
    pub(crate) fn check_unaligned(&self, start: u64, len: u64) -> Result {
        if len == 0 || len & !(PAGE_MASK as u64) != 0 || start >= self.max {
            return Err(EINVAL);
        }
        // The sum cannot overflow, because it is at most the bound.
        if len > self.max - start {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Checks a range of whole pages.
    ///
    /// # Errors
    ///
    /// `EINVAL`
    pub(crate) fn check(&self, start: u64, len: u64) -> Result {
        if start & !(PAGE_MASK as u64) != 0 {
            return Err(EINVAL);
        }
        self.check_unaligned(start, len)
    }
}

#[kunit_tests(userfaultfd_range)]
mod tests {
    use super::*;
    use kernel::page::PAGE_SIZE;

    const PAGE: u64 = PAGE_SIZE as u64;
    const BOUNDS: Bounds = Bounds { max: 1024 * PAGE };

    #[test]
    fn whole_pages() {
        assert_eq!(BOUNDS.check(16 * PAGE, PAGE), Ok(()));
        assert_eq!(BOUNDS.check(16 * PAGE + 1, PAGE), Err(EINVAL));
        assert_eq!(BOUNDS.check(16 * PAGE, PAGE - 1), Err(EINVAL));
        assert_eq!(BOUNDS.check(16 * PAGE, PAGE + 1), Err(EINVAL));
        assert_eq!(BOUNDS.check(16 * PAGE, 0), Err(EINVAL));
        assert_eq!(BOUNDS.check_unaligned(16 * PAGE + 1, PAGE), Ok(()));
    }

    #[test]
    fn user_space() {
        assert_eq!(BOUNDS.check(0, PAGE), Ok(()));
        assert_eq!(BOUNDS.check(0, 1024 * PAGE), Ok(()));
        assert_eq!(BOUNDS.check(0, 1025 * PAGE), Err(EINVAL));
        assert_eq!(BOUNDS.check(1023 * PAGE, PAGE), Ok(()));
        assert_eq!(BOUNDS.check(1023 * PAGE, 2 * PAGE), Err(EINVAL));
        assert_eq!(BOUNDS.check(1024 * PAGE, PAGE), Err(EINVAL));
        assert_eq!(BOUNDS.check(16 * PAGE, 1008 * PAGE), Ok(()));
        assert_eq!(BOUNDS.check(16 * PAGE, 1009 * PAGE), Err(EINVAL));
    }

    #[test]
    fn no_overflow() {
        assert_eq!(
            BOUNDS.check(16 * PAGE, 0u64.wrapping_sub(PAGE)),
            Err(EINVAL)
        );
        assert_eq!(BOUNDS.check(0u64.wrapping_sub(PAGE), PAGE), Err(EINVAL));
        assert_eq!(BOUNDS.check_unaligned(u64::MAX, PAGE), Err(EINVAL));
    }
}
