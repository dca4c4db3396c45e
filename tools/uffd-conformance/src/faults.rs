// SPDX-License-Identifier: GPL-2.0

//! Faults: each way to touch memory, on each kind of memory, with each feature.

use crate::{
    book::{pipe, Book, Case},
    events::fork_with,
    failures::ended,
    limits::{MINOR, MISSING, WP},
    memory::{kind_of, pagemap, Area, Names, MIB},
    messages::{receive, send, sleeping_thread},
    sys::{self, drop_ptrace, errno, errno_name, Answer, PAGE},
    uffd::{
        describe, touch_by_this_thread, Call, Uffd, CONTINUE, MOVE, POISON, TOUCHING, UNREGISTER,
        WAKE, WRITEPROTECT, WRITEPROTECT_DONTWAKE, WRITEPROTECT_WP, ZEROPAGE,
    },
};
use io_uring::{opcode, squeue::Flags, types, IoUring};
use linux_raw_sys::general::*;
use std::{
    arch::global_asm,
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    sync::atomic::{AtomicI32, AtomicU32, AtomicUsize, Ordering},
    time::Duration,
};

// Each of these touches its argument with its first instruction and returns 0. The handler of
// signals has them return 1 instead. None of them uses the stack. A page of zeros, executed, writes
// to where rax points.
global_asm!(
    ".globl uffd_load, uffd_load8, uffd_store, uffd_store8, uffd_add, uffd_exec",
    ".globl uffd_end, uffd_recover",
    "uffd_load: mov al, byte ptr [rdi]; xor eax, eax; ret",
    "uffd_load8: mov rax, qword ptr [rdi]; xor eax, eax; ret",
    "uffd_store: mov byte ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_store8: mov qword ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_add: lock add dword ptr [rdi], 1; xor eax, eax; ret",
    "uffd_exec: xor eax, eax; jmp rdi",
    "uffd_end:",
    "uffd_recover: mov eax, 1; ret",
);

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

/// What a page to execute holds: `xor eax, eax; ret`.
const CODE: [u8; 3] = [0x31, 0xc0, 0xc3];

/// Where in the page, so that what the other ways write does not get executed.
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
        let instruction = &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize];
        if !is_access(*instruction as usize) {
            libc::abort();
        }
        SIGNAL[0].store(signal, Ordering::Relaxed);
        SIGNAL[1].store((*info).si_code, Ordering::Relaxed);
        SIGNAL_ADDRESS.store((*info).si_addr() as usize, Ordering::Relaxed);
        *instruction = uffd_recover as unsafe extern "C" fn() as usize as i64;
    }
}

/// Has the accesses above return 1 where there is a signal.
pub fn catch_signals() {
    // SAFETY: The handler is made for the functions above, and knows them.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(_, _, _) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        libc::sigaction(libc::SIGSEGV, &action, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Calls one of the functions above.
fn touch(function: unsafe extern "C" fn(usize) -> i32, address: usize, names: &Names) -> String {
    // SAFETY: The address is one of the tests' memory, or the signal is handled.
    if unsafe { function(address) } == 0 {
        return "done".into();
    }
    let signal = match SIGNAL[0].load(Ordering::Relaxed) {
        libc::SIGBUS => "SIGBUS",
        libc::SIGSEGV => "SIGSEGV",
        _ => "?",
    };
    format!(
        "{signal} code {} at {}",
        SIGNAL[1].load(Ordering::Relaxed),
        names.name(SIGNAL_ADDRESS.load(Ordering::Relaxed) as u64)
    )
}

/// Reads from memory with a load. For other chapters.
pub fn load(address: usize, names: &Names) -> String {
    touch(uffd_load, address, names)
}

/// Writes to memory with a store. For other chapters.
pub fn store(address: usize, names: &Names) -> String {
    touch(uffd_store, address, names)
}

/// A way to touch memory.
pub struct Access {
    pub name: &'static str,
    /// What is done to an address, near which there is a page on either side.
    run: fn(usize, &Names) -> String,
    /// Where in the page.
    offset: isize,
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

/// Writes down what a system call returned.
fn told(value: impl TryInto<i64>) -> String {
    Answer::of(value).to_string()
}

fn iovec(address: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: address as _,
        iov_len: len,
    }
}

/// Runs something in a child, and returns its status.
fn in_child(run: impl FnOnce(libc::pid_t) -> i32) -> String {
    // SAFETY: The child makes system calls only.
    unsafe {
        let parent = libc::getpid();
        let child = sys::fork();
        if child == 0 {
            libc::_exit(run(parent));
        }
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        if libc::WIFSIGNALED(status) {
            return format!("killed by {}", libc::WTERMSIG(status));
        }
        let code = libc::WEXITSTATUS(status);
        if code == 0 {
            "0".into()
        } else {
            errno_name(code)
        }
    }
}

/// The errno of a call, or 0.
fn status(value: isize) -> i32 {
    if value < 0 {
        errno()
    } else {
        0
    }
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

// SAFETY (of all blocks below): the addresses are in memory of the tests, of which nothing of
// Rust's is part, and the kernel checks them.
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
        let (reader, mut writer) = pipe();
        let _ = writer.write(b"12345678");
        told(unsafe { libc::read(reader.as_raw_fd(), a as _, 8) })
    }),
    across("read across", |a, _| {
        let (reader, mut writer) = pipe();
        let _ = writer.write(b"12345678");
        told(unsafe { libc::read(reader.as_raw_fd(), a as _, 8) })
    }),
    access("write", |a, _| {
        let (_reader, writer) = pipe();
        told(unsafe { libc::write(writer.as_raw_fd(), a as _, 8) })
    }),
    across("write across", |a, _| {
        let (_reader, writer) = pipe();
        told(unsafe { libc::write(writer.as_raw_fd(), a as _, 8) })
    }),
    access("read of zeros", |a, _| {
        let zero = File::open("/dev/zero").expect("there is /dev/zero");
        told(unsafe { libc::read(zero.as_raw_fd(), a as _, 8) })
    }),
    access("getrandom", |a, _| {
        told(unsafe { libc::getrandom(a as _, 8, 0) })
    }),
    access("futex wait", |a, _| {
        let time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 1,
        };
        told(unsafe { libc::syscall(libc::SYS_futex, a, libc::FUTEX_WAIT, 0x1234_5678, &time) })
    }),
    access("futex wake", |a, _| {
        told(unsafe { libc::syscall(libc::SYS_futex, a, libc::FUTEX_WAKE, 1) })
    }),
    access("futex wake op", |a, _| {
        const ADD_ONE: u64 = 1 << 28 | 1 << 12;
        told(unsafe { libc::syscall(libc::SYS_futex, a, libc::FUTEX_WAKE_OP, 1, 0u64, a, ADD_ONE) })
    }),
    access("futex lock", |a, _| {
        told(unsafe { libc::syscall(libc::SYS_futex, a, libc::FUTEX_TRYLOCK_PI, 0) })
    }),
    access("readv", |a, _| {
        let zero = File::open("/dev/zero").expect("there is /dev/zero");
        told(unsafe { libc::readv(zero.as_raw_fd(), a as _, 1) })
    }),
    access("process_vm_readv", |a, _| {
        let mut byte = [0u8; 8];
        let (local, remote) = (iovec(byte.as_mut_ptr() as usize, 8), iovec(a, 8));
        told(unsafe { libc::process_vm_readv(libc::getpid(), &local, 1, &remote, 1, 0) })
    }),
    access("process_vm_writev", |a, _| {
        let byte = [7u8; 8];
        let (local, remote) = (iovec(byte.as_ptr() as usize, 8), iovec(a, 8));
        told(unsafe { libc::process_vm_writev(libc::getpid(), &local, 1, &remote, 1, 0) })
    }),
    access("read by a child", |a, _| {
        in_child(|parent| unsafe {
            let mut byte = [0u8; 8];
            let (local, remote) = (iovec(byte.as_mut_ptr() as usize, 8), iovec(a, 8));
            status(libc::process_vm_readv(parent, &local, 1, &remote, 1, 0))
        })
    }),
    access("write by a child", |a, _| {
        in_child(|parent| unsafe {
            let byte = [7u8; 8];
            let (local, remote) = (iovec(byte.as_ptr() as usize, 8), iovec(a, 8));
            status(libc::process_vm_writev(parent, &local, 1, &remote, 1, 0))
        })
    }),
    access("load in a child", |a, _| {
        in_child(|_| unsafe { uffd_load(a) })
    }),
    access("store in a child", |a, _| {
        in_child(|_| unsafe { uffd_store(a) })
    }),
    access("/proc/self/mem read", |a, _| {
        let mem = File::open("/proc/self/mem").expect("there is /proc/self/mem");
        match mem.read_at(&mut [0; 8], a as u64) {
            Ok(read) => read.to_string(),
            Err(err) => errno_name(err.raw_os_error().unwrap_or(0)),
        }
    }),
    access("/proc/self/mem write", |a, _| {
        let mem = File::options()
            .write(true)
            .open("/proc/self/mem")
            .expect("there is /proc/self/mem");
        match mem.write_at(&[0x33; 8], a as u64) {
            Ok(written) => written.to_string(),
            Err(err) => errno_name(err.raw_os_error().unwrap_or(0)),
        }
    }),
    access("vmsplice", |a, _| {
        let (_reader, writer) = pipe();
        told(unsafe { libc::vmsplice(writer.as_raw_fd(), &iovec(a, 8), 1, 0) })
    }),
    access("vmsplice out", |a, _| {
        let (reader, mut writer) = pipe();
        let _ = writer.write(b"12345678");
        told(unsafe { libc::vmsplice(reader.as_raw_fd(), &iovec(a, 8), 1, 0) })
    }),
    access("io_uring read", |a, _| {
        let zero = File::open("/dev/zero").expect("there is /dev/zero");
        ring(opcode::Read::new(types::Fd(zero.as_raw_fd()), a as _, 8).build())
    }),
    access("io_uring write", |a, _| {
        let (_reader, writer) = pipe();
        ring(opcode::Write::new(types::Fd(writer.as_raw_fd()), a as _, 8).build())
    }),
    access("io_uring read in a worker", |a, _| {
        let zero = File::open("/dev/zero").expect("there is /dev/zero");
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
        match unsafe { ring.submitter().register_buffers(&[iovec(a, 8)]) } {
            Ok(()) => "0".into(),
            Err(err) => errno_name(err.raw_os_error().unwrap_or(0)),
        }
    }),
    access("mlock", |a, _| {
        let answer = told(unsafe { libc::mlock(a as _, 8) });
        unsafe { libc::munlock(a as _, 8) };
        answer
    }),
    access("mlock on fault", |a, _| {
        let answer = told(unsafe { libc::mlock2(a as _, 8, libc::MLOCK_ONFAULT as _) });
        unsafe { libc::munlock(a as _, 8) };
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
        told(unsafe { libc::mincore(page as _, PAGE, a as _) })
    }),
    access("stat", |a, _| {
        told(unsafe { libc::stat(c"/".as_ptr(), a as _) })
    }),
    access("open", |a, _| {
        let fd = unsafe { libc::open(a as _, libc::O_RDONLY) };
        if fd >= 0 {
            "opened".into()
        } else {
            told(fd)
        }
    }),
    access("clock_gettime", |a, _| {
        told(unsafe { libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_MONOTONIC, a) })
    }),
    access("send", |a, _| {
        let (one, _two) = UnixStream::pair().expect("there are sockets");
        told(unsafe { libc::send(one.as_raw_fd(), a as _, 8, 0) })
    }),
    access("recv", |a, _| {
        let (mut one, two) = UnixStream::pair().expect("there are sockets");
        let _ = one.write(b"12345678");
        told(unsafe { libc::recv(two.as_raw_fd(), a as _, 8, 0) })
    }),
    access("poll", |a, _| told(unsafe { libc::poll(a as _, 1, 0) })),
    access("pipe", |a, _| told(unsafe { libc::pipe(a as _) })),
    access("sigprocmask", |a, _| {
        told(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, 0, std::ptr::null::<u8>(), a, 8) })
    }),
    access("sched_getaffinity", |a, _| {
        told(unsafe { libc::syscall(libc::SYS_sched_getaffinity, 0, 8, a) })
    }),
    access("uname", |a, _| told(unsafe { libc::uname(a as _) })),
];

fn advise(address: usize, advice: i32) -> String {
    // SAFETY: The range is memory of the tests.
    told(unsafe { libc::madvise((address & !(PAGE - 1)) as _, PAGE, advice) })
}

/// What the faults are about: an area that is registered, and how it is made ready.
pub struct Scene {
    pub uffd: Uffd,
    pub area: Area,
    source: Area,
    pub names: Names,
    mode: u64,
    /// Another mapping of the same file, by which pages get there.
    alias: Option<Area>,
}

impl Scene {
    fn new(kind: &'static str, mode: u64, features: u64, flags: i32) -> Self {
        Self::of(Area::basic(kind_of(kind), 0), mode, features, flags)
    }

    /// Registers an area, which can be executed after this.
    pub fn of(area: Area, mode: u64, features: u64, flags: i32) -> Self {
        // SAFETY: The area is memory of the tests.
        unsafe {
            let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            libc::mprotect(area.pointer(), area.len, all);
        }
        let alias = (mode & MINOR != 0).then(|| area.alias(2));
        let source = Area::anon(1, area.page / PAGE);
        let names = Names::new(&[("area", &area)]);
        let scene = Self {
            uffd: Uffd::with(libc::O_CLOEXEC | libc::O_NONBLOCK | flags, features),
            area,
            source,
            names,
            mode,
            alias,
        };
        fill(scene.source.start, scene.source.len);
        let called = scene.uffd.register(scene.area.start, scene.area.len, mode);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        scene
    }

    /// Puts the area into the state in which its first pages fault as the mode says.
    fn reset(&self, populated: bool) {
        let (start, len) = (self.area.start, 4 * self.area.page.min(self.area.len / 4));
        self.uffd.range(&WRITEPROTECT, start, self.area.len, 0);
        self.area.madvise(libc::MADV_DONTNEED);
        if let (Some(file), None) = (&self.area.file, &self.alias) {
            // SAFETY: No pointers are involved.
            let answer = told(unsafe {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                libc::fallocate(file.as_raw_fd(), mode, 0, self.area.len as i64)
            });
            assert_eq!(answer, "0", "the file cannot be emptied");
        }
        if let Some(alias) = &self.alias {
            // What was written before is of no interest.
            alias.madvise(libc::MADV_REMOVE);
            fill(alias.start, len);
            alias.madvise(libc::MADV_DONTNEED);
        } else if populated {
            for page in 0..4 {
                self.uffd
                    .copy(self.area.at(page), self.source.start, self.area.page, 0);
            }
            fill_if_absent(&self.area);
        }
        if self.mode & WP != 0 {
            self.uffd.range(&WRITEPROTECT, start, self.area.len, 1);
        }
    }

    /// Resolves what a message is about.
    fn resolve(&self, message: &uffd_msg) {
        // SAFETY: The event is a fault, or the address is nonsense that an ioctl refuses.
        let (flags, address) = unsafe {
            (
                message.arg.pagefault.flags as u32,
                message.arg.pagefault.address as usize,
            )
        };
        let page = address & !(self.area.page - 1);
        if flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 {
            self.uffd.range(&CONTINUE, page, self.area.page, 0);
        } else if flags & UFFD_PAGEFAULT_FLAG_WP != 0 {
            self.uffd.range(&WRITEPROTECT, page, self.area.page, 0);
        } else {
            self.uffd.copy(page, self.source.start, self.area.page, 0);
        }
    }

    /// Has a thread touch the area, and writes down the messages and how it ended.
    fn ask(&self, access: &Access) -> String {
        // Between two pages, so that those which go across touch both.
        self.ask_at(access, self.area.start + self.area.page)
    }

    /// The same at the beginning of a page.
    pub fn ask_at(&self, access: &Access, page: usize) -> String {
        let address = page.wrapping_add_signed(access.offset);
        let done = eventfd();
        let (done_fd, run, names) = (done.as_raw_fd(), access.run, self.names.clone());
        let thread = std::thread::spawn(move || {
            touch_by_this_thread();
            let answer = run(address, &names);
            let one = 1u64.to_ne_bytes();
            // SAFETY: The descriptor is open until this thread is joined.
            unsafe { libc::write(done_fd, one.as_ptr().cast(), 8) };
            answer
        });
        let mut text = String::new();
        for _ in 0..16 {
            match first_ready(self.uffd.fd(), done_fd) {
                Ready::Message => match self.uffd.read() {
                    Ok(message) => {
                        text.push_str(&format!("{}, ", describe(&message, &self.names)));
                        self.resolve(&message);
                    }
                    Err(answer) => text.push_str(&format!("read {answer}, ")),
                },
                Ready::Done => {
                    let answer = thread.join().expect("the thread does not panic");
                    return format!(
                        "{text}{answer}; {} {}",
                        pagemap(page - self.area.page),
                        pagemap(page)
                    );
                }
                Ready::Nothing => break,
            }
        }
        panic!("{} is stuck after {text}", access.name);
    }
}

/// A counter that a thread can wait for.
pub fn eventfd() -> File {
    // SAFETY: The call returns a new descriptor.
    unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
}

/// What happened first.
enum Ready {
    Message,
    Done,
    Nothing,
}

fn first_ready(uffd: i32, done: i32) -> Ready {
    let mut fds = [uffd, done].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: There are two entries.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, 10_000) };
    match fds.map(|fd| fd.revents) {
        [0, 0] => Ready::Nothing,
        [0, _] => Ready::Done,
        _ => Ready::Message,
    }
}

/// Fills pages with something that can be executed.
pub fn fill(start: usize, len: usize) {
    for page in (start..start + len).step_by(PAGE) {
        // SAFETY: The range is memory of the tests.
        unsafe {
            let code = (page + CODE_OFFSET) as *mut u8;
            std::ptr::copy_nonoverlapping(CODE.as_ptr(), code, CODE.len())
        };
    }
}

/// Writes the first pages of an area that is not registered for missing pages.
fn fill_if_absent(area: &Area) {
    for page in 0..4.min(area.pages()) {
        if !pagemap(area.at(page)).contains('P') {
            fill(area.at(page), PAGE);
        }
    }
}

/// Whether what the mode asks for is there at the beginning.
#[derive(Copy, Clone)]
pub struct Setup {
    pub kind: &'static str,
    pub mode: u64,
    pub populated: bool,
}

const fn setup(kind: &'static str, mode: u64, populated: bool) -> Setup {
    Setup {
        kind,
        mode,
        populated,
    }
}

pub const SETUPS: &[Setup] = &[
    setup("anon", MISSING, false),
    setup("anon", WP, true),
    setup("anon", WP, false),
    setup("anon", MISSING | WP, false),
    setup("shmem", MISSING, false),
    setup("shmem", WP, true),
    setup("shmem", WP, false),
    setup("shmem", MINOR, true),
    setup("shmem", MISSING | MINOR, true),
    setup("shmem-private", MISSING, false),
    setup("shmem-private", WP, true),
    setup("hugetlb", MISSING, false),
    setup("hugetlb", WP, true),
    setup("hugetlb-memfd", MINOR, true),
    setup("hugetlb-memfd", MISSING | WP, false),
];

pub const FEATURES: &[(&str, u32)] = &[
    ("none", 0),
    ("sigbus", UFFD_FEATURE_SIGBUS),
    ("thread_id", UFFD_FEATURE_THREAD_ID),
    ("exact_address", UFFD_FEATURE_EXACT_ADDRESS),
    ("wp_unpopulated", UFFD_FEATURE_WP_UNPOPULATED),
    ("wp_async", UFFD_FEATURE_WP_ASYNC),
];

/// With the features that have little to do with how memory is touched, these are enough.
const FEW: usize = 9;

pub fn ask_setup(book: &mut Book, setup: Setup, features: u32, user_only: bool) {
    catch_signals();
    let flags = if user_only {
        drop_ptrace();
        UFFD_USER_MODE_ONLY as i32
    } else {
        0
    };
    let scene = Scene::new(setup.kind, setup.mode, features.into(), flags);
    let few = match features {
        0 => false,
        UFFD_FEATURE_SIGBUS => setup.kind != "anon" || user_only,
        UFFD_FEATURE_THREAD_ID
        | UFFD_FEATURE_EXACT_ADDRESS
        | UFFD_FEATURE_WP_UNPOPULATED
        | UFFD_FEATURE_WP_ASYNC => !matches!(setup.kind, "anon" | "shmem") || user_only,
        _ => true,
    };
    for access in &ACCESSES[..if few { FEW } else { ACCESSES.len() }] {
        scene.reset(setup.populated);
        book.ask(access.name, scene.ask(access));
    }
}

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

/// The mode in which nobody is woken, but for write protection.
pub const DONTWAKE: u64 = UFFDIO_COPY_MODE_DONTWAKE as u64;

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
        told(unsafe { libc::dup2(2, s.uffd.fd()) }.min(0))
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
        told(unsafe { libc::munmap(s.area.pointer(), s.area.len) })
    }),
    act("mprotect", |s| {
        told(unsafe { libc::mprotect(s.area.pointer(), s.area.page, libc::PROT_NONE) })
    }),
    act("dontneed", |s| {
        told(unsafe { libc::madvise(s.area.pointer(), s.area.page, libc::MADV_DONTNEED) })
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

/// Sends a signal to the thread that said [`touch_by_this_thread`].
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
        let child = unsafe { sys::fork() };
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

/// Whether a thread ends. That it sleeps cannot be known for sure, only waited for.
pub fn ends_soon<T>(thread: &std::thread::JoinHandle<T>) -> bool {
    for _ in 0..200 {
        if thread.is_finished() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

impl Scene {
    /// Resolves whatever comes until a thread has ended.
    fn resolve_all<T>(&self, thread: &std::thread::JoinHandle<T>) {
        while !thread.is_finished() {
            self.uffd.poll(5);
            if let Ok(message) = self.uffd.read() {
                self.resolve(&message);
            }
        }
    }
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
