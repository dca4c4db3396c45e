// SPDX-License-Identifier: GPL-2.0

//! System calls, whose answers can be written down.

use std::{
    ffi::CStr,
    fmt::{self, Display},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

pub use uffd_guest::PAGE;

/// What a system call returned.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Answer(pub Result<i64, i32>);

impl Answer {
    /// From what a function of libc returned: -1 means that there is an errno.
    pub fn of(value: impl TryInto<i64>) -> Self {
        match value.try_into() {
            Ok(-1) | Err(_) => Self(Err(errno())),
            Ok(value) => Self(Ok(value)),
        }
    }

    /// From the address that mmap() or mremap() returned, which is not written down.
    pub fn of_address(address: *mut libc::c_void) -> Self {
        if address == libc::MAP_FAILED {
            Self(Err(errno()))
        } else {
            Self(Ok(0))
        }
    }

    /// As libc returns it, for the status of a child.
    pub fn status(self) -> i32 {
        match self.0 {
            Ok(_) => 0,
            Err(_) => -1,
        }
    }

    pub fn is_ok(self) -> bool {
        self.0.is_ok()
    }
}

impl Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(value) => write!(f, "{value}"),
            Err(errno) => f.write_str(&errno_name(errno)),
        }
    }
}

/// What a function of libc returned, as text.
pub fn outcome(value: impl TryInto<i64>) -> String {
    Answer::of(value).to_string()
}

/// The last error of this thread.
pub fn errno() -> i32 {
    errno_of(std::io::Error::last_os_error())
}

/// The number of an error.
pub fn errno_of(err: std::io::Error) -> i32 {
    err.raw_os_error().unwrap_or(0)
}

extern "C" {
    /// In the C library since glibc 2.32.
    fn strerrorname_np(errnum: libc::c_int) -> *const libc::c_char;
}

/// The name of an error.
pub fn errno_name(errno: i32) -> String {
    // SAFETY: The function returns a constant string, or nothing.
    let name = unsafe { strerrorname_np(errno) };
    if name.is_null() {
        return format!("errno {errno}");
    }
    // SAFETY: It is a string that ends in a zero, and stays.
    unsafe { CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}

/// Names of bits, separated by `|`.
pub fn bits(value: u64, names: &[(u64, &str)]) -> String {
    let mut rest = value;
    let mut parts = Vec::new();
    for (bit, name) in names {
        if rest & bit == *bit {
            parts.push(name.to_string());
            rest &= !bit;
        }
    }
    if rest != 0 || parts.is_empty() {
        parts.push(format!("{rest:#x}"));
    }
    parts.join("|")
}

/// Writes a file of /proc or /sys.
pub fn write_file(path: &str, text: &str) -> Answer {
    match std::fs::write(path, text) {
        Ok(()) => Answer(Ok(0)),
        Err(err) => Answer(Err(errno_of(err))),
    }
}

/// Takes a descriptor that a call has returned, or the error.
///
/// # Safety
///
/// The descriptor is a new one.
pub unsafe fn new_descriptor(fd: RawFd) -> Result<OwnedFd, i32> {
    match fd {
        // SAFETY: It is new, as this function requires.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(errno()),
    }
}

/// Opens a file.
pub fn open(path: &CStr, mode: i32) -> Result<OwnedFd, i32> {
    // SAFETY: The string is valid. The call returns a new descriptor, or an error.
    unsafe { new_descriptor(libc::open(path.as_ptr(), mode | libc::O_CLOEXEC)) }
}

/// A second descriptor of the same file, which is inherited.
pub fn duplicate(fd: RawFd) -> OwnedFd {
    // SAFETY: The call returns a new descriptor, or an error.
    unsafe { new_descriptor(libc::dup(fd)) }.expect("a descriptor can be doubled")
}

/// fcntl() with a number.
pub fn fcntl(fd: RawFd, command: i32, argument: i32) -> Answer {
    // SAFETY: No pointers are involved.
    Answer::of(unsafe { libc::fcntl(fd, command, argument) })
}

/// The flags of a descriptor: of the file, and of its own.
pub fn descriptor_flags(fd: RawFd) -> (i64, i64) {
    let flags = |command| fcntl(fd, command, 0).0.unwrap_or(-1);
    (flags(libc::F_GETFL), flags(libc::F_GETFD))
}

pub fn ftruncate(file: &impl AsRawFd, len: usize) -> Answer {
    // SAFETY: No pointers are involved.
    Answer::of(unsafe { libc::ftruncate(file.as_raw_fd(), len as i64) })
}

/// Frees the memory of the beginning of a file.
pub fn punch_hole(fd: RawFd, len: usize) -> Answer {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: No pointers are involved.
    Answer::of(unsafe { libc::fallocate(fd, mode, 0, len as i64) })
}

/// read() into a buffer.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> Answer {
    // SAFETY: The buffer is as long as is said.
    Answer::of(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// preadv2() into a buffer, from no position.
pub fn preadv2(fd: RawFd, buffer: &mut [u8], flags: i32) -> Answer {
    let vector = iovec(buffer.as_mut_ptr() as usize, buffer.len());
    // SAFETY: The buffer is as long as is said.
    Answer::of(unsafe { libc::preadv2(fd, &vector, 1, -1, flags) })
}

pub fn iovec(address: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address as _,
        iov_len: len,
    }
}

/// process_vm_readv(): reads from memory of a process.
pub fn read_process(process: libc::pid_t, address: usize, bytes: &mut [u8]) -> Answer {
    let local = iovec(bytes.as_mut_ptr() as usize, bytes.len());
    let remote = iovec(address, bytes.len());
    // SAFETY: The local bytes are valid, the kernel checks the remote ones.
    Answer::of(unsafe { libc::process_vm_readv(process, &local, 1, &remote, 1, 0) })
}

/// write() from a buffer.
pub fn write(fd: RawFd, buffer: &[u8]) -> Answer {
    // SAFETY: The buffer is as long as is said.
    Answer::of(unsafe { libc::write(fd, buffer.as_ptr().cast(), buffer.len()) })
}

/// lseek() by nothing.
pub fn lseek(fd: RawFd, whence: i32) -> Answer {
    // SAFETY: No pointers are involved.
    Answer::of(unsafe { libc::lseek(fd, 0, whence) })
}

/// mmap() of a page of a file, wherever there is room.
pub fn mmap_file(fd: RawFd, flags: i32) -> Answer {
    // SAFETY: The kernel chooses an unmapped range.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, libc::PROT_READ, flags, fd, 0) };
    Answer::of_address(address)
}
