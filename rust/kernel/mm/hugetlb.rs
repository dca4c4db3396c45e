// SPDX-License-Identifier: GPL-2.0

//! Huge pages of hugetlb, and how they are mapped.
//!
//! A thread that maps a [`HugetlbPage`] locks, in this order,
//!
//! 1. its [`FaultMutex`], which faults take, and threads that truncate the file or punch a hole: no
//!    other thread adds the page to the file meanwhile, or takes it out;
//! 2. the VMA, by its lock of hugetlb: a [`HugePte`]. Processes that map a file share page tables,
//!    and stop sharing one with this lock held for writing: then they do not have the entry any
//!    more;
//! 3. the folio, if the file has it: a [`ReadyFolio`];
//! 4. the page table: a [`VacantHugePte`], an entry with nothing in it.
//!
//! Each borrows the one before, and so is dropped first. The first borrows the token for sleeping.
//! A guard that is forgotten (`mem::forget()`) stays locked, and gives the token back: threads that
//! need the lock wait for ever. No memory is freed early.
//!
//! The mutex does not keep the size of the file, which is looked at once more before a page is
//! added: a thread that truncates the file sets it first. It may go on then before the page is in
//! the file, if it cannot lock the VMA at once; in C it is the same.
//!
//! A new folio takes a reservation: the process, or the file, was promised that there is a folio
//! for this page. It is a [`ReservedFolio`], and a [`FilledHugeFolio`] when its contents were set.
//! One that is private can be mapped; one that is shared is a [`SharedFolio`], to be added to the
//! file before. Dropped before that, it gives the reservation back. This may sleep, so a
//! [`VacantHugePte`] has the folio, and is unlocked before it is dropped.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C headers: [`include/linux/hugetlb.h`](srctree/include/linux/hugetlb.h),
//! [`include/linux/rust_hugetlb.h`](srctree/include/linux/rust_hugetlb.h)

use super::{
    folio::{FilledFolio, NewFolio},
    locked::{Huge, HugetlbVma},
    pgtable::NoVacancy,
};
use crate::{
    bindings,
    error::{code::EINVAL, to_result, Result},
    ffi::c_uint,
    page::PAGE_SHIFT,
    task::Sleepable,
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    mem::ManuallyDrop,
    ptr::{null_mut, NonNull},
};

/// The index of a huge page in a file, in huge pages of that file.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct HugeIndex(usize);

/// A page of a VMA of hugetlb.
///
/// # Invariants
///
/// The VMA has the page, and `address` is that of its first byte.
#[derive(Copy, Clone)]
pub struct HugetlbPage<'v> {
    vma: HugetlbVma<'v>,
    address: usize,
}

impl<'v> HugetlbVma<'v> {
    /// Returns the page at an address, which is that of its first byte.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the VMA has no such page.
    #[inline(always)]
    pub fn page(self, address: usize) -> Result<HugetlbPage<'v>> {
        let vma = self.vma();
        let is_unaligned = address & (self.page_size() - 1) != 0;
        if is_unaligned || address < vma.start() || address >= vma.end() {
            return Err(EINVAL);
        }
        // INVARIANT: This was checked. The VMA begins and ends with a page.
        Ok(HugetlbPage { vma: self, address })
    }
}

impl<'v> HugetlbPage<'v> {
    /// Returns the index in the file.
    #[doc(alias = "vma_hugecache_offset")]
    #[inline(always)]
    pub fn index(self) -> HugeIndex {
        // SAFETY: The VMA is locked, so that this does not change.
        let first = unsafe { (*self.vma.vma().as_ptr()).vm_pgoff };
        // By the invariants neither wraps around.
        let offset = self.address.wrapping_sub(self.vma.vma().start());
        let index = first.wrapping_add(offset >> PAGE_SHIFT);
        HugeIndex(index.wrapping_shr(self.vma.page_order()))
    }

    /// Returns the VMA.
    #[inline(always)]
    pub fn vma(self) -> HugetlbVma<'v> {
        self.vma
    }

    #[inline(always)]
    fn raw_vma(self) -> *mut bindings::vm_area_struct {
        self.vma.vma().as_ptr()
    }

    /// Locks the mutex that a fault takes in this page. Others may share it.
    #[doc(alias = "hugetlb_fault_mutex_hash")]
    #[inline(always)]
    pub fn lock_faults<'s>(self, sleep: &'s mut Sleepable) -> FaultMutex<'v, 's> {
        let HugeIndex(index) = self.index();
        // SAFETY: The VMA is locked, and one of hugetlb. The caller may sleep. It holds no other of
        // these mutexes, because that borrows the token.
        let mutex = unsafe { bindings::rust_hugetlb_lock_faults(self.raw_vma(), index) };
        // INVARIANT: It was locked.
        FaultMutex {
            page: self,
            mutex,
            _sleep: sleep,
        }
    }

    /// Returns true if the file has the page. If the [`FaultMutex`] is held, it does not get it
    /// meanwhile.
    #[doc(alias = "hugetlbfs_pagecache_present")]
    #[inline(always)]
    pub fn is_cached(self) -> bool {
        // SAFETY: The VMA is locked, one of hugetlb, and has the page.
        unsafe { bindings::rust_hugetlb_is_cached(self.raw_vma(), self.address) }
    }
}

/// The mutex for faults in a page. It keeps the token, so that there is one at a time.
///
/// # Invariants
///
/// The thread holds `mutex`, which is that of the page.
pub struct FaultMutex<'v, 's> {
    page: HugetlbPage<'v>,
    mutex: *mut bindings::mutex,
    _sleep: &'s mut Sleepable,
}

impl FaultMutex<'_, '_> {
    /// Locks the VMA against changes of which page tables are shared, and makes one for the page
    /// and those above it, unless they are there. Returns `None` if there is no memory for them.
    #[doc(alias = "hugetlb_vma_lock_read")]
    #[doc(alias = "huge_pte_alloc")]
    #[inline(always)]
    pub fn lock_pte(&mut self) -> Option<HugePte<'_>> {
        let page = &self.page;
        let (vma, size) = (page.raw_vma(), page.vma.page_size());
        // SAFETY: The VMA is locked, one of hugetlb, and has the page, which is of this size. The
        // thread may sleep. It does not hold the lock, because that would borrow the mutex.
        let pte = unsafe { bindings::rust_hugetlb_lock_vma(vma, page.address, size) };
        // INVARIANT: The lock was taken, and this is the entry.
        let pte = NonNull::new(pte)?;
        Some(HugePte(Place { page, pte }, PhantomData))
    }
}

impl Drop for FaultMutex<'_, '_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread holds it.
        unsafe { bindings::mutex_unlock(self.mutex) };
    }
}

/// The place in the page tables of a page.
///
/// # Invariants
///
/// `pte` is the entry of the page. The thread holds its [`FaultMutex`], and the lock of a
/// [`HugePte`] for `'l`, so that the pointer is valid.
struct Place<'l> {
    page: &'l HugetlbPage<'l>,
    pte: NonNull<bindings::pte_t>,
}

/// The entry of a page in a page table, and the lock of its VMA, held for reading: as long as it
/// is, no page table is unshared. The entry may change, unless that of a [`VacantHugePte`].
///
/// # Invariants
///
/// The thread holds the lock.
pub struct HugePte<'f>(Place<'f>, PhantomData<&'f mut Sleepable>);

impl Drop for HugePte<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread holds it.
        unsafe { bindings::rust_hugetlb_unlock_vma(self.0.page.raw_vma()) };
    }
}

impl<'f> HugePte<'f> {
    /// Returns the page.
    #[inline(always)]
    pub fn page(&self) -> HugetlbPage<'f> {
        *self.0.page
    }

    /// Returns true if there was nothing or a marker in the entry just now.
    #[doc(alias = "huge_pte_none_mostly")]
    #[inline(always)]
    pub fn is_vacant(&self) -> bool {
        let Place { page, pte } = &self.0;
        // SAFETY: By the type invariants it is the entry of the page.
        unsafe { bindings::rust_huge_pte_is_vacant(page.raw_vma(), page.address, pte.as_ptr()) }
    }

    /// Returns true if there is an entry for a page of the size of a PMD entry at the address, as
    /// `hugetlb_walk()` finds it. For pages of other sizes that depends on the architecture.
    #[doc(alias = "hugetlb_walk")]
    pub fn has_pmd_table(&self) -> bool {
        let page = self.0.page;
        // SAFETY: By the type invariants the locks are held that keep page tables.
        unsafe { bindings::rust_hugetlb_has_pmd_table(page.raw_vma(), page.address) }
    }

    /// Locks the page table, if there is nothing in the entry, no marker either.
    #[doc(alias = "huge_pte_lock")]
    #[inline(always)]
    pub fn lock_none(&mut self) -> Option<VacantHugePte<'_, ()>> {
        let Place { page, pte } = &self.0;
        let (vma, address) = (page.raw_vma(), page.address);
        // SAFETY: By the type invariants it is the entry of the page. The thread holds no page
        // table lock, because that would borrow this.
        let ptl = unsafe { bindings::rust_huge_pte_lock_none(vma, address, pte.as_ptr()) };
        if ptl.is_null() {
            return None;
        }
        // INVARIANT: It was locked, and seen that there is nothing in the entry.
        Some(VacantHugePte {
            place: &self.0,
            ptl,
            content: (),
        })
    }

    /// Allocates a folio for the page, by the memory policy there, with the reservation for it if
    /// there is one. Returns `None` if there is none.
    #[doc(alias = "alloc_hugetlb_folio")]
    #[inline(always)]
    pub fn alloc_folio(&mut self) -> Option<ReservedFolio<'_>> {
        let page = self.0.page;
        // SAFETY: The VMA is locked, one of hugetlb, and has the page, whose mutex for faults is
        // held. The thread may sleep.
        let folio = unsafe { bindings::rust_hugetlb_alloc_reserved(page.raw_vma(), page.address) };
        // INVARIANT: It is new, and has the reservation.
        Some(ReservedFolio(Owned {
            place: &self.0,
            folio: NonNull::new(folio)?,
            flags: bindings::RUST_HUGE_NEW,
        }))
    }

    /// Locks the folio that is the page of the file. Returns `None` if the file does not have it.
    #[doc(alias = "filemap_lock_hugetlb_folio")]
    #[inline(always)]
    pub fn lock_folio(&mut self) -> Option<ReadyFolio<'_>> {
        let (vma, HugeIndex(index)) = (self.0.page.raw_vma(), self.0.page.index());
        // SAFETY: The VMA is locked, and one of hugetlb. The thread may sleep.
        let folio = unsafe { bindings::rust_hugetlb_lock_folio(vma, index) };
        // INVARIANT: It was locked, and has a reference.
        Some(ReadyFolio(Owned {
            place: &self.0,
            folio: NonNull::new(folio)?,
            flags: bindings::RUST_HUGE_CACHED,
        }))
    }
}

/// A folio for a page. There is one at a time, because it borrows the [`HugePte`]: it is locked, or
/// the thread may sleep to give its reservation back.
///
/// # Invariants
///
/// The thread has a reference to the folio. If the flags have `RUST_HUGE_NEW`, it has allocated it
/// for the page. If they have `RUST_HUGE_CACHED`, the folio is the page of the file, and locked.
/// Otherwise no other thread knows it.
struct Owned<'l> {
    place: &'l Place<'l>,
    folio: NonNull<bindings::folio>,
    flags: c_uint,
}

impl Drop for Owned<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let (page, folio) = (self.place.page, self.folio.as_ptr());
        // SAFETY: By the type invariants the thread has a reference. If the folio is that of the
        // file, it is locked; otherwise this is the only reference, and it was allocated for the
        // page. The thread may sleep.
        unsafe {
            bindings::rust_hugetlb_put_folio(page.raw_vma(), page.address, folio, self.flags);
        }
    }
}

/// A new folio for a page, with the reservation that there was. Its contents were not set. Dropped,
/// it gives the reservation back.
///
/// # Invariants
///
/// No other thread knows it.
pub struct ReservedFolio<'l>(Owned<'l>);

impl<'l> ReservedFolio<'l> {
    /// Copies a huge page from an address in user space, in bytes. Takes no page faults. Gives the
    /// folio back if not all could be copied so.
    #[doc(alias = "copy_folio_from_user")]
    #[inline(always)]
    pub fn copy_from_user_nofault(self, src: usize) -> Result<FilledHugeFolio<'l>, Self> {
        let folio = self.0.folio.as_ptr();
        // SAFETY: By the type invariants no other thread knows the folio. The thread may sleep.
        if unsafe { bindings::rust_hugetlb_copy_from_user_nofault(folio, src as *const c_void) } {
            Ok(self.filled())
        } else {
            Err(self)
        }
    }

    /// Gives the folio back, with the reservation, and allocates another one for the contents,
    /// which is not going to be mapped and takes no reservation. Returns `None` if there is none.
    pub fn into_buffer(self) -> Option<NewFolio<Huge>> {
        let page = self.0.place.page;
        drop(self);
        // SAFETY: The VMA is locked, one of hugetlb, and has the page. The thread may sleep.
        let folio = unsafe { bindings::rust_alloc_hugetlb_folio_vma(page.raw_vma(), page.address) };
        // SAFETY: It is new.
        NonNull::new(folio).map(|folio| unsafe { NewFolio::from_raw(folio) })
    }

    /// Copies another folio.
    ///
    /// # Errors
    ///
    /// `EINVAL` if that is of another size; `EHWPOISON` if it has a hardware error.
    #[doc(alias = "copy_user_large_folio")]
    #[inline(always)]
    pub fn copy_from(self, from: &FilledFolio<Huge>) -> Result<FilledHugeFolio<'l>> {
        let page = self.0.place.page;
        let (vma, folio) = (page.raw_vma(), self.0.folio.as_ptr());
        // SAFETY: By the type invariants no other thread knows the folio, and none knows `from`.
        // The thread may sleep.
        to_result(unsafe {
            bindings::rust_hugetlb_copy_folio(vma, page.address, folio, from.as_raw())
        })?;
        Ok(self.filled())
    }

    /// Its contents were set.
    #[inline(always)]
    fn filled(self) -> FilledHugeFolio<'l> {
        // INVARIANT: The VMA is one or the other.
        if self.0.place.page.vma.is_shared() {
            FilledHugeFolio::Shared(SharedFolio(self.0))
        } else {
            FilledHugeFolio::Private(ReadyFolio(self.0))
        }
    }
}

/// A new folio whose contents were set.
pub enum FilledHugeFolio<'l> {
    /// In a private mapping it is mapped.
    Private(ReadyFolio<'l>),
    /// In a shared one it is added to the file before.
    Shared(SharedFolio<'l>),
}

/// A new folio whose contents were set, and that is to be added to a file. Dropped, it gives its
/// reservation back.
///
/// # Invariants
///
/// No other thread knows it. The VMA is `VM_SHARED`.
pub struct SharedFolio<'l>(Owned<'l>);

impl<'l> SharedFolio<'l> {
    /// Adds the folio to the file, which has the reservation then, and locks it.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the file ends before the end of the page; `EEXIST` if it has the page; `ENOMEM`.
    #[doc(alias = "hugetlb_add_to_page_cache")]
    #[inline(always)]
    pub fn add(self) -> Result<ReadyFolio<'l>> {
        let mut owned = self.0;
        let HugeIndex(index) = owned.place.page.index();
        let (vma, folio) = (owned.place.page.raw_vma(), owned.folio.as_ptr());
        // SAFETY: The VMA is locked, one of hugetlb, and has the page. By the type invariants no
        // other thread knows the folio. The thread may sleep.
        to_result(unsafe { bindings::rust_hugetlb_add_folio(vma, index, folio) })?;
        // INVARIANT: It was added, and locked.
        owned.flags |= bindings::RUST_HUGE_CACHED;
        Ok(ReadyFolio(owned))
    }
}

/// A folio that can be mapped. Dropped, one of a file is unlocked, and stays in the file; another
/// one gives its reservation back.
///
/// # Invariants
///
/// Its contents were set. It is the page of the file, or the VMA is not `VM_SHARED`.
pub struct ReadyFolio<'l>(Owned<'l>);

impl<'l> ReadyFolio<'l> {
    /// Locks the page table, if there is nothing or a marker in the entry.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::HwPoison`] if the folio has a hardware error, or [`NoVacancy::Taken`].
    #[doc(alias = "huge_pte_lock")]
    #[inline(always)]
    pub fn lock_vacant(self) -> Result<VacantHugePte<'l, Self>, NoVacancy> {
        let (place, folio) = (self.0.place, self.0.folio.as_ptr());
        let Place { page, pte } = *place;
        let mut ptl = null_mut();
        // SAFETY: By the type invariants it is the entry of the page. The thread holds no page
        // table lock, because that would have this folio, or borrow the `HugePte`, which this does.
        let result = unsafe {
            let vma = page.raw_vma();
            bindings::rust_huge_pte_lock_vacant(vma, page.address, pte.as_ptr(), folio, &mut ptl)
        };
        NoVacancy::check(result)?;
        // INVARIANT: It was locked, and seen that a folio may be mapped, and that this one may be.
        Ok(VacantHugePte {
            place,
            ptl,
            content: self,
        })
    }
}

/// The entry of a page, in which there is nothing, or a marker that a folio may replace. Its page
/// table is locked.
///
/// # Invariants
///
/// The thread holds `ptl`, which is the lock of the page table that has the entry. `C` is a folio
/// for the page, without a hardware error, or there is no marker.
pub struct VacantHugePte<'l, C> {
    place: &'l Place<'l>,
    ptl: *mut bindings::spinlock_t,
    // It is dropped with the page table unlocked.
    content: C,
}

impl<C> Drop for VacantHugePte<'_, C> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread holds it.
        unsafe { bindings::rust_huge_pte_unlock(self.ptl) };
    }
}

impl VacantHugePte<'_, ()> {
    /// Makes accesses to the page fail, as for memory with a hardware error.
    #[doc(alias = "make_pte_marker")]
    #[inline(always)]
    pub fn poison(self) {
        // The lock is dropped.
        let this = ManuallyDrop::new(self);
        let Place { page, pte } = *this.place;
        let (vma, ptl) = (page.raw_vma(), this.ptl);
        // SAFETY: By the type invariants this is the entry of the page, which has nothing in it,
        // and the lock is held.
        unsafe { bindings::rust_huge_pte_poison_unlock(vma, page.address, pte.as_ptr(), ptl) };
    }
}

impl VacantHugePte<'_, ReadyFolio<'_>> {
    /// Maps the folio, write-protected by userfaultfd if `uffd_wp`. One of a file is unlocked.
    #[doc(alias = "set_huge_pte_at")]
    #[inline(always)]
    pub fn map(self, uffd_wp: bool) {
        // The page table has the reference, and the locks are dropped.
        let this = ManuallyDrop::new(self);
        let Place { page, pte } = *this.place;
        let (vma, ptl) = (page.raw_vma(), this.ptl);
        let Owned { folio, flags, .. } = this.content.0;
        let wp = if uffd_wp {
            bindings::RUST_HUGE_UFFD_WP
        } else {
            0
        };
        // SAFETY: By the type invariants this is the entry of the page, which may be set, and the
        // lock is held. The folio has a reference, its contents were set, and the flags say what it
        // is. A VMA that is not `VM_SHARED` has an `anon_vma`.
        unsafe {
            let folio = folio.as_ptr();
            bindings::rust_huge_pte_map_unlock(
                vma,
                page.address,
                pte.as_ptr(),
                ptl,
                folio,
                flags | wp,
            );
        }
    }
}
