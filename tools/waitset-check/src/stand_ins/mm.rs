// SPDX-License-Identifier: GPL-2.0

//! VMAs and faults, as mm has them.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    clippy::missing_safety_doc
)]

use crate::rt::{AtomicU32, RwLock, RwLockReadGuard, RELAXED};

pub type vm_fault_t = u32;
pub type vm_fault_reason = u32;
pub type fault_flag = u32;

pub const vm_fault_reason_VM_FAULT_SIGBUS: u32 = 0x2;
pub const vm_fault_reason_VM_FAULT_MAJOR: u32 = 0x4;
pub const vm_fault_reason_VM_FAULT_NOPAGE: u32 = 0x100;
pub const vm_fault_reason_VM_FAULT_RETRY: u32 = 0x400;
pub const vm_fault_reason_VM_FAULT_COMPLETED: u32 = 0x4000;

pub const fault_flag_FAULT_FLAG_WRITE: u32 = 1 << 0;
pub const fault_flag_FAULT_FLAG_ALLOW_RETRY: u32 = 1 << 2;
pub const fault_flag_FAULT_FLAG_RETRY_NOWAIT: u32 = 1 << 3;
pub const fault_flag_FAULT_FLAG_KILLABLE: u32 = 1 << 4;
pub const fault_flag_FAULT_FLAG_USER: u32 = 1 << 6;
pub const fault_flag_FAULT_FLAG_INTERRUPTIBLE: u32 = 1 << 9;
pub const fault_flag_FAULT_FLAG_VMA_LOCK: u32 = 1 << 12;
pub const fault_flag_FAULT_FLAG_GUP: u32 = 1 << 13;

/// The VMA is shared, and not private.
pub const VM_SHARED: u64 = 0x8;

pub struct vm_area_struct {
    pub flags: u64,
    pub is_anonymous: bool,
}

pub struct vm_fault_place {
    pub vma: *mut vm_area_struct,
    pub address: usize,
    pub real_address: usize,
}

/// A fault in a page.
pub struct vm_fault {
    pub __bindgen_anon_1: vm_fault_place,
    pub flags: fault_flag,
    /// Not zero if the page is there.
    page: *const AtomicU32,
    /// The fault lock.
    lock: Option<RwLockReadGuard<'static, bool>>,
    /// The page was not there when the thread looked for the last time.
    pub must_wait: bool,
}

impl vm_fault {
    /// Begins a fault, with the lock held. Returns `None` if the VMA is not registered any more.
    ///
    /// # Safety
    ///
    /// All that is passed must outlive the fault.
    pub unsafe fn begin(
        lock: *const RwLock<bool>,
        page: *const AtomicU32,
        vma: *mut vm_area_struct,
        address: usize,
        flags: fault_flag,
    ) -> Option<Self> {
        // SAFETY: The lock is valid by the safety requirements.
        let lock = unsafe { &*lock }.read().unwrap();
        (*lock).then_some(())?;
        Some(Self {
            __bindgen_anon_1: vm_fault_place {
                vma,
                address,
                real_address: address,
            },
            flags,
            page,
            lock: Some(lock),
            must_wait: false,
        })
    }
}

pub unsafe fn uffd_shim_assert_fault_locked(vmf: *const vm_fault) {
    // SAFETY: The caller passes a fault.
    let is_locked = unsafe { (*vmf).lock.is_some() };
    assert!(is_locked, "the fault lock is not held");
}

pub unsafe fn uffd_shim_release_fault_lock(vmf: *mut vm_fault) {
    // SAFETY: The caller passes a fault.
    unsafe { (*vmf).lock = None };
}

pub unsafe fn uffd_shim_hugetlb_lock_read(_vma: *mut vm_area_struct) {
    unreachable!("there is no hugetlb");
}

pub unsafe fn uffd_shim_must_wait_unlock(vmf: *mut vm_fault, _reason: u64) -> bool {
    // SAFETY: The caller passes a fault with the lock held, which keeps its page.
    unsafe {
        (*vmf).must_wait = (*(*vmf).page).load(RELAXED) == 0;
        (*vmf).lock = None;
        (*vmf).must_wait
    }
}

/// As in `rust/kernel/mm/virt.rs`.
pub mod virt {
    use super::vm_area_struct;

    pub type vm_flags_t = u64;

    pub mod flags {
        pub const SHARED: super::vm_flags_t = super::super::VM_SHARED;
    }

    #[repr(transparent)]
    pub struct VmaRef(vm_area_struct);

    impl VmaRef {
        pub(crate) unsafe fn from_raw<'a>(vma: *const vm_area_struct) -> &'a Self {
            // SAFETY: The caller passes a valid VMA, and the type has it as its only field.
            unsafe { &*vma.cast() }
        }

        pub(crate) fn as_ptr(&self) -> *mut vm_area_struct {
            core::ptr::from_ref(&self.0).cast_mut()
        }

        pub(crate) fn flags(&self) -> vm_flags_t {
            self.0.flags
        }

        pub(crate) fn is_anonymous(&self) -> bool {
            self.0.is_anonymous
        }
    }
}
