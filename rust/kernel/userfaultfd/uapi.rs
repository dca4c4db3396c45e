// SPDX-License-Identifier: GPL-2.0

//! The structures that user space passes to `ioctl(2)`.
//!
//! They are split into what user space writes and the last field, which the kernel writes:
//! reading the former must not depend on the latter.
//!
//! C header: [`include/uapi/linux/userfaultfd.h`](srctree/include/uapi/linux/userfaultfd.h).

use crate::{
    ioctl::{_IO, _IOR, _IOWR},
    prelude::*,
    transmute::{AsBytes, FromBytes},
    uaccess::{UserPtr, UserSlice},
    uapi,
};
use core::mem::{offset_of, size_of};

/// An operation of `ioctl_userfaultfd(2)`, as user space passes it.
pub trait Request: FromBytes + Sized {
    /// The number of the operation.
    const CMD: u32;

    /// Reads the fields that user space writes.
    ///
    /// # Errors
    ///
    /// `EFAULT` where they cannot be read.
    fn read(arg: UserPtr) -> Result<Self> {
        UserSlice::new(arg, size_of::<Self>()).reader().read()
    }
}

/// A [`Request`] that has a field of eight bytes for an answer, right behind the rest.
pub trait Answered: Request {
    /// Writes the answer.
    ///
    /// # Errors
    ///
    /// `EFAULT` where it cannot be written.
    #[inline]
    fn answer(arg: UserPtr, answer: u64) -> Result {
        arg.wrapping_byte_add(size_of::<Self>()).put_u64(answer)
    }
}

/// Defines the readable part of a structure, checked against the one of the C header.
macro_rules! request {
    (
        $(#[$meta:meta])*
        $name:ident, $c:ident, $cmd:expr, { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* }
        $(, answer $answer:ident)?
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Copy, Clone)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $ty,)*
        }

        // SAFETY: All fields are integers, or structures of such, of eight bytes each: any value
        // is valid and there is no padding.
        unsafe impl FromBytes for $name {}
        // SAFETY: As above.
        unsafe impl AsBytes for $name {}

        impl Request for $name {
            const CMD: u32 = $cmd;
        }

        $(const _: () = assert!(size_of::<$name>() == offset_of!(uapi::$c, $answer));
        impl Answered for $name {})?

        $(const _: () = assert!(offset_of!($name, $field) == offset_of!(uapi::$c, $field));)*
    };
}

request! {
    /// A range of addresses, in bytes: `struct uffdio_range`.
    Range, uffdio_range, _IOR::<uapi::uffdio_range>(uapi::UFFDIO, uapi::_UFFDIO_WAKE), {
        /// The first address.
        start: u64,
        /// The length.
        len: u64,
    }
}

/// The other operation on a [`Range`].
pub const UNREGISTER: u32 = _IOR::<uapi::uffdio_range>(uapi::UFFDIO, uapi::_UFFDIO_UNREGISTER);

/// The operation of `/dev/userfaultfd` that creates a descriptor.
pub const NEW: u32 = _IO(uapi::USERFAULTFD_IOC, 0);

request! {
    /// The handshake: `struct uffdio_api`.
    Api, uffdio_api, _IOWR::<uapi::uffdio_api>(uapi::UFFDIO, uapi::_UFFDIO_API), {
        /// The version of the interface.
        api: u64,
        /// The features that user space asks for, and those that there are.
        features: u64,
        /// The operations that there are, a bit for each.
        ioctls: u64,
    }
}

impl Api {
    /// Writes all of it back.
    ///
    /// # Errors
    ///
    /// `EFAULT` where it cannot be written.
    pub fn write(&self, arg: UserPtr) -> Result {
        UserSlice::new(arg, size_of::<Self>()).writer().write(self)
    }
}

request! {
    /// Registration of a range: `struct uffdio_register`.
    Register, uffdio_register,
    _IOWR::<uapi::uffdio_register>(uapi::UFFDIO, uapi::_UFFDIO_REGISTER), {
        /// Where.
        range: Range,
        /// Which faults are reported.
        mode: u64,
    }, answer ioctls
}

request! {
    /// Fill pages with data: `struct uffdio_copy`.
    Copy, uffdio_copy, _IOWR::<uapi::uffdio_copy>(uapi::UFFDIO, uapi::_UFFDIO_COPY), {
        /// The address to fill.
        dst: u64,
        /// The address in the caller's memory to copy from.
        src: u64,
        /// How many bytes.
        len: u64,
        /// `UFFDIO_COPY_MODE_*`
        mode: u64,
    }, answer copy
}

request! {
    /// Fill pages with zeroes: `struct uffdio_zeropage`.
    Zeropage, uffdio_zeropage,
    _IOWR::<uapi::uffdio_zeropage>(uapi::UFFDIO, uapi::_UFFDIO_ZEROPAGE), {
        /// Where.
        range: Range,
        /// `UFFDIO_ZEROPAGE_MODE_*`
        mode: u64,
    }, answer zeropage
}

request! {
    /// Write-protect pages or lift the protection: `struct uffdio_writeprotect`.
    Writeprotect, uffdio_writeprotect,
    _IOWR::<uapi::uffdio_writeprotect>(uapi::UFFDIO, uapi::_UFFDIO_WRITEPROTECT), {
        /// Where.
        range: Range,
        /// `UFFDIO_WRITEPROTECT_MODE_*`
        mode: u64,
    }
}

request! {
    /// Map pages of the page cache: `struct uffdio_continue`.
    Continue, uffdio_continue,
    _IOWR::<uapi::uffdio_continue>(uapi::UFFDIO, uapi::_UFFDIO_CONTINUE), {
        /// Where.
        range: Range,
        /// `UFFDIO_CONTINUE_MODE_*`
        mode: u64,
    }, answer mapped
}

request! {
    /// Make access to pages fail: `struct uffdio_poison`.
    Poison, uffdio_poison, _IOWR::<uapi::uffdio_poison>(uapi::UFFDIO, uapi::_UFFDIO_POISON), {
        /// Where.
        range: Range,
        /// `UFFDIO_POISON_MODE_*`
        mode: u64,
    }, answer updated
}

request! {
    /// Move pages: `struct uffdio_move`.
    Move, uffdio_move, _IOWR::<uapi::uffdio_move>(uapi::UFFDIO, uapi::_UFFDIO_MOVE), {
        /// The address to move to.
        dst: u64,
        /// The address to move from.
        src: u64,
        /// How many bytes.
        len: u64,
        /// `UFFDIO_MOVE_MODE_*`
        mode: u64,
    }, answer move_
}

/// `UFFDIO_COPY_MODE_DONTWAKE` and its siblings: leave the threads asleep. It is the same bit for
/// all operations but [`Writeprotect`].
pub const MODE_DONTWAKE: u64 = 1 << 0;
/// `UFFDIO_COPY_MODE_WP` and `UFFDIO_CONTINUE_MODE_WP`: leave the pages write-protected.
pub const MODE_WP: u64 = 1 << 1;
/// `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`: what is not there is not missed.
pub const MOVE_MODE_ALLOW_SRC_HOLES: u64 = 1 << 1;
/// `UFFDIO_WRITEPROTECT_MODE_WP`: protect, and do not lift the protection.
pub const WRITEPROTECT_MODE_WP: u64 = 1 << 0;
/// `UFFDIO_WRITEPROTECT_MODE_DONTWAKE`: leave the threads asleep.
pub const WRITEPROTECT_MODE_DONTWAKE: u64 = 1 << 1;
