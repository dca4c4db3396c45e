// SPDX-License-Identifier: GPL-2.0

//! Ways to touch memory, and the signals that come of it.

// The functions below in assembly. Each of them touches its argument and returns 0. The handler of
// signals has them return 1 instead. None of them uses the stack.
#[cfg_attr(target_arch = "x86_64", path = "touch/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "touch/aarch64.rs")]
mod arch;

use crate::{
    memory::{madvise, write_bytes, write_process, Names},
    process::{exit, fork, pipe, this_process, Status},
    sys::{errno_name, iovec, outcome, read_process, Answer, PAGE},
    uffd::TOUCHING,
};
use io_uring::{opcode, squeue::Flags, types, IoUring};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering},
};

extern "C" {
    fn uffd_load(address: usize) -> i32;
    fn uffd_load8(address: usize) -> i32;
    fn uffd_store(address: usize) -> i32;
    fn uffd_store8(address: usize) -> i32;
    fn uffd_add(address: usize) -> i32;
    fn uffd_exec(address: usize) -> i32;
    /// The end of the functions above.
    fn uffd_end();
    fn uffd_recover();
}

/// Where in the page the code is, so that what the other ways write is not executed.
const CODE_OFFSET: usize = 0x80;

/// The last signal for an access.
static SIGNAL: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
static SIGNAL_ADDRESS: AtomicUsize = AtomicUsize::new(0);

/// The page that was executed last. At first it is none: no page has this address.
static EXECUTED: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Whether an instruction is part of an access. Any other one that faults is a defect of the tests.
fn is_access(instruction: usize) -> bool {
    let first = uffd_load as unsafe extern "C" fn(usize) -> i32 as usize;
    let end = uffd_end as unsafe extern "C" fn() as usize;
    (first..end).contains(&instruction)
        || instruction & !(PAGE - 1) == EXECUTED.load(Ordering::Relaxed)
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: The kernel passes valid pointers.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        let instruction = arch::instruction(&mut *context);
        if !is_access(*instruction as usize) {
            libc::abort();
        }
        SIGNAL[0].store(signal, Ordering::Relaxed);
        SIGNAL[1].store((*info).si_code, Ordering::Relaxed);
        SIGNAL_ADDRESS.store((*info).si_addr() as usize, Ordering::Relaxed);
        *instruction = uffd_recover as unsafe extern "C" fn() as usize as _;
    }
}

/// Has the accesses above return 1 if there is a signal.
pub fn catch_signals() {
    // SAFETY: The handler is made for the functions above, and knows them.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        // It comes of a page of zeros, executed, on some architectures.
        libc::sigaction(libc::SIGILL, &action, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Calls one of the functions above.
fn run(function: unsafe extern "C" fn(usize) -> i32, address: usize) -> i32 {
    // SAFETY: Only tests use the memory at the address. If there is none, the signal is handled.
    unsafe { function(address) }
}

/// The same, and says what came of it.
fn touch(function: unsafe extern "C" fn(usize) -> i32, address: usize, names: &Names) -> String {
    if run(function, address) == 0 {
        return "done".into();
    }
    let signal = match SIGNAL[0].load(Ordering::Relaxed) {
        libc::SIGBUS => "SIGBUS",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGILL => "SIGILL",
        _ => "?",
    };
    format!(
        "{signal} code {} at {}",
        SIGNAL[1].load(Ordering::Relaxed),
        names.name(SIGNAL_ADDRESS.load(Ordering::Relaxed) as u64)
    )
}

/// Reads from memory with a load.
pub fn load(address: usize, names: &Names) -> String {
    touch(uffd_load, address, names)
}

/// Writes to memory with a store.
pub fn store(address: usize, names: &Names) -> String {
    touch(uffd_store, address, names)
}

/// A way to touch memory.
pub struct Access {
    pub name: &'static str,
    /// What is done to an address, near which there is a page on either side.
    pub run: fn(usize, &Names) -> String,
    /// The offset in the page.
    pub offset: isize,
}

const fn access(name: &'static str, run: fn(usize, &Names) -> String) -> Access {
    Access {
        name,
        run,
        offset: 0x10,
    }
}

/// Like [`access`], of the end of a page and the beginning of the next one.
const fn across(name: &'static str, run: fn(usize, &Names) -> String) -> Access {
    Access {
        name,
        run,
        offset: -4,
    }
}

/// Runs something in a child, and says with which errno it ended.
fn in_child(run: impl FnOnce(libc::pid_t) -> i32) -> String {
    let parent = this_process();
    match Status::of(fork(|| exit(run(parent)))) {
        Status::Signal(signal) => format!("killed by {signal}"),
        Status::Code(0) => "0".into(),
        Status::Code(code) => errno_name(code),
    }
}

/// The errno of a call, or 0.
fn status(answer: Answer) -> i32 {
    answer.0.err().unwrap_or(0)
}

/// Completes one request of io_uring.
fn ring(entry: io_uring::squeue::Entry) -> String {
    let mut ring = IoUring::new(4).expect("there is io_uring");
    // SAFETY: The request is over before its buffer goes.
    unsafe { ring.submission().push(&entry).expect("there is room") };
    if let Err(err) = ring.submit_and_wait(1) {
        return errno_name(err.raw_os_error().unwrap_or(0));
    }
    let result = ring
        .completion()
        .next()
        .map_or(i32::MIN, |entry| entry.result());
    if result < 0 {
        errno_name(-result)
    } else {
        result.to_string()
    }
}

const TEXT: &[u8] = b"12345678";

/// A pipe with something to read.
fn full_pipe() -> (File, File) {
    let (reader, mut writer) = pipe();
    let _ = writer.write(TEXT);
    (reader, writer)
}

fn zeros() -> File {
    File::open("/dev/zero").expect("there is /dev/zero")
}

/// How much was read or written, or the error.
fn transferred(result: io::Result<usize>) -> String {
    match result {
        Ok(count) => count.to_string(),
        Err(err) => errno_name(err.raw_os_error().unwrap_or(0)),
    }
}

/// Makes a system call on memory at an address of an access.
macro_rules! call {
    ($name:ident($($argument:expr),*)) => {
        // SAFETY: Nothing of Rust's is at the address, which the kernel checks. All other
        // arguments are numbers, or buffers that are there until the call returns.
        outcome(unsafe { libc::$name($($argument),*) })
    };
}

pub const ACCESSES: &[Access] = &[
    access("load", |a, n| touch(uffd_load, a, n)),
    access("store", |a, n| touch(uffd_store, a, n)),
    access("locked add", |a, n| touch(uffd_add, a, n)),
    Access {
        name: "exec",
        run: |a, n| {
            EXECUTED.store(a & !(PAGE - 1), Ordering::Relaxed);
            touch(uffd_exec, a, n)
        },
        offset: CODE_OFFSET as isize,
    },
    across("load across", |a, n| touch(uffd_load8, a, n)),
    across("store across", |a, n| touch(uffd_store8, a, n)),
    access("read", |a, _| {
        let (reader, _writer) = full_pipe();
        call!(read(reader.as_raw_fd(), a as _, 8))
    }),
    across("read across", |a, _| {
        let (reader, _writer) = full_pipe();
        call!(read(reader.as_raw_fd(), a as _, 8))
    }),
    access("write", |a, _| {
        let (_reader, writer) = pipe();
        call!(write(writer.as_raw_fd(), a as _, 8))
    }),
    across("write across", |a, _| {
        let (_reader, writer) = pipe();
        call!(write(writer.as_raw_fd(), a as _, 8))
    }),
    access("read of zeros", |a, _| {
        call!(read(zeros().as_raw_fd(), a as _, 8))
    }),
    access("getrandom", |a, _| call!(getrandom(a as _, 8, 0))),
    access("futex wait", |a, _| {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 1,
        };
        call!(syscall(
            libc::SYS_futex,
            a,
            libc::FUTEX_WAIT,
            0x1234_5678,
            &time
        ))
    }),
    access("futex wake", |a, _| {
        call!(syscall(libc::SYS_futex, a, libc::FUTEX_WAKE, 1))
    }),
    access("futex wake op", |a, _| {
        const ADD_ONE: u64 = 1 << 28 | 1 << 12;
        call!(syscall(
            libc::SYS_futex,
            a,
            libc::FUTEX_WAKE_OP,
            1,
            0u64,
            a,
            ADD_ONE
        ))
    }),
    access("futex lock", |a, _| {
        call!(syscall(libc::SYS_futex, a, libc::FUTEX_TRYLOCK_PI, 0))
    }),
    access("readv", |a, _| call!(readv(zeros().as_raw_fd(), a as _, 1))),
    access("process_vm_readv", |a, _| {
        let mut bytes = [0u8; 8];
        let (local, remote) = (iovec(bytes.as_mut_ptr() as usize, 8), iovec(a, 8));
        call!(process_vm_readv(this_process(), &local, 1, &remote, 1, 0))
    }),
    access("process_vm_writev", |a, _| {
        let bytes = [7u8; 8];
        let (local, remote) = (iovec(bytes.as_ptr() as usize, 8), iovec(a, 8));
        call!(process_vm_writev(this_process(), &local, 1, &remote, 1, 0))
    }),
    access("read by a child", |a, _| {
        in_child(|parent| status(read_process(parent, a, &mut [0; 8])))
    }),
    access("write by a child", |a, _| {
        in_child(|parent| status(write_process(parent, a, &[7; 8])))
    }),
    access("load in a child", |a, _| in_child(|_| run(uffd_load, a))),
    access("store in a child", |a, _| in_child(|_| run(uffd_store, a))),
    access("/proc/self/mem read", |a, _| {
        let mem = File::open("/proc/self/mem").expect("there is /proc/self/mem");
        transferred(mem.read_at(&mut [0; 8], a as u64))
    }),
    access("/proc/self/mem write", |a, _| {
        let mem = File::options()
            .write(true)
            .open("/proc/self/mem")
            .expect("there is /proc/self/mem");
        transferred(mem.write_at(&[0x33; 8], a as u64))
    }),
    access("vmsplice", |a, _| {
        let (_reader, writer) = pipe();
        call!(vmsplice(writer.as_raw_fd(), &iovec(a, 8), 1, 0))
    }),
    access("vmsplice out", |a, _| {
        let (reader, _writer) = full_pipe();
        call!(vmsplice(reader.as_raw_fd(), &iovec(a, 8), 1, 0))
    }),
    access("io_uring read", |a, _| {
        let zero = zeros();
        ring(opcode::Read::new(types::Fd(zero.as_raw_fd()), a as _, 8).build())
    }),
    access("io_uring write", |a, _| {
        let (_reader, writer) = pipe();
        ring(opcode::Write::new(types::Fd(writer.as_raw_fd()), a as _, 8).build())
    }),
    access("io_uring read in a worker", |a, _| {
        let zero = zeros();
        let read = opcode::Read::new(types::Fd(zero.as_raw_fd()), a as _, 8).build();
        ring(read.flags(Flags::ASYNC))
    }),
    access("io_uring write in a worker", |a, _| {
        let (_reader, writer) = pipe();
        let write = opcode::Write::new(types::Fd(writer.as_raw_fd()), a as _, 8).build();
        ring(write.flags(Flags::ASYNC))
    }),
    access("io_uring fixed buffer", |a, _| {
        let ring = IoUring::new(4).expect("there is io_uring");
        // SAFETY: Nothing of Rust's is at the address, and no request uses it.
        let registered = unsafe { ring.submitter().register_buffers(&[iovec(a, 8)]) };
        transferred(registered.map(|()| 0))
    }),
    access("mlock", |a, _| {
        let answer = call!(mlock(a as _, 8));
        call!(munlock(a as _, 8));
        answer
    }),
    access("mlock on fault", |a, _| {
        let answer = call!(mlock2(a as _, 8, libc::MLOCK_ONFAULT as _));
        call!(munlock(a as _, 8));
        answer
    }),
    access("populate read", |a, _| advise(a, libc::MADV_POPULATE_READ)),
    access("populate write", |a, _| {
        advise(a, libc::MADV_POPULATE_WRITE)
    }),
    access("madvise willneed", |a, _| advise(a, libc::MADV_WILLNEED)),
    access("mincore", |a, _| {
        // A page of this program, of which the kernel writes one byte.
        let page = touch as *const () as usize & !(PAGE - 1);
        call!(mincore(page as _, PAGE, a as _))
    }),
    access("stat", |a, _| call!(stat(c"/".as_ptr(), a as _))),
    access("open", |a, _| {
        // SAFETY: As in the macro above.
        let fd = unsafe { libc::open(a as _, libc::O_RDONLY) };
        match Answer::of(fd) {
            Answer(Ok(_)) => "opened".into(),
            answer => answer.to_string(),
        }
    }),
    access("clock_gettime", |a, _| {
        call!(syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, a))
    }),
    access("send", |a, _| {
        let (one, _two) = UnixStream::pair().expect("there are sockets");
        call!(send(one.as_raw_fd(), a as _, 8, 0))
    }),
    access("recv", |a, _| {
        let (mut one, two) = UnixStream::pair().expect("there are sockets");
        let _ = one.write(TEXT);
        call!(recv(two.as_raw_fd(), a as _, 8, 0))
    }),
    access("poll", |a, _| call!(poll(a as _, 1, 0))),
    access("pipe", |a, _| call!(pipe(a as _))),
    access("sigprocmask", |a, _| {
        call!(syscall(
            libc::SYS_rt_sigprocmask,
            0,
            std::ptr::null::<u8>(),
            a,
            8
        ))
    }),
    access("sched_getaffinity", |a, _| {
        call!(syscall(libc::SYS_sched_getaffinity, 0, 8, a))
    }),
    access("uname", |a, _| call!(uname(a as _))),
];

fn advise(address: usize, advice: i32) -> String {
    madvise(address & !(PAGE - 1), PAGE, advice).to_string()
}

/// Fills pages with something that can be executed.
pub fn fill(start: usize, len: usize) {
    for page in (start..start + len).step_by(PAGE) {
        write_bytes(page + CODE_OFFSET, &arch::CODE);
    }
}

/// How often [`interrupt`] was noticed.
static INTERRUPTED: AtomicU32 = AtomicU32::new(0);

/// Has [`interrupt`] be counted, by a handler with some flags.
pub fn count_interrupts(flags: i32) {
    extern "C" fn count(_: i32) {
        INTERRUPTED.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: The handler does nothing that is not allowed in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
    }
    INTERRUPTED.store(0, Ordering::Relaxed);
}

/// How often a handler has run.
pub fn interrupts() -> u32 {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sends a signal to the thread that called [`touch_by_this_thread`].
///
/// [`touch_by_this_thread`]: crate::uffd::touch_by_this_thread
pub fn interrupt() {
    let thread = TOUCHING.load(Ordering::Relaxed);
    // SAFETY: No pointers are involved.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR1) };
    assert_eq!(sent, 0, "the signal cannot be sent");
}

/// The same, and waits until a handler has run.
pub fn interrupt_and_wait() {
    let before = interrupts();
    interrupt();
    while interrupts() == before {
        std::thread::yield_now();
    }
}
