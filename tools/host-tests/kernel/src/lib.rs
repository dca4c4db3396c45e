// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the kernel crate, with what the files under test use of it.

/// As in `rust/kernel/prelude.rs`.
pub mod prelude {
    pub use crate::error::{code::*, Error, Result};
    pub use crate::static_assert;
    pub use macros::kunit_tests;
}

/// As in `rust/kernel/error.rs`.
pub mod error {
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct Error(pub i32);

    pub type Result<T = (), E = Error> = core::result::Result<T, E>;

    pub mod code {
        pub const EINVAL: super::Error = super::Error(-22);
    }
}

#[macro_export]
macro_rules! static_assert {
    ($condition:expr) => {
        const _: () = assert!($condition);
    };
}

/// As in `rust/kernel/page.rs`.
pub mod page {
    pub const PAGE_SIZE: usize = 4096;
    pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);
}

/// As in `rust/kernel/userfaultfd.rs`.
pub mod userfaultfd {
    pub mod context {
        /// The tests make no contexts.
        pub enum Context {}

        impl Context {
            pub fn task_size(&self) -> u64 {
                match *self {}
            }
        }
    }

    pub mod abi {
        #[derive(Copy, Clone)]
        pub struct UffdioRange {
            pub start: u64,
            pub len: u64,
        }
    }
}

/// What bindgen makes of `include/uapi/linux/userfaultfd.h`.
#[allow(non_camel_case_types)]
pub mod uapi {
    #[repr(C, packed)]
    pub struct uffd_msg([u8; 32]);

    pub const UFFD_EVENT_PAGEFAULT: u32 = 0x12;
    pub const UFFD_EVENT_FORK: u32 = 0x13;
    pub const UFFD_EVENT_REMAP: u32 = 0x14;
    pub const UFFD_EVENT_REMOVE: u32 = 0x15;
    pub const UFFD_EVENT_UNMAP: u32 = 0x16;

    pub const UFFD_FEATURE_WP_UNPOPULATED: u32 = 1 << 13;
    pub const UFFD_FEATURE_WP_ASYNC: u32 = 1 << 15;
}

/// What bindgen makes of `include/linux/rbtree.h`.
#[allow(non_camel_case_types, clippy::missing_safety_doc)]
pub mod bindings {
    use core::ptr;

    #[repr(C)]
    pub struct rb_node {
        pub parent_color: usize,
        pub rb_right: *mut rb_node,
        pub rb_left: *mut rb_node,
    }

    impl Default for rb_node {
        fn default() -> Self {
            Self {
                parent_color: 0,
                rb_right: ptr::null_mut(),
                rb_left: ptr::null_mut(),
            }
        }
    }

    #[repr(C)]
    pub struct rb_root {
        pub rb_node: *mut rb_node,
    }

    unsafe extern "C" {
        pub fn rb_insert_color(node: *mut rb_node, root: *mut rb_root);
        pub fn rb_erase(node: *mut rb_node, root: *mut rb_root);
        pub fn rb_next(node: *const rb_node) -> *mut rb_node;
    }

    /// `rb_link_node()` is inline in C.
    pub unsafe fn rb_link_node(node: *mut rb_node, parent: *mut rb_node, link: *mut *mut rb_node) {
        // SAFETY: The caller passes valid pointers.
        unsafe {
            (*node).parent_color = parent as usize;
            (*node).rb_left = ptr::null_mut();
            (*node).rb_right = ptr::null_mut();
            *link = node;
        }
    }
}
