// SPDX-License-Identifier: GPL-2.0

//! Faults: each way to touch memory, on each kind of memory, with each feature.

use crate::{
    book::{Book, Case},
    fixture::{ask_setup, setup, Scene, Setup, FEATURES, FEW, SETUPS},
    memory::{pagemap, Area, Names, MIB},
    process::{ended, fork, fork_with, receive, send, sleeping_thread},
    sys::{outcome, Answer, PAGE},
    touch::{
        catch_signals, count_interrupts, interrupt, interrupt_and_wait, interrupts, load, store,
        ACCESSES,
    },
    uffd::{
        describe, touch_by_this_thread, Call, Uffd, CONTINUE, DONTWAKE, MINOR, MISSING, MOVE,
        POISON, UNREGISTER, WAKE, WP, WRITEPROTECT, WRITEPROTECT_DONTWAKE, WRITEPROTECT_WP,
        ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

/// What a fault finds after each ioctl has been there.
fn after_operations(book: &mut Book) {
    catch_signals();
    for kind in ["anon", "shmem", "hugetlb"] {
        let scene = Scene::new(kind, MISSING | WP, 0, 0);
        let (start, page) = (scene.area.start, scene.area.page);
        for (name, call, mode) in [
            ("copy wp", None, u64::from(UFFDIO_COPY_MODE_WP)),
            ("copy", None, 0),
            ("zeropage", Some(&ZEROPAGE), 0),
            ("poison", Some(&POISON), 0),
            ("wp", Some(&WRITEPROTECT), 1),
        ] {
            scene.reset(false);
            let called = match call {
                Some(call) => scene.uffd.range(call, start, 2 * page, mode),
                None => scene
                    .uffd
                    .copy(start + page, scene.source.start, page, mode),
            };
            book.ask(format!("{kind},{name}"), called);
            for access in &ACCESSES[..FEW] {
                book.ask(format!("{kind},{name},{}", access.name), scene.ask(access));
            }
        }
        scene.reset(false);
        scene.uffd.range(&UNREGISTER, start, scene.area.len, 0);
        for access in &ACCESSES[..FEW] {
            book.ask(
                format!("{kind},unregister,{}", access.name),
                scene.ask(access),
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
    run: fn(&Scene) -> String,
}

const fn act(name: &'static str, run: fn(&Scene) -> String) -> Act {
    Act { name, run }
}

/// An ioctl on a page of the scene.
fn on_page(scene: &Scene, call: &Call, page: usize, mode: u64) -> String {
    let (start, len) = (scene.area.at(page), scene.area.page);
    scene.uffd.range(call, start, len, mode).to_string()
}

fn copy_to(scene: &Scene, page: usize, mode: u64) -> String {
    let (start, len) = (scene.area.at(page), scene.area.page);
    let called = scene.uffd.copy(start, scene.source.start, len, mode);
    called.to_string()
}

fn move_to_first(scene: &Scene, mode: u64) -> String {
    let (start, source) = (scene.area.start, &scene.source);
    // Pages move between areas of the same protection only.
    // SAFETY: The source is memory of the tests.
    unsafe {
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        libc::mprotect(source.pointer(), source.len, all);
    }
    let inputs = [start, source.start, scene.area.page].map(|value| value as u64);
    let [dst, src, len] = inputs;
    let called = scene.uffd.call(&MOVE, &[dst, src, len, mode]);
    called.to_string()
}

/// Where an area is moved to.
const ELSEWHERE: usize = 1 << 30;

// SAFETY (of all blocks below): the area is memory of the tests.
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
        // The number is used again by nobody before it is closed for good.
        outcome(unsafe { libc::dup2(2, s.uffd.fd()) }.min(0))
    }),
    act("copy", |s| copy_to(s, 0, 0)),
    act("copy dontwake", |s| copy_to(s, 0, DONTWAKE)),
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
    act("munmap", |s| {
        outcome(unsafe { libc::munmap(s.area.pointer(), s.area.len) })
    }),
    act("mprotect", |s| {
        outcome(unsafe { libc::mprotect(s.area.pointer(), s.area.page, libc::PROT_NONE) })
    }),
    act("dontneed", |s| {
        outcome(unsafe { libc::madvise(s.area.pointer(), s.area.page, libc::MADV_DONTNEED) })
    }),
    act("mremap", |s| {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, len) = (s.area.pointer(), s.area.len);
        let address = unsafe { libc::mremap(from, len, len, flags, s.area.start + ELSEWHERE) };
        Answer::of_address(address).to_string()
    }),
];

/// A thread that sleeps in a fault, and what happens to it.
fn sleepers(book: &mut Book, setup: Setup) {
    catch_signals();
    for read in [false, true] {
        for act in ACTS {
            sleeper(book, setup, read, act);
        }
    }
}

fn sleeper(book: &mut Book, setup: Setup, read: bool, act: &Act) {
    let scene = Scene::new(setup.kind, setup.mode, 0, 0);
    scene.reset(setup.populated);
    let (start, len) = (scene.area.start, scene.area.len);
    let (uffd, names) = (&scene.uffd, scene.names.clone());
    let access = if setup.mode & WP != 0 { store } else { load };
    let thread = std::thread::spawn(move || access(start + 0x10, &names));
    uffd.wait_for_sleepers(1);
    let question = |text: &str| format!("{},read={read},{text}", act.name);
    if read {
        let message = uffd.read().expect("there is a message");
        book.ask(question("message"), describe(&message, &scene.names));
    }
    book.ask(question("fdinfo before"), uffd.fdinfo());
    book.ask(question("done"), (act.run)(&scene));
    if act.name != "close" {
        book.ask(question("goes on"), uffd.ends_or_sleeps(&thread));
        book.ask(question("fdinfo after"), uffd.fdinfo());
        let text = match uffd.read() {
            Ok(message) => describe(&message, &scene.names),
            Err(answer) => answer.to_string(),
        };
        book.ask(question("message after"), text);
        // Let it go, whatever became of the area.
        uffd.range(&WAKE, start, len, 0);
        scene.resolve_all(&thread);
    }
    book.ask(question("ended"), thread.join().expect("no panic"));
    book.ask(question("page"), pagemap(start));
    // SAFETY: The area was moved by this question only.
    unsafe { libc::munmap((start + ELSEWHERE) as _, len) };
}

/// Threads that sleep far from one another and close to one another, of which some are woken.
fn distances(book: &mut Book) {
    const AT: [usize; 5] = [0, 2 * MIB - PAGE, 2 * MIB, 34 * MIB, 62 * MIB];
    let wakes = [
        ("two", 2 * MIB - PAGE, 2 * PAGE),
        ("near", 0, 40 * MIB),
        ("all", 0, 64 * MIB),
    ];
    catch_signals();
    for read in [false, true] {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let area = Area::map(0, 64 * MIB, PAGE, protection, flags, None).expect("there is room");
        let scene = Scene::of(area, MISSING, 0, 0);
        let mut threads = Vec::new();
        for (index, offset) in AT.iter().enumerate() {
            let (address, names) = (scene.area.start + offset, scene.names.clone());
            threads.push(std::thread::spawn(move || load(address, &names)));
            scene.uffd.wait_for_sleepers(index + 1);
            if read {
                let message = scene.uffd.read().expect("there is a message");
                book.ask(
                    format!("read={read},message {index}"),
                    describe(&message, &scene.names),
                );
            }
        }
        // Whoever is woken finds a page.
        for offset in AT {
            let page = scene.area.start + offset;
            let copied = scene.uffd.copy(page, scene.source.start, PAGE, DONTWAKE);
            assert!(copied.answer.is_ok(), "cannot copy: {copied}");
        }
        for (name, offset, len) in wakes {
            let question = |text: &str| format!("read={read},{name},{text}");
            let start = scene.area.start + offset;
            book.ask(question("wake"), scene.uffd.range(&WAKE, start, len, 0));
            book.ask(question("fdinfo"), scene.uffd.fdinfo());
            book.ask(question("ended"), ended_of(&scene.uffd, &threads));
        }
        for (index, thread) in threads.into_iter().enumerate() {
            book.ask(
                format!("read={read},thread {index}"),
                thread.join().expect("no panic"),
            );
        }
    }
}

/// Waits until all of some threads have ended or sleep, and says which have ended. Nobody else
/// sleeps on the descriptor.
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
fn accessing(scene: &Scene, name: &str) -> std::thread::JoinHandle<String> {
    let mut known = ACCESSES.iter();
    let access = known.find(|access| access.name == name);
    let run = access.expect("it is in the table").run;
    let (address, names) = (scene.area.start + 0x10, scene.names.clone());
    let thread = std::thread::spawn(move || {
        touch_by_this_thread();
        run(address, &names)
    });
    scene.uffd.wait_for_sleepers(1);
    thread
}

/// A thread that sleeps in a fault, or waits for a fork to be read about, gets a signal.
fn signals(book: &mut Book) {
    catch_signals();
    count_interrupts(0);
    for read in [false, true] {
        let scene = Scene::new("anon", MISSING, 0, 0);
        let thread = accessing(&scene, "load");
        let question = |text: &str| format!("load,read={read},{text}");
        if read {
            let message = scene.uffd.read().expect("there is a message");
            book.ask(question("message"), describe(&message, &scene.names));
        }
        // It handles the signal, and faults again.
        interrupt_and_wait();
        scene.uffd.wait_for_sleepers(1);
        book.ask(question("fdinfo"), scene.uffd.fdinfo());
        let message = scene.uffd.read().expect("there is a message");
        book.ask(question("message after"), describe(&message, &scene.names));
        book.ask(question("fdinfo after"), scene.uffd.fdinfo());
        book.ask(question("copy"), copy_to(&scene, 0, 0));
        book.ask(question("ended"), thread.join().expect("no panic"));
        book.ask(question("poll"), format!("{:#x}", scene.uffd.poll(0)));
    }
    // These are not interrupted but by being killed. The first two fault over and over, so there is
    // nothing to ask meanwhile.
    for name in ["read", "write", "process_vm_readv", "process_vm_writev"] {
        let scene = Scene::new("anon", MISSING, 0, 0);
        count_interrupts(0);
        let thread = accessing(&scene, name);
        interrupt();
        if name.starts_with("process_vm") {
            book.ask(format!("{name},fdinfo"), scene.uffd.fdinfo());
            book.ask(format!("{name},handled"), interrupts());
        }
        book.ask(format!("{name},copy"), copy_to(&scene, 0, 0));
        book.ask(format!("{name},ended"), thread.join().expect("no panic"));
        book.ask(format!("{name},handled after"), interrupts());
        book.ask(format!("{name},fdinfo after"), scene.uffd.fdinfo());
    }
    signal_in_fork(book);
}

fn signal_in_fork(book: &mut Book) {
    let scene = Scene::new("anon", MISSING, UFFD_FEATURE_EVENT_FORK.into(), 0);
    count_interrupts(0);
    let forker = sleeping_thread(|| {
        touch_by_this_thread();
        fork_with(0, || 0)
    });
    interrupt();
    book.ask("fork,poll", format!("{:#x}", scene.uffd.poll(0)));
    book.ask("fork,handled", interrupts());
    let message = scene.uffd.read().expect("there is an event");
    book.ask("fork,message", describe(&message, &scene.names));
    // SAFETY: It is a fork event, whose descriptor is new.
    drop(unsafe { OwnedFd::from_raw_fd(message.arg.fork.ufd as RawFd) });
    book.ask("fork,ended", forker.join().expect("no panic"));
    book.ask("fork,handled after", interrupts());
}

/// A process stops while two of its threads sleep in faults, and continues.
fn stopped(book: &mut Book) {
    catch_signals();
    for read in [false, true] {
        let (area, source) = (Area::anon(0, 8), Area::anon(1, 1));
        let names = Names::new(&[("area", &area)]);
        let (here, there) = UnixStream::pair().expect("there are sockets");
        book.flush();
        // SAFETY: The child has its own copy of everything.
        let child = unsafe { fork() };
        if child == 0 {
            let uffd = Uffd::new(0);
            let called = uffd.register(area.start, area.len, MISSING);
            assert!(called.answer.is_ok(), "cannot register: {called}");
            send(there.as_raw_fd(), uffd.fd());
            let (second, its) = (area.at(1), names.clone());
            let thread = std::thread::spawn(move || load(second, &its));
            let first = load(area.start, &names);
            let good = [first, thread.join().expect("no panic")] == ["done", "done"];
            // SAFETY: Nothing of this process is needed any more.
            unsafe { libc::_exit(i32::from(!good)) };
        }
        let uffd = Uffd(receive(here.as_raw_fd()));
        let question = |text: &str| format!("read={read},{text}");
        uffd.wait_for_sleepers(2);
        if read {
            book.ask(question("messages"), two_messages(&uffd, &names));
        }
        let mut status = 0;
        // SAFETY: The pointer is valid, and the process is the child of this one.
        unsafe {
            libc::kill(child, libc::SIGSTOP);
            libc::waitpid(child, &mut status, libc::WUNTRACED);
        }
        book.ask(question("stopped"), libc::WIFSTOPPED(status));
        book.ask(question("fdinfo"), uffd.fdinfo());
        book.ask(question("poll"), format!("{:#x}", uffd.poll(0)));
        // SAFETY: As above.
        unsafe { libc::kill(child, libc::SIGCONT) };
        uffd.wait_for_sleepers(2);
        book.ask(question("messages after"), two_messages(&uffd, &names));
        for page in 0..2 {
            let copied = uffd.copy(area.at(page), source.start, PAGE, 0);
            book.ask(question(&format!("copy {page}")), copied);
        }
        book.ask(question("process"), ended(child));
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
                cases.push(Case::new(name, move |book| {
                    ask_setup(book, *setup, *features, user_only)
                }));
            }
        }
    }
    cases.push(Case::new("faults/after operations", after_operations));
    for setup in SLEEPERS {
        cases.push(Case::new(
            format!("faults/sleepers/{}/mode={}", setup.kind, setup.mode),
            move |book| sleepers(book, *setup),
        ));
    }
    cases.push(Case::new("faults/distances", distances));
    cases.push(Case::new("faults/signals", signals));
    cases.push(Case::new("faults/stopped", stopped));
    cases
}
