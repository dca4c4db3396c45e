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
    kinds::{choose_folios, new_file, THP},
    leaks::Allocations,
    memory::{fill_with, madvise, Area, RW},
    process::{eventfd, kill_and_wait, receive, run_on, send},
    sys::{punch_hole, read, read_process, write, write_file, PAGE},
    transcript::{Case, Transcript},
    uffd::{inputs, Call, Uffd, COPY, MISSING, WP, ZEROPAGE},
};
use linux_raw_sys::general::UFFDIO_COPY_MODE_WP;
use std::{
    fs::File,
    mem::MaybeUninit,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

/// How many pages a call is for: one more than a folio of 64 KiB has.
const PAGES: usize = 17;

/// The page that is taken, where one is.
const OBSTACLE: usize = 5;

/// Anonymous memory that copies may use folios of 64 KiB for.
const LARGE: &str = "anon-64k";

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
    copy(LARGE, "anon-64k/copy"),
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
        // A file system with a limit counts its blocks.
        let file = new_file(c"tmpfs", &[(c"size", c"16M")], PAGES * PAGE);
        let file = Some(file.expect("there is tmpfs"));
        Area::map(0, PAGES * PAGE, PAGE, RW, flags, file).expect("there is memory")
    };
    let area = match kind {
        "shmem" => map(libc::MAP_SHARED),
        "shmem-private" => map(libc::MAP_PRIVATE),
        _ => Area::anon(0, PAGES),
    };
    area.madvise(match kind {
        LARGE => libc::MADV_HUGEPAGE,
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

/// A process that is killed when this is dropped.
struct Keeper(libc::pid_t);

impl Drop for Keeper {
    fn drop(&mut self) {
        kill_and_wait(self.0);
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
    let keeper = Keeper(log.fork(|_| {
        let uffd = Uffd::new(0);
        uffd.must_register(area.start, area.len, MISSING | WP);
        send(there.as_raw_fd(), uffd.fd());
        keep(&cgroup, &area, &events);
    }));
    drop(there);
    let uffd = Uffd(receive(here.as_raw_fd()));
    let source = Area::anon(1, PAGES);
    source.madvise(libc::MADV_NOHUGEPAGE);
    for page in 0..PAGES {
        fill_with(source.at(page), PAGE, page as u8 + 1);
    }
    let [begin, end] = &events;
    let emptied = || read(end.as_raw_fd(), &mut [0; 8]);
    let inputs = inputs(call, area.start, source.start, PAGES * PAGE, mode);
    let fill = || uffd.call(call, &inputs);
    let state = || {
        let state = state_of(keeper.0, &area);
        write(begin.as_raw_fd(), &1u64.to_ne_bytes());
        emptied();
        state
    };
    let attempt = |pages: usize| {
        if !operation.mapped {
            madvise(source.start, source.len, libc::MADV_DONTNEED);
        }
        let called = cgroup.with_room(pages, fill);
        format!("{called}; {}", state())
    };
    emptied();
    for pages in 0..=PAGES {
        log.record(format!("room for {pages} pages"), attempt(pages));
    }
    let left = left_by(&cgroup, |time| drop(attempt(time)));
    log.record("left by refused charges", left);

    // Folios that were charged for pages behind an obstacle are freed.
    let obstacle = |_| {
        uffd.range(&ZEROPAGE, area.at(OBSTACLE), PAGE, 0);
        format!("{}; {}", fill(), state())
    };
    log.record("obstacle", obstacle(0));
    let left = left_by(&cgroup, |time| drop(obstacle(time)));
    log.record("left by an obstacle", left);
}

/// What is left if something is done so many times as there are pages: charges, and allocations on a
/// kernel that counts them. What is not given back is a page at most, each time.
fn left_by(cgroup: &Cgroup, work: impl Fn(usize)) -> String {
    const MANY: usize = PAGES / 2;
    let mut allocations = Allocations::are_counted().then(Allocations::new);
    let before = cgroup.charged();
    if let Some(allocations) = &mut allocations {
        allocations.count();
    }
    (0..PAGES).for_each(work);
    let mut left = match allocations {
        Some(mut allocations) => allocations.grown(MANY as i64),
        None => Vec::new(),
    };
    if cgroup.charged().saturating_sub(before) >= MANY {
        left.push("charges".into());
    }
    match left.is_empty() {
        true => "nothing".into(),
        false => left.join(", "),
    }
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
    match &area.file {
        Some(file) => format!("{pages}; {} blocks are free", free_blocks(file)),
        None => pages,
    }
}

/// How many blocks of its file system are free.
fn free_blocks(file: &OwnedFd) -> u64 {
    let mut statfs = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: There is room for the structure, which is set if the call succeeds.
    unsafe {
        assert_eq!(libc::fstatfs(file.as_raw_fd(), statfs.as_mut_ptr()), 0);
        statfs.assume_init().f_bfree
    }
}

/// How many folios of 64 KiB were made.
fn large_folios() -> u64 {
    let path = format!("{THP}/hugepages-64kB/stats/anon_fault_alloc");
    let text = std::fs::read_to_string(path).expect("they are counted");
    text.trim().parse().expect("it is a number")
}

fn refuse_large(log: &mut Transcript, operation: Operation) {
    choose_folios(&[64]);
    let before = large_folios();
    refuse(log, operation);
    // The C kernel does not use them for copies.
    let are_used = Path::new(&format!("{THP}/userfaultfd_copy")).exists();
    assert_eq!(large_folios() > before, are_used, "large folios were made");
    choose_folios(&[]);
}

pub fn cases() -> Vec<Case> {
    let cases = OPERATIONS.iter().map(|operation| {
        Case::new(
            format!("charges/{}", operation.name),
            move |log| match operation.kind {
                LARGE => refuse_large(log, *operation),
                _ => refuse(log, *operation),
            },
        )
    });
    cases.collect()
}
