// SPDX-License-Identifier: GPL-2.0

//! Descriptors: how they are made, faults that threads sleep in, and what is read about them and
//! about changes of mappings.

use super::{Failing, Question};
use crate::{
    inspect::{flags_within, pagemap_of},
    kinds::kind_of,
    ledger::Ledger,
    memory::{dontneed, getrandom, madvise, move_to, munmap, write_byte, Area, Names},
    process::{clone, descriptors, fork_with, sleeping_thread, Status},
    sys::{new_descriptor, open, Answer, PAGE},
    touch::{catch_signals, load},
    uffd::{
        child_of, describe, fault_of, Uffd, ALL_EVENTS, API, CONTINUE, IOC_NEW, MINOR, MISSING, WP,
        WRITEPROTECT, WRITEPROTECT_WP,
    },
};
use linux_raw_sys::general::*;
use std::{
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

/// How long a thread may take.
const TIME: Duration = Duration::from_secs(20);

/// Has the making of a descriptor fail.
fn create(by_device: bool, failing: &Failing, _: &Ledger) -> String {
    let device = open(c"/dev/userfaultfd", libc::O_RDWR).expect("root may open it");
    let before = descriptors();
    // SAFETY: The calls return a new descriptor, or an error.
    let made = failing.run(|| unsafe {
        let fd = match by_device {
            true => i64::from(libc::ioctl(device.as_raw_fd(), IOC_NEW as _, 0)),
            false => libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC),
        };
        new_descriptor(fd as RawFd)
    });
    let there = descriptors() - before;
    let (answer, api) = match made {
        Ok(fd) => {
            let uffd = Uffd(fd);
            (
                Answer(Ok(0)),
                uffd.call(&API, &[UFFD_API.into(), 0]).to_string(),
            )
        }
        Err(errno) => (Answer(Err(errno)), "none".into()),
    };
    format!(
        "{answer}; {there} descriptors; api {api}; {} descriptors",
        descriptors() - before
    )
}

/// Has UFFDIO_API fail.
fn api(failing: &Failing, _: &Ledger) -> String {
    let uffd = Uffd::create(libc::O_CLOEXEC | libc::O_NONBLOCK).expect("userfaultfd(2) works");
    let inputs = [UFFD_API.into(), ALL_EVENTS.into()];
    let called = uffd.call_within(&API, &inputs, |ioctl| failing.run(ioctl));
    let again = uffd.call(&API, &inputs);
    format!("{called}; again {again}")
}

/// Does something in a thread. Reads messages, and says what they are. Resolves faults with
/// `resolve`.
fn with_reader<T: Send>(
    uffd: &Uffd,
    names: &Names,
    resolve: impl Fn(usize),
    act: impl FnOnce() -> T + Send,
) -> (T, String) {
    let mut messages = Vec::new();
    let start = Instant::now();
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(act);
        while !thread.is_finished() {
            assert!(
                start.elapsed() < TIME,
                "a thread is stuck after {messages:?}"
            );
            uffd.poll(1);
            if let Ok(message) = uffd.read() {
                drop(child_of(&message));
                messages.push(describe(&message, names));
                if let Some(fault) = fault_of(&message) {
                    resolve(fault.address & !(PAGE - 1));
                }
            }
        }
        thread.join().expect("no panic")
    });
    let messages = match messages.is_empty() {
        true => "no message".into(),
        false => messages.join(", "),
    };
    (result, messages)
}

/// Has a system call fail that has to wait for a page. A fault of a program itself never fails
/// because of memory: it is begun again.
fn fault(kind: &'static str, mode: u64, failing: &Failing, ledger: &Ledger) -> String {
    let area = kind_of(kind).area(0);
    let names = Names::new(&[("area", &area)]);
    let source = Area::anon(1, area.page / PAGE);
    source.write();
    let uffd = Uffd::new(0);
    let alias = (mode == MINOR).then(|| area.alias(2));
    if let Some(alias) = &alias {
        alias.write();
    }
    if mode == WP {
        write_byte(area.start, 1);
    }
    uffd.must_register(area.start, area.len, mode);
    let page = area.page;
    if mode == WP {
        uffd.range(&WRITEPROTECT, area.start, page, WRITEPROTECT_WP.into());
    }
    let resolve = |address: usize| {
        let start = address & !(page - 1);
        match mode {
            MINOR => uffd.range(&CONTINUE, start, page, 0),
            WP => uffd.range(&WRITEPROTECT, start, page, 0),
            _ => uffd.copy(start, source.start, page, 0),
        };
    };
    let before = ledger.entry();
    let start = area.start;
    let act = || failing.run(|| getrandom(start));
    let (answer, messages) = with_reader(&uffd, &names, resolve, act);
    // The thread has taken memory for itself.
    let taken = (ledger.entry() - before).without_own();
    let pages = pagemap_of(area.start, area.len / PAGE, |_, _| "");
    let fdinfo = uffd.fdinfo();
    let (again, then) = with_reader(&uffd, &names, resolve, || getrandom(start));
    format!("{answer}; {messages}; {taken}; {pages}; {fdinfo}; again {again}; {then}")
}

/// Has the reading of a message about a fault fail.
fn read_fault(failing: &Failing, _: &Ledger) -> String {
    catch_signals();
    let area = Area::anon(0, 4);
    let names = Names::new(&[("area", &area)]);
    let source = Area::anon(1, 1);
    let uffd = Uffd::new(0);
    uffd.must_register(area.start, area.len, MISSING);
    let (start, its) = (area.start, names.clone());
    let thread = sleeping_thread(move || load(start, &its));
    uffd.wait_for_sleepers(1);
    let read = failing.run(|| uffd.read());
    let read = read.map_or_else(|answer| answer.to_string(), |m| describe(&m, &names));
    let (fdinfo, poll) = (uffd.fdinfo(), uffd.poll_now());
    let again = uffd.next(&names);
    let copied = uffd.copy(start, source.start, PAGE, 0);
    let loaded = thread.join().expect("no panic");
    format!("{read}; {fdinfo}; {poll}; again {again}; {copied}; {loaded}")
}

/// Has the reading of a message about a fork fail, which makes a descriptor.
fn read_fork(failing: &Failing, _: &Ledger) -> String {
    let area = Area::anon(0, 4);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(UFFD_FEATURE_EVENT_FORK.into());
    uffd.must_register(area.start, area.len, MISSING);
    let thread = std::thread::spawn(|| fork_with(0, || 0));
    assert_ne!(uffd.poll(10_000), 0, "there is no event");
    let before = descriptors();
    let read = failing.run(|| uffd.read());
    let mut childs = None;
    let read = read.map_or_else(
        |answer| answer.to_string(),
        |message| {
            childs = child_of(&message);
            describe(&message, &names)
        },
    );
    let there = descriptors() - before;
    let of_child = childs.map_or("none".into(), |child| child.fdinfo());
    let (fdinfo, poll) = (uffd.fdinfo(), uffd.poll_now());
    let again = uffd.next(&names);
    let forked = thread.join().expect("no panic");
    let left = descriptors() - before;
    format!(
        "{read}; {there} descriptors; of the child {of_child}; {fdinfo}; {poll}; again {again}; \
         {forked}; {left} descriptors"
    )
}

/// Something that changes mappings, at a page.
type Change = fn(&Failing, usize) -> String;

const CHANGES: &[(&str, Change)] = &[
    ("fork", |failing, _| {
        match failing.run(|| clone(libc::CLONE_FILES | libc::CLONE_FS, || 0)) {
            Answer(Ok(child)) => match Status::of(child as libc::pid_t) {
                Status::Code(code) => format!("child {code}"),
                Status::Signal(signal) => format!("child killed by {signal}"),
            },
            answer => answer.to_string(),
        }
    }),
    ("munmap", |failing, page| {
        failing.run(|| munmap(page, PAGE)).to_string()
    }),
    ("mremap", |failing, page| {
        failing
            .run(|| move_to(page, PAGE, page + (1 << 30)))
            .to_string()
    }),
    ("dontneed", |failing, page| {
        failing.run(|| dontneed(page)).to_string()
    }),
    ("remove", |failing, page| {
        failing
            .run(|| madvise(page, PAGE, libc::MADV_REMOVE))
            .to_string()
    }),
];

/// Has a change of mappings fail about which there is a message.
fn change(kind: &'static str, change: Change, failing: &Failing, _: &Ledger) -> String {
    let area = kind_of(kind).area(0);
    let source = Area::anon(1, 1);
    let mut names = Names::new(&[("area", &area)]);
    names.add("elsewhere", area.start + (1 << 30), area.len);
    let uffd = Uffd::new(ALL_EVENTS.into());
    uffd.must_register(area.start, area.len, MISSING);
    for page in 0..4 {
        uffd.copy(area.at(page), source.start, PAGE, 0);
    }
    let page = area.at(2);
    let (answer, messages) = with_reader(&uffd, &names, |_| {}, || change(failing, page));
    let range = area.start..area.start + (1 << 30) + area.len;
    let vmas = flags_within(&range, &names);
    let pages = pagemap_of(area.start, 8, |_, _| "");
    let fdinfo = uffd.fdinfo();
    let copied = uffd.copy(area.at(5), source.start, PAGE, 0);
    drop(uffd);
    munmap(area.start + (1 << 30), area.len);
    format!("{answer}; {messages}; {vmas}; {pages}; {fdinfo}; copy {copied}")
}

pub fn questions() -> Vec<Question> {
    let question = |name: String, attempt: fn(&Failing, &Ledger) -> String| {
        Question::new(format!("descriptor/{name}"), attempt)
    };
    let mut questions = vec![
        question("create".into(), |failing, ledger| {
            create(false, failing, ledger)
        }),
        question("create by the device".into(), |failing, ledger| {
            create(true, failing, ledger)
        }),
        question("api".into(), api),
        question("read, fault".into(), read_fault),
        question("read, fork".into(), read_fork),
    ];
    for (kind, mode, text) in [
        ("anon", MISSING, "missing"),
        ("anon", WP, "protected"),
        ("shmem", MISSING, "missing"),
        ("shmem", MINOR, "minor"),
        ("hugetlb", MISSING, "missing"),
        ("hugetlb-memfd", MINOR, "minor"),
    ] {
        questions.push(Question::new(
            format!("{kind}/fault, {text}"),
            move |failing, ledger| fault(kind, mode, failing, ledger),
        ));
    }
    for kind in ["anon", "shmem"] {
        for (name, run) in CHANGES {
            if kind == "anon" && *name == "remove" {
                continue;
            }
            questions.push(Question::new(
                format!("{kind}/{name}"),
                move |failing, ledger| change(kind, *run, failing, ledger),
            ));
        }
    }
    questions
}
