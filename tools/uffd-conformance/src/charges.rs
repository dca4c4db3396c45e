// SPDX-License-Identifier: GPL-2.0

//! Charges to a memory cgroup that are refused: the cgroup has room for no page, for one, and so on,
//! until there is room for all.
//!
//! A process whose cgroup has no room is killed, or waits, as soon as it takes memory for itself. So
//! the process that has the pages sleeps meanwhile, and another one makes the calls, which is not in
//! the cgroup.

use crate::{
    cgroup::Cgroup,
    inspect::pagemap_of_process,
    kinds::{choose_folios, memfd},
    memory::{fill_with, madvise, Area, RW},
    process::{eventfd, kill_and_wait, receive, run_on, send},
    sys::{punch_hole, read, read_process, write, write_file, PAGE},
    transcript::{Case, Transcript},
    uffd::{inputs, Call, Uffd, COPY, MISSING, WP, ZEROPAGE},
};
use linux_raw_sys::general::UFFDIO_COPY_MODE_WP;
use std::{
    fs::File,
    os::{fd::AsRawFd, unix::net::UnixStream},
};

/// How many pages a call is for: one more than a folio of 64 KiB has.
const PAGES: usize = 17;

/// A call, and the kind of memory that it fills.
#[derive(Copy, Clone)]
struct Operation {
    name: &'static str,
    kind: &'static str,
    call: &'static Call,
    mode: u64,
    /// Whether what is copied is mapped.
    mapped: bool,
}

const OPERATIONS: &[Operation] = &[
    copy("anon", "anon/copy"),
    Operation {
        mapped: false,
        ..copy("anon", "anon/copy, source not mapped")
    },
    Operation {
        mode: UFFDIO_COPY_MODE_WP as u64,
        ..copy("anon", "anon/copy, protected")
    },
    copy("anon-64k", "anon-64k/copy"),
    copy("shmem-private", "shmem-private/copy"),
    copy("shmem", "shmem/copy"),
    Operation {
        mapped: false,
        ..copy("shmem", "shmem/copy, source not mapped")
    },
    Operation {
        call: &ZEROPAGE,
        ..copy("shmem", "shmem/zeropage")
    },
];

const fn copy(kind: &'static str, name: &'static str) -> Operation {
    Operation {
        name,
        kind,
        call: &COPY,
        mode: 0,
        mapped: true,
    }
}

fn area_of(kind: &str) -> Area {
    let map = |flags| {
        let file = memfd(0, PAGES * PAGE).expect("there are memfds");
        Area::map(0, PAGES * PAGE, PAGE, RW, flags, Some(file)).expect("there is memory")
    };
    let area = match kind {
        "shmem" => map(libc::MAP_SHARED),
        "shmem-private" => map(libc::MAP_PRIVATE),
        _ => Area::anon(0, PAGES),
    };
    area.madvise(match kind {
        "anon-64k" => libc::MADV_HUGEPAGE,
        _ => libc::MADV_NOHUGEPAGE,
    });
    area
}

/// Has memory that is charged to the cgroup, and empties it each time that it is told to. It takes
/// nothing of the kernel that is charged.
fn keep(cgroup: &Cgroup, area: &Area, [begin, end]: &[File; 2]) {
    // The kernel looks for a process to kill, finds none, says so, and goes on.
    let answer = write_file("/proc/self/oom_score_adj", "-1000");
    assert!(answer.is_ok(), "this process can be killed: {answer}");
    cgroup.enter();
    loop {
        madvise(area.start, area.len, libc::MADV_DONTNEED);
        if let Some(file) = &area.file {
            punch_hole(file.as_raw_fd(), area.len);
        }
        // The processor has references of its own to new pages. It gives them back for this.
        madvise(area.start, area.len, libc::MADV_COLD);
        write(end.as_raw_fd(), &1u64.to_ne_bytes());
        read(begin.as_raw_fd(), &mut [0; 8]);
    }
}

fn refuse(log: &mut Transcript, operation: Operation) {
    // What is kept for later is kept by one processor.
    run_on(Some(0));
    let Operation {
        kind, call, mode, ..
    } = operation;
    let cgroup = Cgroup::new("memory", &[("memory.swap.max", "0")]);
    let (here, there) = UnixStream::pair().expect("there are sockets");
    let events = [eventfd(), eventfd()];
    // Both have the file. The memory and the descriptor are those of the child.
    let area = area_of(kind);
    let child = log.fork(|_| {
        let uffd = Uffd::new(0);
        uffd.must_register(area.start, area.len, MISSING | WP);
        send(there.as_raw_fd(), uffd.fd());
        keep(&cgroup, &area, &events);
    });
    let uffd = Uffd(receive(here.as_raw_fd()));
    let source = Area::anon(1, PAGES);
    source.madvise(libc::MADV_NOHUGEPAGE);
    for page in 0..PAGES {
        fill_with(source.at(page), PAGE, page as u8 + 1);
    }
    let [begin, end] = &events;
    let emptied = || read(end.as_raw_fd(), &mut [0; 8]);
    let inputs = inputs(call, area.start, source.start, PAGES * PAGE, mode);
    let attempt = |pages: usize| {
        if !operation.mapped {
            madvise(source.start, source.len, libc::MADV_DONTNEED);
        }
        let called = cgroup.with_room(pages, || uffd.call(call, &inputs));
        let state = state_of(child, &area);
        write(begin.as_raw_fd(), &1u64.to_ne_bytes());
        emptied();
        format!("{called}; {state}")
    };
    emptied();
    for pages in 0..=PAGES {
        log.record(format!("room for {pages} pages"), attempt(pages));
    }
    // What is not given back is a page at most, each time.
    let before = cgroup.charged();
    (0..PAGES).for_each(|pages| drop(attempt(pages)));
    let left = cgroup.charged().saturating_sub(before);
    log.record("charges are left", left >= PAGES / 2);
    kill_and_wait(child);
}

/// What is in the memory of a process.
fn state_of(process: libc::pid_t, area: &Area) -> String {
    let pages = pagemap_of_process(process, area.start, PAGES, |page, present| {
        let mut byte = [0];
        if present {
            read_process(process, area.at(page), &mut byte);
        }
        format!(" {}", byte[0])
    });
    match area.blocks() {
        Some(blocks) => format!("{pages}; {blocks} blocks"),
        None => pages,
    }
}

pub fn cases() -> Vec<Case> {
    let cases = OPERATIONS.iter().map(|operation| {
        Case::new(format!("charges/{}", operation.name), move |log| {
            choose_folios(match operation.kind {
                "anon-64k" => &[64],
                _ => &[],
            });
            refuse(log, *operation);
            choose_folios(&[]);
        })
    });
    cases.collect()
}
