// SPDX-License-Identifier: GPL-2.0

//! Page tables of user space.
//!
//! An entry is never a Rust place: hardware and other threads write it, and architectures have
//! their own ways to read and to set it. So the types here stand for entries that C code reads and
//! sets, and for what may be done to them:
//!
//! - [`VacantRun`]: entries in a row that have nothing in them, while their table is locked. Only
//!   these can be set, but by what maps folios, which finds its own.
//!
//! Pages that are moved are [`relocation`](super::relocation).
//!
//! What they rest on:
//!
//! - The tables above PTE tables are freed by `free_pgtables()` and moved by `mremap()`. Both lock
//!   the VMA for writing before, or have detached it, and leave tables alone that a neighbour uses.
//!   A VMA that is locked for reading has an mm with users. So a pointer into a PMD table is valid
//!   as long as the VMA is locked. This is not so for hugetlb, which shares PMD tables.
//! - A PTE table can be freed at any time: if all its pages are zapped (`CONFIG_PT_RECLAIM`), or if
//!   `khugepaged` or `MADV_COLLAPSE` makes a huge page of them (`retract_page_tables()`,
//!   `collapse_pte_mapped_thp()`). It is taken from the PMD entry with its lock held, and freed
//!   after an RCU grace period. So `pte_offset_map_lock()` looks at the PMD entry once more when it
//!   has the lock, and fails if that has changed.
//! - An entry for which `pte_none()` is true, or that is a marker, stays so until the lock is
//!   dropped: threads that set one take the lock, and hardware writes to entries of present pages
//!   only.
//! - The size of a file is read with the lock held. A thread that truncates the file changes it
//!   first, and takes the lock then to unmap what is beyond it.
//!
//! Of shmem, `khugepaged` and `MADV_COLLAPSE` drop entries that have no page in the file, unless
//! the VMA is private and registered with userfaultfd.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C headers: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h),
//! [`include/linux/rust_pgtable.h`](srctree/include/linux/rust_pgtable.h)

use super::{
    folio::ChargedFolios,
    locked::{Private, PteVma},
};
use crate::{
    bindings,
    ffi::c_uint,
    page::{PAGE_MASK, PAGE_SIZE},
    task::Sleepable,
};
use core::{marker::PhantomData, mem::MaybeUninit, ops::Range};

/// Why nothing can be mapped at an address.
// As large as a pointer, so that a `Result` has either in whole words.
#[repr(usize)]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NoVacancy {
    /// The VMA does not have the whole range, or the range is empty or not one of pages.
    Outside,
    /// There is a page or anything else, or there was a huge page just now. Or the file has the
    /// page that is to be added to it.
    Taken,
    /// The file ends before.
    BeyondFile,
    /// There is no PTE table any more.
    NoTable,
    /// There is no memory, or the memory cgroup has no room.
    NoMemory,
    /// The entry of the PMD table is none that the kernel makes.
    Bad,
    /// The page has a hardware error.
    HwPoison,
}

impl NoVacancy {
    #[inline(always)]
    pub(super) fn check(result: bindings::rust_pte_result) -> Result<(), Self> {
        Err(match result {
            bindings::rust_pte_result_RUST_PTE_OK => return Ok(()),
            bindings::rust_pte_result_RUST_PTE_TAKEN => Self::Taken,
            bindings::rust_pte_result_RUST_PTE_BEYOND_FILE => Self::BeyondFile,
            bindings::rust_pte_result_RUST_PTE_NO_TABLE => Self::NoTable,
            bindings::rust_pte_result_RUST_PTE_NO_MEMORY => Self::NoMemory,
            bindings::rust_pte_result_RUST_PTE_HWPOISON => Self::HwPoison,
            _ => Self::Bad,
        })
    }
}

impl PteVma<'_, Private> {
    /// Maps folios for anonymous pages in a row, beginning with that at an address, over markers if
    /// need be (but guard regions), and write-protected by userfaultfd if `uffd_wp`. Makes the PTE
    /// table, and the tables above it, unless they are there. Returns how many were mapped, which
    /// is one at least; the others are where they were.
    ///
    /// # Errors
    ///
    /// [`NoVacancy::Outside`] if there are no folios, or the VMA is not theirs.
    #[inline(always)]
    pub fn map_folios(
        self,
        address: usize,
        folios: &mut ChargedFolios<'_>,
        uffd_wp: bool,
        _sleep: &mut Sleepable,
    ) -> Result<usize, NoVacancy> {
        let (vma, list) = folios.parts();
        self.check(&(address..address.wrapping_add(list.len() * PAGE_SIZE)))?;
        if vma.vma().as_ptr() != self.vma().as_ptr() {
            return Err(NoVacancy::Outside);
        }
        // CAST: There are few.
        let mut count = list.len() as c_uint;
        // SAFETY: As for `alloc_pte_table`. The VMA has all pages, and an `anon_vma`. By the
        // invariants of `ChargedFolios` these are new, filled, and charged to the mm of their VMA,
        // which is this one. The caller holds no page table lock.
        let result = unsafe {
            bindings::rust_map_anon_folios(
                self.vma().as_ptr(),
                address,
                list.as_mut_ptr(),
                &mut count,
                uffd_wp,
            )
        };
        NoVacancy::check(result)?;
        // SAFETY: The page table has these.
        unsafe { folios.forget(count as usize) };
        Ok(count as usize)
    }
}

impl<S> PteVma<'_, S> {
    /// Checks that the VMA has a range of pages.
    #[inline(always)]
    pub(super) fn check(self, Range { start, end }: &Range<usize>) -> Result<(), NoVacancy> {
        let (vma, is_unaligned) = (self.vma(), (start | end) & !PAGE_MASK != 0);
        if is_unaligned || *start < vma.start() || *end > vma.end() || start >= end {
            return Err(NoVacancy::Outside);
        }
        Ok(())
    }

    /// Returns the number of pages at the beginning of a range of addresses, in bytes, whose
    /// entries are in one PTE table. The range must not be empty.
    #[inline(always)]
    pub fn pages_in_table(self, range: &Range<usize>) -> usize {
        let last = (range.end.wrapping_sub(1)).min(range.start | (bindings::PMD_SIZE - 1));
        last.wrapping_sub(range.start) / PAGE_SIZE + 1
    }

    /// Makes a PTE table for the page at an address, in bytes, and the tables above it, unless they
    /// are there.
    ///
    /// The PTE table may be gone when this returns.
    ///
    /// # Errors
    ///
    /// Not [`NoVacancy::BeyondFile`]; [`NoVacancy::Taken`] if there is a huge page.
    #[doc(alias = "pte_alloc")]
    #[inline(always)]
    pub fn alloc_pte_table(self, address: usize, _sleep: &mut Sleepable) -> Result<(), NoVacancy> {
        self.check(&(address..address.wrapping_add(PAGE_SIZE)))?;
        // SAFETY: The VMA is locked and has the address, so the mm has users, and the tables above
        // PTE tables are not freed. By the invariants of `PteVma` it can have PTE tables. The
        // caller may sleep.
        NoVacancy::check(unsafe { bindings::rust_pte_alloc(self.vma().as_ptr(), address) })
    }

    /// Makes a PTE table for the first page of a range of addresses, in bytes, and the tables above
    /// it, unless they are there. Locks it, and calls `set` with entries in a row that have nothing
    /// in them, beginning with that of the first page. If the VMA is of a file, the file has their
    /// pages.
    ///
    /// Returns what `set` returns. It must not sleep, nor use page tables in another way.
    #[doc(alias = "pte_alloc_map_lock")]
    #[inline(always)]
    pub fn with_vacant<R>(
        self,
        range: Range<usize>,
        _sleep: &mut Sleepable,
        set: impl FnOnce(VacantRun<'_, S>) -> R,
    ) -> Result<R, NoVacancy> {
        self.check(&range)?;
        let Range { start, end } = range;
        let mut run = MaybeUninit::<bindings::rust_pte_run>::uninit();
        // SAFETY: As for `alloc_pte_table`. The VMA has the whole range. The caller holds no page
        // table lock, because this function takes it, and borrows the token meanwhile.
        let result = unsafe {
            bindings::rust_pte_alloc_lock_none(self.vma().as_ptr(), start, end, run.as_mut_ptr())
        };
        NoVacancy::check(result)?;
        // SAFETY: It was set.
        let run = unsafe { run.assume_init() };
        // INVARIANT: The entries have nothing in them. Their table is locked until `set` returns.
        let ret = set(VacantRun {
            vma: self,
            start,
            pte: run.pte,
            count: run.count,
            _locked: PhantomData,
        });
        // SAFETY: The thread holds the lock, and the table is mapped.
        unsafe { bindings::rust_pte_unmap_unlock(run.pte, run.ptl) };
        Ok(ret)
    }
}

/// Entries in a row that have nothing in them, in a PTE table that is locked.
///
/// # Invariants
///
/// The current thread holds the lock of a PTE table for `'l`. `pte` is the entry of `start` in
/// that table, which is mapped. `count` entries, not zero, that begin with this one are in the
/// table, are for addresses of the VMA, and are `pte_none()`.
pub struct VacantRun<'l, S> {
    vma: PteVma<'l, S>,
    start: usize,
    pte: *mut bindings::pte_t,
    count: c_uint,
    _locked: PhantomData<&'l mut bindings::pte_t>,
}

impl<S> VacantRun<'_, S> {
    /// Makes accesses to the pages fail, as for memory with a hardware error. Returns their number.
    #[inline(always)]
    pub fn poison(self) -> usize {
        // SAFETY: By the type invariants the entries are in one locked table, for addresses of the
        // VMA, and have nothing in them. A marker needs no reference.
        unsafe {
            bindings::rust_set_poison_ptes(
                self.vma.vma().as_ptr(),
                self.start,
                self.pte,
                self.count,
            )
        };
        self.count as usize
    }
}

impl VacantRun<'_, Private> {
    /// Maps the zero page. Returns the number of pages.
    ///
    /// This is for private memory, because a write makes a copy then.
    #[doc(alias = "my_zero_pfn")]
    #[inline(always)]
    pub fn map_zero_page(self) -> usize {
        // SAFETY: By the type invariants the entries are in one locked table, for addresses of the
        // VMA, and have nothing in them. The zero page needs no reference. The VMA has an
        // `anon_vma`.
        unsafe {
            bindings::rust_set_zero_ptes(self.vma.vma().as_ptr(), self.start, self.pte, self.count)
        };
        self.count as usize
    }
}
