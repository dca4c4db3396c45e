// SPDX-License-Identifier: GPL-2.0

//! Write protection.

use kernel::{
    prelude::*,
    userfaultfd::{pages::Pages, range::PageRange},
};

/// Write-protects pages if `enable`, otherwise lifts the protection. The range may have holes.
///
/// # Errors
///
/// `EAGAIN` if the layout of the address space is changing; `ENOENT` if there is no VMA in the
/// range, or one that is not registered for that; `EINVAL` if there is one of hugetlb, and the
/// range is not one of its pages; `ENOMEM`. What precedes such a VMA was done.
#[doc(alias = "mwriteprotect_range")]
#[inline(always)]
pub(crate) fn write_protect(pages: &mut Pages<'_>, range: PageRange, enable: bool) -> Result {
    let mut vmas = pages.lock_range(range)?;
    loop {
        vmas.protect(enable)?;
        vmas.advance();
        if !vmas.has_vma() {
            return Ok(());
        }
    }
}
