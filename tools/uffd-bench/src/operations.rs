// SPDX-License-Identifier: GPL-2.0

//! Operations on mappings, and forks: with an event that a monitor reads, or without userfaultfd.

use crate::{
    clock::{cost, Samples},
    faults::must,
    plan::{Baseline, EventKind},
    report::Report,
    threads,
    uffd::{self, messages, Backing, Memory, Uffd, EVENTS, PAGE},
};
use anyhow::{ensure, Context, Result};
use linux_raw_sys::general as uapi;
use std::{io, ptr, sync::Arc};
use uffd_guest::RW;

/// How often each operation is measured.
const REPEATS: usize = 128;

/// How many pages an operation affects.
const PAGES: usize = 16;

/// Measures a child that ends at once, and the wait for it.
fn measure_fork(samples: &mut Samples) -> Result<()> {
    // Let the kernel free what is left of earlier children, because it would otherwise do so during
    // the measurement.
    threads::settle();
    measure(samples, fork)
}

/// Makes a child that ends at once, and waits for it.
fn fork() -> bool {
    // SAFETY: The child does nothing but end.
    unsafe {
        match libc::fork() {
            -1 => false,
            0 => libc::_exit(0),
            child => libc::waitpid(child, ptr::null_mut(), 0) == child,
        }
    }
}

/// Maps anonymous memory. The kernel chooses the address.
fn mmap(len: usize) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: Nothing that is mapped already is replaced.
    unsafe { libc::mmap(ptr::null_mut(), len, RW, flags, -1, 0) }
}

/// Unmaps memory to which there are no references.
fn munmap(start: usize, len: usize) -> bool {
    // SAFETY: The caller has no reference to the memory.
    unsafe { libc::munmap(ptr::without_provenance_mut(start), len) == 0 }
}

/// Moves memory to which there are no references, over other such memory.
fn mremap(from: usize, to: usize, len: usize) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let to: *mut libc::c_void = ptr::without_provenance_mut(to);
    // SAFETY: The caller has no reference to the memory.
    unsafe { libc::mremap(ptr::without_provenance_mut(from), len, len, flags, to) == to }
}

/// Removes the pages of memory to which there are no references.
fn madvise(start: usize, len: usize) -> bool {
    // SAFETY: The caller has no reference to the memory.
    unsafe { libc::madvise(ptr::without_provenance_mut(start), len, libc::MADV_DONTNEED) == 0 }
}

/// Measures an operation that returns whether it was successful.
fn measure(samples: &mut Samples, operation: impl FnOnce() -> bool) -> Result<()> {
    let mut worked = false;
    samples.push(cost(|| worked = operation()) as f64);
    ensure!(
        worked,
        "the operation failed: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Measures `event`: an operation waits until another thread has read its event.
pub fn event(kind: EventKind, report: &Report) -> Result<()> {
    let len = PAGES * PAGE;
    let mut start = Memory::new(Backing::Anon, PAGES)?.start;
    let mut other = Memory::new(Backing::Anon, PAGES)?.start;
    let uffd = Arc::new(Uffd::new(false, EVENTS)?);
    let register = |start| {
        let memory = Memory {
            start,
            pages: PAGES,
            backing: Backing::Anon,
            alias: None,
        };
        uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MISSING)
    };
    if kind != EventKind::Munmap {
        register(start)?;
    }
    let monitor = uffd.clone();
    threads::spawn(1, move |_| loop {
        let mut message = [messages(1)[0]];
        must(monitor.read(&mut message).context("read"), "the monitor");
        if u32::from(message[0].event) == uapi::UFFD_EVENT_FORK {
            // SAFETY: The message is about a fork, and there is no other owner of its descriptor.
            unsafe { libc::close(message[0].arg.fork.ufd as i32) };
        }
    })?;
    threads::settle();

    let mut samples = Samples::with_capacity(REPEATS);
    for _ in 0..REPEATS {
        match kind {
            EventKind::Fork => measure_fork(&mut samples)?,
            EventKind::Madvise => measure(&mut samples, || madvise(start, len))?,
            EventKind::Mremap => {
                measure(&mut samples, || mremap(start, other, len))?;
                std::mem::swap(&mut start, &mut other);
            }
            EventKind::Munmap => {
                let memory = mmap(len);
                ensure!(memory != libc::MAP_FAILED, "no memory");
                register(memory as usize)?;
                measure(&mut samples, || munmap(memory as usize, len))?;
            }
        }
    }
    report.row(&samples, "instructions")
}

/// Writes to all pages that an operation affects.
fn populate(start: usize) {
    for page in 0..PAGES {
        uffd::write(start + page * PAGE);
    }
}

/// Measures `builtin`: the cost for a process that never uses userfaultfd.
pub fn builtin(operation: Baseline, report: &Report) -> Result<()> {
    let len = PAGES * PAGE;
    let mut samples = Samples::with_capacity(REPEATS);
    let backing = if operation == Baseline::ShmemFault {
        Backing::Shmem
    } else {
        Backing::Anon
    };
    let memory = Memory::new(backing, REPEATS)?;
    let (mut start, mut other) = (memory.start, Memory::new(Backing::Anon, PAGES)?.start);
    for index in 0..REPEATS {
        match operation {
            Baseline::Fork => measure_fork(&mut samples)?,
            Baseline::MmapMunmap => measure(&mut samples, || {
                let memory = mmap(len);
                memory != libc::MAP_FAILED && munmap(memory as usize, len)
            })?,
            Baseline::Mremap => {
                populate(start);
                measure(&mut samples, || mremap(start, other, len))?;
                std::mem::swap(&mut start, &mut other);
            }
            Baseline::Madvise => {
                populate(start);
                measure(&mut samples, || madvise(start, len))?;
            }
            Baseline::AnonFault | Baseline::ShmemFault => {
                let address = memory.page(index);
                samples.push(cost(|| uffd::write(address)) as f64);
            }
        }
    }
    report.row(&samples, "instructions")
}
