// SPDX-License-Identifier: GPL-2.0

//! Faults: each way to touch memory, on each kind of memory, with each feature.

use crate::{
    fixture::{ask_setup, setup, Fixture, Setup, FEATURES, FEW, SETUPS},
    inspect::pagemap,
    memory::{madvise, move_to, mprotect, munmap, Area, Names, MIB, RW},
    process::{
        ended, exit, fault_counts, fork, fork_with, kill, receive, send, sleeping_thread, wait,
    },
    sys::{outcome, PAGE},
    touch::{
        catch_signals, count_interrupts, interrupt, interrupt_and_wait, interrupts, load, store,
        ACCESSES,
    },
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, touch_by_this_thread, Call, Uffd, CONTINUE, DONTWAKE, MINOR, MISSING,
        MOVE, POISON, UNREGISTER, WAKE, WP, WRITEPROTECT, WRITEPROTECT_DONTWAKE, WRITEPROTECT_WP,
        ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{
    ops::Range,
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::Duration,
};

/// What a fault finds after each ioctl has been there.
fn after_operations(log: &mut Transcript) {
    catch_signals();
    for kind in ["anon", "shmem", "hugetlb"] {
        let fixture = Fixture::new(kind, MISSING | WP, 0, 0);
        let (start, page) = (fixture.area.start, fixture.area.page);
        for (name, call, mode) in [
            ("copy wp", None, u64::from(UFFDIO_COPY_MODE_WP)),
            ("copy", None, 0),
            ("zeropage", Some(&ZEROPAGE), 0),
            ("poison", Some(&POISON), 0),
            ("wp", Some(&WRITEPROTECT), 1),
        ] {
            fixture.reset(false);
            let called = match call {
                Some(call) => fixture.uffd.range(call, start, 2 * page, mode),
                None => fixture
                    .uffd
                    .copy(start + page, fixture.source.start, page, mode),
            };
            log.record(format!("{kind},{name}"), called);
            for access in &ACCESSES[..FEW] {
                log.record(
                    format!("{kind},{name},{}", access.name),
                    fixture.ask(access),
                );
            }
        }
        fixture.reset(false);
        fixture.uffd.range(&UNREGISTER, start, fixture.area.len, 0);
        for access in &ACCESSES[..FEW] {
            log.record(
                format!("{kind},unregister,{}", access.name),
                fixture.ask(access),
            );
        }
    }
}

/// What threads sleep in.
const SLEEPERS: &[Setup] = &[
    setup("anon", MISSING, false),
    setup("anon", WP, true),
    setup("shmem", MINOR, true),
    setup("shmem", MISSING, false),
    setup("hugetlb", MISSING, false),
    setup("hugetlb-memfd", MINOR, true),
];

/// Something that happens while a thread sleeps in a fault on the first page.
struct Act {
    name: &'static str,
    run: fn(&Fixture) -> String,
}

const fn act(name: &'static str, run: fn(&Fixture) -> String) -> Act {
    Act { name, run }
}

/// An ioctl on a page of the fixture.
fn on_page(fixture: &Fixture, call: &Call, page: usize, mode: u64) -> String {
    let (start, len) = (fixture.area.at(page), fixture.area.page);
    fixture.uffd.range(call, start, len, mode).to_string()
}

fn copy_to(fixture: &Fixture, page: usize, mode: u64) -> String {
    let (start, len) = (fixture.area.at(page), fixture.area.page);
    let called = fixture.uffd.copy(start, fixture.source.start, len, mode);
    called.to_string()
}

fn move_to_first(fixture: &Fixture, mode: u64) -> String {
    let (start, source) = (fixture.area.start, &fixture.source);
    // Pages move between areas of the same protection only.
    source.mprotect(RW | libc::PROT_EXEC);
    let inputs = [start, source.start, fixture.area.page].map(|value| value as u64);
    let [dst, src, len] = inputs;
    let called = fixture.uffd.call(&MOVE, &[dst, src, len, mode]);
    called.to_string()
}

/// Where an area is moved to.
const ELSEWHERE: usize = 1 << 30;

const ACTS: &[Act] = &[
    act("wake", |s| on_page(s, &WAKE, 0, 0)),
    act("wake of another page", |s| on_page(s, &WAKE, 1, 0)),
    act("unregister", |s| {
        let called = s.uffd.range(&UNREGISTER, s.area.start, s.area.len, 0);
        called.to_string()
    }),
    act("register otherwise", |s| {
        let mode = if s.mode == MISSING { WP } else { MISSING };
        let called = s.uffd.register(s.area.start, s.area.len, mode);
        called.to_string()
    }),
    act("close", |s| {
        // No other thread uses the number before it is closed for good.
        // SAFETY: The descriptor is of the tests, and is open until `s` goes.
        outcome(unsafe { libc::dup2(2, s.uffd.fd()) }.min(0))
    }),
    act("copy", |s| copy_to(s, 0, 0)),
    act("copy dontwake", |s| copy_to(s, 0, DONTWAKE)),
    act("copy then wake", |s| {
        format!("{}, {}", copy_to(s, 0, DONTWAKE), on_page(s, &WAKE, 0, 0))
    }),
    act("copy of another page", |s| copy_to(s, 1, 0)),
    act("copy again", |s| {
        // The second one finds the page there.
        format!("{}, {}", copy_to(s, 0, DONTWAKE), copy_to(s, 0, 0))
    }),
    act("zeropage", |s| on_page(s, &ZEROPAGE, 0, 0)),
    act("zeropage dontwake", |s| on_page(s, &ZEROPAGE, 0, DONTWAKE)),
    act("continue", |s| on_page(s, &CONTINUE, 0, 0)),
    act("continue dontwake", |s| on_page(s, &CONTINUE, 0, DONTWAKE)),
    act("writeprotect", |s| {
        on_page(s, &WRITEPROTECT, 0, WRITEPROTECT_WP.into())
    }),
    act("writeprotect off", |s| on_page(s, &WRITEPROTECT, 0, 0)),
    act("writeprotect off dontwake", |s| {
        on_page(s, &WRITEPROTECT, 0, WRITEPROTECT_DONTWAKE.into())
    }),
    act("move", |s| move_to_first(s, 0)),
    act("move dontwake", |s| move_to_first(s, DONTWAKE)),
    act("poison", |s| on_page(s, &POISON, 0, 0)),
    act("poison dontwake", |s| on_page(s, &POISON, 0, DONTWAKE)),
    act("munmap", |s| munmap(s.area.start, s.area.len).to_string()),
    act("mprotect", |s| {
        mprotect(s.area.start, s.area.page, libc::PROT_NONE).to_string()
    }),
    act("dontneed", |s| {
        madvise(s.area.start, s.area.page, libc::MADV_DONTNEED).to_string()
    }),
    act("mremap", |s| {
        move_to(s.area.start, s.area.len, s.area.start + ELSEWHERE).to_string()
    }),
];

/// A thread that sleeps in a fault, and what happens to it.
fn sleepers(log: &mut Transcript, setup: Setup) {
    catch_signals();
    for read in [false, true] {
        for act in ACTS {
            sleeper(log, setup, read, act);
        }
    }
}

fn sleeper(log: &mut Transcript, setup: Setup, read: bool, act: &Act) {
    let fixture = Fixture::new(setup.kind, setup.mode, 0, 0);
    fixture.reset(setup.populated);
    let (start, len) = (fixture.area.start, fixture.area.len);
    let (uffd, names) = (&fixture.uffd, fixture.names.clone());
    let access = if setup.mode & WP != 0 { store } else { load };
    // It is counted before it has looked at the page table for the last time.
    let thread = sleeping_thread(move || access(start + 0x10, &names));
    uffd.wait_for_sleepers(1);
    let question = |text: &str| format!("{},read={read},{text}", act.name);
    if read {
        let message = uffd.read().expect("there is a message");
        log.record(question("message"), describe(&message, &fixture.names));
    }
    log.record(question("fdinfo before"), uffd.fdinfo());
    log.record(question("done"), (act.run)(&fixture));
    if act.name != "close" {
        log.record(question("goes on"), uffd.ends_or_sleeps(&thread));
        log.record(question("fdinfo after"), uffd.fdinfo());
        let text = match uffd.read() {
            Ok(message) => describe(&message, &fixture.names),
            Err(answer) => answer.to_string(),
        };
        log.record(question("message after"), text);
        // Let it go, whatever became of the area.
        uffd.range(&WAKE, start, len, 0);
        fixture.resolve_all(&thread);
    }
    log.record(question("ended"), thread.join().expect("no panic"));
    log.record(question("page"), pagemap(start));
    munmap(start + ELSEWHERE, len);
}

/// What threads sleep in whose faults are counted.
const COUNTED: &[Setup] = &[
    setup("anon", MISSING, false),
    setup("anon", WP, true),
    setup("shmem", MISSING, false),
    setup("shmem", MINOR, true),
    setup("shmem", WP, true),
    setup("shmem-private", MISSING, false),
    setup("hugetlb", MISSING, false),
    setup("hugetlb-memfd", MINOR, true),
];

/// What lets a thread go on.
const RESOLVING: &[&str] = &[
    "copy",
    "copy then wake",
    "zeropage",
    "continue",
    "writeprotect off",
    "move",
    "poison",
    "unregister",
];

/// Accesses whose faults are counted, and whether each writes to the memory: of user mode, of
/// system calls, and of those that get hold of the page first.
const COUNTING: &[(&str, bool)] = &[
    ("load", false),
    ("store", true),
    ("read", true),
    ("write", false),
    ("process_vm_readv", false),
    ("process_vm_writev", true),
    ("populate read", false),
    ("populate write", true),
];

/// How often a fault counts, for each way to resolve it. Those of the kernel itself count otherwise
/// than those of user mode.
fn counters(log: &mut Transcript, setup: Setup) {
    catch_signals();
    for (name, writes) in COUNTING {
        // Only writes meet a protection.
        if setup.mode & WP != 0 && !writes {
            continue;
        }
        for act in ACTS.iter().filter(|act| RESOLVING.contains(&act.name)) {
            // Faults on the memory of the program itself may add to one of the two.
            let attempts = [(); 2].map(|()| counted(setup, name, act));
            let (_, answer) = attempts.into_iter().min().expect("there are two");
            log.record(format!("{name},{}", act.name), answer);
        }
    }
}

/// Returns how many minor and major faults an access has counted, unless its thread sleeps still, and
/// this in words.
fn counted(setup: Setup, name: &str, act: &Act) -> (Option<[i64; 2]>, String) {
    let fixture = Fixture::new(setup.kind, setup.mode, 0, 0);
    fixture.reset(setup.populated);
    let access = ACCESSES.iter().find(|access| access.name == name);
    let run = access.expect("it is in the table").run;
    let (address, names) = (fixture.area.start + 0x10, fixture.names.clone());
    let elsewhere = fixture.source.start + 0x10;
    let hole = fixture.area.start - 0x10;
    let thread = std::thread::spawn(move || {
        touch_by_this_thread();
        // What the access needs besides the page is there after this, and what a signal needs.
        run(elsewhere, &names);
        run(hole, &names);
        let before = fault_counts();
        let answer = run(address, &names);
        let after = fault_counts();
        let counts = [0, 1].map(|index| after[index] - before[index]);
        let [minor, major] = counts;
        (counts, format!("{answer}: {minor} minor, {major} major"))
    });
    fixture.uffd.wait_for_sleepers(1);
    let done = (act.run)(&fixture);
    if !fixture.uffd.ends_or_sleeps(&thread) {
        let (start, len) = (fixture.area.start, fixture.area.len);
        fixture.uffd.range(&WAKE, start, len, 0);
        fixture.resolve_all(&thread);
        thread.join().expect("no panic");
        return (None, format!("{done}, still asleep"));
    }
    let (counts, text) = thread.join().expect("no panic");
    (Some(counts), format!("{done}, {text}"))
}

/// Many threads that sleep close to one another, of which a range is woken: one for each page, or
/// several for some.
fn many(log: &mut Transcript) {
    const THREADS: usize = 120;
    const WOKEN: [Range<usize>; 3] = [3..40, 0..110, 0..THREADS];
    catch_signals();
    for each in [1, 2, THREADS] {
        let fixture = Fixture::of(Area::anon(0, THREADS), MISSING, 0, 0);
        let threads: Vec<_> = (0..THREADS)
            .map(|index| {
                let (address, names) = (fixture.area.at(index / each), fixture.names.clone());
                std::thread::spawn(move || load(address, &names))
            })
            .collect();
        fixture.uffd.wait_for_sleepers(THREADS);
        // A thread that is woken finds a page.
        let (start, len) = (fixture.area.start, fixture.area.len);
        let filled = fixture.uffd.range(&ZEROPAGE, start, len, DONTWAKE);
        assert!(filled.answer.is_ok(), "cannot fill: {filled}");
        for pages in &WOKEN {
            let question = |text: &str| format!("each={each},{pages:?},{text}");
            let (start, len) = (fixture.area.at(pages.start), pages.len() * PAGE);
            log.record(question("wake"), fixture.uffd.range(&WAKE, start, len, 0));
            log.record(question("fdinfo"), fixture.uffd.fdinfo());
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    }
}

/// Threads that sleep far from one another and close to one another, of which some are woken.
fn distances(log: &mut Transcript) {
    const AT: [usize; 5] = [0, 2 * MIB - PAGE, 2 * MIB, 34 * MIB, 62 * MIB];
    let wakes = [
        ("two", 2 * MIB - PAGE, 2 * PAGE),
        ("near", 0, 40 * MIB),
        ("all", 0, 64 * MIB),
    ];
    catch_signals();
    for read in [false, true] {
        let protection = RW;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let area = Area::map(0, 64 * MIB, PAGE, protection, flags, None).expect("there is room");
        let fixture = Fixture::of(area, MISSING, 0, 0);
        let mut threads = Vec::new();
        for (index, offset) in AT.iter().enumerate() {
            let (address, names) = (fixture.area.start + offset, fixture.names.clone());
            threads.push(std::thread::spawn(move || load(address, &names)));
            fixture.uffd.wait_for_sleepers(index + 1);
            if read {
                let message = fixture.uffd.read().expect("there is a message");
                log.record(
                    format!("read={read},message {index}"),
                    describe(&message, &fixture.names),
                );
            }
        }
        // A thread that is woken finds a page.
        for offset in AT {
            let page = fixture.area.start + offset;
            let copied = fixture
                .uffd
                .copy(page, fixture.source.start, PAGE, DONTWAKE);
            assert!(copied.answer.is_ok(), "cannot copy: {copied}");
        }
        for (name, offset, len) in wakes {
            let question = |text: &str| format!("read={read},{name},{text}");
            let start = fixture.area.start + offset;
            log.record(question("wake"), fixture.uffd.range(&WAKE, start, len, 0));
            log.record(question("fdinfo"), fixture.uffd.fdinfo());
            log.record(question("ended"), ended_of(&fixture.uffd, &threads));
        }
        for (index, thread) in threads.into_iter().enumerate() {
            log.record(
                format!("read={read},thread {index}"),
                thread.join().expect("no panic"),
            );
        }
    }
}

/// Waits until all of some threads have ended or sleep, and says which have ended. No other
/// thread sleeps on the descriptor.
fn ended_of<T>(uffd: &Uffd, threads: &[std::thread::JoinHandle<T>]) -> String {
    loop {
        let ended: Vec<bool> = threads.iter().map(|thread| thread.is_finished()).collect();
        let asleep = ended.iter().filter(|ended| !**ended).count();
        if uffd.fdinfo().contains(&format!("total: {asleep};")) {
            return format!("{ended:?}");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Starts a thread that does an access, and returns when it sleeps.
fn accessing(fixture: &Fixture, name: &str) -> std::thread::JoinHandle<String> {
    let mut known = ACCESSES.iter();
    let access = known.find(|access| access.name == name);
    let run = access.expect("it is in the table").run;
    let (address, names) = (fixture.area.start + 0x10, fixture.names.clone());
    let thread = std::thread::spawn(move || {
        touch_by_this_thread();
        run(address, &names)
    });
    fixture.uffd.wait_for_sleepers(1);
    thread
}

/// A thread that sleeps in a fault, or waits for a fork to be read about, gets a signal.
fn signals(log: &mut Transcript) {
    catch_signals();
    count_interrupts(0);
    for read in [false, true] {
        let fixture = Fixture::new("anon", MISSING, 0, 0);
        let thread = accessing(&fixture, "load");
        let question = |text: &str| format!("load,read={read},{text}");
        if read {
            let message = fixture.uffd.read().expect("there is a message");
            log.record(question("message"), describe(&message, &fixture.names));
        }
        // It handles the signal, and faults again.
        interrupt_and_wait();
        fixture.uffd.wait_for_sleepers(1);
        log.record(question("fdinfo"), fixture.uffd.fdinfo());
        let message = fixture.uffd.read().expect("there is a message");
        log.record(
            question("message after"),
            describe(&message, &fixture.names),
        );
        log.record(question("fdinfo after"), fixture.uffd.fdinfo());
        log.record(question("copy"), copy_to(&fixture, 0, 0));
        log.record(question("ended"), thread.join().expect("no panic"));
        log.record(question("poll"), fixture.uffd.poll_now());
    }
    // These are not interrupted but by being killed. The first two fault over and over, so there is
    // nothing to ask meanwhile.
    for name in ["read", "write", "process_vm_readv", "process_vm_writev"] {
        let fixture = Fixture::new("anon", MISSING, 0, 0);
        count_interrupts(0);
        let thread = accessing(&fixture, name);
        interrupt();
        if name.starts_with("process_vm") {
            log.record(format!("{name},fdinfo"), fixture.uffd.fdinfo());
            log.record(format!("{name},handled"), interrupts());
        }
        log.record(format!("{name},copy"), copy_to(&fixture, 0, 0));
        log.record(format!("{name},ended"), thread.join().expect("no panic"));
        log.record(format!("{name},handled after"), interrupts());
        log.record(format!("{name},fdinfo after"), fixture.uffd.fdinfo());
    }
    signal_in_fork(log);
}

fn signal_in_fork(log: &mut Transcript) {
    let fixture = Fixture::new("anon", MISSING, UFFD_FEATURE_EVENT_FORK.into(), 0);
    count_interrupts(0);
    let forker = sleeping_thread(|| {
        touch_by_this_thread();
        fork_with(0, || 0)
    });
    interrupt();
    log.record("fork,poll", fixture.uffd.poll_now());
    log.record("fork,handled", interrupts());
    let message = fixture.uffd.read().expect("there is an event");
    log.record("fork,message", describe(&message, &fixture.names));
    drop(child_of(&message));
    log.record("fork,ended", forker.join().expect("no panic"));
    log.record("fork,handled after", interrupts());
}

/// A process stops while two of its threads sleep in faults, and continues.
fn stopped(log: &mut Transcript) {
    catch_signals();
    for read in [false, true] {
        let (area, source) = (Area::anon(0, 8), Area::anon(1, 1));
        let names = Names::new(&[("area", &area)]);
        let (here, there) = UnixStream::pair().expect("there are sockets");
        let child = fork(|| {
            let uffd = Uffd::new(0);
            uffd.must_register(area.start, area.len, MISSING);
            send(there.as_raw_fd(), uffd.fd());
            let (second, its) = (area.at(1), names.clone());
            let thread = std::thread::spawn(move || load(second, &its));
            let first = load(area.start, &names);
            let good = [first, thread.join().expect("no panic")] == ["done", "done"];
            exit(i32::from(!good));
        });
        let uffd = Uffd(receive(here.as_raw_fd()));
        let question = |text: &str| format!("read={read},{text}");
        uffd.wait_for_sleepers(2);
        if read {
            log.record(question("messages"), two_messages(&uffd, &names));
        }
        kill(child, libc::SIGSTOP);
        let status = wait(child, libc::WUNTRACED);
        log.record(question("stopped"), libc::WIFSTOPPED(status));
        log.record(question("fdinfo"), uffd.fdinfo());
        log.record(question("poll"), uffd.poll_now());
        kill(child, libc::SIGCONT);
        uffd.wait_for_sleepers(2);
        log.record(question("messages after"), two_messages(&uffd, &names));
        for page in 0..2 {
            let copied = uffd.copy(area.at(page), source.start, PAGE, 0);
            log.record(question(&format!("copy {page}")), copied);
        }
        log.record(question("process"), ended(child));
    }
}

/// The messages of two threads, whose order is a matter of luck.
fn two_messages(uffd: &Uffd, names: &Names) -> String {
    let mut messages = [0, 1].map(|_| match uffd.read() {
        Ok(message) => describe(&message, names),
        Err(answer) => answer.to_string(),
    });
    messages.sort();
    messages.join(", ")
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for setup in SETUPS {
        for (feature, features) in FEATURES {
            for user_only in [false, true] {
                let name = format!(
                    "faults/{}/mode={},populated={}/{feature}/user_only={user_only}",
                    setup.kind, setup.mode, setup.populated
                );
                // Features of write protection have nothing to do with the rest, and most have
                // nothing to do with who faults.
                let of_wp = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
                if features & of_wp != 0 && setup.mode & WP == 0
                    || user_only && features & !UFFD_FEATURE_SIGBUS != 0
                {
                    continue;
                }
                cases.push(Case::new(name, move |log| {
                    ask_setup(log, *setup, *features, user_only)
                }));
            }
        }
    }
    cases.push(Case::new("faults/after operations", after_operations));
    for setup in SLEEPERS {
        cases.push(Case::new(
            format!("faults/sleepers/{}/mode={}", setup.kind, setup.mode),
            move |log| sleepers(log, *setup),
        ));
    }
    for setup in COUNTED {
        cases.push(Case::new(
            format!("faults/counters/{}/mode={}", setup.kind, setup.mode),
            move |log| counters(log, *setup),
        ));
    }
    cases.push(Case::new("faults/many", many));
    cases.push(Case::new("faults/distances", distances));
    cases.push(Case::new("faults/signals", signals));
    cases.push(Case::new("faults/stopped", stopped));
    cases
}
