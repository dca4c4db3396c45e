// SPDX-License-Identifier: GPL-2.0

//! What this kernel supports: all that may differ between kernels and configurations.
//!
//! C header: [`include/uapi/linux/userfaultfd.h`](srctree/include/uapi/linux/userfaultfd.h).

use crate::{bindings, mm::virt::vm_flags_t, uapi};

/// Accesses to missing pages are reported: a flag of VMAs.
pub const VM_UFFD_MISSING: vm_flags_t = bindings::VM_UFFD_MISSING as vm_flags_t;
/// Writes to write-protected pages are reported: a flag of VMAs.
pub const VM_UFFD_WP: vm_flags_t = bindings::VM_UFFD_WP as vm_flags_t;
/// Accesses to pages that exist but are not mapped are reported: a flag of VMAs. Zero if the
/// architecture does not support it.
pub const VM_UFFD_MINOR: vm_flags_t = bindings::VM_UFFD_MINOR as vm_flags_t;
/// All modes that a VMA can be registered in.
pub const VM_UFFD_FLAGS: vm_flags_t = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR;
/// The mapping may be made writable: a flag of private and of writable shared VMAs.
pub const VM_MAYWRITE: vm_flags_t = bindings::VM_MAYWRITE as vm_flags_t;

/// The version of the interface: `UFFD_API`.
pub const API: u64 = bindings::UFFD_API;

/// `UFFDIO_REGISTER_MODE_MISSING`
pub const REGISTER_MODE_MISSING: u64 = bindings::UFFDIO_REGISTER_MODE_MISSING;
/// `UFFDIO_REGISTER_MODE_WP`
pub const REGISTER_MODE_WP: u64 = bindings::UFFDIO_REGISTER_MODE_WP;
/// `UFFDIO_REGISTER_MODE_MINOR`
pub const REGISTER_MODE_MINOR: u64 = bindings::UFFDIO_REGISTER_MODE_MINOR;

/// The modes that `UFFDIO_REGISTER` knows, supported or not: `UFFD_API_REGISTER_MODES`.
pub const REGISTER_MODES: u64 = REGISTER_MODE_MISSING | REGISTER_MODE_WP | REGISTER_MODE_MINOR;

/// Returns the flags of a VMA that is registered in `mode`, or `None` if one of the modes is
/// unknown or not supported, or there is none.
pub fn register_flags(mode: u64) -> Option<vm_flags_t> {
    const MODES: [(u64, vm_flags_t, bool); 3] = [
        (REGISTER_MODE_MISSING, VM_UFFD_MISSING, true),
        (
            REGISTER_MODE_WP,
            VM_UFFD_WP,
            cfg!(CONFIG_HAVE_ARCH_USERFAULTFD_WP),
        ),
        (
            REGISTER_MODE_MINOR,
            VM_UFFD_MINOR,
            cfg!(CONFIG_HAVE_ARCH_USERFAULTFD_MINOR),
        ),
    ];

    if mode == 0 || mode & !REGISTER_MODES != 0 {
        return None;
    }
    let mut flags = 0;
    for (bit, flag, supported) in MODES {
        if mode & bit != 0 {
            if !supported {
                return None;
            }
            flags |= flag;
        }
    }
    Some(flags)
}

/// The features that this kernel offers: `UFFD_API_FEATURES` less what the architecture or the
/// configuration lacks.
pub const FEATURES: u64 = {
    let mut features = uapi::UFFD_FEATURE_PAGEFAULT_FLAG_WP
        | uapi::UFFD_FEATURE_EVENT_FORK
        | uapi::UFFD_FEATURE_EVENT_REMAP
        | uapi::UFFD_FEATURE_EVENT_REMOVE
        | uapi::UFFD_FEATURE_EVENT_UNMAP
        | uapi::UFFD_FEATURE_MISSING_HUGETLBFS
        | uapi::UFFD_FEATURE_MISSING_SHMEM
        | uapi::UFFD_FEATURE_SIGBUS
        | uapi::UFFD_FEATURE_THREAD_ID
        | uapi::UFFD_FEATURE_MINOR_HUGETLBFS
        | uapi::UFFD_FEATURE_MINOR_SHMEM
        | uapi::UFFD_FEATURE_EXACT_ADDRESS
        | uapi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM
        | uapi::UFFD_FEATURE_WP_UNPOPULATED
        | uapi::UFFD_FEATURE_POISON
        | uapi::UFFD_FEATURE_WP_ASYNC
        | uapi::UFFD_FEATURE_MOVE;
    if !cfg!(CONFIG_HAVE_ARCH_USERFAULTFD_MINOR) {
        features &= !(uapi::UFFD_FEATURE_MINOR_HUGETLBFS | uapi::UFFD_FEATURE_MINOR_SHMEM);
    }
    if !cfg!(CONFIG_HAVE_ARCH_USERFAULTFD_WP) {
        features &= !uapi::UFFD_FEATURE_PAGEFAULT_FLAG_WP;
    }
    if !cfg!(CONFIG_PTE_MARKER_UFFD_WP) {
        features &= !(uapi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM
            | uapi::UFFD_FEATURE_WP_UNPOPULATED
            | uapi::UFFD_FEATURE_WP_ASYNC);
    }
    features as u64
};

/// The operations that a descriptor always has, a bit for each: `UFFD_API_IOCTLS`.
pub const API_IOCTLS: u64 =
    (1 << uapi::_UFFDIO_REGISTER) | (1 << uapi::_UFFDIO_UNREGISTER) | (1 << uapi::_UFFDIO_API);

/// The operations on huge pages, a bit for each: `UFFD_API_RANGE_IOCTLS_BASIC`.
pub const RANGE_IOCTLS_BASIC: u64 = (1 << uapi::_UFFDIO_WAKE)
    | (1 << uapi::_UFFDIO_COPY)
    | (1 << uapi::_UFFDIO_WRITEPROTECT)
    | (1 << uapi::_UFFDIO_CONTINUE)
    | (1 << uapi::_UFFDIO_POISON);

/// The operations on a registered range, a bit for each: `UFFD_API_RANGE_IOCTLS`.
pub const RANGE_IOCTLS: u64 =
    RANGE_IOCTLS_BASIC | (1 << uapi::_UFFDIO_ZEROPAGE) | (1 << uapi::_UFFDIO_MOVE);
