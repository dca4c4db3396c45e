// SPDX-License-Identifier: GPL-2.0

//! Negotiation of features.

use kernel::{prelude::*, uapi};

/// Returns the features that a context gets if it asks for `wanted`.
///
/// # Errors
///
/// `EINVAL` if one of them, or one that it implies, is not `offered`.
pub(crate) fn negotiate(wanted: u64, offered: u64) -> Result<u64> {
    let mut features = wanted;
    if features & u64::from(uapi::UFFD_FEATURE_WP_ASYNC) != 0 {
        // Asynchronous write protection tracks missing pages as well.
        features |= u64::from(uapi::UFFD_FEATURE_WP_UNPOPULATED);
    }
    if features & !offered != 0 {
        return Err(EINVAL);
    }
    Ok(features)
}

#[kunit_tests(userfaultfd_features)]
mod tests {
    use super::*;

    #[test]
    fn features_as_asked() {
        assert_eq!(negotiate(0, 0xff), Ok(0));
        assert_eq!(negotiate(0x81, 0xff), Ok(0x81));
    }

    #[test]
    fn features_not_offered() {
        assert_eq!(negotiate(0x100, 0xff), Err(EINVAL));
        assert_eq!(negotiate(1 << 63, 0xff), Err(EINVAL));
    }

    #[test]
    fn asynchronous_implies_unpopulated() {
        let both = u64::from(uapi::UFFD_FEATURE_WP_ASYNC | uapi::UFFD_FEATURE_WP_UNPOPULATED);
        let asynchronous = u64::from(uapi::UFFD_FEATURE_WP_ASYNC);
        assert_eq!(negotiate(asynchronous, both), Ok(both));
        assert_eq!(negotiate(asynchronous, asynchronous), Err(EINVAL));
    }
}
