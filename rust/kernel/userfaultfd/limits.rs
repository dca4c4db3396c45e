// SPDX-License-Identifier: GPL-2.0

//! What this kernel supports: everything that may differ between kernels and configurations.
//!
//! C header: [`include/uapi/linux/userfaultfd.h`](srctree/include/uapi/linux/userfaultfd.h).

use crate::{
    bindings,
    mm::{virt::vm_flags_t, Mm},
    uapi,
};

/// The area reports accesses to pages that are missing.
pub const VM_UFFD_MISSING: vm_flags_t = bindings::VM_UFFD_MISSING as vm_flags_t;
/// The area reports writes to pages that are write-protected.
pub const VM_UFFD_WP: vm_flags_t = bindings::VM_UFFD_WP as vm_flags_t;
/// The area reports accesses to pages that exist but are not mapped. Zero where the architecture
/// has no support for it.
pub const VM_UFFD_MINOR: vm_flags_t = bindings::VM_UFFD_MINOR as vm_flags_t;
/// All modes that an area can be registered in.
pub const VM_UFFD_FLAGS: vm_flags_t = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR;
/// The mapping may be made writable, as for a private or a writable shared one.
pub const VM_MAYWRITE: vm_flags_t = bindings::VM_MAYWRITE as vm_flags_t;

/// The version of the interface, `UFFD_API`.
pub const API: u64 = 0xAA;

/// Internal: the handshake was made. Not a feature of the interface.
pub const FEATURE_INITIALIZED: u32 = 1 << 31;

/// `UFFDIO_REGISTER_MODE_MISSING`
pub const REGISTER_MODE_MISSING: u64 = 1 << 0;
/// `UFFDIO_REGISTER_MODE_WP`
pub const REGISTER_MODE_WP: u64 = 1 << 1;
/// `UFFDIO_REGISTER_MODE_MINOR`
pub const REGISTER_MODE_MINOR: u64 = 1 << 2;

/// The modes that `UFFDIO_REGISTER` knows of, supported or not: `UFFD_API_REGISTER_MODES`.
pub const REGISTER_MODES: u64 = REGISTER_MODE_MISSING | REGISTER_MODE_WP | REGISTER_MODE_MINOR;

/// Returns the flags of an area that is registered in `mode`, or nothing where one of the modes
/// is unknown or not supported here, or none is named.
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

/// Returns a set of operations, a bit for each number.
const fn operations<const N: usize>(numbers: [u32; N]) -> u64 {
    let mut set = 0;
    let mut i = 0;
    while i < N {
        set |= 1 << numbers[i];
        i += 1;
    }
    set
}

/// The operations that a descriptor always has: `UFFD_API_IOCTLS`.
pub const API_IOCTLS: u64 = operations([
    uapi::_UFFDIO_REGISTER,
    uapi::_UFFDIO_UNREGISTER,
    uapi::_UFFDIO_API,
]);

/// The operations on huge pages: `UFFD_API_RANGE_IOCTLS_BASIC`.
pub const RANGE_IOCTLS_BASIC: u64 = operations([
    uapi::_UFFDIO_WAKE,
    uapi::_UFFDIO_COPY,
    uapi::_UFFDIO_WRITEPROTECT,
    uapi::_UFFDIO_CONTINUE,
    uapi::_UFFDIO_POISON,
]);

/// The operations on a registered range: `UFFD_API_RANGE_IOCTLS`.
pub const RANGE_IOCTLS: u64 =
    RANGE_IOCTLS_BASIC | operations([uapi::_UFFDIO_ZEROPAGE, uapi::_UFFDIO_MOVE]);

/// Returns the first address after user space, in bytes.
#[inline]
pub fn task_size(mm: &Mm) -> u64 {
    // SAFETY: The mm is valid. exec writes the field before a program of that mm runs, and before
    // that there is no context for it.
    (unsafe { (*mm.as_raw()).__bindgen_anon_1.task_size }) as u64
}
