// SPDX-License-Identifier: GPL-2.0

//! Faults, and the threads that handle them.

use crate::{
    clock::{cost, Mode, Samples},
    plan::{Descriptors, Fault, Handlers, Waiting},
    report::Report,
    threads::{self, context_switches, Gate},
    uffd::{
        self, fault_address, kernel_can_write, messages, Backing, Memory, Resolution, Uffd, PAGE,
    },
};
use anyhow::{ensure, Context, Result};
use linux_raw_sys::general as uapi;
use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
    sync::{Arc, Barrier},
    time::Instant,
};

/// How many faults are measured with small pages.
const FAULTS: usize = 256;
/// How many faults are measured with huge pages.
const HUGE_FAULTS: usize = 12;

/// Returns the value of a result. If it is an error, the process is aborted, because the thread
/// that measures would wait forever for the caller.
pub fn must<T>(result: Result<T>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(err) => {
            eprintln!("error: {what}: {err:#}");
            std::process::abort()
        }
    }
}

/// Reads one message and resolves its fault. Returns whether there was a message.
pub fn serve(
    uffd: &Uffd,
    how: Resolution,
    page: usize,
    source: impl FnOnce(usize) -> usize,
) -> Result<bool> {
    let mut message = [messages(1)[0]];
    match uffd.read(&mut message) {
        Ok(_) => (),
        Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(err) => return Err(err).context("read"),
    }
    let address = fault_address(&message[0])? & !(page - 1);
    uffd.resolve(how, address, page, source(address))
        .context("resolve")?;
    Ok(true)
}

/// Returns memory for a fault at each of its pages, and starts a thread that reads and resolves
/// them.
fn prepare(fault: Fault) -> Result<Memory> {
    let Fault {
        backing,
        resolution,
        ..
    } = fault;
    let faults = match backing {
        Backing::Hugetlb => HUGE_FAULTS,
        _ => FAULTS,
    };
    let page = backing.page();
    let memory = Memory::new(backing, faults)?;
    // UFFDIO_MOVE takes its source page away, so each fault needs another one.
    let source = Memory::new(
        backing,
        if resolution == Resolution::Move {
            faults
        } else {
            1
        },
    )?;
    source.populate(source.start);
    let uffd = Arc::new(Uffd::new(false, 0)?);
    uffd.register(&memory, resolution.register_mode())?;
    match resolution {
        Resolution::Continue => {
            memory.populate(memory.alias.context("this memory is not shared")?);
        }
        Resolution::Writeprotect => {
            memory.populate(memory.start);
            uffd.protect(memory.start, memory.len(), true)?;
        }
        _ => (),
    }

    let handler = uffd.clone();
    threads::spawn(1, move |_| loop {
        let from = |address: usize| match resolution {
            Resolution::Move => source.start + (address - memory.start),
            _ => source.start,
        };
        must(serve(&handler, resolution, page, from), "the handler");
    })?;
    threads::settle();
    Ok(memory)
}

/// Measures `single-fault`: one thread faults, one reads and resolves.
pub fn single(fault: Fault, report: &Report) -> Result<()> {
    let memory = prepare(fault)?;
    let mut samples = Samples::with_capacity(memory.pages);
    for index in 0..memory.pages {
        let address = memory.page(index);
        // The kernel accesses the poisoned page, so that the access fails and no signal is sent.
        if fault.resolution == Resolution::Poison {
            let mut written = true;
            samples.push(cost(|| written = kernel_can_write(address)) as f64);
            ensure!(!written, "a poisoned page was written to");
        } else {
            samples.push(cost(|| fault.access.touch(address)) as f64);
        }
    }
    report.row(&samples, "instructions")
}

/// Where the kernel has the tracepoints of userfaultfd, if it has any.
const TRACEPOINTS: &str = "/sys/kernel/tracing/events/userfaultfd";

/// Returns whether the kernel has tracepoints of userfaultfd.
pub fn has_tracepoints() -> bool {
    fs::exists(TRACEPOINTS).is_ok_and(|exists| exists)
}

/// Measures `traced-fault`.
pub fn traced(fault: Fault, report: &Report) -> Result<()> {
    let switch = Path::new(TRACEPOINTS).join("enable");
    let turn = |to: &str| fs::write(&switch, to).context("the tracepoints cannot be switched");
    turn("1")?;
    let measured = single(fault, report);
    turn("0")?;
    measured
}

/// Returns how many faults of user space took the mmap_lock since the machine started, if the kernel
/// counts them: they found no VMA that they could lock, or had to leave it.
pub fn mmap_locks() -> Result<Option<u64>> {
    let text = fs::read_to_string("/proc/vmstat")?;
    let count = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, count) = lines.find(|(found, _)| *found == name)?;
        count.parse::<u64>().ok()
    };
    let counts = (count("vma_lock_abort"), count("vma_lock_retry"));
    Ok(match counts {
        (Some(aborted), Some(retried)) => Some(aborted + retried),
        _ => None,
    })
}

/// Measures `mmap-lock`: how often a fault that is resolved takes the mmap_lock.
pub fn mmap_lock(fault: Fault, report: &Report) -> Result<()> {
    let memory = prepare(fault)?;
    let now = || mmap_locks()?.context("the kernel does not count it");
    let before = now()?;
    for page in 0..memory.pages {
        fault.access.touch(memory.page(page));
    }
    let taken = (now()? - before) as f64 / memory.pages as f64;
    report.exact(&[], taken, "mmap_lock acquisitions")
}

/// Returns an epoll instance that watches a descriptor.
fn epoll(uffd: &Uffd, exclusive: bool) -> Result<OwnedFd> {
    let events = libc::EPOLLIN | if exclusive { libc::EPOLLEXCLUSIVE } else { 0 };
    let mut event = libc::epoll_event {
        events: events as u32,
        u64: 0,
    };
    // SAFETY: The descriptor is ours; the structure is valid.
    unsafe {
        let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
        ensure!(fd >= 0, "epoll_create1: {}", io::Error::last_os_error());
        let epoll = OwnedFd::from_raw_fd(fd);
        let ret = libc::epoll_ctl(fd, libc::EPOLL_CTL_ADD, uffd.raw(), &mut event);
        ensure!(ret == 0, "epoll_ctl: {}", io::Error::last_os_error());
        Ok(epoll)
    }
}

/// Waits until a descriptor may be readable.
fn wait(uffd: &Uffd, epoll: Option<&OwnedFd>) {
    // SAFETY: The structures are valid.
    unsafe {
        match epoll {
            Some(epoll) => {
                let mut event = libc::epoll_event { events: 0, u64: 0 };
                libc::epoll_wait(epoll.as_raw_fd(), &mut event, 1, -1);
            }
            None => {
                let mut poll = libc::pollfd {
                    fd: uffd.raw(),
                    events: libc::POLLIN,
                    revents: 0,
                };
                libc::poll(&mut poll, 1, -1);
            }
        }
    }
}

/// Measures `waiters`: many threads wait for the message of a fault.
pub fn waiters(waiting: Waiting, waiters: usize, report: &Report) -> Result<()> {
    let memory = Memory::new(Backing::Anon, FAULTS)?;
    let source = Memory::new(Backing::Anon, 1)?;
    source.populate(source.start);
    let uffd = Arc::new(Uffd::new(waiting != Waiting::Read, 0)?);
    uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MISSING)?;

    let handler = uffd.clone();
    threads::spawn(waiters, move |_| {
        let epoll = match waiting {
            Waiting::Epoll => Some(must(epoll(&handler, false), "the handler")),
            Waiting::EpollExclusive => Some(must(epoll(&handler, true), "the handler")),
            _ => None,
        };
        loop {
            if waiting != Waiting::Read {
                wait(&handler, epoll.as_ref());
            }
            let served = serve(&handler, Resolution::Copy, PAGE, |_| source.start);
            must(served, "the handler");
        }
    })?;
    threads::settle();

    // The switches of the process without those of this thread, which sleeps once in each fault.
    let of_waiters = || context_switches(libc::RUSAGE_SELF) - context_switches(libc::RUSAGE_THREAD);
    let mut samples = Samples::with_capacity(FAULTS);
    let before = of_waiters();
    for index in 0..FAULTS {
        samples.push(cost(|| uffd::write(memory.page(index))) as f64);
    }
    let switches = (of_waiters() - before) as f64 / FAULTS as f64;
    report.row(&samples, "instructions")?;
    report.exact(&[], switches, "context switches of waiters")
}

/// The least number of faults in `load`: of all threads together, and of each thread.
const LOAD_FAULTS: (usize, usize) = (2048, 32);
/// How many times more faults there are when time is measured.
const LOAD_FACTOR: usize = 2;
/// The distance between the memory of two threads, in pages, is a multiple of this: the memory that
/// virtual CPUs use is far apart too.
const STRIDE: usize = 512;

/// Measures `load`: threads fault as fast as they can.
pub fn load(
    faulting: usize,
    handlers: Handlers,
    descriptors: Descriptors,
    report: &Report,
) -> Result<()> {
    let (all, least) = LOAD_FAULTS;
    let factor = if report.mode == Mode::Contention {
        LOAD_FACTOR
    } else {
        1
    };
    let pages = (all / faulting).max(least) * factor;
    let stride = pages.next_multiple_of(STRIDE);
    let memory = Memory::new(Backing::Shmem, stride * faulting)?;
    let part = |thread| memory.part(thread * stride, pages);
    for thread in 0..faulting {
        let part = part(thread);
        part.populate(part.alias.context("this memory is not shared")?);
    }

    let handlers = handlers.count(faulting);
    let mode = uapi::UFFDIO_REGISTER_MODE_MINOR;
    let mut uffds = Vec::new();
    match descriptors {
        Descriptors::One => {
            uffds.push(Uffd::new(false, 0)?);
            uffds[0].register(&memory, mode)?;
        }
        Descriptors::Each => {
            ensure!(handlers == faulting, "each descriptor has a handler");
            for thread in 0..faulting {
                let uffd = Uffd::new(false, 0)?;
                uffd.register(&part(thread), mode)?;
                uffds.push(uffd);
            }
        }
    }
    threads::spawn(handlers, move |index| loop {
        let uffd = &uffds[index % uffds.len()];
        must(serve(uffd, Resolution::Continue, PAGE, |_| 0), "a handler");
    })?;

    let start = Arc::new(Gate::default());
    let end = Arc::new(Barrier::new(faulting + 1));
    let (started, ended) = (start.clone(), end.clone());
    threads::spawn(faulting, move |thread| {
        started.wait(1);
        for page in 0..pages {
            uffd::write(memory.page(thread * stride + page));
        }
        ended.wait();
    })?;
    start.wait_for_waiters(faulting);

    let faults = (pages * faulting) as f64;
    let begin = Instant::now();
    let counted = cost(|| {
        start.open();
        end.wait();
    });
    match report.mode {
        Mode::PathLength => report.exact(&[], counted as f64 / faults, "instructions"),
        Mode::Contention | Mode::Time => report.exact(
            &[],
            faults / begin.elapsed().as_secs_f64(),
            "faults per second",
        ),
    }
}
