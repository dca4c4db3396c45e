// SPDX-License-Identifier: GPL-2.0

//! Pages of files, and how they are mapped.
//!
//! [`ShmemVma::map_cached`] maps what the page cache has, as long as that can be done without
//! sleeping. Otherwise [`ShmemVma::lock_folio`] gets a [`CachedFolio`], which [`CachedFolio::map`]
//! maps.
//!
//! The lock of a folio is taken before that of a page table, or tried with the page table locked.
//! While a folio is locked, it stays in the file, and is not split.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/rust_filemap.h`](srctree/include/linux/rust_filemap.h)

use super::{locked::ShmemVma, pgtable::NoVacancy};
use crate::{
    bindings,
    error::{
        code::{EFAULT, EINVAL},
        to_result, Result,
    },
    task::Sleepable,
};
use core::{
    mem::ManuallyDrop,
    ops::Range,
    ptr::{null_mut, NonNull},
};

/// A folio that a file of shmem has, locked for as long as it is not mapped.
///
/// # Invariants
///
/// The folio is locked and has a reference, and it has the page of the file at `address` of the
/// VMA.
pub struct CachedFolio<'v, 's, S> {
    vma: ShmemVma<'v, S>,
    folio: NonNull<bindings::folio>,
    address: usize,
    // Only one folio is locked at a time, and no fault is taken meanwhile.
    _sleep: &'s mut Sleepable,
}

impl<'v, S> ShmemVma<'v, S> {
    /// Locks the folio that has the page of the file at an address, in bytes. Reads it if it was
    /// swapped out.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the VMA does not have the page, or if the file ends before; `EFAULT` if the file
    /// does not have it; `EFBIG`; if it was swapped out, `ENOMEM` or `EIO`.
    #[doc(alias = "shmem_get_folio")]
    pub fn lock_folio<'s>(
        self,
        address: usize,
        sleep: &'s mut Sleepable,
    ) -> Result<CachedFolio<'v, 's, S>> {
        let vma = self.pte_vma().vma();
        if address < vma.start() || address >= vma.end() {
            return Err(EINVAL);
        }
        let mut folio = null_mut();
        // SAFETY: The VMA is locked and of shmem. The caller may sleep.
        to_result(unsafe { bindings::rust_shmem_lock_folio(vma.as_ptr(), address, &mut folio) })?;
        // INVARIANT: It was locked, and has a reference.
        Ok(CachedFolio {
            vma: self,
            folio: NonNull::new(folio).ok_or(EFAULT)?,
            address,
            _sleep: sleep,
        })
    }
}

impl<S> Drop for CachedFolio<'_, '_, S> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is locked and has a reference.
        unsafe { bindings::rust_folio_unlock_put(self.folio.as_ptr()) };
    }
}

impl<S> ShmemVma<'_, S> {
    /// Maps pages that the file has, beginning with the first of a range, over markers if need be
    /// (but guard regions), and write-protected by userfaultfd if `uffd_wp`. Makes the PTE table,
    /// and the tables above it, unless they are there. Returns how many were mapped.
    ///
    /// This does not wait. It may return zero, if the file does not have the page, if that is
    /// locked or swapped out, or if something is in the way: [`CachedFolio::map`] says which.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::Taken`] only if there is a huge page; not [`NoVacancy::BeyondFile`],
    /// [`NoVacancy::NoTable`] nor [`NoVacancy::HwPoison`].
    #[inline(always)]
    pub fn map_cached(
        self,
        range: Range<usize>,
        uffd_wp: bool,
        _sleep: &mut Sleepable,
    ) -> Result<usize, NoVacancy> {
        self.pte_vma().check(&range)?;
        let vma = self.pte_vma().vma().as_ptr();
        let Range { start, end } = range;
        let mut count = 0;
        // SAFETY: As for `alloc_pte_table`. The VMA has the whole range and a file. The caller
        // holds no page table lock.
        let result =
            unsafe { bindings::rust_map_cached_folios(vma, start, end, uffd_wp, &mut count) };
        NoVacancy::check(result)?;
        Ok(count as usize)
    }
}

impl<S> CachedFolio<'_, '_, S> {
    /// Maps pages from that which the folio was locked for, up to `end` at most, an address in
    /// bytes, over markers if need be (but guard regions), and write-protected by userfaultfd if
    /// `uffd_wp`. Returns how many were mapped, which is one at least.
    ///
    /// # Errors
    ///
    /// Any of [`NoVacancy`], but [`NoVacancy::NoMemory`] and [`NoVacancy::Bad`]: it makes no page
    /// tables.
    #[inline]
    pub fn map(self, end: usize, uffd_wp: bool) -> Result<usize, NoVacancy> {
        let (vma, start) = (self.vma.pte_vma(), self.address);
        vma.check(&(start..end))?;
        let folio = self.folio.as_ptr();
        let mut count = 0;
        // SAFETY: The VMA is locked, has the whole range, and a file. By the type invariants the
        // folio is locked, and has the page of the address. The caller holds no page table lock,
        // because it would have borrowed the token.
        let result = unsafe {
            bindings::rust_map_locked_folio(
                vma.vma().as_ptr(),
                start,
                end,
                uffd_wp,
                folio,
                &mut count,
            )
        };
        NoVacancy::check(result)?;
        // The page table has the reference.
        let _this = ManuallyDrop::new(self);
        // SAFETY: By the type invariants it is locked. It stays while it is, because the page cache
        // has a reference, and to take a folio out of that, a thread has to lock it.
        unsafe { bindings::folio_unlock(folio) };
        Ok(count as usize)
    }
}
