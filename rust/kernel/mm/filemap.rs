// SPDX-License-Identifier: GPL-2.0

//! Pages of files, and how they are mapped.
//!
//! [`ShmemVma::map_cached`] maps what the page cache has, as long as that can be done without
//! sleeping. Otherwise [`ShmemVma::lock_folio`] gets a [`CachedFolio`], which [`CachedFolio::map`]
//! maps. A [`NewPage`] is added to a file, and is an
//! [`AddedFolio`] until it is mapped.
//!
//! The lock of a folio is taken before that of a page table, or tried with the page table locked.
//! While a folio is locked, it stays in the file, and is not split.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/rust_filemap.h`](srctree/include/linux/rust_filemap.h)

use super::{
    folio::{FilledFolio, NewFolio},
    locked::{Shared, ShmemVma},
    pgtable::NoVacancy,
};
use crate::{
    bindings,
    error::{
        code::{EEXIST, EFAULT, EINVAL},
        to_result, Error, Result,
    },
    ffi::c_int,
    page::PAGE_SIZE,
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

/// A page that is to be added to a file: a block of the file system, and the place in the page
/// tables.
///
/// # Invariants
///
/// The VMA has the page at `address`, and `pmd` is the entry of the PMD table for it. A block was
/// taken for the file of the VMA, and is given back by this.
pub struct NewPage<'v> {
    vma: ShmemVma<'v, Shared>,
    pmd: *mut bindings::pmd_t,
    address: usize,
}

impl<'v> ShmemVma<'v, Shared> {
    /// Makes a PTE table for the page at an address, in bytes, and the tables above it, unless they
    /// are there. Takes a block for the page, and allocates a folio, by the memory policy of the
    /// file.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::NoMemory`], also if there is no block; as for
    /// [`alloc_pte_table`](super::locked::PteVma::alloc_pte_table).
    #[doc(alias = "shmem_inode_acct_blocks")]
    #[doc(alias = "shmem_alloc_folio")]
    #[inline(always)]
    pub fn new_page(
        self,
        address: usize,
        sleep: &mut Sleepable,
    ) -> Result<(NewPage<'v>, NewFolio<Shared>), NoVacancy> {
        let mut folio = null_mut();
        // SAFETY: The folio may be written to.
        let page = unsafe { self.take_block(address, &mut folio, sleep) }?;
        let folio = NonNull::new(folio).ok_or(NoVacancy::NoMemory)?;
        // SAFETY: It is new, and of one page.
        Ok((page, unsafe { NewFolio::from_raw(folio) }))
    }

    /// As [`ShmemVma::new_page`], for a folio that was filled before.
    #[inline]
    pub fn new_page_for_filled(
        self,
        address: usize,
        sleep: &mut Sleepable,
    ) -> Result<NewPage<'v>, NoVacancy> {
        // SAFETY: There is no folio.
        unsafe { self.take_block(address, null_mut(), sleep) }
    }

    /// # Safety
    ///
    /// `folio` is null or may be written to.
    #[inline(always)]
    unsafe fn take_block(
        self,
        address: usize,
        folio: *mut *mut bindings::folio,
        _sleep: &mut Sleepable,
    ) -> Result<NewPage<'v>, NoVacancy> {
        self.pte_vma()
            .check(&(address..address.wrapping_add(PAGE_SIZE)))?;
        let vma = self.pte_vma().vma().as_ptr();
        let mut pmd = null_mut();
        // SAFETY: As for `alloc_pte_table`. The VMA is of shmem, and the folio by the safety
        // requirements.
        NoVacancy::check(unsafe { bindings::rust_shmem_new_page(vma, address, &mut pmd, folio) })?;
        // INVARIANT: The function has taken the block, and set the entry.
        Ok(NewPage {
            vma: self,
            pmd,
            address,
        })
    }
}

impl Drop for NewPage<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it was taken for this file.
        unsafe { bindings::rust_shmem_put_block(self.vma()) };
    }
}

impl<'v> NewPage<'v> {
    #[inline(always)]
    fn vma(&self) -> *mut bindings::vm_area_struct {
        self.vma.pte_vma().vma().as_ptr()
    }

    /// Adds the page to the file, and locks it.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::BeyondFile`]; [`NoVacancy::Taken`] if the file has the page;
    /// [`NoVacancy::NoMemory`], also if the charge is refused.
    #[doc(alias = "shmem_add_to_page_cache")]
    #[inline(always)]
    pub fn add<'s>(
        self,
        folio: FilledFolio<Shared>,
        sleep: &'s mut Sleepable,
    ) -> Result<AddedFolio<'v, 's>, NoVacancy> {
        let raw = folio.as_raw();
        // SAFETY: The VMA is locked, of shmem, and has the page. No other thread knows the folio.
        // The caller may sleep.
        let err = unsafe { bindings::rust_shmem_add_folio(self.vma(), self.address, raw) };
        if err != 0 {
            return Err(Self::why(err));
        }
        // INVARIANT: It was added and locked.
        Ok(AddedFolio {
            folio: folio.into_raw(),
            page: self,
            _sleep: sleep,
        })
    }

    /// Returns why a page was not added.
    #[cold]
    fn why(err: c_int) -> NoVacancy {
        match Error::from_errno(err) {
            EFAULT => NoVacancy::BeyondFile,
            EEXIST => NoVacancy::Taken,
            _ => NoVacancy::NoMemory,
        }
    }
}

/// A page that was added to a file, and is taken out of it again unless it is mapped.
///
/// # Invariants
///
/// The folio is locked, has a reference, and is the page of the file. It is not on the LRU lists.
pub struct AddedFolio<'v, 's> {
    folio: NonNull<bindings::folio>,
    page: NewPage<'v>,
    // As for `CachedFolio`.
    _sleep: &'s mut Sleepable,
}

impl Drop for AddedFolio<'_, '_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it was added, is locked, and has a reference.
        unsafe { bindings::rust_shmem_remove_folio(self.folio.as_ptr()) };
    }
}

impl AddedFolio<'_, '_> {
    /// Maps the page, over a marker if need be (but a guard region), and write-protected by
    /// userfaultfd if `uffd_wp`.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::Taken`], [`NoVacancy::BeyondFile`] and [`NoVacancy::NoTable`].
    #[inline(always)]
    pub fn map(self, uffd_wp: bool) -> Result<(), NoVacancy> {
        let (vma, pmd, address) = (self.page.vma(), self.page.pmd, self.page.address);
        // SAFETY: The VMA is locked, has the page, and a file. By the type invariants this is the
        // entry of the PMD table, and the folio the page. The caller holds no page table lock,
        // because it would have borrowed the token.
        let result = unsafe {
            bindings::rust_shmem_map_added(vma, pmd, address, self.folio.as_ptr(), uffd_wp)
        };
        NoVacancy::check(result)?;
        // The page table has the reference, and the file the block.
        let _this = ManuallyDrop::new(self);
        Ok(())
    }
}
