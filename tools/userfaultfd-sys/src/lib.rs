// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the crate `userfaultfd-sys`, which the crate `userfaultfd` is made on.
//!
//! The real one runs bindgen, and so needs libclang wherever it is built. Here the types and the
//! constants are those of `linux-raw-sys`, and the constants get the types of the real one.

use linux_raw_sys::general;

pub use general::{
    uffd_msg, uffdio_api, uffdio_continue, uffdio_copy, uffdio_range, uffdio_register,
    uffdio_writeprotect, uffdio_zeropage, UFFD_USER_MODE_ONLY,
};

macro_rules! constants {
    ($type:ty: $($name:ident)*) => {
        $(pub const $name: $type = general::$name as $type;)*
    };
}

constants! { u8:
    UFFDIO
    _UFFDIO_API
    _UFFDIO_CONTINUE
    _UFFDIO_COPY
    _UFFDIO_REGISTER
    _UFFDIO_UNREGISTER
    _UFFDIO_WAKE
    _UFFDIO_WRITEPROTECT
    _UFFDIO_ZEROPAGE
    UFFD_EVENT_FORK
    UFFD_EVENT_PAGEFAULT
    UFFD_EVENT_REMAP
    UFFD_EVENT_REMOVE
    UFFD_EVENT_UNMAP
}

constants! { u32:
    USERFAULTFD_IOC
}

constants! { u64:
    UFFD_API
    UFFD_FEATURE_EVENT_FORK
    UFFD_FEATURE_EVENT_REMAP
    UFFD_FEATURE_EVENT_REMOVE
    UFFD_FEATURE_EVENT_UNMAP
    UFFD_FEATURE_MISSING_HUGETLBFS
    UFFD_FEATURE_MISSING_SHMEM
    UFFD_FEATURE_PAGEFAULT_FLAG_WP
    UFFD_FEATURE_SIGBUS
    UFFD_FEATURE_THREAD_ID
    UFFD_PAGEFAULT_FLAG_MINOR
    UFFD_PAGEFAULT_FLAG_WP
    UFFD_PAGEFAULT_FLAG_WRITE
    UFFDIO_COPY_MODE_DONTWAKE
    UFFDIO_REGISTER_MODE_MINOR
    UFFDIO_REGISTER_MODE_MISSING
    UFFDIO_REGISTER_MODE_WP
    UFFDIO_ZEROPAGE_MODE_DONTWAKE
}

// bindgen leaves out macros with casts.
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;
pub const UFFDIO_WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
pub const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1 << 0;
