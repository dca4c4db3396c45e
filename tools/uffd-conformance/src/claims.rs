// SPDX-License-Identifier: GPL-2.0

//! What happens while a thread reads about a fork, and the kernel makes the descriptor for it.
//!
//! To make a descriptor takes long if the table of descriptors is full: the first thread that needs
//! a number makes a larger table, which takes a grace period of RCU, and others that need one wait
//! for that.

use crate::{
    memory::{dontneed, read_bytes, read_into, Area, Names},
    process::{
        ended, ends_soon, exit, fork, fork_with, kill, limit_descriptors, receive, run_on, send,
        sleeping_thread, this_thread, Busy, Status,
    },
    sys::{duplicate, fcntl, read, Answer},
    touch::{catch_signals, fill},
    transcript::{Case, Transcript},
    uffd::{describe, message_of, Uffd},
    watched::Watched,
};
use linux_raw_sys::general::*;
use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, IntoRawFd, RawFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{channel, Sender},
        Arc,
    },
    thread::JoinHandle,
};

const MESSAGE: usize = size_of::<uffd_msg>();

/// How many descriptors fit into the table that a process begins with.
const TABLE: RawFd = 64;

/// A thread that waits until it is told to start, and whose state can be looked at without another
/// descriptor.
struct Watchable<T> {
    thread: JoinHandle<T>,
    start: Sender<()>,
    is_started: Arc<AtomicBool>,
    stat: File,
}

impl<T: Send + 'static> Watchable<T> {
    fn new(run: impl FnOnce() -> T + Send + 'static) -> Self {
        let (start, started) = channel();
        let (sender, receiver) = channel();
        let is_started = Arc::new(AtomicBool::new(false));
        let its = is_started.clone();
        let thread = std::thread::spawn(move || {
            let _ = sender.send(this_thread());
            let _ = started.recv();
            its.store(true, Ordering::Release);
            run()
        });
        let id = receiver.recv().expect("a thread");
        let stat = File::open(format!("/proc/self/task/{id}/stat")).expect("there is its state");
        Self {
            thread,
            start,
            is_started,
            stat,
        }
    }

    /// Returns whether the thread is in a state.
    fn is_in(&self, state: char) -> bool {
        let mut text = [0; 64];
        // A thread that has ended has no text.
        let len = self.stat.read_at(&mut text, 0).unwrap_or(0);
        String::from_utf8_lossy(&text[..len]).contains(&format!(") {state} "))
    }

    /// Starts the thread. Returns whether it gets into a state before it ends.
    fn starts_and_gets_into(&self, state: char) -> bool {
        self.start.send(()).expect("it waits");
        while !self.is_started.load(Ordering::Acquire) || !self.is_in(state) {
            if self.thread.is_finished() {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

/// A process whose threads fork, and the userfaultfd that is told of it.
struct Forker {
    process: libc::pid_t,
    uffd: Uffd,
}

impl Forker {
    /// Returns when the events of as many forks wait to be read.
    fn new(flags: i32, forks: usize) -> Self {
        let (here, there) = UnixStream::pair().expect("there are sockets");
        let process = fork(|| {
            let watched = Watched::new(flags, UFFD_FEATURE_EVENT_FORK, 1);
            send(there.as_raw_fd(), watched.uffd.fd());
            let threads: Vec<_> = (0..forks)
                .map(|_| sleeping_thread(|| fork_with(0, || 0)))
                .collect();
            (&there).write_all(&[0]).expect("there is a reader");
            for thread in threads {
                assert_eq!(thread.join().expect("no panic"), "child 0");
            }
        });
        let uffd = Uffd(receive(here.as_raw_fd()));
        (&here).read_exact(&mut [0]).expect("the events wait");
        Self { process, uffd }
    }
}

/// What is done while a thread, or two, have begun to read about a fork.
struct Meanwhile {
    name: &'static str,
    /// How many threads read, each about a fork.
    readers: usize,
    /// Whether there is room for their descriptors in the end.
    room: bool,
    /// Whether another thread waits to read meanwhile.
    another: bool,
    /// Whether the process that forks is killed.
    kills: bool,
    /// Does it, and returns a question about it with its answer. The thread that is given reads
    /// once more if it is started. The buffers are what is read into.
    act: fn(&Forker, &Watchable<Answer>, buffers: usize) -> (&'static str, String),
}

const MEANWHILE: &[Meanwhile] = &[
    Meanwhile {
        name: "poll",
        readers: 1,
        room: true,
        another: false,
        kills: false,
        act: |forker, _, _| ("poll meanwhile", forker.uffd.poll_now()),
    },
    Meanwhile {
        name: "poll without room",
        readers: 1,
        room: false,
        another: false,
        kills: false,
        act: |forker, _, _| ("poll meanwhile", forker.uffd.poll_now()),
    },
    Meanwhile {
        name: "killed",
        readers: 1,
        room: true,
        another: false,
        kills: true,
        act: kill_forker,
    },
    Meanwhile {
        name: "killed without room",
        readers: 1,
        room: false,
        another: false,
        kills: true,
        act: kill_forker,
    },
    Meanwhile {
        name: "buffers go",
        readers: 2,
        room: true,
        another: false,
        kills: false,
        act: |_, _, buffers| ("dontneed", dontneed(buffers).to_string()),
    },
    Meanwhile {
        name: "another reader without room",
        readers: 1,
        room: false,
        another: true,
        kills: false,
        act: |_, another, _| {
            // The limit is that of the time when a thread begins to need a descriptor.
            limit_descriptors(u64::MAX);
            ("sleeps", another.starts_and_gets_into('S').to_string())
        },
    },
];

fn kill_forker(forker: &Forker, _: &Watchable<Answer>, _: usize) -> (&'static str, String) {
    kill(forker.process, libc::SIGKILL);
    ("process", ended(forker.process))
}

/// How a process ends that did not do what it should while the table was made.
const TOO_LATE: i32 = 77;

/// Brings the program into memory, so that no thread waits for a page of it.
fn bring_program() {
    // SAFETY: The call changes no contents of memory.
    let locked = unsafe { libc::mlockall(libc::MCL_CURRENT) };
    assert_eq!(locked, 0, "memory cannot be locked");
}

/// Fills the table of descriptors.
fn fill_table() {
    while duplicate(0).into_raw_fd() < TABLE - 1 {}
}

/// Reads about forks, and does something meanwhile. The process ends if that took too long.
fn attempt(log: &mut Transcript, meanwhile: &Meanwhile) {
    let question = |text: &str| format!("{},{text}", meanwhile.name);
    bring_program();
    let flags = match meanwhile.another {
        true => 0,
        false => libc::O_NONBLOCK,
    };
    let forker = Forker::new(flags, meanwhile.readers);
    let buffers = Area::anon(2, 1);
    fill(buffers.start, MESSAGE);
    let (fd, start) = (forker.uffd.fd(), buffers.start);
    let reader = |index: usize| {
        Watchable::new(move || {
            let buffer = start + index * MESSAGE;
            let answer = read_into(fd, buffer, MESSAGE);
            let mut message = [0; MESSAGE];
            read_bytes(buffer, &mut message);
            let message = message_of(&message);
            match answer {
                Answer(Ok(_)) => describe(&message, &Names::new(&[])),
                answer => answer.to_string(),
            }
        })
    };
    let readers: Vec<_> = (0..meanwhile.readers).map(reader).collect();
    let another = Watchable::new(move || read(fd, &mut [0; MESSAGE]));
    let maker = Watchable::new(|| duplicate(0).into_raw_fd());
    fill_table();
    if !meanwhile.room {
        // There is room for the thread that makes the table.
        limit_descriptors(TABLE as u64 + 1);
    }

    let begin = maker.starts_and_gets_into('D')
        && readers
            .iter()
            .all(|reader| reader.starts_and_gets_into('D'));
    if !begin {
        exit(TOO_LATE);
    }
    let (what, answer) = (meanwhile.act)(&forker, &another, buffers.start);
    if !maker.is_in('D') {
        exit(TOO_LATE);
    }
    log.record(question(what), answer);

    let mut answers: Vec<String> = readers
        .into_iter()
        .map(|reader| reader.thread.join().expect("no panic"))
        .collect();
    answers.sort();
    log.record(question("read"), answers.join(", "));
    limit_descriptors(u64::MAX);
    if meanwhile.another {
        let text = match ends_soon(&another.thread) {
            true => another.thread.join().expect("no panic").to_string(),
            false => "sleeps on".into(),
        };
        log.record(question("another reader"), text);
        fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
    }
    log.record(question("poll"), forker.uffd.poll_now());
    log.record(question("next"), forker.uffd.next(&Names::new(&[])));
    if !meanwhile.kills {
        log.record(question("process"), ended(forker.process));
    }
}

/// Does something while threads read about forks.
fn meanwhile(log: &mut Transcript) {
    for meanwhile in MEANWHILE {
        // Each time in a new process, whose table is small again.
        let done = (0..40).any(|_| {
            let process = log.fork(|log| attempt(log, meanwhile));
            match Status::of(process) {
                Status::Code(0) => true,
                Status::Code(TOO_LATE) => false,
                _ => panic!("{}: an attempt has failed", meanwhile.name),
            }
        });
        assert!(done, "{}: it is always too late", meanwhile.name);
    }
}

/// Four threads wait in read() when there are two forks, and none of them runs before both events
/// are there. The first one is not preempted by the others. The two that come too late wait on, and
/// read about faults.
fn two_of_four(log: &mut Transcript) {
    catch_signals();
    let watched = Watched::new(0, UFFD_FEATURE_EVENT_FORK, 2);
    run_on(Some(0));
    let readers = [10, 0, 0, 0].map(|priority| watched.reader(priority));
    // This thread and those that it starts run on the other processor.
    run_on(Some(1));
    let busy = Busy::new();
    let forkers = [(); 2].map(|()| sleeping_thread(|| fork_with(0, || 0)));
    drop(busy);
    for (index, forker) in forkers.into_iter().enumerate() {
        log.record(format!("forker {index}"), forker.join().expect("no panic"));
    }
    let sleepers = [0, 1].map(|page| watched.load(page));
    let mut answers: Vec<String> = readers
        .into_iter()
        .map(|reader| reader.join().expect("no panic"))
        .collect();
    answers.sort();
    log.record("readers", answers.join(", "));
    for (page, sleeper) in sleepers.into_iter().enumerate() {
        log.record(format!("fill {page}"), watched.fill(page));
        log.record(format!("load {page}"), sleeper.join().expect("no panic"));
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("claims/meanwhile", meanwhile),
        Case::new("claims/two of four", two_of_four),
    ]
}
