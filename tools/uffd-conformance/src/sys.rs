// SPDX-License-Identifier: GPL-2.0

//! System calls, whose answers can be written down.

use std::{
    ffi::CStr,
    fmt::{self, Display},
};

/// The size of a page of the machine, in bytes.
pub const PAGE: usize = 4096;

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
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
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
    // SAFETY: As above.
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
        Err(err) => Answer(Err(err.raw_os_error().unwrap_or(0))),
    }
}
