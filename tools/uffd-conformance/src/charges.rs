// SPDX-License-Identifier: GPL-2.0

//! Charges to a memory cgroup that are refused: the cgroup has room for no page, for one, and so on,
//! until there is room for all.
//!
//! A process whose cgroup has no room is killed, or waits, as soon as it takes memory for itself. So
//! the process that has the pages sleeps meanwhile, and another one makes the calls, which is not in
//! the cgroup.

use crate::{
    cgroup::Cgroup,
    inspect::pagemap_of,
    kinds::{choose_folios, memfd},
    memory::{fill_with, madvise, read_bytes, Area, RW},
    process::{kill_and_wait, receive, run_on, send},
    sys::{punch_hole, write_file, PAGE},
    transcript::{Case, Transcript},
    uffd::{inputs, Call, Called, Uffd, COPY, MISSING, WP, ZEROPAGE},
};
use linux_raw_sys::general::UFFDIO_COPY_MODE_WP;
use std::{
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
};

/// How many pages a call is for: one more than a folio of 64 KiB has.
const PAGES: usize = 17;

/// How often a call is made until the charge of a certain page is refused.
const TRIES: usize = 100;

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

/// Has memory that is charged to the cgroup. Each time that it is told to, says what is in the
/// memory, and empties it.
fn keep(cgroup: &Cgroup, kind: &str, mut socket: UnixStream) {
    // The kernel looks for a process to kill, finds none, says so, and goes on.
    let answer = write_file("/proc/self/oom_score_adj", "-1000");
    assert!(answer.is_ok(), "this process can be killed: {answer}");
    cgroup.enter();
    let area = area_of(kind);
    let uffd = Uffd::new(0);
    uffd.must_register(area.start, area.len, MISSING | WP);
    send(socket.as_raw_fd(), uffd.fd());
    while let Ok(1) = socket.read(&mut [0]) {
        let mut state = pagemap_of(area.start, PAGES, |page, present| {
            let mut byte = [0];
            if present {
                read_bytes(area.start + page * PAGE, &mut byte);
            }
            format!(" {}", byte[0])
        });
        madvise(area.start, area.len, libc::MADV_DONTNEED);
        if let (Some(file), Some(blocks)) = (&area.file, area.blocks()) {
            state += &format!("; {blocks} blocks");
            punch_hole(file.as_raw_fd(), area.len);
        }
        // The processor has references of its own to new pages. It gives them back for this.
        madvise(area.start, area.len, libc::MADV_COLD);
        socket.write_all(state.as_bytes()).expect("it is read");
    }
}

fn refuse(log: &mut Transcript, operation: Operation) {
    // What is kept for later is kept by one processor.
    run_on(Some(0));
    let Operation {
        kind, call, mode, ..
    } = operation;
    let cgroup = Cgroup::new("memory", &[("memory.swap.max", "0")]);
    let (mut here, there) = UnixStream::pair().expect("there are sockets");
    let child = log.fork(|_| keep(&cgroup, kind, there.try_clone().expect("it can be doubled")));
    drop(there);
    let uffd = Uffd(receive(here.as_raw_fd()));
    let start = Area::anon(0, PAGES).start;
    let source = Area::anon(1, PAGES);
    source.madvise(libc::MADV_NOHUGEPAGE);
    for page in 0..PAGES {
        fill_with(source.at(page), PAGE, page as u8 + 1);
    }
    let inputs = inputs(call, start, source.start, PAGES * PAGE, mode);
    let fill = || uffd.call(call, &inputs);
    let mut state = || {
        let mut text = [0; 4096];
        here.write_all(&[0]).expect("it is read");
        let len = here.read(&mut text).expect("there is an answer");
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    for pages in 0..=PAGES {
        // What the kernel gives back meanwhile, of what it had for itself, is more room.
        let (called, state) = (0..TRIES)
            .map(|_| {
                if !operation.mapped {
                    madvise(source.start, source.len, libc::MADV_DONTNEED);
                }
                let called = cgroup.with_room(pages, fill);
                (called, state())
            })
            .find(|(called, _)| done(called) == pages * PAGE)
            .unwrap_or_else(|| panic!("no charge is refused after {pages} pages"));
        log.record(format!("after {pages} pages"), format!("{called}; {state}"));
    }
    // The kernel charges a few pages for itself, and hardly any the second time.
    let before = cgroup.charged();
    for pages in 0..PAGES {
        cgroup.with_room(pages, fill);
        state();
    }
    let left = cgroup.charged().saturating_sub(before);
    log.record("charges are left", left >= PAGES / 2);
    kill_and_wait(child);
}

/// How many bytes a call has done.
fn done(called: &Called) -> usize {
    match called.answer.is_ok() {
        true => PAGES * PAGE,
        false if called.did_something() => called.last as usize,
        false => 0,
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
