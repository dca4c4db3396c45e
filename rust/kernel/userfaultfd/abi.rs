// SPDX-License-Identifier: GPL-2.0

//! The structures that user space passes to `ioctl(2)`.
//!
//! They are split into what user space writes and the last field, which the kernel writes:
//! reading the former must not depend on the latter.
//!
//! C header: [`include/uapi/linux/userfaultfd.h`](srctree/include/uapi/linux/userfaultfd.h).

use crate::{
    bindings,
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
    /// `EFAULT` if they cannot be read.
    fn read(arg: UserPtr) -> Result<Self> {
        UserSlice::new(arg, size_of::<Self>()).reader().read()
    }
}

/// A [`Request`] whose structure ends with a `u64` that the kernel writes.
pub trait Answered: Request {
    /// Writes the last field.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    #[inline]
    fn answer(arg: UserPtr, answer: u64) -> Result {
        arg.wrapping_byte_add(size_of::<Self>()).put_u64(answer)
    }
}

/// Defines the part of a structure that the kernel reads, and checks it against the C header.
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

        // SAFETY: All fields are integers of eight bytes, or structures of such integers: any value
        // is valid and there is no padding.
        unsafe impl FromBytes for $name {}
        // SAFETY: As for `FromBytes`.
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
    /// A range of addresses, in bytes; the argument of `UFFDIO_WAKE`: `struct uffdio_range`.
    UffdioRange, uffdio_range, _IOR::<uapi::uffdio_range>(uapi::UFFDIO, uapi::_UFFDIO_WAKE), {
        /// The first address.
        start: u64,
        /// The length.
        len: u64,
    }
}

/// `UFFDIO_UNREGISTER`, the other operation on a [`UffdioRange`].
pub const UNREGISTER: u32 = _IOR::<uapi::uffdio_range>(uapi::UFFDIO, uapi::_UFFDIO_UNREGISTER);

/// `USERFAULTFD_IOC_NEW`, the operation of `/dev/userfaultfd`.
pub const NEW: u32 = _IO(uapi::USERFAULTFD_IOC, 0);

request! {
    /// The handshake: `struct uffdio_api`.
    UffdioApi, uffdio_api, _IOWR::<uapi::uffdio_api>(uapi::UFFDIO, uapi::_UFFDIO_API), {
        /// The version of the interface.
        api: u64,
        /// The features that user space asks for, and those that the kernel offers.
        features: u64,
        /// The operations that the kernel offers, a bit for each.
        ioctls: u64,
    }
}

impl UffdioApi {
    /// Writes the structure back.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written.
    pub fn write(&self, arg: UserPtr) -> Result {
        UserSlice::new(arg, size_of::<Self>()).writer().write(self)
    }
}

request! {
    /// Registration of a range: `struct uffdio_register`.
    UffdioRegister, uffdio_register,
    _IOWR::<uapi::uffdio_register>(uapi::UFFDIO, uapi::_UFFDIO_REGISTER), {
        /// The addresses.
        range: UffdioRange,
        /// The faults that are reported: `UFFDIO_REGISTER_MODE_*`
        mode: u64,
    }, answer ioctls
}

request! {
    /// Fill pages with data: `struct uffdio_copy`.
    UffdioCopy, uffdio_copy, _IOWR::<uapi::uffdio_copy>(uapi::UFFDIO, uapi::_UFFDIO_COPY), {
        /// The address to fill.
        dst: u64,
        /// The address in the caller's memory to copy from.
        src: u64,
        /// The number of bytes.
        len: u64,
        /// `UFFDIO_COPY_MODE_*`
        mode: u64,
    }, answer copy
}

request! {
    /// Fill pages with zeroes: `struct uffdio_zeropage`.
    UffdioZeropage, uffdio_zeropage,
    _IOWR::<uapi::uffdio_zeropage>(uapi::UFFDIO, uapi::_UFFDIO_ZEROPAGE), {
        /// The addresses.
        range: UffdioRange,
        /// `UFFDIO_ZEROPAGE_MODE_*`
        mode: u64,
    }, answer zeropage
}

request! {
    /// Write-protect pages or lift the protection: `struct uffdio_writeprotect`.
    UffdioWriteprotect, uffdio_writeprotect,
    _IOWR::<uapi::uffdio_writeprotect>(uapi::UFFDIO, uapi::_UFFDIO_WRITEPROTECT), {
        /// The addresses.
        range: UffdioRange,
        /// `UFFDIO_WRITEPROTECT_MODE_*`
        mode: u64,
    }
}

request! {
    /// Map pages of the page cache: `struct uffdio_continue`.
    UffdioContinue, uffdio_continue,
    _IOWR::<uapi::uffdio_continue>(uapi::UFFDIO, uapi::_UFFDIO_CONTINUE), {
        /// The addresses.
        range: UffdioRange,
        /// `UFFDIO_CONTINUE_MODE_*`
        mode: u64,
    }, answer mapped
}

request! {
    /// Make access to pages fail: `struct uffdio_poison`.
    UffdioPoison, uffdio_poison, _IOWR::<uapi::uffdio_poison>(uapi::UFFDIO, uapi::_UFFDIO_POISON), {
        /// The addresses.
        range: UffdioRange,
        /// `UFFDIO_POISON_MODE_*`
        mode: u64,
    }, answer updated
}

request! {
    /// Move pages: `struct uffdio_move`.
    UffdioMove, uffdio_move, _IOWR::<uapi::uffdio_move>(uapi::UFFDIO, uapi::_UFFDIO_MOVE), {
        /// The address to move to.
        dst: u64,
        /// The address to move from.
        src: u64,
        /// The number of bytes.
        len: u64,
        /// `UFFDIO_MOVE_MODE_*`
        mode: u64,
    }, answer move_
}

/// `UFFDIO_COPY_MODE_DONTWAKE`: leave the threads asleep. All operations that fill pages use the
/// same bit.
pub const MODE_DONTWAKE: u64 = bindings::UFFDIO_COPY_MODE_DONTWAKE;
const _: () = assert!(bindings::UFFDIO_ZEROPAGE_MODE_DONTWAKE == MODE_DONTWAKE);
const _: () = assert!(bindings::UFFDIO_CONTINUE_MODE_DONTWAKE == MODE_DONTWAKE);
const _: () = assert!(bindings::UFFDIO_POISON_MODE_DONTWAKE == MODE_DONTWAKE);
const _: () = assert!(bindings::UFFDIO_MOVE_MODE_DONTWAKE == MODE_DONTWAKE);

/// `UFFDIO_COPY_MODE_WP`: leave the pages write-protected.
pub const COPY_MODE_WP: u64 = bindings::UFFDIO_COPY_MODE_WP;
/// `UFFDIO_CONTINUE_MODE_WP`: leave the pages write-protected.
pub const CONTINUE_MODE_WP: u64 = bindings::UFFDIO_CONTINUE_MODE_WP;
/// `UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES`: skip pages that are missing.
pub const MOVE_MODE_ALLOW_SRC_HOLES: u64 = bindings::UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES;
/// `UFFDIO_WRITEPROTECT_MODE_WP`: protect the pages. Otherwise the protection is lifted.
pub const WRITEPROTECT_MODE_WP: u64 = bindings::UFFDIO_WRITEPROTECT_MODE_WP;
/// `UFFDIO_WRITEPROTECT_MODE_DONTWAKE`: leave the threads asleep.
pub const WRITEPROTECT_MODE_DONTWAKE: u64 = bindings::UFFDIO_WRITEPROTECT_MODE_DONTWAKE;
