// SPDX-License-Identifier: GPL-2.0

//! Several processes: whose faults and events arrive where, and by which number a thread is called.

use crate::{
    action::{action, ask_action, Action, Place, FEATURES},
    inspect::{peek, vm_flags},
    kinds::kind_of,
    memory::{dontneed, getrandom, munmap, read_byte, write_byte, Area, Names, RW},
    process::{
        clone, clone3, descriptors, ended, exit, fork, fork_with, kill, limit_descriptors, receive,
        run_program, send, set_limit, sleeping_thread, this_process, this_thread, wait,
        CloneArguments, Status,
    },
    sys::{duplicate, read, read_process, write_file, Answer, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, fault_of, message_of, read_one, touch_by_this_thread, Uffd, DONTWAKE,
        MISSING, MOVE, UNREGISTER, WAKE, WP, WRITEPROTECT,
    },
};
use linux_raw_sys::general::*;
use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    sync::atomic::{AtomicU32, Ordering},
};

/// Numbers that processes share.
struct Shared(&'static [AtomicU32; 8]);

impl Shared {
    fn new(slot: usize) -> Self {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let protection = RW;
        let area = Area::map(slot, PAGE, PAGE, protection, flags, None).expect("there is memory");
        // SAFETY: The page stays until the process ends, and has zeros in it.
        let numbers = unsafe { &*(area.start as *const [AtomicU32; 8]) };
        std::mem::forget(area);
        Self(numbers)
    }

    fn set(&self, index: usize, value: u32) {
        self.0[index].store(value, Ordering::Release);
    }

    fn get(&self, index: usize) -> u32 {
        self.0[index].load(Ordering::Acquire)
    }
}

/// Waits for a fault, and returns its message.
fn wait_for_fault(uffd: &Uffd) -> uffd_msg {
    assert_ne!(uffd.poll(10_000), 0, "there is no message");
    uffd.read().expect("there is a message")
}

/// How a fault calls the thread whose number is `own` in its own namespace of processes, and `here`
/// in that of the reader.
fn called(message: &uffd_msg, own: u32, here: u32) -> &'static str {
    match fault_of(message).expect("it is a fault").thread {
        0 => "nothing",
        id if id == own && id == here => "its number",
        id if id == own => "its number in its own namespace",
        id if id == here => "its number in the reader's namespace",
        _ => "another",
    }
}

/// The number of a thread of a process here, from the one in its own namespace.
fn number_here(process: libc::pid_t, own: u32) -> u32 {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("there are tasks");
    for task in tasks.flatten() {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let mut numbers = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default()
            .split_whitespace()
            .map(|number| number.parse::<u32>().expect("a number"));
        let first = numbers.next();
        if numbers.next_back().or(first) == Some(own) {
            return first.expect("there is one");
        }
    }
    panic!("{process} has no thread {own}");
}

/// An area that is registered, with messages that name threads.
fn registered() -> (Area, Uffd) {
    let area = Area::anon(0, 8);
    let uffd = Uffd::new(UFFD_FEATURE_THREAD_ID.into());
    uffd.must_register(area.start, area.len, MISSING);
    (area, uffd)
}

/// Reads the first bytes of two pages: by itself, and in the kernel.
fn fault_twice(start: usize, names: &Names) {
    assert_eq!(load(start, names), "done");
    assert_eq!(getrandom(start + PAGE), Answer(Ok(8)));
}

/// Forks, maybe with a new namespace of processes, of which the child is the first. Returns the
/// number of the child here, and the process to wait for.
fn fork_in(new_namespace: bool, shared: &Shared, run: impl FnOnce()) -> (libc::pid_t, libc::pid_t) {
    const CHILD: usize = 7;
    if !new_namespace {
        let child = fork(run);
        return (child, child);
    }
    shared.set(CHILD, 0);
    let first = fork(|| {
        // SAFETY: No pointers are involved.
        let unshared = unsafe { libc::unshare(libc::CLONE_NEWPID) };
        assert_eq!(unshared, 0, "unshare");
        let second = fork(run);
        shared.set(CHILD, second as u32);
        if wait(second, 0) != 0 {
            exit(99);
        }
    });
    while shared.get(CHILD) == 0 {
        std::thread::yield_now();
    }
    (shared.get(CHILD) as libc::pid_t, first)
}

/// Which number a message has of a thread of a child.
fn numbers_of_child(log: &mut Transcript, new_namespace: bool) {
    catch_signals();
    let shared = Shared::new(2);
    let source = Area::anon(1, 1);
    let (here, there) = UnixStream::pair().expect("there are sockets");
    let (child, waited) = fork_in(new_namespace, &shared, || {
        let (area, uffd) = registered();
        let names = Names::new(&[("area", &area)]);
        send(there.as_raw_fd(), uffd.fd());
        let (start, its) = (area.start, names.clone());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                shared.set(0, this_thread());
                fault_twice(start, &its);
            });
        });
        shared.set(0, this_thread());
        fault_twice(start + 2 * PAGE, &names);
        // Until the other process has touched this one's memory.
        let _ = (&there).read(&mut [0]);
    });
    drop(there);
    let uffd = Uffd(receive(here.as_raw_fd()));
    let start = Area::anon(0, 8).start;
    for fault in [
        "thread, user",
        "thread, kernel",
        "process, user",
        "process, kernel",
    ] {
        let message = wait_for_fault(&uffd);
        let own = shared.get(0);
        log.record(fault, called(&message, own, number_here(child, own)));
        let address = fault_of(&message).expect("it is a fault").address;
        uffd.copy(address & !(PAGE - 1), source.start, PAGE, 0);
    }
    // This process faults in the memory of the child.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            shared.set(1, this_thread());
            read_process(child, start + 4 * PAGE, &mut [0; 8])
        });
        let message = wait_for_fault(&uffd);
        let id = shared.get(1);
        log.record("read by another process", called(&message, id, id));
        uffd.copy(start + 4 * PAGE, source.start, PAGE, 0);
        let answer = thread.join().expect("no panic");
        log.record("read by another process,answer", answer);
    });
    let _ = (&here).write(&[1]);
    log.record("child", ended(waited));
}

/// Which number a message has of a thread of a parent, read by a child.
fn numbers_for_child(log: &mut Transcript, new_namespace: bool) {
    catch_signals();
    let shared = Shared::new(2);
    let source = Area::anon(1, 1);
    let (area, uffd) = registered();
    let names = Names::new(&[("area", &area)]);
    log.flush();
    shared.set(0, this_thread());
    let (_, waited) = fork_in(new_namespace, &shared, || {
        let message = wait_for_fault(&uffd);
        let id = shared.get(0);
        // In another namespace that thread has no number.
        let here = if new_namespace { 0 } else { id };
        log.record("fault of the parent", called(&message, id, here));
        let copied = uffd.copy(area.start, source.start, PAGE, 0);
        log.record("copy by the child", copied);
        log.flush();
    });
    let loaded = load(area.start, &names);
    log.record("child", ended(waited));
    log.record("parent", loaded);
}

/// Something that a child does. Returns its status.
type Run = fn(&Place) -> i32;

fn nothing(_: &Place) -> i32 {
    0
}

fn load_last(place: &Place) -> i32 {
    touch_by_this_thread();
    i32::from(load(place.at(place.last()), &place.names) != "done")
}

fn unmap_first(place: &Place) -> i32 {
    munmap(place.at(0), place.len).status()
}

fn true_program(_: &Place) -> i32 {
    run_program();
    1
}

/// clone() with a child that shares the memory of this process.
fn share_memory<F: FnMut() -> i32>(flags: i32, mut run: F) -> String {
    extern "C" fn child<F: FnMut() -> i32>(argument: *mut libc::c_void) -> i32 {
        // SAFETY: The pointer is the one below, and the other process waits.
        let run = unsafe { &mut *argument.cast::<F>() };
        run()
    }
    let mut stack = vec![0u128; 1 << 13];
    // SAFETY: The stack and what is to be run stay until the child has ended. It uses the storage
    // of this thread, which does nothing but wait.
    let pid = unsafe {
        libc::clone(
            child::<F>,
            stack.as_mut_ptr_range().end.cast(),
            flags | libc::CLONE_VM | libc::SIGCHLD,
            std::ptr::from_mut(&mut run).cast(),
        )
    };
    if pid < 0 {
        return Answer::of(pid).to_string();
    }
    ended(pid)
}

/// clone3() with a copy of the memory. Says how the child ended.
fn clone_with(flags: u64, place: &Place, run: Run) -> String {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments::default();
    arguments.flags = flags;
    arguments.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
    match clone3(&arguments, || run(place)) {
        Answer(Ok(child)) => {
            // SAFETY: The descriptor is new, if there is one.
            unsafe { libc::close(pidfd) };
            ended(child as libc::pid_t)
        }
        answer => answer.to_string(),
    }
}

const VFORK: i32 = libc::CLONE_VFORK;
const OTHERS: i32 = libc::CLONE_FILES | libc::CLONE_FS | libc::CLONE_SIGHAND;

/// Ways to make a process.
const CLONES: &[Action] = &[
    action("vfork", |p| share_memory(VFORK, || nothing(p))),
    action("vfork, child reads what is missing", |p| {
        share_memory(VFORK, || load_last(p))
    }),
    action("vfork, child unmaps", |p| {
        share_memory(VFORK, || unmap_first(p))
    }),
    action("vfork, child runs a program", |p| {
        share_memory(VFORK, || true_program(p))
    }),
    action("shared memory", |p| share_memory(0, || nothing(p))),
    action("shared memory, child reads what is missing", |p| {
        share_memory(0, || load_last(p))
    }),
    action("shared memory, child unmaps", |p| {
        share_memory(0, || unmap_first(p))
    }),
    action("shared memory, child runs a program", |p| {
        share_memory(0, || true_program(p))
    }),
    action("all shared, child reads what is missing", |p| {
        share_memory(OTHERS, || load_last(p))
    }),
    action("vfork with its own memory", |p| {
        fork_with(VFORK, || nothing(p))
    }),
    action("clone3", |p| clone_with(0, p, nothing)),
    action("clone3, child reads what is missing", |p| {
        clone_with(0, p, load_last)
    }),
    action("clone3, child unmaps", |p| clone_with(0, p, unmap_first)),
    action("clone3, child runs a program", |p| {
        clone_with(0, p, true_program)
    }),
    action("clone3 with a descriptor", |p| {
        clone_with(libc::CLONE_PIDFD as u64, p, nothing)
    }),
    action("clone3 with other signal handlers", |p| {
        const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
        clone_with(CLONE_CLEAR_SIGHAND, p, nothing)
    }),
    action("clone3 in a new namespace of processes", |p| {
        clone_with(libc::CLONE_NEWPID as u64, p, load_last)
    }),
    action("clone3 in a new namespace of users", |p| {
        clone_with(libc::CLONE_NEWUSER as u64, p, nothing)
    }),
    action("clone3 into a cgroup that is none", |p| {
        const CLONE_INTO_CGROUP: u64 = 1 << 33;
        clone_with(CLONE_INTO_CGROUP, p, nothing)
    }),
];

/// A process whose descriptor was passed on forks: the event is read elsewhere.
fn passed_on(log: &mut Transcript) {
    catch_signals();
    let area = Area::anon(0, 8);
    let source = Area::anon(1, 1);
    let shared = Shared::new(2);
    let names = Names::new(&[("area", &area)]);
    source.write();
    let (here, there) = UnixStream::pair().expect("there are sockets");
    let target = fork(|| {
        let uffd = Uffd::new(UFFD_FEATURE_EVENT_FORK.into());
        uffd.must_register(area.start, area.len, MISSING);
        send(there.as_raw_fd(), uffd.fd());
        let before = descriptors();
        let forked = clone(0, || {
            assert_eq!(load(area.start, &names), "done");
            read_byte(area.start).into()
        });
        let pid = forked.0.expect("there is room for a process") as libc::pid_t;
        shared.set(0, descriptors() - before);
        let Status::Code(code) = Status::of(pid) else {
            panic!("the child did not end by itself");
        };
        shared.set(1, code as u32);
    });
    drop(there);
    let uffd = Uffd(receive(here.as_raw_fd()));
    let before = descriptors();
    let message = wait_for_fault(&uffd);
    log.record("message", describe(&message, &names));
    log.record("new descriptors here", descriptors() - before);
    let child = child_of(&message).expect("it is a fork event");
    let link = std::fs::read_link(format!("/proc/self/fd/{}", child.fd())).expect("a link");
    log.record("link", link.display());
    let message = wait_for_fault(&child);
    log.record("message of the child", describe(&message, &names));
    log.record("fdinfo of the child", child.fdinfo());
    log.record("fdinfo of the parent", uffd.fdinfo());
    let copied = child.copy(area.start, source.start, PAGE, 0);
    log.record("copy for the child", copied);
    log.record("target", ended(target));
    log.record("new descriptors there", shared.get(0));
    log.record("byte in the child", shared.get(1));
    let copied = child.copy(area.at(1), source.start, PAGE, 0);
    log.record("copy after its end", copied);
}

/// What is there besides the event of a fork.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Besides {
    Nothing,
    Fault,
    Event,
}

/// The event of a fork is read when there is no room for a descriptor.
fn no_room(log: &mut Transcript) {
    for besides in [Besides::Nothing, Besides::Fault, Besides::Event] {
        let area = Area::anon(0, 8);
        let source = Area::anon(1, 1);
        let names = Names::new(&[("area", &area)]);
        let uffd = Uffd::new((UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMOVE).into());
        uffd.must_register(area.start, area.len, MISSING);
        let question = |text: &str| format!("{besides:?},{text}");
        let forker = std::thread::spawn(|| fork_with(0, || 0));
        assert_ne!(uffd.poll(10_000), 0, "there is no event");
        let (start, last, its) = (area.start, area.at(7), names.clone());
        let other = match besides {
            Besides::Nothing => None,
            Besides::Fault => {
                let sleeper = std::thread::spawn(move || load(start, &its));
                uffd.wait_for_sleepers(1);
                Some(sleeper)
            }
            Besides::Event => Some(sleeping_thread(move || dontneed(last).to_string())),
        };
        // As many as poll() is asked about.
        limit_descriptors(1);
        for attempt in 0..3 {
            let text = read_several(&uffd, &names);
            log.record(question(&format!("read {attempt}")), text);
            let state = uffd.poll_now();
            log.record(question(&format!("poll {attempt}")), state);
        }
        limit_descriptors(u64::MAX);
        log.record(question("fdinfo"), uffd.fdinfo());
        let message = uffd.read();
        let text = match &message {
            Ok(message) => describe(message, &names),
            Err(answer) => answer.to_string(),
        };
        log.record(question("read with room"), text);
        log.record(question("forker"), forker.join().expect("no panic"));
        // The mappings do not change any more.
        let copied = uffd.copy(area.start, source.start, PAGE, 0);
        log.record(question("copy"), copied);
        if let Some(other) = other {
            log.record(question("other"), other.join().expect("no panic"));
        }
        drop(message.as_ref().map(child_of));
    }
}

/// Reads up to three messages at once.
fn read_several(uffd: &Uffd, names: &Names) -> String {
    const MESSAGE: usize = size_of::<uffd_msg>();
    let mut buffer = [0; 3 * MESSAGE];
    let answer = read(uffd.fd(), &mut buffer);
    let texts: Vec<String> = buffer[..answer.0.unwrap_or(0) as usize]
        .chunks(MESSAGE)
        .map(|bytes| describe(&message_of(bytes), names))
        .collect();
    format!("{answer} [{}]", texts.join(", "))
}

/// Two readers wait, and there is room for one descriptor: one of them reads about a fork, and the
/// other one waits on until there is a fault.
fn room_for_one(log: &mut Transcript) {
    let area = Area::anon(0, 8);
    let source = Area::anon(1, 1);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::with(libc::O_CLOEXEC, UFFD_FEATURE_EVENT_FORK.into());
    uffd.must_register(area.start, area.len, MISSING);
    let readers = [0, 1].map(|_| {
        let (fd, names) = (uffd.fd(), names.clone());
        sleeping_thread(move || read_one(fd, &names))
    });
    // Until the fork was read about, nothing else here opens a file.
    let free = duplicate(0).as_raw_fd() as u64;
    limit_descriptors(free + 1);
    let forked = fork_with(0, || 0);
    while !readers.iter().any(|reader| reader.is_finished()) {
        std::thread::yield_now();
    }
    limit_descriptors(u64::MAX);
    log.record("forker", forked);
    let done = readers.iter().filter(|reader| reader.is_finished());
    log.record("readers that are done", done.count());
    let (start, its) = (area.start, names.clone());
    let sleeper = std::thread::spawn(move || load(start, &its));
    let mut read = readers.map(|reader| reader.join().expect("no panic"));
    // Who reads what is a matter of luck.
    read.sort();
    log.record("messages", read.join(", "));
    log.record("fdinfo", uffd.fdinfo());
    let copied = uffd.copy(area.start, source.start, PAGE, 0);
    log.record("copy", copied);
    log.record("sleeper", sleeper.join().expect("no panic"));
}

/// ptrace() as the kernel has it: what is read goes where `data` points to.
fn ptrace(request: u32, process: libc::pid_t, address: usize, data: usize) -> Answer {
    // SAFETY: The kernel checks the address in the process. The callers point to a word.
    Answer::of(unsafe { libc::syscall(libc::SYS_ptrace, request, process, address, data) })
}

/// A stopped process is looked at, and written to, by its tracer.
fn traced(log: &mut Transcript) {
    for (kind, mode, name, features) in [
        ("anon", MISSING, "none", 0),
        ("anon", WP, "none", 0),
        ("anon", MISSING, "sigbus", UFFD_FEATURE_SIGBUS),
        ("anon", WP, "wp_async", UFFD_FEATURE_WP_ASYNC),
        ("shmem", MISSING, "none", 0),
        ("shmem", WP, "none", 0),
        ("hugetlb", MISSING, "none", 0),
        ("hugetlb", WP, "none", 0),
    ] {
        let area = kind_of(kind).area(0);
        let source = Area::anon(1, area.page / PAGE);
        source.write();
        let (here, there) = UnixStream::pair().expect("there are sockets");
        let child = fork(|| {
            let uffd = Uffd::new(features.into());
            uffd.must_register(area.start, area.len, mode);
            for page in [area.start, area.at(2)] {
                if mode & MISSING != 0 {
                    uffd.copy(page, source.start, area.page, 0);
                } else {
                    write_byte(page, 1);
                    uffd.range(&WRITEPROTECT, page, area.page, 1);
                }
            }
            send(there.as_raw_fd(), uffd.fd());
            ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            // It stops here until it is killed.
            kill(this_process(), libc::SIGSTOP);
        });
        let uffd = Uffd(receive(here.as_raw_fd()));
        let question = |text: &str| format!("{kind},mode={mode},{name},{text}");
        assert!(libc::WIFSTOPPED(wait(child, 0)), "the child stops");
        for (state, page) in [("present", 0), ("missing", 1)] {
            let address = area.at(page);
            let mut word = 0u64;
            let pointer = std::ptr::from_mut(&mut word) as usize;
            let peeked = ptrace(libc::PTRACE_PEEKDATA, child, address, pointer);
            log.record(
                question(&format!("peek of {state}")),
                format!("{peeked} {word:#x}"),
            );
            let poked = ptrace(libc::PTRACE_POKEDATA, child, address, 0x77);
            log.record(question(&format!("poke of {state}")), poked);
        }
        log.record(question("poll"), uffd.poll_now());
        log.record(question("fdinfo"), uffd.fdinfo());
        kill(child, libc::SIGKILL);
        log.record(question("child"), ended(child));
    }
}

/// A process that shares the memory has all rights of a thread of the one that it shares it with.
fn shared_memory_resolves(log: &mut Transcript) {
    catch_signals();
    for (name, flags) in [("vfork", VFORK), ("clone", 0), ("all shared", OTHERS)] {
        let (area, source) = (Area::anon(0, 8), Area::anon(1, 2));
        source.write();
        let names = Names::new(&[("area", &area)]);
        let uffd = Uffd::new(0);
        let (start, half) = (area.start, area.len / 2);
        uffd.must_register(start, half, MISSING);
        let sleepers = [0, 1, 2].map(|page| {
            let (address, its) = (area.at(page), names.clone());
            let sleeper = std::thread::spawn(move || load(address, &its));
            uffd.wait_for_sleepers(page + 1);
            sleeper
        });
        let question = |text: &str| format!("{name},{text}");
        let child = share_memory(flags, || {
            let copied = uffd.copy(start, source.start, PAGE, 0);
            log.record(question("copy"), copied);
            let inputs = [area.at(1), source.at(1), PAGE].map(|value| value as u64);
            let [dst, src, len] = inputs;
            log.record(question("move"), uffd.call(&MOVE, &[dst, src, len, 0]));
            let copied = uffd.copy(area.at(2), source.start, PAGE, DONTWAKE);
            log.record(question("copy dontwake"), copied);
            let woken = uffd.range(&WAKE, area.at(2), PAGE, 0);
            log.record(question("wake"), woken);
            let registered = uffd.register(start + half, half, MISSING | WP);
            log.record(question("register"), registered);
            0
        });
        log.record(question("child"), child);
        log.record(question("fdinfo"), uffd.fdinfo());
        for (page, sleeper) in sleepers.into_iter().enumerate() {
            let loaded = sleeper.join().expect("no panic");
            log.record(question(&format!("sleeper {page}")), loaded);
            log.record(question(&format!("page {page}")), peek(area.at(page)));
        }
        log.record(question("flags"), vm_flags(start + half, &names));
    }
}

/// A thread makes and uses a userfaultfd when the first thread of the process has ended.
fn without_leader(log: &mut Transcript) {
    catch_signals();
    let child = log.fork(|log| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let path = format!("/proc/self/task/{}/stat", std::process::id());
                while !std::fs::read_to_string(&path).is_ok_and(|stat| stat.contains(") Z ")) {
                    std::thread::yield_now();
                }
                use_without_leader(log);
                log.flush();
                exit(0);
            });
            // SAFETY: Only this thread ends. Its memory stays, for the other one.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
    });
    log.record("process", ended(child));
}

fn use_without_leader(log: &mut Transcript) {
    let (area, uffd) = registered();
    let source = Area::anon(1, 1);
    let names = Names::new(&[("area", &area)]);
    let (start, its) = (area.start, names.clone());
    let sleeper = std::thread::spawn(move || {
        touch_by_this_thread();
        load(start, &its)
    });
    let message = wait_for_fault(&uffd);
    log.record("message", describe(&message, &names));
    log.record("fdinfo", uffd.fdinfo());
    let copied = uffd.copy(start, source.start, PAGE, 0);
    log.record("copy", copied);
    log.record("sleeper", sleeper.join().expect("no panic"));
    let unregistered = uffd.range(&UNREGISTER, start, area.len, 0);
    log.record("unregister", unregistered);
}

/// A file of /proc, which gets back what it had when this is dropped.
struct Setting {
    path: &'static str,
    before: String,
}

impl Setting {
    fn new(path: &'static str, value: &str) -> Self {
        let before = std::fs::read_to_string(path).expect("there is the setting");
        assert!(write_file(path, value).is_ok(), "cannot set {path}");
        Self { path, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        write_file(self.path, self.before.trim_end());
    }
}

/// The first bytes of pages that a core dump has of an address.
fn dumped(core: &[u8], address: usize, pages: usize) -> String {
    let number = |at: usize, len: usize| {
        let mut bytes = [0u8; 8];
        bytes[..len].copy_from_slice(&core[at..at + len]);
        u64::from_le_bytes(bytes) as usize
    };
    let (headers, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    for header in (0..count).map(|index| headers + index * size) {
        if number(header + 16, 8) == address {
            let (offset, len) = (number(header + 8, 8), number(header + 32, 8));
            let bytes: Vec<u8> = (0..pages.min(len / PAGE))
                .map(|page| core[offset + page * PAGE])
                .collect();
            return format!("{len:#x} bytes: {bytes:x?}");
        }
    }
    "not in it".into()
}

/// A process with missing and protected pages leaves a core dump.
fn core_dump(log: &mut Transcript) {
    const CORE: &str = "/tmp/uffd-conformance.core";
    catch_signals();
    let _setting = Setting::new("/proc/sys/kernel/core_pattern", CORE);
    for (kind, mode) in [
        ("anon", MISSING),
        ("anon", WP),
        ("anon", MISSING | WP),
        ("shmem", MISSING),
        ("shmem", WP),
    ] {
        for sleeper in [false, true] {
            if sleeper && mode & MISSING == 0 {
                continue;
            }
            let _ = std::fs::remove_file(CORE);
            let area = kind_of(kind).area(0);
            let source = Area::anon(1, 1);
            source.write();
            let names = Names::new(&[("area", &area)]);
            let (here, there) = UnixStream::pair().expect("there are sockets");
            let child = fork(|| {
                let uffd = Uffd::new(0);
                uffd.must_register(area.start, area.len, mode);
                if mode & MISSING != 0 {
                    uffd.copy(area.start, source.start, PAGE, 0);
                    uffd.copy(area.at(2), source.start, PAGE, 0);
                } else {
                    area.write();
                }
                uffd.range(&WRITEPROTECT, area.at(2), PAGE, 1);
                send(there.as_raw_fd(), uffd.fd());
                let (address, its) = (area.at(3), names.clone());
                if sleeper {
                    std::thread::spawn(move || load(address, &its));
                }
                let _ = (&there).read(&mut [0]);
                set_limit(libc::RLIMIT_CORE, libc::RLIM_INFINITY, libc::RLIM_INFINITY);
                std::process::abort();
            });
            let uffd = Uffd(receive(here.as_raw_fd()));
            if sleeper {
                uffd.wait_for_sleepers(1);
            }
            let _ = (&here).write(&[1]);
            let status = wait(child, 0);
            let question = |text: &str| format!("{kind},mode={mode},sleeper={sleeper},{text}");
            log.record(
                question("process"),
                format!(
                    "killed by {}, core {}",
                    libc::WTERMSIG(status),
                    libc::WCOREDUMP(status)
                ),
            );
            let core = std::fs::read(CORE).expect("there is a core");
            log.record(question("core"), dumped(&core, area.start, 4));
            log.record(question("poll"), uffd.poll_now());
            log.record(question("fdinfo"), uffd.fdinfo());
        }
    }
    let _ = std::fs::remove_file(CORE);
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, new) in [("one namespace", false), ("two namespaces", true)] {
        cases.push(Case::new(
            format!("processes/threads of a child/{name}"),
            move |log| numbers_of_child(log, new),
        ));
        cases.push(Case::new(
            format!("processes/threads for a child/{name}"),
            move |log| numbers_for_child(log, new),
        ));
    }
    for (name, features) in FEATURES {
        if matches!(*name, "remap" | "remove") {
            continue;
        }
        for action in CLONES {
            cases.push(Case::new(
                format!("processes/clone/{name}/{}", action.name),
                move |log| {
                    catch_signals();
                    let answer = ask_action(action, "anon", MISSING, u64::from(*features));
                    log.record("answer", answer);
                },
            ));
        }
    }
    cases.push(Case::new("processes/passed on", passed_on));
    cases.push(Case::new("processes/no room", no_room));
    cases.push(Case::new("processes/room for one", room_for_one));
    cases.push(Case::new(
        "processes/shared memory resolves",
        shared_memory_resolves,
    ));
    cases.push(Case::new("processes/without leader", without_leader));
    cases.push(Case::new("processes/traced", traced));
    cases.push(Case::new("processes/core dump", core_dump));
    cases
}
