// SPDX-License-Identifier: GPL-2.0

//! Requests while no thread sleeps, as a handler makes them that fills pages ahead.

use crate::{
    clock::{cost, Mode, Samples},
    plan::Request,
    report::Report,
    uffd::{Backing, Memory, Resolution, Uffd},
};
use anyhow::{Context, Result};
use linux_raw_sys::general as uapi;
use std::io;

/// How often each request is measured, and how often if time is measured.
const REPEATS: usize = 64;
const TIMED_REPEATS: usize = 1000;

/// How many pages a page table has.
const TABLE: usize = 512;

/// How much memory is mapped, and where in it the pages are. They are never all pages of a page
/// table, so that the kernel keeps the table when they are removed, and finds no huge page.
const MAPPED: usize = 2 * TABLE;
const FIRST: usize = TABLE / 2;

impl Request {
    /// Returns how this resolves faults, if it does.
    pub fn resolution(self) -> Option<Resolution> {
        match self {
            Self::Copy => Some(Resolution::Copy),
            Self::Zeropage => Some(Resolution::Zeropage),
            Self::Continue => Some(Resolution::Continue),
            Self::Poison => Some(Resolution::Poison),
            Self::Move => Some(Resolution::Move),
            Self::WriteprotectLifted => Some(Resolution::Writeprotect),
            Self::Writeprotect | Self::Wake => None,
        }
    }

    /// Brings the pages into the state in which the request finds them each time.
    fn prepare(self, uffd: &Uffd, memory: &Memory, source: &Memory) -> io::Result<()> {
        match self {
            Self::Writeprotect | Self::WriteprotectLifted => {
                uffd.protect(memory.start, memory.len(), self == Self::WriteprotectLifted)
            }
            // These pages would otherwise stay in the file.
            Self::Copy if memory.backing == Backing::Shmem => memory.advise(libc::MADV_REMOVE),
            Self::Move => {
                memory.advise(libc::MADV_DONTNEED)?;
                source.populate(source.start);
                Ok(())
            }
            Self::Copy | Self::Zeropage | Self::Continue | Self::Poison => {
                memory.advise(libc::MADV_DONTNEED)
            }
            Self::Wake => Ok(()),
        }
    }

    fn make(self, uffd: &Uffd, memory: &Memory, source: &Memory) -> io::Result<()> {
        match self.resolution() {
            Some(how) => uffd.resolve(how, memory.start, memory.len(), source.start),
            None if self == Self::Wake => uffd.wake(memory.start, memory.len()),
            None => uffd.protect(memory.start, memory.len(), true),
        }
    }
}

/// Measures `ioctl`: a request for several pages, with no thread asleep.
pub fn ioctl(request: Request, backing: Backing, pages: usize, report: &Report) -> Result<()> {
    let memory = Memory::new(backing, MAPPED)?.part(FIRST, pages);
    let source = Memory::new(backing, MAPPED)?.part(FIRST, pages);
    source.populate(source.start);
    let uffd = Uffd::new(false, 0)?;
    let mode = match request.resolution() {
        Some(how) => how.register_mode(),
        None if request == Request::Wake => uapi::UFFDIO_REGISTER_MODE_MISSING,
        None => uapi::UFFDIO_REGISTER_MODE_WP,
    };
    match request {
        Request::Continue => memory.populate(memory.alias.context("this memory is not shared")?),
        Request::Writeprotect | Request::WriteprotectLifted => memory.populate(memory.start),
        _ => (),
    }
    uffd.register(&memory, mode)?;

    let repeats = match report.mode {
        Mode::Time => TIMED_REPEATS,
        _ => REPEATS,
    };
    let mut samples = Samples::with_capacity(repeats);
    for _ in 0..repeats {
        if report.time_is_up() && samples.len() >= REPEATS {
            break;
        }
        request
            .prepare(&uffd, &memory, &source)
            .context("prepare")?;
        let mut result = Ok(());
        let counted = cost(|| result = request.make(&uffd, &memory, &source));
        result.context("the request")?;
        samples.push(counted as f64);
    }
    report.row(&samples, "instructions")
}
