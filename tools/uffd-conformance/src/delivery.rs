// SPDX-License-Identifier: GPL-2.0

//! Who gets a message or a wake-up when readers compete, fail or die, what a failed read leaves
//! behind, and what a descriptor says about its own state.

use crate::{
    cgroup::Cgroup,
    kinds::kind_of,
    memory::{dontneed, fill_with, move_to, munmap, read_bytes, read_into, Area, Names},
    poll::{poll_fd, select, Epoll},
    process::{
        ended, ends_soon, fork, fork_with, kill, limit_descriptors, run_on, set_limit,
        set_priority, sleeping_thread, wait_for_sleep, Busy,
    },
    sys::{fcntl, new_descriptor, Answer, PAGE},
    touch::{
        catch_signals, count_interrupts, fill, interrupt, interrupt_and_wait, interrupts, load,
        store,
    },
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, message_of, touch_by_this_thread, Uffd, CONTINUE, MINOR, MISSING,
        UNREGISTER, WAKE, WP, WRITEPROTECT,
    },
    watched::Watched,
};
use linux_raw_sys::general::*;
use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    thread::JoinHandle,
    time::Duration,
};

const MESSAGE: usize = std::mem::size_of::<uffd_msg>();

/// How many pages most questions watch.
const PAGES: usize = 8;

/// Waits until something is true. Returns whether it has become so in time.
fn becomes_true(mut is_true: impl FnMut() -> bool) -> bool {
    for _ in 0..10_000 {
        if is_true() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Sets whether a descriptor blocks, also for others that share it.
fn set_flags(uffd: &Uffd, flags: i32) {
    let set = fcntl(uffd.fd(), libc::F_SETFL, flags);
    assert!(set.is_ok(), "the flags cannot be set: {set}");
}

/// A reader: what it is called, and its priority.
type Reader = (&'static str, i32);

/// Two readers in the order in which they begin to wait.
const READERS: &[[Reader; 2]] = &[
    [("ordinary", 0), ("real-time", 10)],
    [("real-time", 10), ("ordinary", 0)],
    [("low", 5), ("high", 10)],
    [("high", 10), ("low", 5)],
    [("first", 10), ("second", 10)],
];

/// Two threads wait in read() when there is a fault, and then another one: who reads about which.
/// All run on one processor, and the thread that faults has the highest priority. So both readers can have
/// been woken before one of them runs.
fn priorities(log: &mut Transcript) {
    catch_signals();
    run_on(Some(0));
    for readers in READERS {
        let watched = Watched::new(0, 0, PAGES);
        let mut waiting =
            Vec::from(readers.map(|(name, priority)| (name, watched.reader(priority))));
        for fault in 0..2 {
            let (address, names) = (watched.area.at(fault), watched.names.clone());
            let faulting = std::thread::spawn(move || {
                set_priority(20);
                load(address, &names)
            });
            let mut done = None;
            becomes_true(|| {
                done = waiting.iter().position(|(_, reader)| reader.is_finished());
                done.is_some()
            });
            let question = |text: &str| {
                let [(first, _), (second, _)] = readers;
                format!("{first} and {second},fault {fault},{text}")
            };
            match done.map(|index| waiting.remove(index)) {
                Some((name, reader)) => {
                    let message = reader.join().expect("no panic");
                    log.record(question("reader"), format!("{name}: {message}"));
                }
                None => log.record(question("reader"), "nobody"),
            }
            log.record(question("copy"), watched.fill(fault));
            log.record(question("load"), faulting.join().expect("no panic"));
        }
    }
}

/// A process that waits in read() is woken for a fault, and killed before it runs. Maybe another
/// thread has begun to wait after it.
fn killed_reader(log: &mut Transcript) {
    catch_signals();
    for another in [false, true] {
        let watched = Watched::new(0, 0, PAGES);
        run_on(Some(0));
        let child = fork(|| {
            set_priority(10);
            let _ = watched.uffd.read();
        });
        wait_for_sleep(&format!("/proc/{child}"), || false);
        // This thread and those that it starts run on the other processor.
        run_on(Some(1));
        let reader = another.then(|| watched.reader(0));
        let busy = Busy::new();
        let sleeper = watched.load(0);
        watched.uffd.wait_for_sleepers(1);
        let is_woken = becomes_true(|| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat"));
            stat.is_ok_and(|stat| stat.contains(") R "))
        });
        assert!(is_woken, "the process is not woken");
        kill(child, libc::SIGKILL);
        drop(busy);
        let question = |text: &str| format!("another={another},{text}");
        log.record(question("process"), ended(child));
        if let Some(reader) = reader {
            let text = match ends_soon(&reader) {
                true => reader.join().expect("no panic"),
                false => "sleeps on".into(),
            };
            log.record(question("other reader"), text);
        }
        set_flags(&watched.uffd, libc::O_NONBLOCK);
        log.record(question("fdinfo"), watched.uffd.fdinfo());
        log.record(question("poll"), watched.uffd.poll_now());
        log.record(question("read"), watched.next());
        log.record(question("copy"), watched.fill(0));
        log.record(question("load"), sleeper.join().expect("no panic"));
    }
}

/// What the bytes of a buffer are before it is read into.
const BEFORE: u8 = 0xaa;

/// How long buffers are: there is room for several messages.
const BUFFER: usize = 3 * MESSAGE;

/// States of the page of a buffer. A fork leaves the page of the first one alone, the second one is
/// not there, and the third one is copied when it is written to after a fork.
const BUFFERS: &[&str] = &["present", "absent", "shared with the child"];

/// A page of memory for messages, in a state.
fn buffer(state: &str) -> Area {
    let area = Area::anon(2, 1);
    mark(&area);
    match state {
        "present" => assert!(area.madvise(libc::MADV_DONTFORK).is_ok()),
        "absent" => assert!(area.madvise(libc::MADV_DONTNEED).is_ok()),
        _ => {}
    }
    area
}

/// Fills a page with what buffers hold before.
fn mark(area: &Area) {
    fill_with(area.start, PAGE, BEFORE);
}

/// What is in a buffer: each byte, and how often it follows.
fn contents(area: &Area) -> String {
    let mut bytes = [0; BUFFER];
    read_bytes(area.start, &mut bytes);
    let runs = bytes.chunk_by(|one, other| one == other);
    let texts: Vec<String> = runs
        .map(|run| format!("{} bytes {:#x}", run.len(), run[0]))
        .collect();
    texts.join(", ")
}

/// A read that fails leaves its buffer alone.
fn failed_read(log: &mut Transcript) {
    catch_signals();
    for state in BUFFERS {
        let question = |text: &str| format!("EMFILE,{state},{text}");
        let watched = Watched::new(libc::O_NONBLOCK, UFFD_FEATURE_EVENT_FORK, PAGES);
        let buffer = buffer(state);
        let forker = watched.fork();
        limit_descriptors(1);
        for attempt in 0..2 {
            let answer = read_into(watched.uffd.fd(), buffer.start, BUFFER);
            log.record(question(&format!("read {attempt}")), answer);
            log.record(question(&format!("buffer {attempt}")), contents(&buffer));
        }
        limit_descriptors(u64::MAX);
        log.record(question("read with room"), watched.next());
        log.record(question("forker"), forker.join().expect("no panic"));
    }
    for state in &BUFFERS[..2] {
        let question = |text: &str| format!("EAGAIN,{state},{text}");
        let watched = Watched::new(libc::O_NONBLOCK, 0, PAGES);
        let buffer = buffer(state);
        let answer = read_into(watched.uffd.fd(), buffer.start, BUFFER);
        log.record(question("read"), answer);
        log.record(question("buffer"), contents(&buffer));
    }
    for state in &BUFFERS[..2] {
        let question = |text: &str| format!("EINTR,{state},{text}");
        count_interrupts(0);
        let watched = Watched::new(0, 0, PAGES);
        let buffer = buffer(state);
        let (fd, start) = (watched.uffd.fd(), buffer.start);
        let reader = sleeping_thread(move || {
            touch_by_this_thread();
            read_into(fd, start, BUFFER)
        });
        interrupt_and_wait();
        log.record(question("read"), reader.join().expect("no panic"));
        log.record(question("buffer"), contents(&buffer));
    }
}

/// While the page of a reader's buffer is filled, another reader reads. What is left for the first one is
/// nothing, or was its own from the beginning.
fn overtaken(log: &mut Transcript) {
    catch_signals();
    for (name, flags) in [("nonblock", libc::O_NONBLOCK), ("block", 0)] {
        let question = |text: &str| format!("{name},{text}");
        count_interrupts(0);
        let watched = Watched::new(flags, 0, PAGES);
        let buffer = Area::anon(2, 1);
        let resolver = Uffd::new(0);
        resolver.must_register(buffer.start, PAGE, MISSING);
        let sleeper = watched.load(0);
        watched.uffd.wait_for_sleepers(1);
        let (fd, start) = (watched.uffd.fd(), buffer.start);
        let reader = std::thread::spawn(move || {
            touch_by_this_thread();
            read_into(fd, start, BUFFER)
        });
        resolver.wait_for_sleepers(1);
        // This does not change a read that has begun.
        set_flags(&watched.uffd, libc::O_NONBLOCK);
        log.record(question("other reader"), watched.next());
        set_flags(&watched.uffd, flags);
        mark(&watched.source);
        let copied = resolver.copy(buffer.start, watched.source.start, PAGE, 0);
        log.record(question("copy"), copied);
        if !ends_soon(&reader) {
            interrupt();
        }
        log.record(question("reader"), reader.join().expect("no panic"));
        log.record(question("buffer"), contents(&buffer));
        log.record(question("fill"), watched.fill(0));
        log.record(question("load"), sleeper.join().expect("no panic"));
    }
}

/// Two threads wait in read(), and the first one is woken for a message that its buffer has no page
/// for. The other one gets the message meanwhile, and the first one the next.
fn passed_on(log: &mut Transcript) {
    catch_signals();
    const FAULT: Change = ("fault", 0, |page| load(page, &Names::new(&[])));
    for (name, feature, run) in [&FAULT].into_iter().chain(CHANGES) {
        let question = |text: &str| format!("{name},{text}");
        let watched = Watched::new(0, *feature, PAGES);
        let buffer = Area::anon(2, 1);
        let resolver = Uffd::new(0);
        resolver.must_register(buffer.start, PAGE, MISSING);
        // All run on one processor, so the first reader is also the first one to run.
        run_on(Some(0));
        let (fd, start) = (watched.uffd.fd(), buffer.start);
        let first = sleeping_thread(move || {
            set_priority(10);
            read_into(fd, start, MESSAGE)
        });
        let other = watched.reader(0);
        let last = watched.area.at(PAGES - 1);
        let thread = std::thread::spawn(move || run(last));
        resolver.wait_for_sleepers(1);
        log.record(question("other reader ends"), ends_soon(&other));
        let copied = resolver.copy(start, watched.source.start, PAGE, 0);
        log.record(question("copy"), copied);
        log.record(question("first reader ends"), ends_soon(&first));
        let sleeper = watched.load(0);
        log.record(question("first reader"), first.join().expect("no panic"));
        let mut message = [0; MESSAGE];
        read_bytes(start, &mut message);
        let text = describe(&message_of(&message), &watched.names);
        log.record(question("its message"), text);
        log.record(question("other reader"), other.join().expect("no panic"));
        log.record(question("fill"), watched.fill(0));
        log.record(question("load"), sleeper.join().expect("no panic"));
        if *name == "fault" {
            watched.fill(PAGES - 1);
        }
        log.record(question("thread"), thread.join().expect("no panic"));
        munmap(last + (1 << 31), PAGE);
    }
    run_on(None);
}

/// A fork cannot be read about, over and over: how often threads that wait in one way or
/// the other are woken.
fn failing_rounds(log: &mut Transcript) {
    for (name, flags) in [("level", 0), ("edge", libc::EPOLLET)] {
        let question = |text: &str| format!("{name},{text}");
        let watched = Watched::new(libc::O_NONBLOCK, UFFD_FEATURE_EVENT_FORK, PAGES);
        let epoll = Epoll::new(watched.uffd.fd(), libc::EPOLLIN | flags);
        let forker = std::thread::spawn(|| fork_with(0, || 0));
        log.record(question("event"), epoll.wait(10_000));
        limit_descriptors(1);
        for round in 0..5 {
            let question = |text: &str| question(&format!("round {round},{text}"));
            log.record(question("read"), watched.next());
            log.record(question("epoll"), epoll.wait(0));
            log.record(question("poll"), watched.uffd.poll_now());
        }
        limit_descriptors(u64::MAX);
        log.record(question("read with room"), watched.next());
        log.record(question("forker"), forker.join().expect("no panic"));
        log.record(question("afterwards"), epoll.wait(0));
    }
}

/// Two processes wait in read() when there is a fork, of which the one that reads first has no room
/// for a descriptor: the other one reads about it.
fn room_elsewhere(log: &mut Transcript) {
    catch_signals();
    run_on(Some(0));
    for child_first in [false, true] {
        let question = |text: &str| format!("child first={child_first},{text}");
        let watched = Watched::new(0, UFFD_FEATURE_EVENT_FORK, PAGES);
        let unregister = || {
            watched
                .uffd
                .range(&UNREGISTER, watched.area.start, watched.area.len, 0)
        };
        let register = || {
            watched
                .uffd
                .register(watched.area.start, watched.area.len, MISSING)
        };
        // There is no event of the fork by which the other process is made.
        assert!(unregister().answer.is_ok());
        let start_child = |log: &mut Transcript| {
            let child = log.fork(|log| {
                set_priority(5);
                log.record(question("child"), watched.next());
            });
            wait_for_sleep(&format!("/proc/{child}"), || false);
            child
        };
        let (child, reader);
        if child_first {
            child = start_child(log);
            reader = watched.reader(10);
        } else {
            reader = watched.reader(10);
            child = start_child(log);
        }
        assert!(register().answer.is_ok());
        limit_descriptors(1);
        // The readers run only when this thread and the one that forks have gone to sleep.
        set_priority(30);
        let forker = std::thread::spawn(|| fork_with(0, || 0));
        let text = match becomes_true(|| reader.is_finished()) {
            true => reader.join().expect("no panic"),
            false => "sleeps on".into(),
        };
        set_priority(0);
        limit_descriptors(u64::MAX);
        log.record(question("process"), ended(child));
        log.record(question("reader"), text);
        log.record(question("forker"), forker.join().expect("no panic"));
        log.record(question("fdinfo"), watched.uffd.fdinfo());
    }
}

/// A number of memory.stat of a cgroup.
fn statistic(cgroup: &Cgroup, name: &str) -> i64 {
    let text = std::fs::read_to_string(cgroup.file("memory.stat")).expect("there is memory.stat");
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
        .expect("there is the number")
}

/// Makes many descriptors in a cgroup, and says by how much its unreclaimable memory has grown.
/// Dentries and inodes are not part of that.
fn growth(cgroup: &Cgroup, make: fn() -> OwnedFd) -> i64 {
    let before = statistic(cgroup, "slab_unreclaimable");
    let made: Vec<OwnedFd> = (0..DESCRIPTORS).map(|_| make()).collect();
    // Small changes are counted some time later.
    std::thread::sleep(Duration::from_millis(2500));
    let after = statistic(cgroup, "slab_unreclaimable");
    drop(made);
    after - before
}

const DESCRIPTORS: i64 = 4096;

/// Whether a cgroup pays for the contexts of its processes: more memory is taken for a userfaultfd
/// than for an eventfd, of which nothing but the file is charged.
fn memory_of_contexts(log: &mut Transcript) {
    const CACHE: &str = "/sys/kernel/slab/userfaultfd_ctx_cache/object_size";
    let size = std::fs::read_to_string(CACHE).expect("there is a cache of contexts");
    let size: i64 = size.trim().parse().expect("a size");
    let cgroup = Cgroup::new("memory", &[]);
    let child = log.fork(|log| {
        cgroup.enter();
        let room = DESCRIPTORS as u64 + 1024;
        set_limit(libc::RLIMIT_NOFILE, room, room);
        // The table of descriptors grows because a high number is used.
        // SAFETY: Nothing has that number.
        assert!(unsafe { libc::dup2(0, room as RawFd - 1) } >= 0);
        let plain = growth(&cgroup, || {
            // SAFETY: The call returns a new descriptor, or an error.
            unsafe { new_descriptor(libc::eventfd(0, 0)) }.expect("there are descriptors")
        });
        let ours = growth(&cgroup, || Uffd::create(0).expect("userfaultfd(2) works").0);
        let charged = ours - plain > size * DESCRIPTORS / 2;
        log.record("contexts", if charged { "charged" } else { "not charged" });
    });
    log.record("process", ended(child));
}

/// What waits, besides forks, in the case below.
const MANY: usize = 200;

/// Many events wait. The first two are of forks, for which there is no room at first, and another
/// one is in the middle.
fn forks_among_many(log: &mut Transcript) {
    const FIRST_CHILD: usize = MANY;
    catch_signals();
    let features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
    let watched = Watched::new(libc::O_NONBLOCK, features, MANY + 3);
    // Each child loads from a page of its own, by which it is known.
    let forker = |child: usize| {
        let (address, names) = (watched.area.at(FIRST_CHILD + child), watched.names.clone());
        sleeping_thread(move || fork_with(0, || i32::from(load(address, &names) != "done")))
    };
    let changer = |page: usize| {
        let address = watched.area.at(page);
        sleeping_thread(move || {
            if page % 2 == 0 {
                return dontneed(address).to_string();
            }
            munmap(address, PAGE).to_string()
        })
    };
    let mut threads = vec![forker(0), forker(1)];
    threads.extend((0..MANY / 2).map(changer));
    threads.push(forker(2));
    threads.extend((MANY / 2..MANY).map(changer));

    limit_descriptors(1);
    for attempt in 0..2 {
        log.record(format!("read {attempt} without room"), watched.next());
    }
    limit_descriptors(u64::MAX);
    let mut forks = Vec::new();
    let mut others = Vec::new();
    for position in 0..threads.len() {
        let message = watched.uffd.read().expect("there is an event");
        match child_of(&message) {
            Some(child) => forks.push((position, child)),
            None => others.push(describe(&message, &watched.names)),
        }
    }
    log.record("read after all", watched.next());
    let expected: Vec<String> = (0..MANY)
        .map(|page| {
            let [start, end] =
                [0, PAGE].map(|at| watched.names.name((watched.area.at(page) + at) as u64));
            let what = if page % 2 == 0 { "remove" } else { "unmap" };
            format!("{what} {start}..{end}")
        })
        .collect();
    log.record("others in their order", others == expected);
    for (index, (position, child)) in forks.iter().enumerate() {
        let message = read_when_there(child, &watched.names);
        log.record(
            format!("fork {index}"),
            format!("message {position}, {message}"),
        );
    }
    for (index, (_, child)) in forks.iter().enumerate() {
        // Which page it is that is missing does not matter here.
        let (start, len) = (watched.area.at(FIRST_CHILD), 3 * PAGE);
        let called = child.range(&UNREGISTER, start, len, 0);
        log.record(format!("unregister for fork {index}"), called);
    }
    let mut answers = BTreeMap::new();
    for thread in threads {
        *answers.entry(thread.join().expect("no panic")).or_insert(0) += 1;
    }
    log.record("answers", format!("{answers:?}"));
}

/// Reads a message that is about to be there.
fn read_when_there(uffd: &Uffd, names: &Names) -> String {
    assert_ne!(uffd.poll(10_000), 0, "there is no message");
    let message = uffd.read().expect("there is a message");
    describe(&message, names)
}

/// The argument of an ioctl of the kernel's tests of get_user_pages().
#[repr(C)]
struct Pinning {
    get_microseconds: u64,
    put_microseconds: u64,
    address: u64,
    size: u64,
    pages_per_call: u32,
    gup_flags: u32,
    test_flags: u32,
    which_pages: [u32; 8],
}

/// Has the kernel get a page in order to write to it, as drivers do. Returns how much it has got.
fn get_page(address: usize) -> String {
    const GUP_FAST_BENCHMARK: u32 = 3 << 30 | 80 << 16 | (b'g' as u32) << 8 | 1;
    const FOLL_WRITE: u32 = 1;
    const { assert!(std::mem::size_of::<Pinning>() == 80) };
    let mut pinning = Pinning {
        get_microseconds: 0,
        put_microseconds: 0,
        address: address as u64,
        size: PAGE as u64,
        pages_per_call: 1,
        gup_flags: FOLL_WRITE,
        test_flags: 0,
        which_pages: [0; 8],
    };
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/sys/kernel/debug/gup_test")
        .expect("the kernel has tests of get_user_pages()");
    let argument = std::ptr::from_mut(&mut pinning);
    // SAFETY: The structure is what the ioctl expects.
    let answer =
        Answer::of(unsafe { libc::ioctl(file.as_raw_fd(), GUP_FAST_BENCHMARK as _, argument) });
    format!("{answer} size={:#x}", pinning.size)
}

/// The kernel gets a page for a driver, and the thread gets a signal meanwhile: it waits on, because
/// only KVM asks to be interrupted there.
fn pinned(log: &mut Transcript) {
    count_interrupts(0);
    for read in [false, true] {
        let question = |text: &str| format!("read={read},{text}");
        count_interrupts(0);
        let watched = Watched::new(libc::O_NONBLOCK, 0, PAGES);
        let address = watched.area.start;
        let thread = std::thread::spawn(move || {
            touch_by_this_thread();
            get_page(address)
        });
        watched.uffd.wait_for_sleepers(1);
        if read {
            log.record(question("message"), watched.next());
        }
        interrupt();
        log.record(question("ended"), ends_soon(&thread));
        log.record(question("handled"), interrupts());
        log.record(question("fdinfo"), watched.uffd.fdinfo());
        log.record(question("copy"), watched.fill(0));
        log.record(question("answer"), thread.join().expect("no panic"));
        log.record(question("handled after"), interrupts());
    }
}

/// Parts of an area, each with what it is registered for.
const PARTS: &[(&str, u64)] = &[("missing", MISSING), ("wp", WP), ("minor", MINOR)];

/// How many pages of an area are registered for one thing.
const PART: usize = 4;

/// Puts a thread to sleep in each part.
fn sleepers_in_parts(uffd: &Uffd, area: &Area, names: &Names) -> Vec<JoinHandle<String>> {
    let at = |part: usize| area.at(part * PART);
    for (part, (_, mode)) in PARTS.iter().enumerate() {
        uffd.must_register(at(part), PART * PAGE, *mode);
    }
    let called = uffd.range(&WRITEPROTECT, at(1), PART * PAGE, 1);
    assert!(called.answer.is_ok(), "cannot protect: {called}");
    PARTS
        .iter()
        .enumerate()
        .map(|(part, (_, mode))| {
            let (address, names, mode) = (at(part), names.clone(), *mode);
            let touch = if mode == WP { store } else { load };
            let thread = std::thread::spawn(move || touch(address, &names));
            uffd.wait_for_sleepers(part + 1);
            thread
        })
        .collect()
}

/// Areas that are registered for different things are unregistered together, or one by one: who is
/// woken.
fn unregistered_parts(log: &mut Transcript) {
    catch_signals();
    for which in ["all", "missing", "wp", "minor"] {
        let area = kind_of("shmem").area(0);
        let alias = area.alias(2);
        // Memory is there behind the second part and the third one, and mapped in the second.
        fill(alias.at(PART), 2 * PART * PAGE);
        let names = Names::new(&[("area", &area)]);
        for page in PART..2 * PART {
            // Others beside it would be mapped by a load.
            assert_eq!(store(area.at(page), &names), "done");
        }
        let uffd = Uffd::new(0);
        let threads = sleepers_in_parts(&uffd, &area, &names);
        let part = PARTS.iter().position(|(name, _)| *name == which);
        let (start, len) = match part {
            Some(part) => (area.at(part * PART), PART * PAGE),
            None => (area.start, PARTS.len() * PART * PAGE),
        };
        let question = |text: &str| format!("{which},{text}");
        let called = uffd.range(&UNREGISTER, start, len, 0);
        log.record(question("unregister"), called);
        for ((name, _), thread) in PARTS.iter().zip(&threads) {
            log.record(question(&format!("{name} ends")), ends_soon(thread));
        }
        log.record(question("fdinfo"), uffd.fdinfo());
        // A thread whose page is still registered faults again, so the page is made accessible.
        let called = uffd.range(&WRITEPROTECT, area.at(PART), PART * PAGE, 0);
        log.record(question("unprotect"), called.answer);
        let called = uffd.range(&CONTINUE, area.at(2 * PART), PART * PAGE, 0);
        log.record(question("continue"), called);
        let called = uffd.copy(area.start, alias.at(PART), PAGE, 0);
        log.record(question("copy"), called);
        let called = uffd.range(&WAKE, area.start, area.len, 0);
        log.record(question("wake"), called);
        for ((name, _), thread) in PARTS.iter().zip(threads) {
            log.record(question(name), thread.join().expect("no panic"));
        }
    }
}

/// Something that waits for its event to be read, and changes mappings or has changed them.
type Change = (&'static str, u32, fn(usize) -> String);

const CHANGES: &[Change] = &[
    ("fork", UFFD_FEATURE_EVENT_FORK, |_| fork_with(0, || 0)),
    ("remove", UFFD_FEATURE_EVENT_REMOVE, |page| {
        dontneed(page).to_string()
    }),
    ("unmap", UFFD_FEATURE_EVENT_UNMAP, |page| {
        munmap(page, PAGE).to_string()
    }),
    ("remap", UFFD_FEATURE_EVENT_REMAP, |page| {
        move_to(page, PAGE, page + (1 << 31)).to_string()
    }),
];

/// Whether a descriptor can be written to, in the ways to ask that.
fn ask_writable(log: &mut Transcript, name: &str, fd: RawFd, milliseconds: i32) {
    // The first one may wait, the others follow.
    let state = poll_fd(fd, libc::POLLOUT, milliseconds);
    log.record(format!("{name},poll(0x4)"), format!("{state:#x}"));
    let state = poll_fd(fd, libc::POLLIN | libc::POLLOUT, 0);
    log.record(format!("{name},poll(0x5)"), format!("{state:#x}"));
    let (answer, [_, is_set, _]) = select(fd, [false, true, false], 0);
    log.record(format!("{name},select"), format!("{answer} {is_set}"));
    let epoll = Epoll::new(fd, libc::EPOLLOUT);
    log.record(format!("{name},epoll"), epoll.wait(0));
}

/// Whether pages can be filled, as poll() says it: not while mappings change.
fn writable(log: &mut Transcript) {
    catch_signals();
    for (name, flags) in [("block", 0), ("nonblock", libc::O_NONBLOCK)] {
        let uffd = Uffd::create(libc::O_CLOEXEC | flags).expect("userfaultfd(2) works");
        ask_writable(log, &format!("{name},before api"), uffd.fd(), 0);
        let watched = Watched::new(flags, 0, PAGES);
        ask_writable(log, &format!("{name},idle"), watched.uffd.fd(), 0);
        let sleeper = watched.load(0);
        watched.uffd.wait_for_sleepers(1);
        ask_writable(log, &format!("{name},fault"), watched.uffd.fd(), 0);
        log.record(format!("{name},copy"), watched.fill(0));
        log.record(format!("{name},load"), sleeper.join().expect("no panic"));
    }
    for (name, feature, run) in CHANGES {
        let question = |text: &str| format!("{name},{text}");
        let watched = Watched::new(libc::O_NONBLOCK, *feature, PAGES);
        let fd = watched.uffd.fd();
        let last = watched.area.at(PAGES - 1);
        let epoll = Epoll::new(fd, libc::EPOLLOUT | libc::EPOLLET);
        log.record(question("edge before"), epoll.wait(0));
        let thread = std::thread::spawn(move || run(last));
        assert_ne!(watched.uffd.poll(10_000), 0, "there is no event");
        ask_writable(log, &question("unread"), fd, 0);
        log.record(question("copy while unread"), watched.fill(0));
        let message = watched.uffd.read().expect("there is an event");
        drop(child_of(&message));
        // Mappings may change a little longer: this waits for the end of it.
        ask_writable(log, &question("read"), fd, 1000);
        log.record(question("edge"), epoll.wait(0));
        let answer = thread.join().expect("no panic");
        log.record(question("answer"), answer);
        ask_writable(log, &question("over"), fd, 0);
        log.record(question("copy"), watched.fill(0));
        munmap(last + (1 << 31), PAGE);
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("review/priorities", priorities),
        Case::new("review/killed reader", killed_reader),
        Case::new("review/failed read", failed_read),
        Case::new("review/overtaken", overtaken),
        Case::new("review/passed on", passed_on),
        Case::new("review/failing rounds", failing_rounds),
        Case::new("review/room elsewhere", room_elsewhere),
        Case::new("review/memory of contexts", memory_of_contexts),
        Case::new("review/forks among many", forks_among_many),
        Case::new("review/pinned", pinned),
        Case::new("review/unregistered parts", unregistered_parts),
        Case::new("review/writable", writable),
    ]
}
