// SPDX-License-Identifier: GPL-2.0

//! VMAs that are locked for work on their page tables.
//!
//! A thread that has such a VMA must not take the mmap lock, or lock another VMA: a writer of the
//! mmap lock may wait for this one. So the VMA keeps the token for sleeping.
//!
//! This is for code that is built into the kernel: the C functions are not exported.

#[cfg(not(CONFIG_PER_VMA_LOCK))]
use super::MmapReadGuard;
#[cfg(CONFIG_PER_VMA_LOCK)]
use super::VmaReadGuard;
use super::{
    virt::{flags, vm_flags_t, VmaRef},
    MmWithUser,
};
use crate::{
    bindings,
    error::{code::ENOENT, to_result, Result},
    task::Sleepable,
    warn_on_once,
};
#[cfg(CONFIG_PER_VMA_LOCK)]
use crate::{error::code::EAGAIN, types::NotThreadSafe};
use core::{marker::PhantomData, ops::Deref};

/// A VMA that is locked for reading: by its own lock, or by the mmap lock if VMAs have none.
///
/// # Invariants
///
/// The lock is that of the VMA, or of its mm, and is held. If the VMA is not `VM_SHARED`, it has an
/// `anon_vma`.
pub struct LockedVma<'m> {
    #[cfg(CONFIG_PER_VMA_LOCK)]
    lock: VmaReadGuard<'m>,
    #[cfg(not(CONFIG_PER_VMA_LOCK))]
    vma: *mut bindings::vm_area_struct,
    #[cfg(not(CONFIG_PER_VMA_LOCK))]
    _lock: MmapReadGuard<'m>,
    sleep: &'m mut Sleepable,
}

impl Deref for LockedVma<'_> {
    type Target = VmaRef;

    #[inline(always)]
    fn deref(&self) -> &VmaRef {
        #[cfg(CONFIG_PER_VMA_LOCK)]
        return &self.lock;
        #[cfg(not(CONFIG_PER_VMA_LOCK))]
        // SAFETY: By the type invariants the VMA is locked.
        return unsafe { VmaRef::from_raw(self.vma) };
    }
}

impl MmWithUser {
    /// Locks the VMA that has an address, in bytes, and gives it an `anon_vma` if it is private, so
    /// that anonymous pages can be mapped. Takes the mmap lock if need be.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no VMA, `ENOMEM`, or `EAGAIN` if there are too many readers.
    #[doc(alias = "uffd_lock_vma")]
    #[inline(always)]
    pub fn lock_vma_prepare_anon<'m>(
        &'m self,
        address: usize,
        sleep: &'m mut Sleepable,
    ) -> Result<LockedVma<'m>> {
        #[cfg(CONFIG_PER_VMA_LOCK)]
        if let Some(lock) = self.lock_vma_under_rcu(address) {
            if !lacks_anon_vma(&lock) {
                // INVARIANT: It is the lock of the VMA, which has an `anon_vma` if it is private.
                return Ok(LockedVma { lock, sleep });
            }
        }
        self.lock_vma_slowly(address, sleep)
    }

    #[cold]
    fn lock_vma_slowly<'m>(
        &'m self,
        address: usize,
        sleep: &'m mut Sleepable,
    ) -> Result<LockedVma<'m>> {
        let mmap = self.mmap_read_lock();
        let vma = mmap.vma_lookup(address).ok_or(ENOENT)?.as_ptr();
        // SAFETY: The VMA is valid, because the mmap lock is held.
        if lacks_anon_vma(unsafe { VmaRef::from_raw(vma) }) {
            // SAFETY: The VMA is valid, and the mmap lock is held. The caller may sleep.
            to_result(unsafe { bindings::__anon_vma_prepare(vma) })?;
        }
        #[cfg(CONFIG_PER_VMA_LOCK)]
        {
            // SAFETY: The VMA is valid, and the mmap lock is held for reading.
            if !unsafe { bindings::vma_start_read_locked(vma) } {
                return Err(EAGAIN);
            }
            // INVARIANT: The lock was taken, and the VMA has an `anon_vma` if it is private.
            Ok(LockedVma {
                lock: VmaReadGuard {
                    // SAFETY: The VMA is valid as long as it is locked.
                    vma: unsafe { VmaRef::from_raw(vma) },
                    _nts: NotThreadSafe,
                },
                sleep,
            })
        }
        // INVARIANT: The mmap lock is held, and the VMA has an `anon_vma` if it is private.
        #[cfg(not(CONFIG_PER_VMA_LOCK))]
        Ok(LockedVma {
            vma,
            _lock: mmap,
            sleep,
        })
    }
}

/// Returns true if a VMA is private and has no `anon_vma` yet. That is made with the mmap lock
/// held, and stays as long as the VMA is locked.
#[doc(alias = "anon_vma_prepare")]
#[inline(always)]
fn lacks_anon_vma(vma: &VmaRef) -> bool {
    if vma.flags() & flags::SHARED != 0 {
        return false;
    }
    // SAFETY: The VMA is valid and locked. This `read_volatile` corresponds to a `READ_ONCE()`,
    // because a fault may set it meanwhile.
    let anon_vma = unsafe { (&raw const (*vma.as_ptr()).anon_vma).read_volatile() };
    anon_vma.is_null()
}

/// What the memory of a locked VMA is.
pub enum Memory<'v> {
    /// Anonymous, or a private mapping of shmem.
    Private(PteVma<'v, Private>),
    /// A shared mapping of shmem.
    Shared(PteVma<'v, Shared>),
    /// Huge pages of hugetlb.
    Hugetlb(HugetlbVma<'v>),
    /// Anything else.
    Other,
}

/// A VMA that is not `VM_SHARED`.
pub struct Private(());

/// A VMA that is `VM_SHARED`.
pub struct Shared(());

/// A VMA that is one or the other.
pub struct Any(());

/// A VMA of hugetlb.
pub struct Huge(());

/// A locked VMA of anonymous memory or shmem: one whose pages are mapped by PTE tables, if they
/// are not huge ones.
///
/// # Invariants
///
/// The VMA is locked for `'v`. It is of anonymous memory or shmem, and not of hugetlb; it does not
/// map device memory. With [`Private`] it is not `VM_SHARED` and has an `anon_vma`, with [`Shared`]
/// it is `VM_SHARED`.
pub struct PteVma<'v, S> {
    vma: &'v VmaRef,
    _sharing: PhantomData<S>,
}

impl<S> Copy for PteVma<'_, S> {}

impl<S> Clone for PteVma<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'v, S> PteVma<'v, S> {
    /// Returns the VMA.
    #[inline(always)]
    pub fn vma(self) -> &'v VmaRef {
        self.vma
    }

    /// Forgets if it is shared.
    #[inline(always)]
    pub fn into_any(self) -> PteVma<'v, Any> {
        PteVma {
            vma: self.vma,
            _sharing: PhantomData,
        }
    }
}

/// A locked VMA of shmem.
///
/// # Invariants
///
/// The VMA is of shmem, so that it has a file.
pub struct ShmemVma<'v, S>(PteVma<'v, S>);

impl<S> Copy for ShmemVma<'_, S> {}

impl<S> Clone for ShmemVma<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'v, S> ShmemVma<'v, S> {
    /// Returns the VMA, as one that can have PTE tables.
    #[inline(always)]
    pub fn pte_vma(self) -> PteVma<'v, S> {
        self.0
    }
}

impl<'v> PteVma<'v, Private> {
    /// Returns the VMA, if it is of shmem.
    #[inline(always)]
    pub fn shmem(self) -> Option<ShmemVma<'v, Private>> {
        // INVARIANT: Other memory than shmem is anonymous.
        (!self.vma.is_anonymous()).then_some(ShmemVma(self))
    }
}

impl<'v> PteVma<'v, Shared> {
    /// Returns the VMA.
    #[inline(always)]
    pub fn shmem(self) -> ShmemVma<'v, Shared> {
        // INVARIANT: Only VMAs of shmem are shared.
        ShmemVma(self)
    }
}

impl<'v, S> ShmemVma<'v, S> {
    /// Forgets if it is shared.
    #[inline(always)]
    pub fn into_any(self) -> ShmemVma<'v, Any> {
        // INVARIANT: It is the same.
        ShmemVma(self.0.into_any())
    }
}

/// A locked VMA of hugetlb.
///
/// # Invariants
///
/// The VMA is locked for `'v`, and `VM_HUGETLB`.
#[derive(Copy, Clone)]
pub struct HugetlbVma<'v>(&'v VmaRef);

impl<'v> HugetlbVma<'v> {
    /// Returns the VMA.
    #[inline]
    pub fn vma(self) -> &'v VmaRef {
        self.0
    }
}

impl<'m> LockedVma<'m> {
    /// Unlocks the VMA, and gives the token back.
    #[inline]
    pub fn unlock(self) -> &'m mut Sleepable {
        // The lock is dropped.
        self.sleep
    }

    /// Returns what the memory is, and the token for what sleeps while the VMA is locked.
    #[inline(always)]
    pub fn parts(&mut self) -> (Memory<'_>, &mut Sleepable) {
        #[cfg(CONFIG_PER_VMA_LOCK)]
        let vma = &*self.lock;
        #[cfg(not(CONFIG_PER_VMA_LOCK))]
        // SAFETY: By the type invariants the VMA is locked.
        let vma = unsafe { VmaRef::from_raw(self.vma) };
        (Memory::of(vma), self.sleep)
    }
}

impl<'v> Memory<'v> {
    /// Returns what the memory of a VMA is, which is that of a [`LockedVma`].
    #[inline(always)]
    fn of(vma: &'v VmaRef) -> Self {
        // No page can be mapped in such a VMA as if it was one of the process.
        const SPECIAL: vm_flags_t = flags::IO | flags::PFNMAP | flags::MIXEDMAP;

        let vm_flags = vma.flags();
        let is_shared = vm_flags & flags::SHARED != 0;
        if vm_flags & (flags::HUGETLB | SPECIAL) != 0 {
            if vm_flags & flags::HUGETLB != 0 {
                // INVARIANT: This was checked. It is locked as long as it is borrowed.
                return Memory::Hugetlb(HugetlbVma(vma));
            }
            return Memory::Other;
        }
        let _sharing = PhantomData;
        if vma.is_anonymous() {
            // mmap() makes shmem of shared anonymous memory.
            if warn_on_once!(is_shared) {
                return Memory::Other;
            }
        } else if !vma.is_shmem() {
            return Memory::Other;
        } else if is_shared {
            // INVARIANT: This was checked.
            let _sharing = PhantomData;
            return Memory::Shared(PteVma { vma, _sharing });
        }
        // INVARIANT: This was checked. By the invariants of a locked VMA there is an `anon_vma`.
        Memory::Private(PteVma { vma, _sharing })
    }
}

impl VmaRef {
    /// Returns true for anonymous memory, to which private mappings of `/dev/zero` belong.
    #[doc(alias = "vma_is_anonymous")]
    #[inline]
    pub fn is_anonymous(&self) -> bool {
        // SAFETY: The VMA is valid, and this does not change.
        unsafe { (*self.as_ptr()).vm_ops.is_null() }
    }

    /// Returns true for memory of shmem.
    #[doc(alias = "vma_is_shmem")]
    #[inline]
    pub fn is_shmem(&self) -> bool {
        // SAFETY: The VMA is valid.
        unsafe { bindings::vma_is_shmem(self.as_ptr()) }
    }
}
