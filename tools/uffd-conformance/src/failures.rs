// SPDX-License-Identifier: GPL-2.0

//! What fails in the middle: forks without memory, memory cgroups that are full, and processes that
//! end or run another program while something of theirs was not read.

use crate::{
    cgroup::Cgroup,
    inspect::{pagemap, peek},
    kinds::kind_of,
    memory::{dontneed, move_to, munmap, write_byte, Area, Names, MIB, RW},
    process::{
        clone, ended, exit, fork, fork_with, kill, pause, receive, run_program, send, set_limit,
        this_process,
    },
    sys::{write_file, Answer, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{child_of, describe, Uffd, ALL_EVENTS, MISSING},
};
use std::{
    fmt::Display,
    fs::File,
    io::{Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
};
use uffd_guest::Mmap;

const OVERCOMMIT: &str = "/proc/sys/vm/overcommit_memory";

/// More memory than there is, in bytes.
const MUCH: usize = 64 << 30;

/// A fork that runs out of memory after it has duplicated registered VMAs.
fn fork_without_memory(log: &mut Transcript) {
    for features in [0, ALL_EVENTS] {
        // This VMA is not accounted for, and it is the first of all: the VMAs of the program,
        // which are, come behind it.
        let area = kind_of("anon-noreserve").area(0);
        let uffd = Uffd::new(features.into());
        uffd.must_register(area.start, area.len, MISSING);
        // Between the two settings no memory is allocated.
        let setting = File::options().write(true).open(OVERCOMMIT);
        let setting = setting.expect("there is the setting");
        let set = |value: &[u8; 1]| {
            let written = setting.write_at(value, 0);
            assert_eq!(written.expect("the setting can be written"), 1);
        };
        set(b"1");
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let much = Mmap::new(None, MUCH, RW, flags, None).expect("there is memory");
        set(b"2");
        let answer = clone(0, || 0);
        set(b"0");
        drop(setting);
        drop(much);
        ask_after_fork(log, features, answer, &uffd, area.start);
    }
}

/// A fork of a user who has as many processes as are allowed. It is refused before anything is
/// copied.
fn fork_refused(log: &mut Transcript) {
    let registered = [(0, 0), (1, ALL_EVENTS)].map(|(slot, features)| {
        let area = Area::anon(slot, 4);
        let uffd = Uffd::new(features.into());
        uffd.must_register(area.start, area.len, MISSING);
        // The descriptor goes first, because no thread reads the events of unmapping.
        (features, uffd, area)
    });
    set_limit(libc::RLIMIT_NPROC, 1, 1);
    // SAFETY: No pointers are involved.
    let set = unsafe { libc::setresuid(4321, 4321, 4321) };
    assert_eq!(set, 0, "root may become another user");
    for (features, uffd, area) in &registered {
        let answer = clone(0, || 0);
        ask_after_fork(log, *features, answer, uffd, area.start);
    }
}

/// A fork for which a memory cgroup has no room: it fails when page tables are copied,
/// after the registered VMAs were duplicated.
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
    // The kernel looks for a process to kill, finds none, says so, and goes on.
    let answer = write_file("/proc/self/oom_score_adj", "-1000");
    assert!(answer.is_ok(), "this process can be killed: {answer}");
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let protection = RW;
    let area = Area::map(0, LEN, PAGE, protection, flags, None).expect("there is room");
    for page in (area.start..area.start + LEN).step_by(STEP) {
        write_byte(page, 1);
    }
    let uffd = Uffd::new(features.into());
    uffd.must_register(area.start, area.len, MISSING);
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
    uffd.must_register(area.start, area.len, MISSING);
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
    log.record(question("poll"), uffd.poll_now());
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
            let child = log.fork(|log| {
                cgroup.enter();
                let area = Area::anon(0, PAGES);
                // Nothing is in the source, so reading it takes no memory.
                let source = Area::anon(1, PAGES);
                let uffd = Uffd::new(0);
                uffd.must_register(area.start, area.len, MISSING);
                send(there.as_raw_fd(), uffd.fd());
                let _ = (&there).read(&mut [0]);
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
            });
            drop(there);
            let uffd = Uffd(receive(here.as_raw_fd()));
            let (start, source) = (Area::anon(0, 1).start, Area::anon(1, PAGES));
            if by == "another" {
                let called = uffd.copy(start, source.start, PAGES * PAGE, 0);
                // How much was done before a process was killed is a matter of luck, and its memory
                // may have gone early enough for all the rest.
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
        uffd.must_register(area.start, area.len, MISSING);
        let resolver = log.fork(|log| {
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
        });
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

/// Something that waits to be read about, and is done to a page.
type Doing = fn(usize, &Names) -> String;

const DOING: &[(&str, Doing)] = &[
    ("fault", load),
    ("fork", |_, _| clone(0, || 0).to_string()),
    ("dontneed", |start, _| dontneed(start).to_string()),
    ("munmap", |start, _| munmap(start, PAGE).to_string()),
    ("mremap", |start, _| {
        move_to(start, PAGE, start + (1 << 31)).to_string()
    }),
];

/// The process ends, or runs another program, while one of its threads waits to be read about.
fn ends_meanwhile(log: &mut Transcript) {
    for (name, run) in DOING {
        for end in ["exit", "exec", "signal of a thread"] {
            for read in [false, true] {
                let (here, there) = UnixStream::pair().expect("there are sockets");
                let child = fork(|| {
                    target(*run, end, &there);
                });
                drop(there);
                let uffd = Uffd(receive(here.as_raw_fd()));
                let names = Names::default();
                let question = |text: &str| format!("{name},{end},read={read},{text}");
                assert_ne!(uffd.poll(10_000), 0, "{name}: there is no message");
                if read {
                    let message = uffd.read().expect("there is a message");
                    log.record(question("message"), describe(&message, &names));
                    drop(child_of(&message));
                }
                let _ = (&here).write(&[1]);
                log.record(question("process"), ended(child));
                log.record(question("fdinfo"), uffd.fdinfo());
                log.record(question("poll"), uffd.poll_now());
                let answer = uffd.read().err().unwrap_or(Answer(Ok(32)));
                log.record(question("read"), answer);
            }
        }
    }
}

/// The process that ends: has a thread wait, and ends when the socket says so.
fn target(run: Doing, end: &str, there: &UnixStream) -> ! {
    catch_signals();
    let area = Area::anon(0, 8);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(ALL_EVENTS.into());
    uffd.must_register(area.start, area.len, MISSING);
    send(there.as_raw_fd(), uffd.fd());
    drop(uffd);
    let start = area.start;
    std::thread::spawn(move || {
        run(start, &names);
        pause()
    });
    let _ = { there }.read(&mut [0]);
    match end {
        "exit" => exit(3),
        "exec" => run_program(),
        _ => kill(this_process(), libc::SIGTERM),
    }
    pause();
    exit(4)
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
