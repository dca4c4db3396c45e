// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/mm.rs`. What of this borrows what, and what may go to another thread, is as there.

#![allow(clippy::missing_safety_doc)]

use crate::{
    bindings,
    sync::aref::{ARef, AlwaysRefCounted},
    types::{NotThreadSafe, Opaque},
};
use core::{ops::Deref, ptr::NonNull};
use virt::VmaRef;

/// The files of `rust/kernel/mm`, some of which have others below.
#[path = "../../../../rust/kernel/mm"]
mod files {
    #[cfg(CONFIG_PER_VMA_LOCK)]
    use super::VmaReadGuard;
    use super::{virt, MmWithUser, MmapReadGuard};

    pub mod filemap;
    pub mod folio;
    pub mod hugetlb;
    pub mod locked;
    pub mod mmu_notifier;
    pub mod pgtable;
    pub mod relocation;
    pub mod rmap;
    pub mod swap;
    pub mod thp;
}
pub use files::{
    filemap, folio, hugetlb, locked, mmu_notifier, pgtable, relocation, rmap, swap, thp,
};

#[repr(transparent)]
pub struct Mm {
    mm: Opaque<bindings::mm_struct>,
}

// SAFETY: As in the kernel.
unsafe impl Send for Mm {}
// SAFETY: As in the kernel.
unsafe impl Sync for Mm {}

impl Mm {
    pub fn as_raw(&self) -> *mut bindings::mm_struct {
        self.mm.get()
    }

    pub unsafe fn from_raw<'a>(mm: *const bindings::mm_struct) -> &'a Self {
        // SAFETY: The caller passes a valid mm, and the type has it as its only field.
        unsafe { &*mm.cast() }
    }

    pub fn mmget_not_zero(&self) -> Option<ARef<MmWithUser>> {
        // SAFETY: The mm is valid.
        let success = unsafe { bindings::mmget_not_zero(self.as_raw()) };
        // SAFETY: The reference was just made.
        success.then(|| unsafe { ARef::from_raw(NonNull::from(self).cast()) })
    }
}

#[repr(transparent)]
pub struct MmWithUser {
    mm: Mm,
}

impl Deref for MmWithUser {
    type Target = Mm;

    fn deref(&self) -> &Mm {
        &self.mm
    }
}

// SAFETY: As in the kernel.
unsafe impl AlwaysRefCounted for MmWithUser {
    fn inc_ref(&self) {
        // SAFETY: The mm has users.
        unsafe { bindings::mmget(self.as_raw()) };
    }

    unsafe fn dec_ref(mm: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe { bindings::mmput(mm.as_ptr().cast()) };
    }
}

impl MmWithUser {
    pub unsafe fn from_raw<'a>(mm: *const bindings::mm_struct) -> &'a Self {
        // SAFETY: The caller passes a valid mm, and the type has it as its only field.
        unsafe { &*mm.cast() }
    }

    pub fn lock_vma_under_rcu(&self, address: usize) -> Option<VmaReadGuard<'_>> {
        // SAFETY: The mm is valid.
        let vma = unsafe { bindings::lock_vma_under_rcu(self.as_raw(), address) };
        (!vma.is_null()).then(|| VmaReadGuard {
            // SAFETY: The VMA was just locked.
            vma: unsafe { VmaRef::from_raw(vma) },
            _nts: NotThreadSafe,
        })
    }

    pub fn mmap_read_lock(&self) -> MmapReadGuard<'_> {
        // SAFETY: The mm is valid.
        unsafe { bindings::mmap_read_lock(self.as_raw()) };
        MmapReadGuard {
            mm: self,
            _nts: NotThreadSafe,
        }
    }
}

pub struct MmapReadGuard<'a> {
    mm: &'a MmWithUser,
    _nts: NotThreadSafe,
}

impl MmapReadGuard<'_> {
    pub fn vma_lookup(&self, address: usize) -> Option<&VmaRef> {
        // SAFETY: The mm is locked.
        let vma = unsafe { bindings::vma_lookup(self.mm.as_raw(), address) };
        // SAFETY: It is valid as long as the mm is locked.
        (!vma.is_null()).then(|| unsafe { VmaRef::from_raw(vma) })
    }
}

impl Drop for MmapReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The mm is locked.
        unsafe { bindings::mmap_read_unlock(self.mm.as_raw()) };
    }
}

pub struct VmaReadGuard<'a> {
    vma: &'a VmaRef,
    _nts: NotThreadSafe,
}

impl Deref for VmaReadGuard<'_> {
    type Target = VmaRef;

    fn deref(&self) -> &VmaRef {
        self.vma
    }
}

impl Drop for VmaReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: The VMA is locked.
        unsafe { bindings::vma_end_read(self.vma.as_ptr()) };
    }
}

/// As in `rust/kernel/mm/virt.rs`.
pub mod virt {
    use super::{bindings, MmWithUser, Opaque};

    pub use bindings::vm_flags_t;

    #[repr(transparent)]
    pub struct VmaRef {
        vma: Opaque<bindings::vm_area_struct>,
    }

    impl VmaRef {
        pub unsafe fn from_raw<'a>(vma: *const bindings::vm_area_struct) -> &'a Self {
            // SAFETY: The caller passes a valid VMA, and the type has it as its only field.
            unsafe { &*vma.cast() }
        }

        pub fn as_ptr(&self) -> *mut bindings::vm_area_struct {
            self.vma.get()
        }

        pub fn mm(&self) -> &MmWithUser {
            // SAFETY: The VMA is valid, and locked, so that its mm has users.
            unsafe { MmWithUser::from_raw((*self.as_ptr()).vm_mm) }
        }

        pub fn flags(&self) -> bindings::vm_flags_t {
            // SAFETY: The VMA is valid.
            unsafe { (*self.as_ptr()).vm_flags }
        }

        pub fn start(&self) -> usize {
            // SAFETY: The VMA is valid.
            unsafe { (*self.as_ptr()).vm_start }
        }

        pub fn end(&self) -> usize {
            // SAFETY: The VMA is valid.
            unsafe { (*self.as_ptr()).vm_end }
        }
    }

    pub mod flags {
        use super::{bindings, vm_flags_t};

        pub const READ: vm_flags_t = bindings::VM_READ as vm_flags_t;
        pub const WRITE: vm_flags_t = bindings::VM_WRITE as vm_flags_t;
        pub const EXEC: vm_flags_t = bindings::VM_EXEC as vm_flags_t;
        pub const SHARED: vm_flags_t = bindings::VM_SHARED as vm_flags_t;
        pub const PFNMAP: vm_flags_t = bindings::VM_PFNMAP as vm_flags_t;
        pub const IO: vm_flags_t = bindings::VM_IO as vm_flags_t;
        pub const HUGETLB: vm_flags_t = bindings::VM_HUGETLB as vm_flags_t;
        pub const MIXEDMAP: vm_flags_t = bindings::VM_MIXEDMAP as vm_flags_t;
    }
}
