// SPDX-License-Identifier: GPL-2.0

//! Faults: each way to touch memory, on each kind of memory, with each feature.

use crate::{
    book::{pipe, Book, Case},
    limits::{MINOR, MISSING, WP},
    memory::{kind_of, pagemap, Area, Names},
    sys::{drop_ptrace, errno, errno_name, Answer, PAGE},
    uffd::{describe, touch_by_this_thread, Uffd, CONTINUE, WRITEPROTECT},
};
use io_uring::{opcode, squeue::Flags, types, IoUring};
use linux_raw_sys::general::*;
use std::{
    arch::global_asm,
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::{fs::FileExt, net::UnixStream},
    },
    sync::atomic::{AtomicI32, AtomicUsize, Ordering},
    time::Duration,
};

// Each of these touches its argument with its first instruction and returns 0. The handler of
// signals has them return 1 instead. None of them uses the stack. A page of zeros, executed, writes
// to where rax points.
global_asm!(
    ".globl uffd_load, uffd_load8, uffd_store, uffd_store8, uffd_add, uffd_exec, uffd_recover",
    "uffd_load: mov al, byte ptr [rdi]; xor eax, eax; ret",
    "uffd_load8: mov rax, qword ptr [rdi]; xor eax, eax; ret",
    "uffd_store: mov byte ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_store8: mov qword ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_add: lock add dword ptr [rdi], 1; xor eax, eax; ret",
    "uffd_exec: xor eax, eax; jmp rdi",
    "uffd_recover: mov eax, 1; ret",
);

extern "C" {
    fn uffd_load(address: usize) -> i32;
    fn uffd_load8(address: usize) -> i32;
    fn uffd_store(address: usize) -> i32;
    fn uffd_store8(address: usize) -> i32;
    fn uffd_add(address: usize) -> i32;
    fn uffd_exec(address: usize) -> i32;
    fn uffd_recover();
}

/// What a page to execute holds: `xor eax, eax; ret`.
const CODE: [u8; 3] = [0x31, 0xc0, 0xc3];

/// Where in the page, so that what the other ways write does not get executed.
const CODE_OFFSET: usize = 0x80;

/// The last signal for an access.
static SIGNAL: [AtomicI32; 2] = [AtomicI32::new(0), AtomicI32::new(0)];
static SIGNAL_ADDRESS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: The kernel passes valid pointers.
    unsafe {
        SIGNAL[0].store(signal, Ordering::Relaxed);
        SIGNAL[1].store((*info).si_code, Ordering::Relaxed);
        SIGNAL_ADDRESS.store((*info).si_addr() as usize, Ordering::Relaxed);
        let context = context.cast::<libc::ucontext_t>();
        (*context).uc_mcontext.gregs[libc::REG_RIP as usize] =
            uffd_recover as unsafe extern "C" fn() as usize as i64;
    }
}

/// Has the accesses above return 1 where there is a signal.
pub fn catch_signals() {
    // SAFETY: The handler is made for the functions above, and no other code of the tests faults.
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
        let child = libc::fork();
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
        run: |a, n| touch(uffd_exec, a, n),
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
        _ => true,
    };
    for access in &ACCESSES[..if few { FEW } else { ACCESSES.len() }] {
        scene.reset(setup.populated);
        book.ask(access.name, scene.ask(access));
    }
}

/// What a fault finds after each ioctl has been there.
fn after_operations(book: &mut Book) {
    use crate::uffd::{POISON, UNREGISTER, ZEROPAGE};
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

/// A thread that sleeps in a fault, and what happens to it.
fn sleepers(book: &mut Book) {
    use crate::uffd::{UNREGISTER, WAKE};
    catch_signals();
    for read in [false, true] {
        for (name, act) in [
            ("wake", 0),
            ("wake of another page", 1),
            ("unregister", 2),
            ("close", 3),
            ("copy dontwake", 4),
            ("copy of another page", 5),
            ("munmap", 6),
            ("mprotect", 7),
            ("dontneed", 8),
            ("poison", 9),
            ("mremap", 10),
        ] {
            let scene = Scene::new("anon", MISSING, 0, 0);
            let (start, address) = (scene.area.start, scene.area.start + 0x10);
            let names = scene.names.clone();
            let thread = std::thread::spawn(move || load(address, &names));
            scene.uffd.wait_for_sleepers(1);
            let question = |text: &str| format!("{name},read={read},{text}");
            if read {
                let message = scene.uffd.read().expect("there is a message");
                book.ask(question("message"), describe(&message, &scene.names));
            }
            book.ask(question("fdinfo before"), scene.uffd.fdinfo());
            let (uffd, source) = (&scene.uffd, scene.source.start);
            let done = match act {
                0 => uffd.range(&WAKE, start, PAGE, 0).to_string(),
                1 => uffd.range(&WAKE, start + PAGE, PAGE, 0).to_string(),
                2 => uffd
                    .range(&UNREGISTER, start, scene.area.len, 0)
                    .to_string(),
                3 => {
                    // SAFETY: The number is used again by nobody before it is closed for good.
                    unsafe { libc::dup2(2, uffd.fd()) };
                    "closed".into()
                }
                4 => uffd.copy(start, source, PAGE, 1).to_string(),
                5 => uffd.copy(start + PAGE, source, PAGE, 0).to_string(),
                // SAFETY (of the four): The area is memory of the tests.
                6 => told(unsafe { libc::munmap(start as _, scene.area.len) }),
                7 => told(unsafe { libc::mprotect(start as _, PAGE, libc::PROT_NONE) }),
                8 => told(unsafe { libc::madvise(start as _, PAGE, libc::MADV_DONTNEED) }),
                9 => uffd.range(&crate::uffd::POISON, start, PAGE, 0).to_string(),
                _ => Answer::of_address(unsafe {
                    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                    let to = start + (1 << 30);
                    libc::mremap(start as _, scene.area.len, scene.area.len, flags, to)
                })
                .to_string(),
            };
            book.ask(question("done"), done);
            if act != 3 {
                book.ask(question("goes on"), uffd.ends_or_sleeps(&thread));
                book.ask(question("fdinfo after"), scene.uffd.fdinfo());
                if let Ok(message) = scene.uffd.read() {
                    book.ask(question("message after"), describe(&message, &scene.names));
                }
                // Let it go, whatever became of the area.
                uffd.range(&WAKE, start, scene.area.len, 0);
                scene.resolve_all(&thread);
            }
            book.ask(question("ended"), thread.join().expect("no panic"));
            // SAFETY: The area was moved by this question only.
            unsafe { libc::munmap((start + (1 << 30)) as _, scene.area.len) };
        }
    }
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
    cases.push(Case::new("faults/sleepers", sleepers));
    cases
}
