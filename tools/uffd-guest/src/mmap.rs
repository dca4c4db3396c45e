// SPDX-License-Identifier: GPL-2.0

//! Mapped memory, and files to map.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// The protection of most memory.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping. It is unmapped when this is dropped.
pub struct Mmap {
    start: *mut u8,
    len: usize,
}

// SAFETY: Memory belongs to the process. This gives its address only.
unsafe impl Send for Mmap {}
// SAFETY: As above.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Maps memory at `address`, and fails if a mapping is there. The kernel chooses the address if
    /// it is `None`.
    pub fn new(
        address: Option<usize>,
        len: usize,
        protection: i32,
        flags: i32,
        file: Option<BorrowedFd>,
    ) -> io::Result<Self> {
        assert_eq!(flags & libc::MAP_FIXED, 0, "it would replace a mapping");
        let flags = flags | address.map_or(0, |_| libc::MAP_FIXED_NOREPLACE);
        let address = ptr::with_exposed_provenance_mut(address.unwrap_or(0));
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        // SAFETY: Without MAP_FIXED, a new mapping changes no memory that is in use.
        match unsafe { libc::mmap(address, len, protection, flags, fd, 0) } {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(Self {
                start: start.cast(),
                len,
            }),
        }
    }

    pub fn start(&self) -> *mut u8 {
        self.start
    }

    /// The length in bytes.
    #[allow(clippy::len_without_is_empty, reason = "no mapping is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Leaves the memory mapped as long as the process exists. Returns its address.
    pub fn leak(self) -> *mut u8 {
        std::mem::ManuallyDrop::new(self).start
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: The mapping belongs to this, to which there is no reference any more.
        unsafe { libc::munmap(self.start.cast(), self.len) };
    }
}

/// Makes a file of `len` bytes that is only in memory, with flags `MFD_*`.
pub fn memfd(name: &CStr, flags: u32, len: usize) -> io::Result<OwnedFd> {
    // SAFETY: The name is a string that ends with a zero.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags | libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The descriptor is new, and this is its only owner.
    let file = unsafe { std::fs::File::from_raw_fd(fd) };
    file.set_len(len as u64)?;
    Ok(file.into())
}
