// SPDX-License-Identifier: GPL-2.0

//! Processes, threads, and what is between them.

use crate::sys::{errno, errno_name, Answer};
use std::{
    fs::File,
    io::Write,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

/// Waits for a child, and says how it ended.
pub fn ended(child: libc::pid_t) -> String {
    let mut status = 0;
    // SAFETY: The pointer is valid.
    unsafe { libc::waitpid(child, &mut status, 0) };
    if libc::WIFSIGNALED(status) {
        format!("killed by {}", libc::WTERMSIG(status))
    } else {
        format!("ended with {}", libc::WEXITSTATUS(status))
    }
}

/// Forks in one of the ways, has the child do something, and waits for it. Not with the function of
/// the C library, which holds locks meanwhile that whoever reads the event may need.
pub fn fork_with(flags: i32, child: impl FnOnce() -> i32) -> String {
    // SAFETY: The child makes system calls and touches memory of the tests only. It has a stack of
    // its own or a copy, as it does not share memory.
    unsafe {
        let pid = libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) as i32;
        if pid == 0 {
            libc::_exit(child());
        }
        if pid < 0 {
            return Answer::of(pid).to_string();
        }
        let mut status = 0;
        libc::waitpid(pid, &mut status, 0);
        if libc::WIFSIGNALED(status) {
            return format!("child killed by {}", libc::WTERMSIG(status));
        }
        format!("child {}", libc::WEXITSTATUS(status))
    }
}

pub fn kill_and_wait(process: libc::pid_t) {
    // SAFETY: The process is the child of this one.
    unsafe {
        libc::kill(process, libc::SIGKILL);
        libc::waitpid(process, std::ptr::null_mut(), 0);
    }
}

/// How many descriptors this process has.
pub fn descriptors() -> u32 {
    let list = std::fs::read_dir("/proc/self/fd").expect("there is a list");
    list.count() as u32
}

/// Sets how many descriptors this process may have.
pub fn limit_descriptors(count: u64) {
    // SAFETY: The structure is valid.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = count.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
}

/// Starts a thread, and returns when it sleeps, interruptible or not.
pub fn sleeping_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // SAFETY: No pointers are involved.
        let _ = sender.send(unsafe { libc::gettid() });
        run()
    });
    let id = receiver.recv().expect("a thread");
    wait_for_sleep(&format!("/proc/self/task/{id}"), || thread.is_finished());
    thread
}

/// Waits until a thread or a process, whose directory in /proc is given, sleeps or is over.
pub fn wait_for_sleep(directory: &str, is_over: impl Fn() -> bool) {
    // It may be seen to sleep in something else before; not several times.
    let mut seen = 0;
    while seen < 3 {
        let text = std::fs::read_to_string(format!("{directory}/stat")).unwrap_or_default();
        let sleeps = text.contains(") S ") || text.contains(") D ");
        seen = if sleeps { seen + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(1));
        if is_over() {
            break;
        }
    }
}

/// Whether a thread ends. That it sleeps cannot be known for sure, only waited for.
pub fn ends_soon<T>(thread: &JoinHandle<T>) -> bool {
    for _ in 0..200 {
        if thread.is_finished() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// The size of a control message with one descriptor.
const CONTROL: usize = 24;

fn header(data: &mut libc::iovec, control: &mut [u64; 3]) -> libc::msghdr {
    // SAFETY: All values are valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = data;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL;
    header
}

/// Sends a descriptor over a socket.
pub fn send(socket: RawFd, fd: RawFd) {
    let mut byte = [0u8];
    let mut data = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 3];
    let header = header(&mut data, &mut control);
    // SAFETY: There is room for one control message with one descriptor.
    unsafe {
        let message = libc::CMSG_FIRSTHDR(&header);
        (*message).cmsg_level = libc::SOL_SOCKET;
        (*message).cmsg_type = libc::SCM_RIGHTS;
        (*message).cmsg_len = libc::CMSG_LEN(4) as usize;
        libc::CMSG_DATA(message).cast::<RawFd>().write(fd);
        assert_eq!(libc::sendmsg(socket, &header, 0), 1);
    }
}

/// Receives a descriptor from a socket.
pub fn receive(socket: RawFd) -> OwnedFd {
    let mut byte = [0u8];
    let mut data = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    let mut control = [0u64; 3];
    let mut header = header(&mut data, &mut control);
    // SAFETY: The other side sends one descriptor, which is new here.
    unsafe {
        assert_eq!(libc::recvmsg(socket, &mut header, 0), 1);
        OwnedFd::from_raw_fd(
            libc::CMSG_DATA(libc::CMSG_FIRSTHDR(&header))
                .cast::<RawFd>()
                .read(),
        )
    }
}

/// Has this thread run on one of the first two processors, or on all.
pub fn run_on(processor: Option<usize>) {
    // SAFETY: The set is valid.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match processor {
            Some(number) => libc::CPU_SET(number, &mut set),
            None => {
                (0..libc::CPU_SETSIZE as usize).for_each(|number| libc::CPU_SET(number, &mut set))
            }
        }
        // Where there is one processor only, nothing has to be done.
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
    }
}

/// Makes a child: returns its number, or 0 in it.
///
/// # Safety
///
/// The child of a process that has more than one thread only makes system calls.
pub unsafe fn fork() -> libc::pid_t {
    // SAFETY: No pointers are involved; the caller sees to the rest.
    let pid = unsafe { libc::fork() };
    // Whoever kills the process -1 kills all.
    assert!(pid >= 0, "cannot fork: {}", errno_name(errno()));
    pid
}

/// Gives up the right to handle faults of the kernel and of others.
pub fn drop_ptrace() {
    const CAP_SYS_PTRACE: u32 = 19;
    drop_capability(CAP_SYS_PTRACE);
}

/// Takes a capability from this thread.
pub fn drop_capability(capability: u32) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Default, Copy, Clone)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: The structures are what version 3 of the calls expects.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &mut header, &mut data), 0);
        let set = &mut data[capability as usize / 32];
        let mask = !(1 << (capability % 32));
        set.effective &= mask;
        set.permitted &= mask;
        assert_eq!(libc::syscall(libc::SYS_capset, &header, &data), 0);
    }
}

/// Makes a pipe: the end to read, and the end to write.
pub fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: The array has room for two descriptors, which belong to nobody else.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// A thread whose end can be waited for with poll().
pub struct Task<T> {
    thread: JoinHandle<T>,
    done: Arc<File>,
}

impl<T: Send + 'static> Task<T> {
    pub fn new(run: impl FnOnce() -> T + Send + 'static) -> Self {
        // SAFETY: The call returns a new descriptor.
        let done = unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let done = Arc::new(done);
        let its = done.clone();
        let thread = std::thread::spawn(move || {
            let result = run();
            let written = (&*its).write(&1u64.to_ne_bytes());
            written.expect("the counter is far from full");
            result
        });
        Self { thread, done }
    }

    /// Can be read as soon as the thread is done.
    pub fn fd(&self) -> RawFd {
        self.done.as_raw_fd()
    }

    pub fn join(self) -> T {
        self.thread.join().expect("no panic")
    }
}
