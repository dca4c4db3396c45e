// SPDX-License-Identifier: GPL-2.0

//! Values that are read without the lock under which they are written.

use core::cell::UnsafeCell;

/// A value that several threads access with marked accesses only: `READ_ONCE()` and
/// `WRITE_ONCE()` in C.
///
/// Compared with [`Atomic`](super::atomic::Atomic) there are no read-modify-write operations and no
/// ordering, and an access is one instruction instead of a call. It suits values that change under
/// a lock, or once, and are read by threads that do not take it.
#[repr(transparent)]
pub struct Marked<T>(UnsafeCell<T>);

// SAFETY: All accesses through a shared reference are marked, which makes them safe from several
// threads; they copy the value, which may be sent to another thread.
unsafe impl<T: Copy + Send> Sync for Marked<T> {}

mod private {
    /// A type whose values are accessed as a whole by one instruction.
    pub trait Word: Copy {}
}

macro_rules! impl_word {
    ($($ty:ty),*) => { $(impl private::Word for $ty {})* };
}

impl_word!(bool, u8, i8, u16, i16, u32, i32, usize, isize);
#[cfg(CONFIG_64BIT)]
impl_word!(u64, i64);

impl<T: private::Word> Marked<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Reads the value.
    #[doc(alias = "READ_ONCE")]
    #[inline(always)]
    pub fn read_once(&self) -> T {
        // SAFETY: The pointer is valid. This corresponds to `READ_ONCE()`: a volatile access to
        // a machine word is not torn, and in the kernel's memory model it does not race with other
        // marked accesses.
        unsafe { self.0.get().read_volatile() }
    }

    /// Writes the value. What others write at the same time may be lost.
    #[doc(alias = "WRITE_ONCE")]
    #[inline(always)]
    pub fn write_once(&self, value: T) {
        // SAFETY: As in `read_once`, for `WRITE_ONCE()`.
        unsafe { self.0.get().write_volatile(value) }
    }
}
