// SPDX-License-Identifier: GPL-2.0

//! What a monitor reads when a process forks, or its mappings change.

use crate::{
    action::{
        action, advise, ask_action, ask_action_on, move_elsewhere, remap, Action, Part, Place,
        ELSEWHERE, FEATURES,
    },
    inspect::{pagemap, peek, vm_flags},
    memory::{
        dontneed, madvise, map_over, mlock, mprotect, munmap, process_madvise, Area, Names,
        MADV_GUARD_INSTALL, MADV_GUARD_REMOVE,
    },
    process::{
        clone3, ends_soon, fork, fork_with, kill_and_wait, kill_children, pause, receive, send,
        sleeping_thread, wait, wait_for_sleep, CloneArguments,
    },
    sys::{descriptor_flags, errno_name, ftruncate, preadv2, punch_hole, Answer, PAGE},
    touch::{catch_signals, load, store},
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, Uffd, ALL_EVENTS, DONTWAKE, MINOR, MISSING, REGISTER, UNREGISTER, WP,
        ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
};

/// What a child finds, as a number: a bit for each of the first pages that is write-protected, and
/// one for whether their mapping is registered.
fn looked_at(place: &Place) -> i32 {
    let mut found = 0;
    for page in 0..4 {
        let is_protected = pagemap(place.at(page)).contains('W');
        found |= i32::from(is_protected) << page;
    }
    let flags = vm_flags(place.start, &place.names);
    let mut words = flags.split([' ', '[', ']']);
    let is_registered = words.any(|word| matches!(word, "um" | "uw" | "ui"));
    found | i32::from(is_registered) << 4
}

/// clone3() that fails late, because the process number is taken.
fn failing_fork() -> String {
    let taken = [1u32];
    let mut arguments = CloneArguments::default();
    arguments.set_tid = taken.as_ptr() as u64;
    arguments.set_tid_size = 1;
    clone3(&arguments, || 0).to_string()
}

// Not here, because the kernel may or may not do it at once: MADV_PAGEOUT.
const ACTIONS: &[Action] = &[
    action("munmap all", |p| munmap(p.at(0), p.len).to_string()),
    action("munmap first", |p| munmap(p.at(0), p.page).to_string()),
    action("munmap middle", |p| munmap(p.at(1), p.page).to_string()),
    action("munmap last", |p| {
        munmap(p.at(p.last()), p.page).to_string()
    }),
    action("munmap more", |p| {
        munmap(p.start - p.page, p.len + 2 * p.page).to_string()
    }),
    action("munmap of several", |p| {
        mprotect(p.at(1), p.page, libc::PROT_READ);
        munmap(p.at(0), p.len).to_string()
    }),
    action("munmap unaligned", |p| {
        munmap(p.start + 1, p.page).to_string()
    }),
    action("mmap over", |p| {
        map_over(p.at(1), p.page, libc::PROT_READ, None).to_string()
    }),
    action("mremap shrink", |p| {
        remap(p, 0, p.last() + 1, p.last(), 0, 0)
    }),
    action("mremap grow in place", |p| {
        remap(p, 0, p.last() + 1, p.last() + 2, 0, 0)
    }),
    action("mremap grow", |p| {
        remap(p, 0, p.last() + 1, p.last() + 2, libc::MREMAP_MAYMOVE, 0)
    }),
    action("mremap move", |p| {
        move_elsewhere(p, 0, p.last() + 1, p.last() + 1, 0)
    }),
    action("mremap move a part", |p| move_elsewhere(p, 1, 1, 1, 0)),
    action("mremap move and shrink", |p| {
        move_elsewhere(p, 0, p.last() + 1, 1, 0)
    }),
    action("mremap dontunmap", |p| {
        move_elsewhere(p, 0, p.last() + 1, p.last() + 1, libc::MREMAP_DONTUNMAP)
    }),
    action("mremap onto itself", |p| {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        remap(p, 0, 2, 2, flags, p.start + p.page)
    }),
    action("mremap of nothing", |p| {
        remap(p, p.last() + 2, 1, 2, libc::MREMAP_MAYMOVE, 0)
    }),
    action("mremap too far", |p| {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        remap(p, 0, 1, 1, flags, 1 << 62)
    }),
    action("mremap too much", |p| {
        remap(p, 0, 1, 1 << 34, libc::MREMAP_MAYMOVE, 0)
    }),
    action("mremap over the end", |p| {
        remap(p, p.last(), 2, 3, libc::MREMAP_MAYMOVE, 0)
    }),
    action("dontneed", |p| advise(p, 0, 2, libc::MADV_DONTNEED)),
    action("dontneed all", |p| {
        advise(p, 0, p.last() + 1, libc::MADV_DONTNEED)
    }),
    action("dontneed more", |p| {
        advise(p, 0, p.last() + 2, libc::MADV_DONTNEED)
    }),
    action("dontneed locked", |p| {
        advise(p, 0, 2, libc::MADV_DONTNEED_LOCKED)
    }),
    action("free", |p| advise(p, 0, 2, libc::MADV_FREE)),
    action("remove", |p| advise(p, 0, 2, libc::MADV_REMOVE)),
    action("cold", |p| advise(p, 0, 2, libc::MADV_COLD)),
    action("collapse", |p| advise(p, 0, p.last() + 1, 25)),
    action("guard install", |p| advise(p, 0, 2, MADV_GUARD_INSTALL)),
    action("guard remove", |p| advise(p, 0, 2, MADV_GUARD_REMOVE)),
    action("dontfork", |p| advise(p, 0, 2, libc::MADV_DONTFORK)),
    action("hugepage", |p| {
        advise(p, 0, p.last() + 1, libc::MADV_HUGEPAGE)
    }),
    action("dontneed nothing", |p| advise(p, 0, 0, libc::MADV_DONTNEED)),
    action("process_madvise", |p| {
        process_madvise(p.at(0), p.page, libc::MADV_DONTNEED).to_string()
    }),
    action("mprotect", |p| {
        mprotect(p.at(1), p.page, libc::PROT_READ).to_string()
    }),
    action("mlock", |p| {
        mlock(p.at(0), p.page, libc::MLOCK_ONFAULT).to_string()
    }),
    action("punch hole", |p| punch_hole(p.file, 2 * p.page).to_string()),
    action("truncate", |p| ftruncate(&p.file, p.page).to_string()),
    action("fork", |_| fork_with(0, || 0)),
    action("fork, child reads", |p| {
        fork_with(0, || i32::from(load(p.at(0), &p.names) != "done"))
    }),
    action("fork, child reads what is missing", |p| {
        fork_with(0, || i32::from(load(p.at(p.last()), &p.names) != "done"))
    }),
    action("fork, child writes", |p| {
        fork_with(0, || i32::from(store(p.at(0), &p.names) != "done"))
    }),
    action("fork, child looks", |p| fork_with(0, || looked_at(p))),
    action("fork, child unmaps", |p| {
        fork_with(0, || munmap(p.at(0), p.len).status())
    }),
    action("fork, child removes", |p| {
        fork_with(0, || madvise(p.at(0), p.page, libc::MADV_DONTNEED).status())
    }),
    action("fork, child moves", |p| {
        fork_with(0, || {
            i32::from(!move_elsewhere(p, 0, 1, 1, 0).starts_with("elsewhere"))
        })
    }),
    action("fork, child forks", |_| {
        fork_with(0, || {
            // fork() of the C library takes locks, which another thread may have held when the
            // process was cloned.
            let child = clone3(&CloneArguments::default(), || 0);
            child.0.map_or(1, |pid| wait(pid as libc::pid_t, 0))
        })
    }),
    action("fork twice", |_| {
        format!("{} {}", fork_with(0, || 0), fork_with(0, || 0))
    }),
    action("fork with its own files", |_| {
        fork_with(libc::CLONE_FILES, || 0)
    }),
    action("fork in a new namespace", |_| {
        fork_with(libc::CLONE_NEWUTS, || 0)
    }),
    action("fork refused", |_| {
        fork_with(libc::CLONE_THREAD | libc::CLONE_NEWPID, || 0)
    }),
    action("fork failing", |_| failing_fork()),
    action("spawn", |_| {
        match std::process::Command::new("/bin/true").status() {
            Ok(status) => status.to_string(),
            Err(err) => errno_name(err.raw_os_error().unwrap_or(0)),
        }
    }),
    action("fork of dontfork", |p| {
        advise(p, 0, p.last() + 1, libc::MADV_DONTFORK);
        fork_with(0, || 0)
    }),
    action("fork of wipeonfork", |p| {
        let advised = advise(p, 0, p.last() + 1, libc::MADV_WIPEONFORK);
        format!("{advised} {}", fork_with(0, || 0))
    }),
];

/// Two registered areas with one action over both.
fn several_areas(log: &mut Transcript) {
    catch_signals();
    let all = u64::from(ALL_EVENTS);
    for same in [true, false] {
        let one = Area::anon(0, 8);
        let names = Names::new(&[("area", &one)]);
        let (first, second) = (Uffd::new(all), Uffd::new(all));
        let other = if same { &first } else { &second };
        first.register(one.start, 2 * PAGE, MISSING);
        other.register(one.start + 4 * PAGE, 2 * PAGE, MISSING);
        let (start, len) = (one.start, one.len);
        let thread = std::thread::spawn(move || munmap(start, len).to_string());
        let mut seen = Vec::new();
        while !thread.is_finished() || first.poll(0) != 0 || second.poll(0) != 0 {
            for (name, uffd) in [("first", &first), ("second", &second)] {
                if uffd.poll(1) != 0 {
                    if let Ok(message) = uffd.read() {
                        seen.push(format!("{name}: {}", describe(&message, &names)));
                    }
                }
            }
        }
        let answer = thread.join().expect("no panic");
        log.record(
            format!("munmap over two,same={same}"),
            format!("{answer} [{}]", seen.join(", ")),
        );
    }
}

/// Waits for a message, and takes the descriptor that comes with it.
fn next_message(uffd: &Uffd, names: &Names) -> (String, Option<Uffd>) {
    assert_ne!(uffd.poll(10_000), 0, "there is no message");
    let message = uffd.read().expect("there is a message");
    (describe(&message, names), child_of(&message))
}

/// Forks whose events wait together. Each child loads from a page of its own, which shows to
/// which child a descriptor belongs.
fn several_forks(log: &mut Transcript) {
    catch_signals();
    let area = Area::anon(0, 8);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(ALL_EVENTS.into());
    uffd.register(area.start, area.len, MISSING);
    let forker = |index: usize| {
        let (address, names) = (area.at(index), names.clone());
        sleeping_thread(move || fork_with(0, || i32::from(load(address, &names) != "done")))
    };
    let threads = [0, 1, 2].map(forker);
    let mut children = Vec::new();
    for index in 0..3 {
        let (text, child) = next_message(&uffd, &names);
        log.record(format!("message {index}"), text);
        children.extend(child);
    }
    for (index, child) in children.iter().enumerate() {
        log.record(
            format!("message of child {index}"),
            next_message(child, &names).0,
        );
        let filled = child.range(&ZEROPAGE, area.at(index), PAGE, 0);
        log.record(format!("zeropage for child {index}"), filled);
    }
    for (index, thread) in threads.into_iter().enumerate() {
        log.record(format!("thread {index}"), thread.join().expect("no panic"));
    }
    log.record("fdinfo", uffd.fdinfo());
}

/// A process that two userfaultfds watch forks: both get an event, one after the other.
fn several_watchers(log: &mut Transcript) {
    catch_signals();
    for swapped in [false, true] {
        let area = Area::anon(0, 8);
        let names = Names::new(&[("area", &area)]);
        let uffds = [0, 1].map(|_| Uffd::new(UFFD_FEATURE_EVENT_FORK.into()));
        for (index, uffd) in uffds.iter().enumerate() {
            // The events come in the order of the addresses.
            let page = if swapped { 4 - 4 * index } else { 4 * index };
            uffd.must_register(area.at(page), 2 * PAGE, MISSING);
        }
        let question = |text: &str| format!("swapped={swapped},{text}");
        let (pages, its) = ([area.at(0), area.at(4)], names.clone());
        let forker = std::thread::spawn(move || {
            fork_with(0, || {
                i32::from(pages.map(|page| load(page, &its)) != ["done", "done"])
            })
        });
        let order = if swapped { [1, 0] } else { [0, 1] }.map(|index| &uffds[index]);
        assert_ne!(order[0].poll(10_000), 0, "there is no event");
        log.record(question("other"), order[1].poll_now());
        let mut children = Vec::new();
        for (step, uffd) in order.into_iter().enumerate() {
            let (text, child) = next_message(uffd, &names);
            log.record(question(&format!("message {step}")), text);
            children.extend(child);
        }
        for (index, child) in children.iter().enumerate() {
            log.record(
                question(&format!("message of child {index}")),
                next_message(child, &names).0,
            );
            let filled = child.range(&ZEROPAGE, area.at(4 * index), PAGE, 0);
            log.record(question(&format!("zeropage for child {index}")), filled);
        }
        log.record(question("forker"), forker.join().expect("no panic"));
    }
}

/// The descriptor of a child.
fn childs_descriptor(log: &mut Transcript) {
    catch_signals();
    for flags in [0, libc::O_CLOEXEC] {
        let area = Area::anon(0, 8);
        let source = Area::anon(1, 1);
        let uffd = Uffd::with(flags | libc::O_NONBLOCK, UFFD_FEATURE_EVENT_FORK.into());
        uffd.register(area.start, area.len, MISSING | WP);
        let forker = std::thread::spawn(|| fork_with(0, || pause().status()));
        uffd.poll(10_000);
        let message = uffd.read().expect("there is an event");
        let child = child_of(&message).expect("it is a fork event");
        let question = |text: &str| format!("flags={flags:#o},{text}");
        let (status, descriptor) = descriptor_flags(child.fd());
        log.record(question("fcntl"), format!("{descriptor} {status:#o}"));
        log.record(question("fdinfo"), child.fdinfo());
        let link = std::fs::read_link(format!("/proc/self/fd/{}", child.fd()));
        log.record(
            question("link"),
            link.map(|link| link.display().to_string())
                .unwrap_or_default(),
        );
        log.record(
            question("api"),
            child.call(&crate::uffd::API, &[u64::from(UFFD_API), 0]),
        );
        log.record(
            question("read"),
            child.read().err().unwrap_or(Answer(Ok(32))),
        );
        log.record(
            question("copy"),
            child.copy(area.start, source.start, PAGE, 0),
        );
        log.record(
            question("copy again"),
            child.copy(area.start, source.start, PAGE, 0),
        );
        // The mappings change until the thread that forked has gone on.
        let copied = loop {
            let called = uffd.copy(area.start, source.start, PAGE, 0);
            if called.answer != Answer(Err(libc::EAGAIN)) {
                break called;
            }
            std::thread::yield_now();
        };
        log.record(question("copy of the parent"), copied);
        for call in [&REGISTER, &UNREGISTER] {
            log.record(
                question(call.name),
                child.range(call, area.start, PAGE, MISSING),
            );
        }
        let answer = preadv2(child.fd(), &mut [0; 32], libc::RWF_NOWAIT);
        log.record(question("preadv2 nowait"), answer);
        // The fork may still go on, so there may be no child yet.
        while !kill_children() {}
        log.record(question("forker"), forker.join().expect("no panic"));
        log.record(
            question("copy after its end"),
            child.copy(area.at(3), source.start, PAGE, 0),
        );
        log.record(question("poll after its end"), child.poll_now());
    }
}

/// Something to be killed in. Returns what came of it.
type Doing = fn(&Place) -> String;

/// What the process that is killed was doing.
const DOING: &[(&str, Doing)] = &[
    ("fault", |p| load(p.start, &p.names)),
    ("fork", |_| fork_with(0, || 0)),
    (CHILD_FAULTS, |p| {
        fork_with(0, || i32::from(load(p.start, &p.names) != "done"))
    }),
    ("dontneed", |p| advise(p, 0, 1, libc::MADV_DONTNEED)),
    ("munmap", |p| munmap(p.at(0), p.len).to_string()),
    ("mremap", |p| move_elsewhere(p, 0, 1, 1, 0)),
    (NOTHING, |_| pause().to_string()),
];

const CHILD_FAULTS: &str = "fork, child reads";
const NOTHING: &str = "nothing";

/// How far a monitor got when it is killed, or the process that it watches.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Progress {
    /// There is a message.
    Polled,
    /// It was read.
    Read,
    /// It was about a fault, whose page is there. No thread was woken.
    Filled,
}

impl Progress {
    /// All that there are for something.
    fn all(doing: &str) -> &'static [Self] {
        match doing {
            "fault" => &[Self::Polled, Self::Read, Self::Filled],
            NOTHING => &[Self::Polled],
            _ => &[Self::Polled, Self::Read],
        }
    }
}

/// An area and what is next to it, for what [`DOING`] has.
fn place_of(area: &Area) -> Place {
    let mut names = Names::new(&[("area", area)]);
    names.add("elsewhere", area.start + ELSEWHERE, area.len);
    Place {
        start: area.start,
        len: area.len,
        page: PAGE,
        file: -1,
        names,
    }
}

/// The monitored process is killed, or ends, or runs another program.
fn target_ends(log: &mut Transcript) {
    let area = Area::anon(0, 8);
    let source = Area::anon(1, 1);
    let place = place_of(&area);
    for (doing, run) in DOING {
        for progress in Progress::all(doing) {
            let (here, there) = UnixStream::pair().expect("there are sockets");
            let target = fork(|| {
                let uffd = Uffd::new(ALL_EVENTS.into());
                uffd.register(place.start, place.len, MISSING);
                send(there.as_raw_fd(), uffd.fd());
                drop(uffd);
                run(&place);
                pause();
            });
            let uffd = Uffd(receive(here.as_raw_fd()));
            let question = |text: &str| format!("{doing},{progress:?},{text}");
            if *doing != NOTHING {
                assert_ne!(uffd.poll(10_000), 0, "{doing}: there is no message");
            }
            if *progress != Progress::Polled {
                let (text, child) = next_message(&uffd, &place.names);
                drop(child);
                log.record(question("message"), text);
            }
            if *progress == Progress::Filled {
                let copied = uffd.copy(area.start, source.start, PAGE, DONTWAKE);
                log.record(question("copy dontwake"), copied);
            }
            kill_and_wait(target);
            log.record(question("fdinfo"), uffd.fdinfo());
            log.record(question("poll"), uffd.poll_now());
            let answer = uffd.read().err().unwrap_or(Answer(Ok(32)));
            log.record(question("read"), answer);
            log.record(
                question("copy"),
                uffd.copy(area.start, source.start, PAGE, 0),
            );
            log.record(
                question("register"),
                uffd.register(area.start, PAGE, MISSING),
            );
        }
    }
}

/// What a monitor does until it is killed.
fn monitor(uffd: &Uffd, doing: &str, progress: Progress, place: &Place, source: &Area) {
    assert_ne!(uffd.poll(10_000), 0, "{doing}: there is no message");
    if progress == Progress::Polled {
        return;
    }
    let (_, child) = next_message(uffd, &place.names);
    if let Some(child) = child {
        if doing == CHILD_FAULTS {
            assert_ne!(child.poll(10_000), 0, "the child does not fault");
        }
        // It is there until this process ends.
        std::mem::forget(child);
    }
    if progress == Progress::Filled {
        let copied = uffd.copy(place.start, source.start, PAGE, DONTWAKE);
        assert!(copied.answer.is_ok(), "cannot copy: {copied}");
    }
}

/// The monitor is killed: the threads that wait for it go on.
fn monitor_ends(log: &mut Transcript) {
    catch_signals();
    let source = Area::anon(1, 1);
    source.write();
    for (doing, run) in DOING.iter().filter(|(doing, _)| *doing != NOTHING) {
        for progress in Progress::all(doing) {
            let area = Area::anon(0, 8);
            let place = place_of(&area);
            let uffd = Uffd::new(ALL_EVENTS.into());
            let (here, there) = UnixStream::pair().expect("there are sockets");
            // The monitor has the descriptor because it is a child. Nothing is registered yet, so
            // there is no event of that fork.
            let pid = fork(|| {
                monitor(&uffd, doing, *progress, &place, &source);
                let _ = (&there).write(&[1]);
                pause();
            });
            drop(there);
            uffd.register(area.start, area.len, MISSING);
            drop(uffd);
            let (run, its) = (*run, place.clone());
            let thread = std::thread::spawn(move || run(&its));
            let reported = (&here).read(&mut [0]).unwrap_or(0);
            assert_eq!(reported, 1, "{doing}: the monitor has ended by itself");
            let question = |text: &str| format!("{doing},{progress:?},{text}");
            log.record(question("before"), ends_soon(&thread));
            kill_and_wait(pid);
            log.record(question("answer"), thread.join().expect("no panic"));
            log.record(question("flags"), vm_flags(area.start, &place.names));
            log.record(question("page"), pagemap(area.start));
            log.record(question("byte"), peek(area.start));
            munmap(area.start + ELSEWHERE, PAGE);
        }
    }
}

/// The monitor is killed while it waits for a message. A message that comes then is for another
/// process that has the descriptor.
fn waiting_monitor_ends(log: &mut Transcript) {
    catch_signals();
    type Wait = fn(&Uffd);
    let ways: [(&str, i32, Wait); 2] = [
        ("read", 0, |uffd| {
            let _ = uffd.read();
        }),
        ("poll", libc::O_NONBLOCK, |uffd| {
            uffd.poll(-1);
        }),
    ];
    for (way, flags, wait) in ways {
        for keeps in [false, true] {
            let (area, source) = (Area::anon(0, 8), Area::anon(1, 1));
            let names = Names::new(&[("area", &area)]);
            let uffd = Uffd::with(libc::O_CLOEXEC | flags, 0);
            uffd.register(area.start, area.len, MISSING);
            let monitor = fork(|| {
                wait(&uffd);
            });
            let uffd = keeps.then_some(uffd);
            wait_for_sleep(&format!("/proc/{monitor}"), || false);
            kill_and_wait(monitor);
            let question = |text: &str| format!("{way},keeps={keeps},{text}");
            let (start, its) = (area.start, names.clone());
            let thread = std::thread::spawn(move || load(start, &its));
            if let Some(uffd) = uffd {
                uffd.wait_for_sleepers(1);
                let message = uffd.read().expect("there is a message");
                log.record(question("message"), describe(&message, &names));
                log.record(question("copy"), uffd.copy(start, source.start, PAGE, 0));
            }
            log.record(question("fault"), thread.join().expect("no panic"));
            log.record(question("flags"), vm_flags(start, &names));
        }
    }
}

/// The descriptor is closed while many threads wait for their events to be read, and as many sleep
/// in faults: all go on.
fn closed_with_many(log: &mut Transcript) {
    catch_signals();
    for many in [1, 32, 33, 100] {
        let area = Area::anon(0, 2 * many);
        let names = Names::new(&[("area", &area)]);
        let uffd = Uffd::new(ALL_EVENTS.into());
        uffd.register(area.start, area.len, MISSING);
        let faulting = |page: usize| {
            let (address, names) = (area.at(page), names.clone());
            std::thread::spawn(move || load(address, &names))
        };
        let changing = |page: usize| {
            let address = area.at(page);
            sleeping_thread(move || dontneed(address).to_string())
        };
        let faults: Vec<_> = (0..many).map(faulting).collect();
        uffd.wait_for_sleepers(many);
        let changes: Vec<_> = (many..2 * many).map(changing).collect();
        log.record(format!("{many},fdinfo"), uffd.fdinfo());
        log.record(format!("{many},poll"), uffd.poll_now());
        drop(uffd);
        for (name, threads) in [("fault", faults), ("madvise", changes)] {
            let mut answers = BTreeMap::new();
            for thread in threads {
                *answers.entry(thread.join().expect("no panic")).or_insert(0) += 1;
            }
            log.record(format!("{many},{name}"), format!("{answers:?}"));
        }
        log.record(format!("{many},flags"), vm_flags(area.start, &names));
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in ["anon", "shmem", "hugetlb-memfd"] {
        for mode in [MISSING, WP, MINOR] {
            if kind == "anon" && mode == MINOR {
                continue;
            }
            for (name, features) in FEATURES {
                // Which events there are depends little on the memory.
                if (kind, mode) != ("anon", MISSING) && !matches!(*name, "none" | "all") {
                    continue;
                }
                for action in ACTIONS {
                    // Whether there is a huge page to be had is not the question. And a guard page
                    // where a shared one is protected is tried forever: what is removed leaves a
                    // marker, which is removed again.
                    let unfit = (kind, action.name) == ("anon", "collapse")
                        || (kind, mode, action.name) == ("shmem", WP, "guard install");
                    if unfit {
                        continue;
                    }
                    cases.push(Case::new(
                        format!("events/{kind}/mode={mode}/{name}/{}", action.name),
                        move |log| {
                            catch_signals();
                            let features = u64::from(*features);
                            log.record("answer", ask_action(action, kind, mode, features));
                        },
                    ));
                }
            }
        }
    }
    for (half, part) in [("first", Part::First), ("second", Part::Second)] {
        for (name, features) in FEATURES {
            if !matches!(*name, "none" | "remap" | "all") {
                continue;
            }
            for action in ACTIONS
                .iter()
                .filter(|action| action.name.starts_with("mremap"))
            {
                cases.push(Case::new(
                    format!("events/{half} half/{name}/{}", action.name),
                    move |log| {
                        catch_signals();
                        let features = u64::from(*features);
                        let answer = ask_action_on(part, action, "anon", MISSING, features);
                        log.record("answer", answer);
                    },
                ));
            }
        }
    }
    cases.push(Case::new("events/several areas", several_areas));
    cases.push(Case::new("events/several forks", several_forks));
    cases.push(Case::new("events/several watchers", several_watchers));
    cases.push(Case::new("events/descriptor of a child", childs_descriptor));
    cases.push(Case::new("events/closed with many", closed_with_many));
    cases.push(Case::new("events/target ends", target_ends));
    cases.push(Case::new("events/monitor ends", monitor_ends));
    cases.push(Case::new(
        "events/waiting monitor ends",
        waiting_monitor_ends,
    ));
    cases
}
