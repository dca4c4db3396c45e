// SPDX-License-Identifier: GPL-2.0

//! What an administrator sees of a userfaultfd and of a thread that sleeps in a fault.
//!
//! The first lines of fdinfo are compared by the other chapters.

use crate::{
    kinds::kind_of,
    memory::{dontneed, Area, Names},
    process::{ended, fork, kill, receive, send, sleeping_thread, this_thread, wait_for_sleep},
    sys::PAGE,
    touch::{catch_signals, load, store},
    transcript::{Case, Transcript},
    uffd::{
        Uffd, ALL_EVENTS, CONTINUE, DONTWAKE, MINOR, MISSING, WAKE, WP, WRITEPROTECT,
        WRITEPROTECT_WP, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{
    fmt::Write,
    fs,
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::mpsc::channel,
    thread::{sleep, JoinHandle},
    time::Duration,
};

/// Returns the lines of fdinfo, with name and value.
fn lines(uffd: &Uffd) -> Vec<(String, String)> {
    uffd.whole_fdinfo()
        .lines()
        .map(|line| {
            let (name, value) = line.split_once(':').expect("lines have a name");
            (name.to_string(), value.trim().to_string())
        })
        .collect()
}

/// Returns the values of the lines behind those of C that are not zero, or `none` if there are no
/// such lines. A time in milliseconds is told as `long` if it is at least that of [`pause`].
fn counters(uffd: &Uffd) -> String {
    let lines = lines(uffd);
    let last = lines.iter().position(|(name, _)| name == "API");
    let counters = &lines[last.expect("there is the version") + 1..];
    if counters.is_empty() {
        return "none".into();
    }
    let mut text = String::new();
    for (name, value) in counters {
        let number: u64 = value.parse().expect("a number");
        let _ = match (name.as_str(), number) {
            (_, 0) => Ok(()),
            ("longest_ms", PAUSE_MS..) => write!(text, "{name}=long "),
            ("longest_ms", _) => Ok(()),
            _ => write!(text, "{name}={value} "),
        };
    }
    match text.trim_end() {
        "" => "zeros".into(),
        text => text.into(),
    }
}

const PAUSE_MS: u64 = 2_000;

/// Waits until a thread that sleeps has slept for long.
fn pause() {
    sleep(Duration::from_millis(PAUSE_MS + 100));
}

/// Which lines there are.
fn names(log: &mut Transcript) {
    let lines = lines(&Uffd::new(0));
    let names: Vec<&str> = lines.iter().map(|(name, _)| name.as_str()).collect();
    let of_c = names.iter().position(|name| *name == "API");
    let of_c = of_c.expect("there is the version") + 1;
    log.record("of C", names[..of_c].join(" "));
    log.record("all", names.join(" "));
}

/// A thread that sleeps in a fault.
fn sleeper(
    uffd: &Uffd,
    count: usize,
    access: fn(usize, &Names) -> String,
    address: usize,
) -> JoinHandle<String> {
    let thread = std::thread::spawn(move || access(address, &Names::new(&[])));
    uffd.wait_for_sleepers(count);
    thread
}

/// What is counted, after each step.
fn counted(log: &mut Transcript) {
    catch_signals();
    let area = kind_of("shmem").area(0);
    let source = Area::anon(1, 1);
    let features = ALL_EVENTS | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
    let uffd = Uffd::with(libc::O_CLOEXEC | libc::O_NONBLOCK, features.into());
    uffd.must_register(area.start, area.len, MISSING | WP | MINOR);
    let copy = |page: usize, mode| {
        uffd.copy(area.at(page), source.start, PAGE, mode)
            .to_string()
    };
    log.record("at first", counters(&uffd));

    let first = sleeper(&uffd, 1, load, area.at(0));
    let second = sleeper(&uffd, 2, store, area.at(1));
    log.record("two sleep", counters(&uffd));
    pause();
    log.record("two sleep for long", counters(&uffd));
    log.record("read", uffd.read().is_ok());
    log.record("one read", counters(&uffd));
    log.record("copy", copy(0, 0));
    log.record("first", first.join().expect("no panic"));
    log.record("copied", counters(&uffd));

    log.record("copy without waking", copy(1, DONTWAKE));
    log.record("not woken", counters(&uffd));
    log.record("copy again", copy(1, DONTWAKE));
    log.record("exists", counters(&uffd));
    let woken = uffd.range(&WAKE, area.start, area.len, 0);
    log.record("wake", woken);
    log.record("second", second.join().expect("no panic"));
    log.record("woken", counters(&uffd));

    log.record(
        "copy elsewhere",
        uffd.copy(source.start, source.start, PAGE, 0),
    );
    log.record("no such range", counters(&uffd));

    let protect = uffd.range(&WRITEPROTECT, area.start, PAGE, WRITEPROTECT_WP.into());
    log.record("protect", protect);
    let writer = sleeper(&uffd, 1, store, area.start);
    log.record("writer sleeps", counters(&uffd));
    log.record("lift", uffd.range(&WRITEPROTECT, area.start, PAGE, 0));
    log.record("writer", writer.join().expect("no panic"));
    log.record("lifted", counters(&uffd));

    let remover = {
        let page = area.at(1);
        sleeping_thread(move || dontneed(page))
    };
    log.record("copy while pages are removed", copy(2, 0));
    log.record("try again", counters(&uffd));
    log.record("read of the removal", uffd.read().is_ok());
    log.record("remove", remover.join().expect("no panic"));
    log.record("removed", counters(&uffd));

    let minor = sleeper(&uffd, 1, load, area.at(1));
    log.record("minor sleeps", counters(&uffd));
    log.record("continue", uffd.range(&CONTINUE, area.at(1), PAGE, 0));
    log.record("minor", minor.join().expect("no panic"));
    log.record("continued", counters(&uffd));

    log.record("zeropage", uffd.range(&ZEROPAGE, area.at(3), PAGE, 0));
    log.record("filled", counters(&uffd));
}

/// A thread that is killed in its sleep was not woken.
fn killed(log: &mut Transcript) {
    let (here, there) = UnixStream::pair().expect("there are sockets");
    let process = fork(|| {
        let area = Area::anon(0, 1);
        let uffd = Uffd::new(0);
        uffd.must_register(area.start, area.len, MISSING);
        send(there.as_raw_fd(), uffd.fd());
        load(area.start, &Names::new(&[]));
    });
    let uffd = Uffd(receive(here.as_raw_fd()));
    uffd.wait_for_sleepers(1);
    log.record("sleeps", counters(&uffd));
    kill(process, libc::SIGKILL);
    log.record("process", ended(process));
    log.record("ended", counters(&uffd));
}

/// What is told of a thread that sleeps in a fault: the function in which it waits, and the
/// innermost functions of its stack of which userfaultfd is.
fn thread(log: &mut Transcript) {
    let area = Area::anon(0, 1);
    let source = Area::anon(1, 1);
    let uffd = Uffd::new(0);
    uffd.must_register(area.start, area.len, MISSING);
    let (sender, receiver) = channel();
    let start = area.start;
    let sleeper = std::thread::spawn(move || {
        sender.send(this_thread()).expect("there is a receiver");
        load(start, &Names::new(&[]))
    });
    let id = receiver.recv().expect("a thread");
    uffd.wait_for_sleepers(1);
    wait_for_sleep(&format!("/proc/self/task/{id}"), || false);
    let of = |file: &str| {
        let path = format!("/proc/self/task/{id}/{file}");
        fs::read_to_string(path).expect("there is the file")
    };
    log.record("wchan", of("wchan"));
    let stack = of("stack");
    let is_named = stack.lines().any(|line| line.contains("userfault"));
    log.record("stack", is_named);
    uffd.copy(area.start, source.start, PAGE, 0);
    sleeper.join().expect("no panic");
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("fdinfo/names", names),
        Case::new("fdinfo/counted", counted),
        Case::new("fdinfo/killed", killed),
        Case::new("fdinfo/thread", thread),
    ]
}
