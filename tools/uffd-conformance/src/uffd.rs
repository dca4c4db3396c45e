// SPDX-License-Identifier: GPL-2.0

//! A userfaultfd, its ioctls as a table, and its messages.

use crate::{
    memory::{mprotect, read_bytes, write_bytes, Area, Names},
    poll::poll_fd,
    process::this_thread,
    sys::{bits, new_descriptor, read, Answer, PAGE},
};
use linux_raw_sys::general::*;
use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicU32, Ordering},
};

/// An ioctl of a userfaultfd: its name, its number within the kind, its direction, its fields,
/// each of which has 64 bits, and how many of them are read.
#[derive(PartialEq, Eq)]
pub struct Call {
    pub name: &'static str,
    number: u32,
    direction: u32,
    pub fields: &'static [&'static str],
    pub inputs: usize,
}

const READ: u32 = 2;
const READ_WRITE: u32 = 3;

const fn call(
    name: &'static str,
    number: u32,
    direction: u32,
    fields: &'static [&'static str],
    inputs: usize,
) -> Call {
    Call {
        name,
        number,
        direction,
        fields,
        inputs,
    }
}

pub const API: Call = call("api", 0x3f, READ_WRITE, &["api", "features", "ioctls"], 2);
pub const REGISTER: Call = call(
    "register",
    0x00,
    READ_WRITE,
    &["start", "len", "mode", "ioctls"],
    3,
);
pub const UNREGISTER: Call = call("unregister", 0x01, READ, &["start", "len"], 2);
pub const WAKE: Call = call("wake", 0x02, READ, &["start", "len"], 2);
pub const COPY: Call = call(
    "copy",
    0x03,
    READ_WRITE,
    &["dst", "src", "len", "mode", "copy"],
    4,
);
pub const ZEROPAGE: Call = call(
    "zeropage",
    0x04,
    READ_WRITE,
    &["start", "len", "mode", "zeropage"],
    3,
);
pub const MOVE: Call = call(
    "move",
    0x05,
    READ_WRITE,
    &["dst", "src", "len", "mode", "move"],
    4,
);
pub const WRITEPROTECT: Call = call(
    "writeprotect",
    0x06,
    READ_WRITE,
    &["start", "len", "mode"],
    3,
);
pub const CONTINUE: Call = call(
    "continue",
    0x07,
    READ_WRITE,
    &["start", "len", "mode", "mapped"],
    3,
);
pub const POISON: Call = call(
    "poison",
    0x08,
    READ_WRITE,
    &["start", "len", "mode", "updated"],
    3,
);

/// Modes that the crate with the kernel's constants lacks: macros with a cast in C.
pub const WRITEPROTECT_WP: u32 = 1;
pub const WRITEPROTECT_DONTWAKE: u32 = 1 << 1;
pub const CONTINUE_WP: u32 = 1 << 1;
pub const MOVE_ALLOW_SRC_HOLES: u32 = 1 << 1;

/// All that work on a range.
pub const RANGE_CALLS: [&Call; 9] = [
    &REGISTER,
    &UNREGISTER,
    &WAKE,
    &COPY,
    &ZEROPAGE,
    &MOVE,
    &WRITEPROTECT,
    &CONTINUE,
    &POISON,
];

/// What an output field holds before a call.
const UNTOUCHED: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// The kind of the ioctls, and the number of USERFAULTFD_IOC_NEW.
pub const IOC_TYPE: u32 = 0xaa;
pub const IOC_NEW: u32 = IOC_TYPE << 8;

impl Call {
    /// The number of the ioctl.
    pub fn request(&self) -> u32 {
        self.direction << 30 | (self.size() as u32) << 16 | IOC_TYPE << 8 | self.number
    }

    /// The size of the argument, in bytes.
    pub fn size(&self) -> usize {
        8 * self.fields.len()
    }

    /// An argument: inputs as given, outputs marked.
    pub fn argument(&self, inputs: &[u64]) -> Vec<u64> {
        let mut argument = vec![UNTOUCHED; self.fields.len()];
        argument[..inputs.len()].copy_from_slice(inputs);
        argument
    }

    /// What an argument says after the call: each field that changed.
    pub fn changes(&self, before: &[u64], after: &[u64]) -> String {
        let mut text = String::new();
        for ((field, before), after) in self.fields.iter().zip(before).zip(after) {
            if before != after {
                text.push_str(&format!(" {field}={}", number(*after)));
            }
        }
        text
    }
}

/// A number: small ones and negative errors in decimal.
fn number(value: u64) -> String {
    let signed = value as i64;
    if (-4095..0).contains(&signed) {
        return format!("-{}", crate::sys::errno_name(-signed as i32));
    }
    format!("{value:#x}")
}

/// A userfaultfd.
pub struct Uffd(pub OwnedFd);

impl Uffd {
    /// userfaultfd(2)
    pub fn create(flags: i32) -> Result<Self, Answer> {
        // SAFETY: The call returns a new descriptor, or an error.
        let fd = unsafe { new_descriptor(libc::syscall(libc::SYS_userfaultfd, flags) as RawFd) };
        fd.map(Self).map_err(|errno| Answer(Err(errno)))
    }

    /// A descriptor that has gone through UFFDIO_API.
    pub fn with(flags: i32, features: u64) -> Self {
        let uffd = Self::create(flags).expect("userfaultfd(2) works");
        let answer = uffd.call(&API, &[u64::from(UFFD_API), features]);
        assert!(answer.answer.is_ok(), "UFFDIO_API: {}", answer.answer);
        uffd
    }

    /// A descriptor for most questions: it does not block.
    pub fn new(features: u64) -> Self {
        Self::with(libc::O_CLOEXEC | libc::O_NONBLOCK, features)
    }

    pub fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// An ioctl with an argument anywhere.
    pub fn raw(&self, request: u32, argument: usize) -> Answer {
        // SAFETY: The kernel checks the argument. What the ioctls write is memory of this test.
        Answer::of(unsafe { libc::ioctl(self.fd(), request as _, argument) })
    }

    /// An ioctl with the fields that it reads.
    pub fn call(&self, call: &Call, inputs: &[u64]) -> Called {
        self.call_within(call, inputs, |ioctl| ioctl())
    }

    /// The same, where something is done just before and just after the ioctl.
    pub fn call_within(
        &self,
        call: &Call,
        inputs: &[u64],
        run: impl FnOnce(&mut dyn FnMut() -> Answer) -> Answer,
    ) -> Called {
        let before = call.argument(inputs);
        let mut after = before.clone();
        let answer = run(&mut || self.raw(call.request(), after.as_mut_ptr() as usize));
        Called {
            answer,
            changes: call.changes(&before, &after),
            last: *after.last().expect("there are fields"),
        }
    }

    pub fn register(&self, start: usize, len: usize, mode: u64) -> Called {
        self.call(&REGISTER, &[start as u64, len as u64, mode])
    }

    /// Registers a range, which nothing speaks against.
    pub fn must_register(&self, start: usize, len: usize, mode: u64) {
        let called = self.register(start, len, mode);
        assert!(called.answer.is_ok(), "cannot register: {called}");
    }

    pub fn copy(&self, dst: usize, src: usize, len: usize, mode: u64) -> Called {
        self.call(&COPY, &[dst as u64, src as u64, len as u64, mode])
    }

    /// An ioctl of a start, a length, and maybe a mode.
    pub fn range(&self, call: &Call, start: usize, len: usize, mode: u64) -> Called {
        self.call(call, &[start as u64, len as u64, mode][..call.inputs])
    }

    /// Reads one message, if there is one.
    pub fn read(&self) -> Result<uffd_msg, Answer> {
        let mut bytes = [0; size_of::<uffd_msg>()];
        match read(self.fd(), &mut bytes) {
            Answer(Ok(_)) => Ok(message_of(&bytes)),
            answer => Err(answer),
        }
    }

    /// Reads a message, if there is one, and closes the descriptor that comes with it.
    pub fn next(&self, names: &Names) -> String {
        match self.read() {
            Ok(message) => {
                drop(child_of(&message));
                describe(&message, names)
            }
            Err(answer) => answer.to_string(),
        }
    }

    /// Waits until there is a message. Returns what poll() says, 0 after the time limit.
    pub fn poll(&self, milliseconds: i32) -> i16 {
        poll_fd(self.fd(), libc::POLLIN, milliseconds)
    }

    /// What poll() says at once, as text.
    pub fn poll_now(&self) -> String {
        format!("{:#x}", self.poll(0))
    }

    /// All of fdinfo in /proc: by way of this thread, because the first one of the process may have
    /// ended.
    pub fn whole_fdinfo(&self) -> String {
        std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", self.fd()))
            .expect("there is fdinfo")
    }

    /// The lines of fdinfo that C has for a userfaultfd.
    pub fn fdinfo(&self) -> String {
        self.whole_fdinfo()
            .lines()
            .skip_while(|line| !line.starts_with("pending"))
            .take(3)
            .map(|line| line.replace('\t', " "))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Waits until so many threads sleep on this descriptor, read or not.
    pub fn wait_for_sleepers(&self, count: usize) {
        let wanted = format!("total: {count};");
        for _ in 0..20_000 {
            if self.fdinfo().contains(&wanted) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
        panic!("{count} sleepers did not come: {}", self.fdinfo());
    }

    /// Waits until a thread has ended or sleeps on this descriptor, of which it is the only user.
    /// Returns whether it has ended.
    ///
    /// A thread that is woken is no longer counted when the call that wakes it returns.
    pub fn ends_or_sleeps<T>(&self, thread: &std::thread::JoinHandle<T>) -> bool {
        for _ in 0..20_000 {
            if thread.is_finished() {
                return true;
            }
            if self.fdinfo().contains("total: 1;") {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
        panic!("a thread neither ends nor sleeps: {}", self.fdinfo());
    }
}

/// What an ioctl did.
pub struct Called {
    pub answer: Answer,
    changes: String,
    /// The last field, after the call.
    pub last: u64,
}

impl Called {
    /// Whether it was successful, at least for a part of its range.
    pub fn did_something(&self) -> bool {
        self.answer.is_ok() || self.last as i64 > 0 && !self.changes.is_empty()
    }
}

impl std::fmt::Display for Called {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.answer, self.changes)
    }
}

/// The thread that touches memory, which messages about faults may name.
pub static TOUCHING: AtomicU32 = AtomicU32::new(0);

/// Notes that this is the thread that touches memory.
pub fn touch_by_this_thread() {
    TOUCHING.store(this_thread(), Ordering::Relaxed);
}

/// Whether a thread of this process is one that io_uring made.
fn is_worker(id: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm"));
    name.is_ok_and(|name| name.starts_with("iou-wrk"))
}

/// Flags of a fault in a message.
const FAULT_FLAGS: &[(u64, &str)] = &[(1, "write"), (2, "wp"), (4, "minor")];

/// Writes down a message, all its bytes: those that mean nothing have to be zero.
pub fn describe(message: &uffd_msg, names: &Names) -> String {
    // SAFETY: A message is 32 bytes without padding that the kernel leaves out.
    let bytes: [u8; 32] = unsafe { std::mem::transmute_copy(message) };
    let word = |index: usize| {
        u64::from_ne_bytes(
            bytes[index * 8..index * 8 + 8]
                .try_into()
                .expect("eight bytes"),
        )
    };
    let (text, rest) = match u32::from(message.event) {
        UFFD_EVENT_PAGEFAULT => {
            let thread = word(3) as u32;
            let thread = match thread {
                0 => "",
                id if id == TOUCHING.load(Ordering::Relaxed) => " thread",
                id if is_worker(id) => " worker",
                _ => " another thread",
            };
            (
                format!(
                    "fault({}) at {}{thread}",
                    bits(word(1), FAULT_FLAGS),
                    names.name(word(2))
                ),
                word(3) >> 32,
            )
        }
        // The number of a descriptor is of no interest.
        UFFD_EVENT_FORK => ("fork".to_string(), word(1) >> 32 | word(2) | word(3)),
        UFFD_EVENT_REMAP => (
            format!(
                "remap from {} to {} len {:#x}",
                names.name(word(1)),
                names.name(word(2)),
                word(3)
            ),
            0,
        ),
        UFFD_EVENT_REMOVE => (
            format!("remove {}..{}", names.name(word(1)), names.name(word(2))),
            word(3),
        ),
        UFFD_EVENT_UNMAP => (
            format!("unmap {}..{}", names.name(word(1)), names.name(word(2))),
            word(3),
        ),
        event => (format!("event {event:#x}"), 0),
    };
    if bytes[1..8].iter().any(|byte| *byte != 0) || rest != 0 {
        return format!("{text} with stray bytes {bytes:02x?}");
    }
    text
}

pub const MISSING: u64 = UFFDIO_REGISTER_MODE_MISSING as u64;
pub const WP: u64 = UFFDIO_REGISTER_MODE_WP as u64;
pub const MINOR: u64 = UFFDIO_REGISTER_MODE_MINOR as u64;

/// All features of Linux 6.18.
pub const FEATURES: &[(u64, &str)] = &[
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP as u64, "pagefault_flag_wp"),
    (UFFD_FEATURE_EVENT_FORK as u64, "event_fork"),
    (UFFD_FEATURE_EVENT_REMAP as u64, "event_remap"),
    (UFFD_FEATURE_EVENT_REMOVE as u64, "event_remove"),
    (UFFD_FEATURE_MISSING_HUGETLBFS as u64, "missing_hugetlbfs"),
    (UFFD_FEATURE_MISSING_SHMEM as u64, "missing_shmem"),
    (UFFD_FEATURE_EVENT_UNMAP as u64, "event_unmap"),
    (UFFD_FEATURE_SIGBUS as u64, "sigbus"),
    (UFFD_FEATURE_THREAD_ID as u64, "thread_id"),
    (UFFD_FEATURE_MINOR_HUGETLBFS as u64, "minor_hugetlbfs"),
    (UFFD_FEATURE_MINOR_SHMEM as u64, "minor_shmem"),
    (UFFD_FEATURE_EXACT_ADDRESS as u64, "exact_address"),
    (UFFD_FEATURE_WP_HUGETLBFS_SHMEM as u64, "wp_hugetlbfs_shmem"),
    (UFFD_FEATURE_WP_UNPOPULATED as u64, "wp_unpopulated"),
    (UFFD_FEATURE_POISON as u64, "poison"),
    (UFFD_FEATURE_WP_ASYNC as u64, "wp_async"),
    (UFFD_FEATURE_MOVE as u64, "move"),
];

/// Calls with an argument of which the fields from number `second` on are in a second page. Each of
/// the two pages allows what `protections` says.
pub fn call_across(
    uffd: &Uffd,
    call: &Call,
    inputs: &[u64],
    second: usize,
    protections: [i32; 2],
) -> String {
    let pages = Area::anon(4, 2);
    let argument = call.argument(inputs);
    let pointer = pages.start + PAGE - 8 * second;
    let protect = |protections: [i32; 2]| {
        for (page, protection) in protections.into_iter().enumerate() {
            mprotect(pages.at(page), PAGE, protection);
        }
    };
    let bytes: Vec<u8> = argument
        .iter()
        .flat_map(|field| field.to_ne_bytes())
        .collect();
    write_bytes(pointer, &bytes);
    protect(protections);
    let answer = uffd.raw(call.request(), pointer);
    protect([libc::PROT_READ; 2]);
    let mut bytes = vec![0; bytes.len()];
    read_bytes(pointer, &mut bytes);
    let fields = bytes
        .chunks(8)
        .map(|field| field.try_into().expect("eight bytes"));
    let after: Vec<u64> = fields.map(u64::from_ne_bytes).collect();
    format!("{answer}{}", call.changes(&argument, &after))
}

/// The inputs of a call for a range, with a mode.
pub fn inputs(call: &Call, start: usize, other: usize, len: usize, mode: u64) -> Vec<u64> {
    let all = if *call == COPY || *call == MOVE {
        vec![start as u64, other as u64, len as u64, mode]
    } else {
        vec![start as u64, len as u64, mode]
    };
    all[..call.inputs].to_vec()
}

/// The mode in which no thread is woken. For write protection there is another one.
pub const DONTWAKE: u64 = UFFDIO_COPY_MODE_DONTWAKE as u64;

pub const ALL_EVENTS: u32 = UFFD_FEATURE_EVENT_FORK
    | UFFD_FEATURE_EVENT_REMAP
    | UFFD_FEATURE_EVENT_REMOVE
    | UFFD_FEATURE_EVENT_UNMAP;

/// Waits for one message, and writes it down.
pub fn read_one(fd: RawFd, names: &Names) -> String {
    let mut bytes = [0; size_of::<uffd_msg>()];
    let answer = read(fd, &mut bytes);
    if answer == Answer(Ok(bytes.len() as i64)) {
        describe(&message_of(&bytes), names)
    } else {
        answer.to_string()
    }
}

/// What a message says about a fault.
pub struct Fault {
    pub address: usize,
    /// `UFFD_PAGEFAULT_FLAG_*`
    pub flags: u32,
    pub thread: u32,
}

/// The fault that a message is about.
pub fn fault_of(message: &uffd_msg) -> Option<Fault> {
    // SAFETY: All values of these fields are valid.
    let (fault, thread) = unsafe { (message.arg.pagefault, message.arg.pagefault.feat.ptid) };
    (u32::from(message.event) == UFFD_EVENT_PAGEFAULT).then_some(Fault {
        address: fault.address as usize,
        flags: fault.flags as u32,
        thread,
    })
}

/// The descriptor of the child that a message is about. It is closed when it is dropped, so this
/// is called once for each message.
pub fn child_of(message: &uffd_msg) -> Option<Uffd> {
    let is_fork = u32::from(message.event) == UFFD_EVENT_FORK;
    // SAFETY: It is a fork event, whose descriptor is new.
    is_fork.then(|| Uffd(unsafe { OwnedFd::from_raw_fd(message.arg.fork.ufd as RawFd) }))
}

/// The message that some bytes hold.
pub fn message_of(bytes: &[u8]) -> uffd_msg {
    assert_eq!(bytes.len(), size_of::<uffd_msg>());
    // SAFETY: There are enough bytes, and all their values are valid.
    unsafe { bytes.as_ptr().cast::<uffd_msg>().read_unaligned() }
}
