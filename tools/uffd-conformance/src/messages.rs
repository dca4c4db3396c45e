// SPDX-License-Identifier: GPL-2.0

//! Reading and waiting: order, buffers, and every way to wait.

use crate::{
    inspect::vm_flags,
    memory::{dontneed, move_to, mprotect, munmap, read_bytes, read_into, Area, Names},
    poll::{aio_poll, aio_poll_for, poll_fd, ring_poll, select, Epoll},
    process::{descriptors, ends_soon, fork_with, pipe, receive, send, sleeping_thread, wait},
    sys::{descriptor_flags, duplicate, errno_name, fcntl, preadv2, read, Answer, PAGE},
    touch::{count_interrupts, interrupt_and_wait, interrupts, load},
    transcript::{Case, Transcript},
    uffd::{describe, message_of, read_one, touch_by_this_thread, Uffd, API, MISSING, WAKE, WP},
};
use io_uring::{opcode, types, IoUring};
use linux_raw_sys::general::*;
use std::{
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    thread::JoinHandle,
};

const PAGES: usize = 16;
const MESSAGE: usize = std::mem::size_of::<uffd_msg>();

/// A registered area, and threads that sleep in faults on it.
struct Inbox {
    uffd: Uffd,
    area: Area,
    source: Area,
    names: Names,
    sleepers: Vec<JoinHandle<String>>,
}

impl Inbox {
    fn new(flags: i32, features: u64) -> Self {
        let area = Area::anon(0, PAGES);
        let inbox = Self {
            uffd: Uffd::with(libc::O_CLOEXEC | flags, features),
            names: Names::new(&[("area", &area)]),
            area,
            source: Area::anon(1, 1),
            sleepers: Vec::new(),
        };
        inbox
            .uffd
            .must_register(inbox.area.start, inbox.area.len, MISSING | WP);
        inbox
    }

    /// Puts a thread to sleep on a page, after those before it.
    fn sleep_on(&mut self, page: usize) {
        let (address, names) = (self.area.at(page) + 8, self.names.clone());
        self.sleepers
            .push(std::thread::spawn(move || load(address, &names)));
        self.uffd.wait_for_sleepers(self.sleepers.len());
    }

    /// Reads into a buffer of a size, and writes down all that arrived.
    fn read(&self, size: usize) -> String {
        let mut buffer = vec![0xeeu8; size.max(1)];
        let answer = read(self.uffd.fd(), &mut buffer[..size]);
        self.describe(answer, &buffer)
    }

    fn describe(&self, answer: Answer, buffer: &[u8]) -> String {
        let count = answer.0.map_or(0, |read| read as usize / MESSAGE);
        let messages: Vec<String> = buffer[..count * MESSAGE]
            .chunks(MESSAGE)
            .map(|bytes| describe(&message_of(bytes), &self.names))
            .collect();
        let rest = buffer[count * MESSAGE..].iter().any(|byte| *byte != 0xee);
        format!(
            "{answer} [{}]{}",
            messages.join(", "),
            if rest { " and more written" } else { "" }
        )
    }

    /// Waits until a thread has ended or its event is there to be read. Returns whether it has
    /// ended.
    fn ends_or_waits<T>(&self, thread: &JoinHandle<T>) -> bool {
        for _ in 0..20_000 {
            if thread.is_finished() {
                return true;
            }
            if self.uffd.poll(1) != 0 {
                return false;
            }
        }
        panic!("a thread neither ends nor waits");
    }

    /// readv(): one message over several buffers.
    fn read_vectors(&mut self, log: &mut Transcript) {
        let fd = self.uffd.fd();
        for lengths in [
            &[32][..],
            &[16, 16],
            &[1, 31],
            &[31, 1],
            &[8, 8, 8],
            &[40, 40],
            &[0, 32],
        ] {
            let mut buffers = vec![vec![0xeeu8; 40]; lengths.len()];
            let vectors: Vec<libc::iovec> = buffers
                .iter_mut()
                .zip(lengths)
                .map(|(buffer, len)| libc::iovec {
                    iov_base: buffer.as_mut_ptr().cast(),
                    iov_len: *len,
                })
                .collect();
            // SAFETY: The buffers are at least as long as is said.
            let answer =
                Answer::of(unsafe { libc::readv(fd, vectors.as_ptr(), vectors.len() as i32) });
            let joined: Vec<u8> = buffers
                .iter()
                .zip(lengths)
                .flat_map(|(buffer, len)| buffer[..*len].to_vec())
                .collect();
            let text = self.describe(answer, &joined);
            log.record(format!("readv{lengths:?}"), text);
            if answer.is_ok() {
                let page = self.sleepers.len();
                self.sleep_on(page);
            }
        }
    }

    /// Lets all sleepers go.
    fn end(mut self) {
        let (start, len) = (self.area.start, self.area.len);
        for page in 0..PAGES {
            self.uffd
                .copy(self.area.at(page), self.source.start, PAGE, 0);
        }
        self.uffd.range(&WAKE, start, len, 0);
        for sleeper in self.sleepers.drain(..) {
            sleeper.join().expect("no panic");
        }
    }
}

/// Every size of buffer, with each number of messages.
fn sizes(log: &mut Transcript) {
    for count in 0..5 {
        for size in [
            0, 1, 8, 16, 31, 32, 33, 40, 63, 64, 65, 95, 96, 97, 127, 128, 129, 159, 160, 4096,
        ] {
            let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
            for page in 0..count {
                // Not in the order of addresses.
                inbox.sleep_on(page * 5 % PAGES);
            }
            let answer = inbox.read(size);
            log.record(format!("messages={count},size={size}"), answer);
            log.record(
                format!("messages={count},size={size},fdinfo"),
                inbox.uffd.fdinfo(),
            );
            let answer = inbox.read(4096);
            log.record(format!("messages={count},size={size},rest"), answer);
            inbox.end();
        }
    }
}

/// Buffers of which a part is not there.
fn bad_buffers(log: &mut Transcript) {
    for (name, protection) in [("none", libc::PROT_NONE), ("read", libc::PROT_READ)] {
        for good in [0, 1, 16, 31, 32, 33, 48, 64, 80, 96] {
            let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
            for page in 0..3 {
                inbox.sleep_on(page);
            }
            let buffer = Area::anon(2, 2);
            let start = buffer.start + PAGE - good;
            mprotect(buffer.at(1), PAGE, protection);
            let answer = read_into(inbox.uffd.fd(), start, 3 * MESSAGE);
            log.record(format!("{name},good={good}"), answer);
            log.record(format!("{name},good={good},fdinfo"), inbox.uffd.fdinfo());
            log.record(format!("{name},good={good},poll"), inbox.uffd.poll_now());
            let rest = inbox.read(4096);
            log.record(format!("{name},good={good},rest"), rest);
            inbox.end();
        }
    }
    for (name, pointer) in [
        ("null", 0),
        ("kernel", 0xffff_8880_0000_0000),
        ("-1", usize::MAX),
    ] {
        for sleepers in 0..2 {
            let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
            if sleepers == 1 {
                inbox.sleep_on(0);
            }
            let answer = read_into(inbox.uffd.fd(), pointer, MESSAGE);
            log.record(format!("{name},sleepers={sleepers}"), answer);
            let rest = inbox.read(4096);
            log.record(format!("{name},sleepers={sleepers},rest"), rest);
            inbox.end();
        }
    }
}

/// Something that waits for its event to be read: its name, the feature, and what is done to a
/// page.
type Waiting = (&'static str, u32, fn(usize) -> String);

const ELSEWHERE: usize = 1 << 31;

const WAITING: &[Waiting] = &[
    ("fork", UFFD_FEATURE_EVENT_FORK, |_| fork_with(0, || 0)),
    ("dontneed", UFFD_FEATURE_EVENT_REMOVE, |page| {
        dontneed(page).to_string()
    }),
    ("munmap", UFFD_FEATURE_EVENT_UNMAP, |page| {
        munmap(page, PAGE).to_string()
    }),
    ("mremap", UFFD_FEATURE_EVENT_REMAP, |page| {
        move_to(page, PAGE, page + ELSEWHERE).to_string()
    }),
];

/// Events are read into buffers that are not there, or into one that is there for a fault only.
fn bad_buffers_events(log: &mut Transcript) {
    const PAGE_OF_EVENT: usize = 3;
    for (action, feature, run) in WAITING {
        for buffer in ["none", "read", "null", "behind a fault"] {
            let mut inbox = Inbox::new(libc::O_NONBLOCK, (*feature).into());
            let elsewhere = inbox.area.start + ELSEWHERE;
            inbox.names.add("elsewhere", elsewhere, inbox.area.len);
            let page = inbox.area.at(PAGE_OF_EVENT);
            let memory = Area::anon(2, 2);
            let (start, len, protection) = match buffer {
                "none" => (memory.at(1), MESSAGE, libc::PROT_NONE),
                "read" => (memory.at(1), MESSAGE, libc::PROT_READ),
                "null" => (0, MESSAGE, libc::PROT_NONE),
                _ => (memory.at(1) - MESSAGE, 2 * MESSAGE, libc::PROT_NONE),
            };
            let before = descriptors();
            let thread = sleeping_thread(move || run(page));
            if buffer == "behind a fault" {
                inbox.sleep_on(0);
            }
            assert_ne!(inbox.uffd.poll(10_000), 0, "there is no message");
            mprotect(memory.at(1), PAGE, protection);
            let answer = read_into(inbox.uffd.fd(), start, len);
            let question = |text: &str| format!("{action},{buffer},{text}");
            log.record(question("read"), answer);
            log.record(question("new descriptors"), descriptors() - before);
            log.record(question("fdinfo"), inbox.uffd.fdinfo());
            log.record(question("ended"), inbox.ends_or_waits(&thread));
            log.record(question("poll"), inbox.uffd.poll_now());
            log.record(question("rest"), inbox.read(MESSAGE));
            log.record(question("answer"), thread.join().expect("no panic"));
            munmap(elsewhere, inbox.area.len);
            inbox.end();
        }
    }
}

/// The buffer is memory that is registered with another userfaultfd, whose faults another thread
/// resolves.
fn registered_buffer(log: &mut Transcript) {
    for kind in ["fault", "fork", "dontneed"] {
        let event = WAITING.iter().find(|(name, ..)| *name == kind);
        let mut inbox = Inbox::new(
            libc::O_NONBLOCK,
            event.map_or(0, |(_, feature, _)| (*feature).into()),
        );
        let memory = Area::anon(2, 1);
        inbox.names.add("buffer", memory.start, memory.len);
        let resolver = Uffd::new(0);
        resolver.must_register(memory.start, memory.len, MISSING);
        let last = inbox.area.at(PAGES - 1);
        let waiting = event.map(|(_, _, run)| sleeping_thread(move || run(last)));
        if waiting.is_none() {
            inbox.sleep_on(0);
        }
        let (fd, start) = (inbox.uffd.fd(), memory.start);
        let reader = std::thread::spawn(move || read_into(fd, start, MESSAGE));
        let question = |text: &str| format!("{kind},{text}");
        resolver.wait_for_sleepers(1);
        let message = read_one(resolver.fd(), &inbox.names);
        log.record(question("fault of the buffer"), message);
        log.record(question("fdinfo meanwhile"), inbox.uffd.fdinfo());
        let copied = resolver.copy(start, inbox.source.start, PAGE, 0);
        log.record(question("copy"), copied);
        let answer = reader.join().expect("no panic");
        let mut buffer = [0; MESSAGE];
        read_bytes(start, &mut buffer);
        log.record(question("read"), inbox.describe(answer, &buffer));
        log.record(question("fdinfo"), inbox.uffd.fdinfo());
        if let Some(waiting) = waiting {
            log.record(question("answer"), waiting.join().expect("no panic"));
        }
        inbox.end();
    }
}

/// The buffer for an event is memory that is registered with the descriptor itself, and another
/// thread resolves its fault.
fn own_buffer(log: &mut Transcript) {
    for kind in ["fork", "dontneed"] {
        let (_, feature, run) = WAITING
            .iter()
            .find(|(name, ..)| *name == kind)
            .expect("it is in the list");
        let inbox = Inbox::new(libc::O_NONBLOCK, (*feature).into());
        let (first, last) = (inbox.area.at(0), inbox.area.at(PAGES - 1));
        let waiting = sleeping_thread(move || run(last));
        let fd = inbox.uffd.fd();
        let reader = std::thread::spawn(move || read_into(fd, first, MESSAGE));
        inbox.uffd.wait_for_sleepers(1);
        let question = |text: &str| format!("{kind},{text}");
        let fault = inbox.read(MESSAGE);
        log.record(question("fault of the buffer"), fault);
        let copy = |inbox: &Inbox| inbox.uffd.copy(first, inbox.source.start, PAGE, 0);
        log.record(question("copy at once"), copy(&inbox));
        let rest = inbox.read(MESSAGE);
        log.record(question("rest"), rest);
        // Pages are filled again once it goes on.
        log.record(question("answer"), waiting.join().expect("no panic"));
        log.record(question("copy"), copy(&inbox));
        let answer = reader.join().expect("no panic");
        let mut buffer = [0; MESSAGE];
        read_bytes(first, &mut buffer);
        log.record(question("read"), inbox.describe(answer, &buffer));
        inbox.end();
    }
}

/// Several threads on one page, and on several: what is read, and who is woken.
fn order(log: &mut Transcript) {
    for pattern in [
        &[0, 0, 0][..],
        &[3, 2, 1, 0],
        &[0, 1, 0, 1],
        &[7, 7, 3, 7, 3],
        &[1, 2, 3, 4, 5, 6, 7, 8, 9],
    ] {
        let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
        for page in pattern {
            inbox.sleep_on(*page);
        }
        let name = format!("{pattern:?}");
        let first = inbox.read(MESSAGE);
        log.record(format!("{name},first"), first);
        log.record(format!("{name},fdinfo"), inbox.uffd.fdinfo());
        let called = inbox
            .uffd
            .copy(inbox.area.at(pattern[1]), inbox.source.start, PAGE, 0);
        log.record(format!("{name},copy second"), called);
        // Those on that page go on, read or not.
        let ended: Vec<bool> = inbox
            .sleepers
            .iter()
            .zip(pattern)
            .map(|(sleeper, page)| *page == pattern[1] && ends_soon(sleeper))
            .collect();
        log.record(format!("{name},woken"), format!("{ended:?}"));
        log.record(format!("{name},fdinfo after"), inbox.uffd.fdinfo());
        let rest = inbox.read(4096);
        log.record(format!("{name},rest"), rest);
        inbox.end();
    }
    // Faults before events.
    for faults in 0..3 {
        let mut inbox = Inbox::new(libc::O_NONBLOCK, UFFD_FEATURE_EVENT_REMOVE.into());
        let last = inbox.area.at(PAGES - 1);
        inbox.uffd.copy(last, inbox.source.start, PAGE, 0);
        let remover = std::thread::spawn(move || dontneed(last));
        inbox.uffd.poll(10_000);
        for page in 0..faults {
            inbox.sleep_on(page);
        }
        for size in [1, 2, 4] {
            let answer = inbox.read(size * MESSAGE);
            log.record(format!("event first,faults={faults},read={size}"), answer);
        }
        let answer = remover.join().expect("no panic");
        log.record(format!("event first,faults={faults},madvise"), answer);
        inbox.end();
    }
}

/// Ways to ask whether there is something to read.
fn waiting(log: &mut Transcript) {
    for (state, flags) in [("nonblock", libc::O_NONBLOCK), ("block", 0)] {
        for api in [false, true] {
            for sleepers in 0..3 {
                if !api && sleepers != 0 {
                    continue;
                }
                let name = format!("{state},api={api},sleepers={sleepers}");
                if !api {
                    let uffd = Uffd::create(flags).expect("userfaultfd(2) works");
                    wait_ways(log, &name, uffd.fd());
                    if flags != 0 {
                        let answer = uffd.read().map_or_else(|answer| answer, |_| Answer(Ok(32)));
                        log.record(format!("{name},read"), answer);
                    }
                    continue;
                }
                let mut inbox = Inbox::new(flags, 0);
                for page in 0..sleepers {
                    inbox.sleep_on(page);
                }
                wait_ways(log, &name, inbox.uffd.fd());
                if sleepers != 0 || flags != 0 {
                    let answer = inbox.read(4096);
                    log.record(format!("{name},read"), answer);
                    wait_ways(log, &format!("{name},after"), inbox.uffd.fd());
                }
                inbox.end();
            }
        }
        let inbox = Inbox::new(flags, UFFD_FEATURE_EVENT_REMOVE.into());
        let last = inbox.area.at(PAGES - 1);
        let remover = sleeping_thread(move || dontneed(last));
        wait_ways(log, &format!("{state},event"), inbox.uffd.fd());
        log.record(format!("{state},event,read"), inbox.read(4096));
        // Mappings may change until it goes on.
        let answer = remover.join().expect("no panic");
        log.record(format!("{state},event,madvise"), answer);
        wait_ways(log, &format!("{state},event,after"), inbox.uffd.fd());
        inbox.end();
    }
}

fn wait_ways(log: &mut Transcript, name: &str, fd: RawFd) {
    for events in [
        0,
        libc::POLLIN,
        libc::POLLOUT,
        libc::POLLPRI,
        libc::POLLIN | libc::POLLOUT,
        libc::POLLRDNORM,
        libc::POLLRDHUP,
        -1,
    ] {
        log.record(
            format!("{name},poll({events:#x})"),
            format!("{:#x}", poll_fd(fd, events, 0)),
        );
    }
    let (answer, sets) = select(fd, [true; 3], 0);
    log.record(format!("{name},select"), format!("{answer} {sets:?}"));
    for (mode, flags) in [
        ("level", 0),
        ("edge", libc::EPOLLET),
        ("oneshot", libc::EPOLLONESHOT),
        ("exclusive", libc::EPOLLEXCLUSIVE),
    ] {
        let epoll = Epoll::new(fd, libc::EPOLLIN | libc::EPOLLOUT | flags);
        let answers = [epoll.wait(0), epoll.wait(0)];
        log.record(
            format!("{name},epoll {mode}"),
            format!("{}, then {}", answers[0], answers[1]),
        );
    }
    log.record(format!("{name},io_uring poll"), ring_poll(fd));
    log.record(format!("{name},aio poll"), aio_poll(fd));
}

/// O_NONBLOCK comes and goes while a thread sleeps in read().
fn toggled(log: &mut Transcript) {
    for (name, first, then) in [("set", 0, libc::O_NONBLOCK), ("set and cleared", 0, 0)] {
        let mut inbox = Inbox::new(first, 0);
        let fd = inbox.uffd.fd();
        let reader = sleeping_thread(move || read(fd, &mut [0; MESSAGE]).to_string());
        fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
        fcntl(fd, libc::F_SETFL, then);
        let (address, names) = (inbox.area.start, inbox.names.clone());
        inbox
            .sleepers
            .push(std::thread::spawn(move || load(address, &names)));
        let answer = reader.join().expect("no panic");
        log.record(format!("{name},sleeping read"), answer);
        log.record(
            format!("{name},poll"),
            format!("{:#x}", poll_fd(fd, libc::POLLIN, 0)),
        );
        if then != 0 {
            let answer = inbox.read(MESSAGE);
            log.record(format!("{name},read"), answer);
        }
        inbox.end();
    }
}

/// Edges: what epoll says the second time, without a read in between.
fn edges(log: &mut Transcript) {
    for (name, flags) in [
        ("level", 0),
        ("edge", libc::EPOLLET),
        ("edge exclusive", libc::EPOLLET | libc::EPOLLEXCLUSIVE),
        ("oneshot", libc::EPOLLONESHOT),
    ] {
        let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
        let epoll = Epoll::new(inbox.uffd.fd(), libc::EPOLLIN | flags);
        log.record(format!("{name},before"), epoll.wait(0));
        for fault in 0..3 {
            inbox.sleep_on(fault);
            // epoll reports the fault a moment after the thread can be seen to sleep.
            log.record(format!("{name},fault {fault}"), epoll.wait(1000));
            log.record(format!("{name},fault {fault},again"), epoll.wait(0));
        }
        let answer = inbox.read(MESSAGE);
        log.record(format!("{name},read"), answer);
        log.record(format!("{name},after a read"), epoll.wait(0));
        inbox.end();
    }
    // Two events that epoll reports at once, of which one is read.
    for kinds in [["fork", "dontneed"], ["dontneed", "fork"]] {
        let features = UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE;
        let inbox = Inbox::new(libc::O_NONBLOCK, features.into());
        let epoll = Epoll::new(inbox.uffd.fd(), libc::EPOLLIN | libc::EPOLLET);
        let last = inbox.area.at(PAGES - 1);
        let waiting = kinds.map(|kind| {
            let found = WAITING.iter().find(|(name, ..)| *name == kind);
            let run = found.expect("it is in the list").2;
            sleeping_thread(move || run(last))
        });
        let question = |text: &str| format!("{kinds:?},{text}");
        log.record(question("before"), epoll.wait(1000));
        for read in ["first", "second"] {
            let answer = inbox.read(MESSAGE);
            log.record(question(&format!("{read} read")), answer);
            log.record(question(&format!("after {read} read")), epoll.wait(500));
        }
        for (kind, waiting) in kinds.iter().zip(waiting) {
            log.record(question(kind), waiting.join().expect("no panic"));
        }
        inbox.end();
    }
}

/// A way to wait for a message: its name, the flags of the descriptor, and what came of it.
type Wait = (&'static str, i32, fn(RawFd) -> String);

const WAITS: &[Wait] = &[
    ("poll", libc::O_NONBLOCK, |fd| {
        format!("{:#x}", poll_fd(fd, libc::POLLIN, 20_000))
    }),
    ("select", libc::O_NONBLOCK, |fd| {
        let (answer, [is_set, ..]) = select(fd, [true, false, false], 20);
        format!("{answer} {is_set}")
    }),
    ("io_uring poll", libc::O_NONBLOCK, |fd| {
        let mut ring = IoUring::new(4).expect("there is io_uring");
        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32).build();
        // SAFETY: The request has no buffer.
        unsafe { ring.submission().push(&poll).expect("there is room") };
        ring.submit_and_wait(1).expect("the request is taken");
        let result = ring.completion().next().map(|entry| entry.result());
        format!("{result:?}")
    }),
    ("aio poll", libc::O_NONBLOCK, |fd| aio_poll_for(fd, 20)),
    ("epoll", libc::O_NONBLOCK, |fd| {
        Epoll::new(fd, libc::EPOLLIN).wait(20_000)
    }),
    ("epoll edge", libc::O_NONBLOCK, |fd| {
        Epoll::new(fd, libc::EPOLLIN | libc::EPOLLET).wait(20_000)
    }),
    ("epoll exclusive", libc::O_NONBLOCK, |fd| {
        Epoll::new(fd, libc::EPOLLIN | libc::EPOLLEXCLUSIVE).wait(20_000)
    }),
    ("read", 0, |fd| read(fd, &mut [0; 4 * MESSAGE]).to_string()),
    ("io_uring read", 0, ring_read),
];

/// Reads a message with io_uring.
fn ring_read(fd: RawFd) -> String {
    let mut ring = IoUring::new(4).expect("there is io_uring");
    let mut buffer = [0u8; MESSAGE];
    // It may be interrupted before it sleeps, many times.
    const ERESTARTSYS: i32 = 512;
    loop {
        let read = opcode::Read::new(types::Fd(fd), buffer.as_mut_ptr(), 32).build();
        // SAFETY: The buffer lives until the request is over.
        unsafe { ring.submission().push(&read).expect("there is room") };
        ring.submit_and_wait(1).expect("the request is taken");
        let result = ring
            .completion()
            .next()
            .map_or(i32::MIN, |entry| entry.result());
        if result != -ERESTARTSYS && result != -libc::EINTR {
            return result.to_string();
        }
    }
}

/// Waiting that begins before there is a message.
fn wakeups(log: &mut Transcript) {
    for (name, flags, way) in WAITS {
        let mut inbox = Inbox::new(*flags, 0);
        let fd = inbox.uffd.fd();
        // The request of io_uring is interrupted over and over, so its thread may never sleep.
        let waiter = match *name {
            "io_uring read" => std::thread::spawn(move || way(fd)),
            _ => sleeping_thread(move || way(fd)),
        };
        let (address, names) = (inbox.area.start, inbox.names.clone());
        inbox
            .sleepers
            .push(std::thread::spawn(move || load(address, &names)));
        let answer = waiter.join().expect("no panic");
        log.record(format!("{name},woken"), answer);
        inbox.end();
    }
}

/// The descriptor as a file.
fn file_operations(log: &mut Transcript) {
    let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
    inbox.sleep_on(0);
    let fd = inbox.uffd.fd();
    let mut buffer = [0u8; 256];
    let pointer = buffer.as_mut_ptr().cast::<libc::c_void>();
    let mut ask = |name: &str, answer: Answer| log.record(name, answer);
    // SAFETY: All buffers are as long as is said, and nothing else uses the descriptors.
    unsafe {
        ask("write", Answer::of(libc::write(fd, pointer, 32)));
        ask("pread", Answer::of(libc::pread(fd, pointer, 16, 0)));
        ask("pread full", Answer::of(libc::pread(fd, pointer, 32, 0)));
        ask("pwrite", Answer::of(libc::pwrite(fd, pointer, 32, 0)));
        for whence in [libc::SEEK_SET, libc::SEEK_CUR, libc::SEEK_END] {
            ask(
                &format!("lseek({whence})"),
                Answer::of(libc::lseek(fd, 0, whence)),
            );
        }
        ask("ftruncate", Answer::of(libc::ftruncate(fd, 0)));
        ask("fallocate", Answer::of(libc::fallocate(fd, 0, 0, 4096)));
        ask("fsync", Answer::of(libc::fsync(fd)));
        ask("fdatasync", Answer::of(libc::fdatasync(fd)));
        ask(
            "flock",
            Answer::of(libc::flock(fd, libc::LOCK_EX | libc::LOCK_NB)),
        );
        ask("fchmod", Answer::of(libc::fchmod(fd, 0o600)));
        ask("isatty", Answer::of(libc::isatty(fd)));
        ask("fchdir", Answer::of(libc::fchdir(fd)));
        ask(
            "getdents",
            Answer::of(libc::syscall(libc::SYS_getdents64, fd, pointer, 256)),
        );
        ask("readahead", Answer::of(libc::readahead(fd, 0, 4096)));
        ask(
            "fadvise",
            Answer(Ok(libc::posix_fadvise(fd, 0, 0, 0).into())),
        );
        for (name, protection, flags) in [
            ("mmap shared", libc::PROT_READ, libc::MAP_SHARED),
            ("mmap private", libc::PROT_READ, libc::MAP_PRIVATE),
        ] {
            let mapped = libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0);
            ask(name, Answer::of_address(mapped));
        }
        let (reader, writer) = pipe();
        ask(
            "splice",
            Answer::of(libc::splice(
                fd,
                std::ptr::null_mut(),
                writer.as_raw_fd(),
                std::ptr::null_mut(),
                4096,
                libc::SPLICE_F_NONBLOCK,
            )),
        );
        ask(
            "sendfile",
            Answer::of(libc::sendfile(
                writer.as_raw_fd(),
                fd,
                std::ptr::null_mut(),
                4096,
            )),
        );
        ask(
            "splice into",
            Answer::of(libc::splice(
                reader.as_raw_fd(),
                std::ptr::null_mut(),
                fd,
                std::ptr::null_mut(),
                4096,
                libc::SPLICE_F_NONBLOCK,
            )),
        );
    }
    file_state(log, fd);
    inbox.read_vectors(log);
    inbox.end();
}

/// What the file layer says of a descriptor, and its flags.
fn file_state(log: &mut Transcript, fd: RawFd) {
    // SAFETY: All values are valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: The structure is what the call expects.
    let answer = Answer::of(unsafe { libc::fstat(fd, &mut stat) });
    log.record(
        "fstat",
        format!(
            "{answer} mode {:#o} size {} links {} uid {}",
            stat.st_mode, stat.st_size, stat.st_nlink, stat.st_uid
        ),
    );
    for flags in [
        0,
        libc::RWF_NOWAIT,
        libc::RWF_HIPRI,
        libc::RWF_DSYNC,
        libc::RWF_APPEND,
    ] {
        let answer = preadv2(fd, &mut [0; 16], flags);
        log.record(format!("preadv2({flags:#x})"), answer);
    }
    for command in [
        libc::F_GETFD,
        libc::F_GETFL,
        libc::F_GETOWN,
        libc::F_GETPIPE_SZ,
        libc::F_GET_SEALS,
        libc::F_GETLEASE,
    ] {
        log.record(format!("fcntl({command})"), fcntl(fd, command, 0));
    }
    for (name, flag) in [
        ("append", libc::O_APPEND),
        ("async", libc::O_ASYNC),
        ("direct", libc::O_DIRECT),
        ("noatime", libc::O_NOATIME),
        ("none", 0),
    ] {
        let answer = fcntl(fd, libc::F_SETFL, flag | libc::O_NONBLOCK);
        let (flags, _) = descriptor_flags(fd);
        log.record(format!("setfl {name}"), format!("{answer} {flags:#o}"));
    }
    fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}")).expect("there is a link");
    log.record("link", link.display());
    match std::fs::File::open(format!("/proc/self/fd/{fd}")) {
        Ok(_) => log.record("open again", "opened"),
        Err(err) => log.record("open again", errno_name(err.raw_os_error().unwrap_or(0))),
    }
}

/// O_NONBLOCK that comes and goes, and requests that must not wait.
fn nonblocking(log: &mut Transcript) {
    let inbox = Inbox::new(0, 0);
    let fd = inbox.uffd.fd();
    let poll = || inbox.uffd.poll_now();
    let (status, _) = descriptor_flags(fd);
    log.record("flags", format!("{status:#o}"));
    log.record("poll of blocking", poll());
    let answer = preadv2(fd, &mut [0; MESSAGE], libc::RWF_NOWAIT);
    log.record("preadv2 nowait", answer);
    fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK);
    log.record("poll of nonblocking", poll());
    log.record("read", inbox.read(MESSAGE));
    let mut off = 0i32;
    // SAFETY: The number is what the ioctl expects.
    let answer = Answer::of(unsafe { libc::ioctl(fd, libc::FIONBIO, &mut off) });
    log.record("fionbio", answer);
    log.record("poll of blocking again", poll());
    inbox.end();
}

/// The descriptor doubled, sent, and inherited.
fn handed_over(log: &mut Transcript) {
    let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
    inbox.sleep_on(3);
    let double = Uffd(duplicate(inbox.uffd.fd()));
    let answer = double.read().map_or_else(
        |answer| answer.to_string(),
        |message| describe(&message, &inbox.names),
    );
    log.record("dup,read", answer);
    let answer = double.call(&API, &[u64::from(UFFD_API), 0]);
    log.record("dup,api", answer);

    // Over a socket to another process, which resolves the fault from there.
    log.flush();
    let (here, there) = UnixStream::pair().expect("there are sockets");
    let child = log.fork(|log| {
        let uffd = Uffd(receive(there.as_raw_fd()));
        let called = uffd.copy(inbox.area.at(3), inbox.source.start, PAGE, 0);
        log.record("sent,copy", called);
        let called = uffd.range(&crate::uffd::POISON, inbox.area.at(4), PAGE, 0);
        log.record("sent,poison", called);
        log.record("sent,fdinfo", uffd.fdinfo());
    });
    log.flush();
    send(here.as_raw_fd(), inbox.uffd.fd());
    assert_eq!(
        wait(child, 0),
        0,
        "the other process did not end as it should"
    );
    log.record("sent,sleeper", ends_soon(&inbox.sleepers[0]));
    inbox.end();
}

/// Many readers, and one message each.
fn readers(log: &mut Transcript) {
    for readers in [1, 2, 4, 8] {
        let mut inbox = Inbox::new(0, 0);
        let fd = inbox.uffd.fd();
        let threads: Vec<JoinHandle<String>> = (0..readers)
            .map(|_| {
                let names = inbox.names.clone();
                std::thread::spawn(move || read_one(fd, &names))
            })
            .collect();
        for page in 0..readers {
            inbox.sleep_on(page);
        }
        let mut read: Vec<String> = threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect();
        // Who reads what is a matter of luck.
        read.sort();
        log.record(format!("readers={readers}"), read.join(", "));
        log.record(format!("readers={readers},fdinfo"), inbox.uffd.fdinfo());
        inbox.end();
    }
}

/// A thread that waits for a message gets a signal.
fn signals(log: &mut Transcript) {
    for (name, flags) in [("no restart", 0), ("restart", libc::SA_RESTART)] {
        count_interrupts(flags);
        let mut inbox = Inbox::new(0, 0);
        let (fd, names) = (inbox.uffd.fd(), inbox.names.clone());
        let reader = sleeping_thread(move || {
            touch_by_this_thread();
            read_one(fd, &names)
        });
        interrupt_and_wait();
        // The message is read by the thread, if it still waits, or here.
        inbox.sleep_on(0);
        log.record(
            format!("{name},sleeping read"),
            reader.join().expect("no panic"),
        );
        log.record(format!("{name},handled"), interrupts());
        log.record(format!("{name},fdinfo"), inbox.uffd.fdinfo());
        inbox.end();
    }
}

/// The descriptor is doubled, and one of the two is closed while a thread sleeps.
fn doubled(log: &mut Transcript) {
    let (area, source) = (Area::anon(0, PAGES), Area::anon(1, 1));
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(0);
    uffd.must_register(area.start, area.len, MISSING);
    let (start, its) = (area.start, names.clone());
    let sleeper = std::thread::spawn(move || [0, PAGE].map(|at| load(start + at, &its)).join(", "));
    uffd.wait_for_sleepers(1);
    let double = Uffd(duplicate(uffd.fd()));
    drop(uffd);
    log.record("goes on", double.ends_or_sleeps(&sleeper));
    log.record("fdinfo", double.fdinfo());
    log.record("flags", vm_flags(start, &names));
    log.record("message", read_one(double.fd(), &names));
    log.record("copy", double.copy(start, source.start, PAGE, 0));
    double.wait_for_sleepers(1);
    drop(double);
    log.record("sleeper", sleeper.join().expect("no panic"));
    log.record("flags after", vm_flags(start, &names));
}

/// Reads with io_uring from a descriptor that does not block, before there is a message and after.
fn ring_nonblocking(log: &mut Transcript) {
    let mut inbox = Inbox::new(libc::O_NONBLOCK, 0);
    for (name, before) in [("message first", true), ("read first", false)] {
        let page = inbox.sleepers.len();
        if before {
            inbox.sleep_on(page);
        }
        let mut ring = IoUring::new(4).expect("there is io_uring");
        let mut buffer = [0xeeu8; MESSAGE];
        let read = opcode::Read::new(types::Fd(inbox.uffd.fd()), buffer.as_mut_ptr(), 32).build();
        // SAFETY: The buffer lives until the request is over.
        unsafe { ring.submission().push(&read).expect("there is room") };
        ring.submit().expect("the request is taken");
        let mut result = ring.completion().next().map(|entry| entry.result());
        let at_once = result.map_or("pending".into(), |result| result.to_string());
        log.record(format!("{name},at once"), at_once);
        if !before {
            inbox.sleep_on(page);
        }
        if result.is_none() {
            ring.submit_and_wait(1).expect("the request is taken");
            result = ring.completion().next().map(|entry| entry.result());
        }
        let answer = match result.unwrap_or(0) {
            error if error < 0 => Answer(Err(-error)),
            read => Answer(Ok(read.into())),
        };
        log.record(format!("{name},read"), inbox.describe(answer, &buffer));
        log.record(format!("{name},fdinfo"), inbox.uffd.fdinfo());
    }
    inbox.end();
}

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("messages/sizes", sizes),
        Case::new("messages/bad buffers", bad_buffers),
        Case::new("messages/bad buffers of events", bad_buffers_events),
        Case::new("messages/registered buffer", registered_buffer),
        Case::new("messages/own buffer", own_buffer),
        Case::new("messages/order", order),
        Case::new("messages/waiting", waiting),
        Case::new("messages/wakeups", wakeups),
        Case::new("messages/toggled", toggled),
        Case::new("messages/edges", edges),
        Case::new("messages/file", file_operations),
        Case::new("messages/nonblocking", nonblocking),
        Case::new("messages/handed over", handed_over),
        Case::new("messages/readers", readers),
        Case::new("messages/signals", signals),
        Case::new("messages/doubled", doubled),
        Case::new("messages/io_uring nonblocking", ring_nonblocking),
    ]
}
