// SPDX-License-Identifier: GPL-2.0

//! What the wait set uses of the kernel crate.

pub(crate) mod bindings;
pub(crate) mod mm;
pub(crate) mod pin_init;
pub(crate) mod sync;
pub(crate) mod task;

/// As in `rust/kernel/prelude.rs`.
pub(crate) mod prelude {
    pub(crate) use super::{
        pin_init::{self, pin_init, PinInit},
        static_assert,
    };
    pub(crate) use crate::{current, error::Result};
    pub(crate) use core::pin::Pin;
    pub(crate) use macros::{kunit_tests, pin_data};
}

/// As in `rust/kernel/error.rs`.
pub(crate) mod error {
    #[derive(Copy, Clone, Debug, PartialEq, Eq)]
    pub struct Error(i32);

    pub type Result<T = (), E = Error> = core::result::Result<T, E>;

    pub(crate) mod code {
        pub(crate) const EAGAIN: super::Error = super::Error(-11);
        pub(crate) const ERESTARTSYS: super::Error = super::Error(-512);
    }
}

/// As in `rust/kernel/static_assert.rs`.
macro_rules! static_assert {
    ($condition:expr) => {
        const _: () = assert!($condition);
    };
}
pub(crate) use static_assert;

/// As in `rust/kernel/time.rs`.
pub(crate) mod time {
    pub(crate) fn msecs_to_jiffies(msecs: u32) -> u64 {
        msecs.into()
    }
}

/// As in `rust/kernel/types.rs`.
pub(crate) mod types {
    use crate::rt::Memory;
    use core::marker::PhantomData;

    pub type NotThreadSafe = PhantomData<*mut ()>;
    #[allow(non_upper_case_globals)]
    pub const NotThreadSafe: NotThreadSafe = PhantomData;

    /// A value that other threads access while there is a reference to it.
    ///
    /// Unlike that of the kernel it drops the value, so that its [`Life`](crate::rt::Life) ends.
    pub(crate) struct Opaque<T: 'static>(Memory<T>);

    impl<T: 'static> Opaque<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Memory::new(value))
        }

        pub(crate) fn get(&self) -> *mut T {
            self.0.get()
        }
    }
}

/// What bindgen makes of `include/uapi/linux/userfaultfd.h`.
#[allow(non_camel_case_types)]
pub(crate) mod uapi {
    #[repr(C, packed)]
    pub(crate) struct uffd_msg([u8; 32]);

    pub(crate) const UFFD_EVENT_PAGEFAULT: u32 = 0x12;
    pub(crate) const UFFD_EVENT_FORK: u32 = 0x13;
    pub(crate) const UFFD_EVENT_REMAP: u32 = 0x14;
    pub(crate) const UFFD_EVENT_REMOVE: u32 = 0x15;
    pub(crate) const UFFD_EVENT_UNMAP: u32 = 0x16;
    pub(crate) const UFFD_PAGEFAULT_FLAG_WP: u32 = 1 << 1;
    pub(crate) const UFFD_PAGEFAULT_FLAG_MINOR: u32 = 1 << 2;
}
