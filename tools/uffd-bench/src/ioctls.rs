// SPDX-License-Identifier: GPL-2.0

//! Requests while no thread sleeps, as a handler makes them that fills pages ahead.

use crate::{
    clock::{cost, Mode, Samples},
    plan::{Folios, Request},
    report::Report,
    uffd::{Backing, Memory, Resolution, Uffd},
};
use anyhow::{ensure, Context, Result};
use linux_raw_sys::general as uapi;
use std::{fs, io, path::Path};

/// How often each request is measured, and how often if time is measured.
const REPEATS: usize = 64;
const TIMED_REPEATS: usize = 1000;

/// How many pages a page table has.
const TABLE: usize = 512;

/// How much memory is mapped, and where in it the pages of `ioctl` are. They are never all pages of
/// a page table, so that the kernel keeps the table when they are removed, and finds no huge page.
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

    /// Brings the pages into the state in which the request finds them each time. Pages are removed
    /// in `parts`: if all pages of a page table are removed at once, the kernel removes the table.
    fn prepare(
        self,
        uffd: &Uffd,
        memory: &Memory,
        source: &Memory,
        parts: usize,
    ) -> io::Result<()> {
        let remove = |advice| {
            let pages = memory.pages / parts;
            (0..parts).try_for_each(|part| memory.part(part * pages, pages).advise(advice))
        };
        match self {
            Self::Writeprotect | Self::WriteprotectLifted => {
                uffd.protect(memory.start, memory.len(), self == Self::WriteprotectLifted)
            }
            // These pages would otherwise stay in the file.
            Self::Copy | Self::Zeropage if memory.backing == Backing::Shmem => {
                remove(libc::MADV_REMOVE)
            }
            Self::Move => {
                remove(libc::MADV_DONTNEED)?;
                source.populate(source.start);
                Ok(())
            }
            Self::Copy | Self::Zeropage | Self::Continue | Self::Poison => {
                remove(libc::MADV_DONTNEED)
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

impl Folios {
    /// Has the kernel take these folios for memory that is advised to have them.
    fn choose(self) -> Result<()> {
        let directory = Path::new("/sys/kernel/mm/transparent_hugepage");
        let advised = |yes| if yes { "madvise" } else { "never" };
        let settings = [
            ("enabled", advised(self == Self::Huge)),
            ("hugepages-64kB/enabled", advised(self == Self::Of64KiB)),
            (
                "shmem_enabled",
                if self == Self::Huge {
                    "advise"
                } else {
                    "never"
                },
            ),
        ];
        for (name, value) in settings {
            let path = directory.join(name);
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let path = directory.join("userfaultfd_copy");
        if path.exists() {
            let value = if self == Self::Single { "0" } else { "1" };
            fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn advice(self) -> i32 {
        match self {
            Self::Single => libc::MADV_NOHUGEPAGE,
            Self::Of64KiB | Self::Huge => libc::MADV_HUGEPAGE,
        }
    }
}

/// Measures `bulk`: a request for all pages of a page table, with no thread asleep.
pub fn bulk(request: Request, backing: Backing, folios: Folios, report: &Report) -> Result<()> {
    folios.choose()?;
    let memory = Memory::new(backing, TABLE)?;
    let source = Memory::new(backing, TABLE)?;
    for memory in [&memory, &source] {
        memory.advise(folios.advice())?;
        if let Some(start) = memory.alias {
            Memory { start, ..*memory }.advise(folios.advice())?;
        }
    }
    let parts = match folios {
        Folios::Huge => 1,
        Folios::Single | Folios::Of64KiB => 2,
    };
    let samples = measure(request, &memory, &source, parts, report)?;
    if folios == Folios::Huge {
        // The pages that the request has found. Those of a move are at their destination by now.
        let found = match request {
            Request::Continue => memory.alias.context("this memory is not shared")?,
            Request::Copy => source.start,
            _ => memory.start,
        };
        ensure!(Memory::has_huge_pages(found)?, "there is no huge page");
    }
    report.row(&samples.each(TABLE), "instructions/page")
}

/// Measures `ioctl`: a request for several pages, with no thread asleep.
pub fn ioctl(request: Request, backing: Backing, pages: usize, report: &Report) -> Result<()> {
    let memory = Memory::new(backing, MAPPED)?.part(FIRST, pages);
    let source = Memory::new(backing, MAPPED)?.part(FIRST, pages);
    let samples = measure(request, &memory, &source, 1, report)?;
    report.row(&samples, "instructions")
}

/// Measures a request for all pages of `memory`.
fn measure(
    request: Request,
    memory: &Memory,
    source: &Memory,
    parts: usize,
    report: &Report,
) -> Result<Samples> {
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
    uffd.register(memory, mode)?;

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
            .prepare(&uffd, memory, source, parts)
            .context("prepare")?;
        let mut result = Ok(());
        let counted = cost(|| result = request.make(&uffd, memory, source));
        result.context("the request")?;
        samples.push(counted as f64);
    }
    Ok(samples)
}
