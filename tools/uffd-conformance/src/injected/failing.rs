// SPDX-License-Identifier: GPL-2.0

//! A way to make a call of this thread fail once.

use crate::sys::{open, write, write_file};
use std::{
    ffi::CStr,
    fs::File,
    os::{fd::AsRawFd, unix::fs::FileExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// The file that counts the places at which a call of this thread can fail.
const FAIL_NTH: &CStr = c"/proc/thread-self/fail-nth";

/// Which places there are, and that nothing is printed about a failure there.
const SETTINGS: [(&str, &str); 7] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
    ("fail_usercopy/verbose", "0"),
];

/// Whether the kernel can be made to fail.
pub fn is_possible() -> bool {
    Path::new("/proc/self/fail-nth").exists()
}

/// Has all allocations and all copies be such places, from now on.
pub fn set_up() {
    for (name, value) in SETTINGS {
        let answer = write_file(&format!("/sys/kernel/debug/{name}"), value);
        assert!(answer.is_ok(), "cannot set {name}: {answer}");
    }
}

/// A failure of one call.
pub struct Failing {
    /// The number of the place that fails. None does if it is 0.
    number: u32,
    happened: AtomicBool,
}

impl Failing {
    pub fn new(number: u32) -> Self {
        let happened = AtomicBool::new(false);
        Self { number, happened }
    }

    /// Whether the call reached the place.
    pub fn has_happened(&self) -> bool {
        self.happened.load(Ordering::Relaxed)
    }

    /// Makes a call, by any thread, that fails if it has so many places. It touches no memory that is
    /// not there, and allocates none.
    pub fn run<T>(&self, call: impl FnOnce() -> T) -> T {
        let file = open(FAIL_NTH, libc::O_RDWR).expect("calls can be made to fail");
        let file = File::from(file);
        let (number, mut left) = (self.number.to_string(), [0; 16]);
        write(file.as_raw_fd(), number.as_bytes());
        let result = call();
        // Both calls copy, so the failure may be theirs.
        let read = file.read_at(&mut left, 0);
        while write(file.as_raw_fd(), b"0").0 == Err(libc::EFAULT) {}
        let happened = match read {
            Ok(len) => &left[..len] == b"0\n",
            Err(err) => {
                assert_eq!(err.raw_os_error(), Some(libc::EFAULT), "{err}");
                false
            }
        };
        self.happened.store(happened, Ordering::Relaxed);
        result
    }
}
