// SPDX-License-Identifier: GPL-2.0

//! What fails in the middle: forks without memory, memory cgroups that are full, and processes that
//! end or run another program while something of theirs was not read.

use crate::{
    cgroup::Cgroup,
    memory::{kind_of, pagemap, peek, Area, Names, MIB},
    process::{ended, fork, fork_with, receive, send},
    sys::{write_file, Answer, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{child_of, describe, Uffd, ALL_EVENTS, MISSING},
};
use std::{
    fmt::Display,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
};

const OVERCOMMIT: &std::ffi::CStr = c"/proc/sys/vm/overcommit_memory";

/// A fork that runs out of memory after areas that are registered were duplicated.
fn fork_without_memory(log: &mut Transcript) {
    for features in [0, ALL_EVENTS] {
        // This area is not accounted for, and it is the first of all: the areas of the program,
        // which are, come behind it.
        let area = Area::basic(kind_of("anon-noreserve"), 0);
        let uffd = Uffd::new(features.into());
        let called = uffd.register(area.start, area.len, MISSING);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        // SAFETY: All pointers are valid, and nothing is there that this maps. Between the two
        // settings no memory is allocated.
        let answer = unsafe {
            let setting = libc::open(OVERCOMMIT.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            assert!(setting >= 0, "there is the setting");
            let set = |value: &[u8; 1]| libc::pwrite(setting, value.as_ptr().cast(), 1, 0);
            assert_eq!(set(b"1"), 1);
            let len = 64 << 30;
            let much = libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(much, libc::MAP_FAILED);
            assert_eq!(set(b"2"), 1);
            let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                libc::_exit(0);
            }
            let answer = Answer::of(child);
            assert_eq!(set(b"0"), 1);
            libc::close(setting);
            libc::munmap(much, len);
            answer
        };
        ask_after_fork(log, features, answer, &uffd, area.start);
    }
}

/// A fork of a user who has as many processes as are allowed. It is refused before anything is
/// copied.
fn fork_refused(log: &mut Transcript) {
    let registered = [(0, 0), (1, ALL_EVENTS)].map(|(slot, features)| {
        let area = Area::anon(slot, 4);
        let uffd = Uffd::new(features.into());
        let called = uffd.register(area.start, area.len, MISSING);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        // The descriptor goes first: nobody reads what unmapping would tell it.
        (features, uffd, area)
    });
    let limit = libc::rlimit {
        rlim_cur: 1,
        rlim_max: 1,
    };
    // SAFETY: The pointer is valid. The case has a process of its own, with one thread.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &limit), 0);
        assert_eq!(libc::setresuid(4321, 4321, 4321), 0);
    }
    for (features, uffd, area) in &registered {
        // SAFETY: The child does nothing but end.
        let answer = unsafe {
            let child = libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0);
            if child == 0 {
                libc::_exit(0);
            }
            Answer::of(child)
        };
        ask_after_fork(log, *features, answer, uffd, area.start);
    }
}

/// A fork for which a memory cgroup has no room: it fails when page tables are copied, and the
/// areas that are registered were duplicated by then.
fn fork_in_full_cgroup(log: &mut Transcript) {
    for features in [0, ALL_EVENTS] {
        let cgroup = Cgroup::of_memory("1M", "0");
        let process = log.in_process(|log| fork_without_room(log, features, &cgroup));
        log.record(format!("features={features:#x},process"), process);
    }
}

fn fork_without_room(log: &mut Transcript, features: u32, cgroup: &Cgroup) {
    // A page table for each of these: twice as much as the cgroup may have.
    const STEP: usize = 2 * MIB;
    const LEN: usize = 512 * STEP;
    // Nobody is killed: the kernel looks for somebody, says that there is nobody, and goes on.
    let answer = write_file("/proc/self/oom_score_adj", "-1000");
    assert!(answer.is_ok(), "this process can be killed: {answer}");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let area = Area::map(0, LEN, PAGE, protection, flags, None).expect("there is room");
    for page in (area.start..area.start + LEN).step_by(STEP) {
        // SAFETY: The page is memory of the tests.
        unsafe { std::ptr::write_volatile(page as *mut u8, 1) };
    }
    let uffd = Uffd::new(features.into());
    let called = uffd.register(area.start, area.len, MISSING);
    assert!(called.answer.is_ok(), "cannot register: {called}");
    let answer = cgroup.fork_within();
    ask_after_fork(log, features, answer, &uffd, area.at(1));
}

/// A fork that is refused when the memory has been copied: there is an event of it, and no process.
fn fork_of_one_too_many(log: &mut Transcript) {
    for features in [0, ALL_EVENTS] {
        let cgroup = Cgroup::new("pids", &[("pids.max", "1")]);
        let process = log.in_process(|log| fork_too_often(log, features, &cgroup));
        log.record(format!("features={features:#x},process"), process);
    }
}

fn fork_too_often(log: &mut Transcript, features: u32, cgroup: &Cgroup) {
    let area = Area::anon(0, 4);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(features.into());
    let called = uffd.register(area.start, area.len, MISSING);
    assert!(called.answer.is_ok(), "cannot register: {called}");
    let question = |text: &str| format!("features={features:#x},{text}");
    let mut event = None;
    let answer = std::thread::scope(|scope| {
        // This process has two threads then, which is too many, but not forbidden.
        let forker = scope.spawn(|| {
            cgroup.enter();
            fork_with(0, || 0)
        });
        while !forker.is_finished() {
            uffd.poll(1);
            if let Ok(message) = uffd.read() {
                log.record(question("message"), describe(&message, &names));
                event = child_of(&message);
            }
        }
        forker.join().expect("no panic")
    });
    ask_after_fork(log, features, answer, &uffd, area.start);
    if let Some(event) = event {
        let source = Area::anon(1, 1);
        log.record(question("fdinfo of none"), event.fdinfo());
        let copied = event.copy(area.start, source.start, PAGE, 0);
        log.record(question("copy for none"), copied);
        let registered = event.register(area.start, PAGE, MISSING);
        log.record(question("register for none"), registered);
    }
}

/// What a fork answered, and what is left of it. A page can be filled, because the mappings do not
/// change any more.
fn ask_after_fork(
    log: &mut Transcript,
    features: u32,
    answer: impl Display,
    uffd: &Uffd,
    page: usize,
) {
    let source = Area::anon(2, 1);
    let question = |text: &str| format!("features={features:#x},{text}");
    log.record(question("fork"), answer);
    log.record(question("poll"), format!("{:#x}", uffd.poll(0)));
    log.record(question("fdinfo"), uffd.fdinfo());
    log.record(question("copy"), uffd.copy(page, source.start, PAGE, 0));
}

/// More is copied than a memory cgroup may have: by a process of it, or by one that is not.
fn memory_cgroup(log: &mut Transcript) {
    const PAGES: usize = 4096;
    const MAX: &str = "8M";
    for (swap_name, swap) in [("swap", "max"), ("no swap", "0")] {
        for by in ["itself", "another"] {
            let cgroup = Cgroup::of_memory(MAX, swap);
            let (here, there) = UnixStream::pair().expect("there are sockets");
            log.flush();
            // SAFETY: The child has its own copy of everything.
            let child = unsafe { fork() };
            if child == 0 {
                drop(here);
                cgroup.enter();
                let area = Area::anon(0, PAGES);
                // Nothing is in the source, so reading it takes no memory.
                let source = Area::anon(1, PAGES);
                let uffd = Uffd::new(0);
                let called = uffd.register(area.start, area.len, MISSING);
                assert!(called.answer.is_ok(), "cannot register: {called}");
                send(there.as_raw_fd(), uffd.fd());
                let mut byte = [0];
                let _ = (&there).read(&mut byte);
                if by == "itself" {
                    let called = uffd.copy(area.start, source.start, area.len, 0);
                    log.record(format!("{swap_name},by {by},copy"), called);
                }
                // The first page has been swapped out for the others.
                let names = Names::new(&[("area", &area)]);
                let state = pagemap(area.start);
                let loaded = load(area.start, &names);
                let text = format!("{state}, {loaded}, {}", peek(area.start));
                log.record(format!("{swap_name},by {by},first page"), text);
                log.flush();
                // SAFETY: Nothing of this process is needed any more.
                unsafe { libc::_exit(0) };
            }
            drop(there);
            let uffd = Uffd(receive(here.as_raw_fd()));
            let (start, source) = (Area::anon(0, 1).start, Area::anon(1, PAGES));
            if by == "another" {
                let called = uffd.copy(start, source.start, PAGES * PAGE, 0);
                // How much was done before somebody was killed is a matter of luck, and its memory may
                // have gone early enough for all the rest.
                let text = match swap {
                    "0" => format!("at least a part: {}", called.did_something()),
                    _ => called.to_string(),
                };
                log.record(format!("{swap_name},by {by},copy"), text);
            }
            let _ = (&here).write(&[1]);
            log.record(format!("{swap_name},by {by},process"), ended(child));
            log.record(format!("{swap_name},by {by},fdinfo"), uffd.fdinfo());
            let called = uffd.copy(start, source.start, PAGE, 0);
            log.record(format!("{swap_name},by {by},copy after its end"), called);
        }
    }
}

/// A process is killed because its cgroup is full while it has faults of another one to resolve.
fn resolver_is_killed(log: &mut Transcript) {
    for (holders, keeps) in [
        ("it alone has the descriptor", false),
        ("so has this", true),
    ] {
        catch_signals();
        let cgroup = Cgroup::of_memory("8M", "0");
        let (area, source) = (Area::anon(0, 8), Area::anon(1, 1));
        source.write();
        let names = Names::new(&[("area", &area)]);
        let uffd = Uffd::new(0);
        let called = uffd.register(area.start, area.len, MISSING);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        log.flush();
        // SAFETY: The child has its own copy of everything.
        let resolver = unsafe { fork() };
        if resolver == 0 {
            cgroup.enter();
            for page in 0..2 {
                assert_ne!(uffd.poll(10_000), 0, "there is no message");
                let message = uffd.read().expect("there is a message");
                log.record(
                    format!("{holders},message {page}"),
                    describe(&message, &names),
                );
                if page == 0 {
                    let copied = uffd.copy(area.start, source.start, PAGE, 0);
                    log.record(format!("{holders},copy"), copied);
                }
            }
            log.flush();
            // More than there is for it.
            Area::anon(2, 4096).write();
            // SAFETY: Nothing of this process is needed any more.
            unsafe { libc::_exit(0) };
        }
        let uffd = keeps.then_some(uffd);
        let (start, its) = (area.start, names.clone());
        let sleeper =
            std::thread::spawn(move || [load(start, &its), load(start + PAGE, &its)].join(", "));
        log.record(format!("{holders},resolver"), ended(resolver));
        if let Some(uffd) = uffd {
            log.record(format!("{holders},fdinfo"), uffd.fdinfo());
            let copied = uffd.copy(start + PAGE, source.start, PAGE, 0);
            log.record(format!("{holders},copy after its end"), copied);
        }
        let loaded = sleeper.join().expect("no panic");
        log.record(format!("{holders},sleeper"), loaded);
        for page in 0..3 {
            log.record(format!("{holders},page {page}"), peek(area.at(page)));
        }
    }
}

/// Something that waits to be read about.
struct Doing {
    name: &'static str,
    run: fn(usize, &Names),
}

// SAFETY (of all blocks below): the ranges are memory of the tests.
const DOING: &[Doing] = &[
    Doing {
        name: "fault",
        run: |start, names| {
            load(start, names);
        },
    },
    Doing {
        name: "fork",
        run: |_, _| unsafe {
            if libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) == 0 {
                libc::_exit(0);
            }
        },
    },
    Doing {
        name: "dontneed",
        run: |start, _| unsafe {
            libc::madvise(start as _, PAGE, libc::MADV_DONTNEED);
        },
    },
    Doing {
        name: "munmap",
        run: |start, _| unsafe {
            libc::munmap(start as _, PAGE);
        },
    },
    Doing {
        name: "mremap",
        run: |start, _| unsafe {
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            libc::mremap(start as _, PAGE, PAGE, flags, start + (1 << 31));
        },
    },
];

/// The process ends, or runs another program, while one of its threads waits to be read about.
fn ends_meanwhile(log: &mut Transcript) {
    for doing in DOING {
        for end in ["exit", "exec", "signal of a thread"] {
            for read in [false, true] {
                let (here, there) = UnixStream::pair().expect("there are sockets");
                log.flush();
                // SAFETY: The child has its own copy of everything.
                let child = unsafe { fork() };
                if child == 0 {
                    drop(here);
                    target(doing, end, there);
                }
                drop(there);
                let uffd = Uffd(receive(here.as_raw_fd()));
                let names = Names::default();
                let question = |text: &str| format!("{},{end},read={read},{text}", doing.name);
                assert_ne!(uffd.poll(10_000), 0, "{}: there is no message", doing.name);
                if read {
                    let message = uffd.read().expect("there is a message");
                    log.record(question("message"), describe(&message, &names));
                    drop(child_of(&message));
                }
                let _ = (&here).write(&[1]);
                log.record(question("process"), ended(child));
                log.record(question("fdinfo"), uffd.fdinfo());
                log.record(question("poll"), format!("{:#x}", uffd.poll(0)));
                let answer = uffd.read().err().unwrap_or(Answer(Ok(32)));
                log.record(question("read"), answer);
            }
        }
    }
}

/// The process that ends: has a thread wait, and does as it is told by the socket.
fn target(doing: &'static Doing, end: &str, there: UnixStream) -> ! {
    catch_signals();
    let area = Area::anon(0, 8);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(ALL_EVENTS.into());
    let called = uffd.register(area.start, area.len, MISSING);
    assert!(called.answer.is_ok(), "cannot register: {called}");
    send(there.as_raw_fd(), uffd.fd());
    drop(uffd);
    let start = area.start;
    std::thread::spawn(move || {
        (doing.run)(start, &names);
        // SAFETY: No pointers are involved.
        unsafe { libc::pause() }
    });
    let mut byte = [0];
    let _ = (&there).read(&mut byte);
    // SAFETY: The strings end in a zero and the list in a null pointer.
    unsafe {
        match end {
            "exit" => libc::_exit(3),
            "exec" => {
                let path = c"/bin/true".as_ptr();
                libc::execv(path, [path, std::ptr::null()].as_ptr());
            }
            _ => {
                libc::kill(libc::getpid(), libc::SIGTERM);
            }
        }
        libc::pause();
        libc::_exit(4)
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("failures/fork without memory", fork_without_memory),
        Case::new("failures/fork refused", fork_refused),
        Case::new("failures/fork in a full cgroup", fork_in_full_cgroup),
        Case::new("failures/fork of one too many", fork_of_one_too_many),
        Case::new("failures/memory cgroup", memory_cgroup),
        Case::new("failures/resolver is killed", resolver_is_killed),
        Case::new("failures/ends meanwhile", ends_meanwhile),
    ]
}
