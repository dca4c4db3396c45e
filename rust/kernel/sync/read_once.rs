// SPDX-License-Identifier: GPL-2.0

//! Values that are written under a lock and read without it.

use core::cell::UnsafeCell;

/// A value that threads access with `READ_ONCE()` and `WRITE_ONCE()` only.
///
/// It suits values that change under a lock, or once, and are read by threads that do not take the
/// lock. Compared with [`Atomic`](super::atomic::Atomic) there are no read-modify-write operations
/// and no ordering, and an access is one instruction, because it is not a call of a helper. If
/// helpers can be inlined, it can be replaced by `Atomic` with `Relaxed`.
///
/// # Examples
///
/// ```
/// use kernel::sync::ReadOnceCell;
///
/// let len = ReadOnceCell::new(0u32);
/// len.write_once(len.read_once() + 1);
/// assert_eq!(len.read_once(), 1);
/// ```
#[repr(transparent)]
pub struct ReadOnceCell<T>(UnsafeCell<T>);

// SAFETY: All accesses through a shared reference are marked, which makes them safe from several
// threads; they copy the value, which may be sent to another thread.
unsafe impl<T: Copy + Send> Sync for ReadOnceCell<T> {}

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

impl<T: private::Word> ReadOnceCell<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Returns the value that a pointer points to.
    ///
    /// # Safety
    ///
    /// For `'a`, `ptr` must be valid, and all accesses that may race with one through the result
    /// must be marked, as those of `READ_ONCE()`, `WRITE_ONCE()` and `atomic_*()` in C are.
    #[inline(always)]
    pub unsafe fn from_ptr<'a>(ptr: *mut T) -> &'a Self {
        // SAFETY: The pointer is valid by the safety requirements, and the type is transparent.
        unsafe { &*ptr.cast() }
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

    /// Writes the value. If another thread writes at the same time, one of the values is lost.
    #[doc(alias = "WRITE_ONCE")]
    #[inline(always)]
    pub fn write_once(&self, value: T) {
        // SAFETY: As in `read_once`, for `WRITE_ONCE()`.
        unsafe { self.0.get().write_volatile(value) }
    }
}
