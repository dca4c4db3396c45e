// SPDX-License-Identifier: GPL-2.0

//! VMAs that are locked for work on their page tables.
//!
//! A thread that has such a VMA must not take the mmap lock, or lock another VMA: a writer of the
//! mmap lock may wait for this one. So the VMA keeps the token for sleeping.
//!
//! This is for code that is built into the kernel: the C functions are not exported.

#[cfg(CONFIG_PER_VMA_LOCK)]
use super::VmaReadGuard;
use super::{
    virt::{flags, vm_flags_t, VmaRef},
    MmWithUser, MmapReadGuard,
};
use crate::{
    bindings,
    error::{code::ENOENT, to_result, Result},
    page::PAGE_SHIFT,
    task::Sleepable,
    warn_on_once,
};
#[cfg(CONFIG_PER_VMA_LOCK)]
use crate::{error::code::EAGAIN, types::NotThreadSafe};
use core::{marker::PhantomData, mem::size_of, ops::Deref};

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

    /// Locks two VMAs that have an address each, in bytes: `dst` is that of the first, which is
    /// prepared as by [`MmWithUser::lock_vma_prepare_anon`]. It may be the same VMA.
    ///
    /// # Errors
    ///
    /// As for that.
    #[doc(alias = "uffd_move_lock")]
    #[inline(always)]
    pub fn lock_vma_pair_prepare_anon<'m>(
        &'m self,
        dst: usize,
        src: usize,
        sleep: &'m mut Sleepable,
    ) -> Result<LockedVmaPair<'m>> {
        let dst_vma = self.lock_vma_prepare_anon(dst, sleep)?;
        if has(&dst_vma, src) {
            // INVARIANT: It has both addresses.
            return Ok(LockedVmaPair {
                src: None,
                dst: dst_vma,
            });
        }
        #[cfg(CONFIG_PER_VMA_LOCK)]
        {
            // This does not wait: a writer that has locked this VMA may wait for the other one.
            if let Some(src) = self.lock_vma_under_rcu(src) {
                // INVARIANT: It is of this mm, is another one, and goes with the lock.
                return Ok(LockedVmaPair {
                    src: Some(src),
                    dst: dst_vma,
                });
            }
            self.lock_vma_pair_slowly(dst, src, dst_vma.unlock())
        }
        #[cfg(not(CONFIG_PER_VMA_LOCK))]
        {
            let src = dst_vma._lock.vma_lookup(src).ok_or(ENOENT)?.as_ptr();
            // INVARIANT: The mmap lock is held, and goes with the first.
            Ok(LockedVmaPair {
                src: Some(src),
                dst: dst_vma,
            })
        }
    }

    #[cfg(CONFIG_PER_VMA_LOCK)]
    #[cold]
    fn lock_vma_pair_slowly<'m>(
        &'m self,
        dst: usize,
        src: usize,
        sleep: &'m mut Sleepable,
    ) -> Result<LockedVmaPair<'m>> {
        let mmap = self.mmap_read_lock();
        let dst_vma = find_vma_prepare_anon(&mmap, dst, sleep)?;
        // SAFETY: The VMA is valid, because the mmap lock is held.
        let src_vma = match has(unsafe { VmaRef::from_raw(dst_vma) }, src) {
            true => None,
            false => Some(mmap.vma_lookup(src).ok_or(ENOENT)?.as_ptr()),
        };
        let read_locked = |vma| VmaReadGuard {
            // SAFETY: The VMA is valid as long as it is locked.
            vma: unsafe { VmaRef::from_raw(vma) },
            _nts: NotThreadSafe,
        };
        // SAFETY: The VMA is valid, and the mmap lock is held for reading.
        if !unsafe { bindings::vma_start_read_locked(dst_vma) } {
            return Err(EAGAIN);
        }
        // INVARIANT: The lock was taken, and the VMA has an `anon_vma` if it is private.
        let lock = read_locked(dst_vma);
        let src = match src_vma {
            None => None,
            Some(vma) => {
                // SAFETY: As before.
                if !unsafe { bindings::vma_start_read_locked_nested(vma) } {
                    return Err(EAGAIN);
                }
                Some(read_locked(vma))
            }
        };
        // INVARIANT: If there is another VMA, it is of this mm, and goes with the lock.
        Ok(LockedVmaPair {
            src,
            dst: LockedVma { lock, sleep },
        })
    }

    #[cold]
    fn lock_vma_slowly<'m>(
        &'m self,
        address: usize,
        sleep: &'m mut Sleepable,
    ) -> Result<LockedVma<'m>> {
        let mmap = self.mmap_read_lock();
        let vma = find_vma_prepare_anon(&mmap, address, sleep)?;
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

/// Returns the VMA that has an address, and gives it an `anon_vma` if it is private.
#[doc(alias = "find_vma_and_prepare_anon")]
fn find_vma_prepare_anon(
    mmap: &MmapReadGuard<'_>,
    address: usize,
    _sleep: &mut Sleepable,
) -> Result<*mut bindings::vm_area_struct> {
    let vma = mmap.vma_lookup(address).ok_or(ENOENT)?;
    if lacks_anon_vma(vma) {
        // SAFETY: The VMA is valid, and the mmap lock is held. The caller may sleep.
        to_result(unsafe { bindings::__anon_vma_prepare(vma.as_ptr()) })?;
    }
    Ok(vma.as_ptr())
}

/// Returns the bits of page table entries that protect the pages of a VMA, to be compared: a
/// number, which is in a structure on some architectures.
#[doc(alias = "pgprot_val")]
#[inline(always)]
fn page_prot(vma: &VmaRef) -> [u8; size_of::<bindings::pgprot_t>()] {
    // SAFETY: The VMA is valid and locked, so that this does not change.
    let prot = unsafe { (*vma.as_ptr()).vm_page_prot };
    // SAFETY: A number has no padding.
    unsafe { core::mem::transmute(prot) }
}

/// Returns true if a VMA has an address.
#[inline(always)]
fn has(vma: &VmaRef, address: usize) -> bool {
    address >= vma.start() && address < vma.end()
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
/// The VMA is locked for `'v`, and `VM_HUGETLB`, so that it has a file. If it is not `VM_SHARED`,
/// it has an `anon_vma`. Its pages are of `1 << page_shift` bytes.
#[derive(Copy, Clone)]
pub struct HugetlbVma<'v> {
    vma: &'v VmaRef,
    page_shift: u32,
}

impl<'v> HugetlbVma<'v> {
    /// Returns the VMA.
    #[inline(always)]
    pub fn vma(self) -> &'v VmaRef {
        self.vma
    }

    /// Returns the size of its pages, in bytes: a power of two.
    #[doc(alias = "huge_page_size")]
    #[inline(always)]
    pub fn page_size(self) -> usize {
        1usize.wrapping_shl(self.page_shift)
    }

    /// Returns the binary logarithm of the number of pages of `PAGE_SIZE` that one of its pages is.
    #[doc(alias = "huge_page_order")]
    #[inline(always)]
    pub(super) fn page_order(self) -> u32 {
        // CAST: It fits.
        self.page_shift.wrapping_sub(PAGE_SHIFT as u32)
    }

    /// Returns true if it is `VM_SHARED`.
    #[inline(always)]
    pub fn is_shared(self) -> bool {
        self.vma.flags() & flags::SHARED != 0
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

/// Two VMAs that are locked for reading. They may be the same.
///
/// # Invariants
///
/// `src` is `None` if it is the same as `dst`. Otherwise it is of the same mm, and locked as long
/// as this exists.
pub struct LockedVmaPair<'m> {
    // This was locked last, and goes first.
    #[cfg(CONFIG_PER_VMA_LOCK)]
    src: Option<VmaReadGuard<'m>>,
    #[cfg(not(CONFIG_PER_VMA_LOCK))]
    src: Option<*mut bindings::vm_area_struct>,
    dst: LockedVma<'m>,
}

impl LockedVmaPair<'_> {
    /// Returns the first VMA.
    #[inline(always)]
    pub fn dst(&self) -> &VmaRef {
        &self.dst
    }

    /// Returns the second VMA.
    #[inline(always)]
    pub fn src(&self) -> &VmaRef {
        match &self.src {
            None => &self.dst,
            #[cfg(CONFIG_PER_VMA_LOCK)]
            Some(vma) => vma,
            #[cfg(not(CONFIG_PER_VMA_LOCK))]
            // SAFETY: By the type invariants the VMA is locked.
            Some(vma) => unsafe { VmaRef::from_raw(*vma) },
        }
    }

    /// Returns the VMAs, if pages can be moved from one to the other, and the token for what sleeps
    /// while they are locked.
    #[doc(alias = "validate_move_areas")]
    #[inline(always)]
    pub fn parts(&mut self) -> (Option<AnonPair<'_>>, &mut Sleepable) {
        let (dst, src) = (self.dst().as_ptr(), self.src().as_ptr());
        // SAFETY: By the type invariants both are locked as long as this is borrowed.
        let (dst, src) = unsafe { (VmaRef::from_raw(dst), VmaRef::from_raw(src)) };
        (AnonPair::new(dst, src), self.dst.sleep)
    }
}

/// Two locked VMAs of private anonymous memory, alike in what may be done to their pages.
///
/// # Invariants
///
/// The VMAs are locked for `'v`, of one mm, anonymous, private and writable, and may map no other
/// memory. They have the same protection bits, and both are `VM_LOCKED` or none is. The first has
/// an `anon_vma`.
#[derive(Copy, Clone)]
pub struct AnonPair<'v> {
    dst: &'v VmaRef,
    src: &'v VmaRef,
}

impl<'v> AnonPair<'v> {
    /// Checks VMAs, which are those of a [`LockedVmaPair`].
    #[inline(always)]
    fn new(dst: &'v VmaRef, src: &'v VmaRef) -> Option<Self> {
        // Pages of such VMAs cannot be moved.
        const OTHER: vm_flags_t = flags::SHARED
            | flags::HUGETLB
            | flags::IO
            | flags::PFNMAP
            | flags::MIXEDMAP
            | bindings::RUST_VM_SHADOW_STACK;
        // What has to be the same.
        const ALIKE: vm_flags_t = flags::READ
            | flags::WRITE
            | flags::EXEC
            // CAST: It fits.
            | bindings::VM_LOCKED as vm_flags_t;

        let (dst_flags, src_flags) = (dst.flags(), src.flags());
        let is_movable = (dst_flags | src_flags) & OTHER == 0
            && (dst_flags ^ src_flags) & ALIKE == 0
            && dst_flags & flags::WRITE != 0
            && dst.is_anonymous()
            && src.is_anonymous()
            && page_prot(dst) == page_prot(src);
        // INVARIANT: This was checked. A `LockedVma` that is private has an `anon_vma`.
        is_movable.then_some(Self { dst, src })
    }

    /// Returns the VMA that pages go to.
    #[inline(always)]
    pub fn dst(self) -> &'v VmaRef {
        self.dst
    }

    /// Returns the VMA that they come from.
    #[inline(always)]
    pub fn src(self) -> &'v VmaRef {
        self.src
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
                // SAFETY: The VMA is locked, and one of hugetlb.
                let page_shift = unsafe { bindings::rust_hugetlb_page_shift(vma.as_ptr()) };
                // INVARIANT: This was checked. It is locked as long as it is borrowed. By the
                // invariants of a locked VMA there is an `anon_vma` if it is private.
                return Memory::Hugetlb(HugetlbVma { vma, page_shift });
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
