// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the kernel crate, with what the files under test use of it.

pub mod mm;
mod model;
pub mod task;
pub mod userfaultfd;

pub use core::ffi;

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

    impl Error {
        pub fn from_errno(errno: i32) -> Self {
            Self(errno)
        }
    }

    pub type Result<T = (), E = Error> = core::result::Result<T, E>;

    pub fn to_result(err: i32) -> Result {
        if err < 0 {
            return Err(Error::from_errno(err));
        }
        Ok(())
    }

    pub mod code {
        use super::Error;

        pub const ENOENT: Error = Error(-2);
        pub const EINTR: Error = Error(-4);
        pub const EIO: Error = Error(-5);
        pub const EAGAIN: Error = Error(-11);
        pub const ENOMEM: Error = Error(-12);
        pub const EFAULT: Error = Error(-14);
        pub const EBUSY: Error = Error(-16);
        pub const EEXIST: Error = Error(-17);
        pub const EINVAL: Error = Error(-22);
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
    pub const PAGE_SHIFT: usize = 12;
    pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
    pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);
}

/// As in `rust/kernel/types.rs`.
pub mod types {
    use core::{cell::UnsafeCell, marker::PhantomData, mem::MaybeUninit};

    pub type NotThreadSafe = PhantomData<*mut ()>;
    #[allow(non_upper_case_globals)]
    pub const NotThreadSafe: NotThreadSafe = PhantomData;

    #[repr(transparent)]
    pub struct Opaque<T>(UnsafeCell<MaybeUninit<T>>);

    impl<T> Opaque<T> {
        pub const fn uninit() -> Self {
            Self(UnsafeCell::new(MaybeUninit::uninit()))
        }

        pub const fn get(&self) -> *mut T {
            self.0.get().cast()
        }
    }
}

/// As in `rust/kernel/sync.rs`.
pub mod sync {
    pub mod barrier {
        pub fn smp_wmb() {}
    }

    pub mod aref {
        use core::{marker::PhantomData, mem::ManuallyDrop, ops::Deref, ptr::NonNull};

        #[allow(clippy::missing_safety_doc)]
        pub unsafe trait AlwaysRefCounted {
            fn inc_ref(&self);
            unsafe fn dec_ref(this: NonNull<Self>);
        }

        pub struct ARef<T: AlwaysRefCounted> {
            ptr: NonNull<T>,
            _p: PhantomData<T>,
        }

        impl<T: AlwaysRefCounted> ARef<T> {
            #[allow(clippy::missing_safety_doc)]
            pub unsafe fn from_raw(ptr: NonNull<T>) -> Self {
                let _p = PhantomData;
                Self { ptr, _p }
            }

            pub fn into_raw(me: Self) -> NonNull<T> {
                ManuallyDrop::new(me).ptr
            }
        }

        impl<T: AlwaysRefCounted> From<&T> for ARef<T> {
            fn from(this: &T) -> Self {
                this.inc_ref();
                // SAFETY: The reference was just taken.
                unsafe { Self::from_raw(NonNull::from(this)) }
            }
        }

        impl<T: AlwaysRefCounted> Deref for ARef<T> {
            type Target = T;

            fn deref(&self) -> &T {
                // SAFETY: It has a reference.
                unsafe { self.ptr.as_ref() }
            }
        }

        impl<T: AlwaysRefCounted> Drop for ARef<T> {
            fn drop(&mut self) {
                // SAFETY: It has a reference.
                unsafe { T::dec_ref(self.ptr) };
            }
        }
    }
}

/// As in `rust/kernel/bug.rs`, but fatal.
#[macro_export]
macro_rules! warn_on_once {
    ($condition:expr) => {{
        assert!(!$condition);
        false
    }};
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

/// What bindgen makes of the headers of mm, and of `include/linux/rbtree.h`.
#[allow(non_camel_case_types, clippy::missing_safety_doc)]
pub mod bindings {
    pub use crate::model::*;
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
