// SPDX-License-Identifier: GPL-2.0

//! The parts of operations that fill pages.
//!
//! [`Pages::lock_target`] locks the VMA, and checks that it is registered. What can be done then
//! depends on its [`Memory`]: see [`crate::mm::pgtable`], and the methods here for what is C code
//! of shmem and of hugetlb.
//!
//! Locks nest so: mmap lock, VMA lock, `map_changing_lock`; then those of the page tables.

use super::{context::Context, pages::Pages, range::PageRange, vma::Vma};
use crate::{
    bindings,
    error::{
        code::{EAGAIN, EINVAL, ENOENT},
        to_result, Result,
    },
    mm::{
        locked::{HugetlbVma, LockedVma, Memory, Shared},
        pgtable::PmdSlot,
    },
    task::Sleepable,
    types::NotThreadSafe,
};

/// The layout of the address space of a context does not change.
///
/// # Invariants
///
/// The thread holds `map_changing_lock` for reading, and has seen that the layout was not changing.
struct Unchanging<'a> {
    context: &'a Context,
    // A lock is given back by the thread that has taken it.
    _nts: NotThreadSafe,
}

impl<'a> Unchanging<'a> {
    /// # Errors
    ///
    /// `EAGAIN` if it is changing.
    #[inline(always)]
    fn new(context: &'a Context) -> Result<Self> {
        // SAFETY: The context is valid.
        unsafe { bindings::down_read(&raw mut (*context.as_raw()).map_changing_lock) };
        // INVARIANT: The lock was taken. If the layout is changing, it is given back.
        let unchanging = Self {
            context,
            _nts: NotThreadSafe,
        };
        if context.mmap_changing() {
            return Err(EAGAIN);
        }
        Ok(unchanging)
    }
}

impl Drop for Unchanging<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread holds the lock.
        unsafe { bindings::up_read(&raw mut (*self.context.as_raw()).map_changing_lock) };
    }
}

/// The memory of a range of pages that is to be filled: it is in one VMA, which is registered.
/// While this exists, the VMA is locked, and no other operation can be made with the same
/// [`Pages`].
pub struct Target<'p> {
    // It goes before the lock of the VMA, because it was taken after it.
    _unchanging: Unchanging<'p>,
    vma: LockedVma<'p>,
}

impl Pages<'_> {
    /// Locks the VMA of a range, and checks what all operations that fill pages ask of it.
    ///
    /// It may be registered with another context, as in C.
    ///
    /// # Errors
    ///
    /// `ENOENT` if no VMA has the whole range, or if it is not registered; `EAGAIN` if the layout
    /// of the address space is changing; `ENOMEM`.
    #[doc(alias = "uffd_mfill_lock")]
    #[inline(always)]
    pub fn lock_target(&mut self, range: PageRange) -> Result<Target<'_>> {
        let vma = self.mm.lock_vma_prepare_anon(range.start(), self.sleep)?;
        if range.end() > vma.end() || Vma::from_ref(&vma).context().is_none() {
            return Err(ENOENT);
        }
        Ok(Target {
            _unchanging: Unchanging::new(self.context)?,
            vma,
        })
    }
}

impl Target<'_> {
    /// Returns what the memory is, and the permission to sleep while it is locked.
    #[inline(always)]
    pub fn parts(&mut self) -> (Memory<'_>, &mut Sleepable) {
        self.vma.parts()
    }
}

impl PmdSlot<'_, Shared> {
    /// Adds a page of zeroes to the file, and maps it.
    ///
    /// # Errors
    ///
    /// `EEXIST` if there is a page in the file, or an entry other than a marker of userfaultfd;
    /// `EFAULT` if the file ends before; `EAGAIN` if there is no table any more; `ENOMEM`.
    #[doc(alias = "shmem_mfill_atomic_pte")]
    #[inline]
    pub fn add_zeroes(self, _sleep: &mut Sleepable) -> Result {
        let (vma, pmd) = (self.vma().as_ptr(), self.pmd());
        // SAFETY: By the type invariants the entry is that of the address, which is in the VMA.
        // This is a shared one of shmem, and locked. The thread may sleep.
        to_result(unsafe { bindings::uffd_shim_shmem_zeropage(pmd, vma, self.address()) })
    }
}

impl HugetlbVma<'_> {
    /// Makes accesses to the huge page at an address fail, which is that of its first byte.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the VMA has no such page; `EEXIST` if there is a page or anything else;
    /// `ENOMEM`.
    #[doc(alias = "hugetlb_mfill_atomic_pte")]
    #[inline]
    pub fn poison(self, address: usize, _sleep: &mut Sleepable) -> Result {
        let vma = self.vma();
        if address < vma.start() || address >= vma.end() || address & (self.page_size() - 1) != 0 {
            return Err(EINVAL);
        }
        // SAFETY: The VMA is one of hugetlb, is locked, and has the page, because it begins and
        // ends with one. The thread may sleep.
        to_result(unsafe { bindings::uffd_shim_hugetlb_poison(vma.as_ptr(), address) })
    }

    /// Returns the size of its pages, in bytes: a power of two.
    #[inline]
    pub fn page_size(self) -> usize {
        Vma::from_ref(self.vma()).pagesize()
    }
}
