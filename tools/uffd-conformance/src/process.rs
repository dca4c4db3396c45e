// SPDX-License-Identifier: GPL-2.0

//! Processes, threads, and what is between them.

use crate::sys::{errno, errno_name, Answer};
use std::{
    fs::File,
    io::Write,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc,
    },
    thread::JoinHandle,
    time::Duration,
};

/// Makes a child that runs something and ends. Returns its number.
///
/// The child has one thread, whatever the parent has. It may allocate memory, because the C library
/// sees to that; no thread of this program holds another lock while one forks.
pub fn fork(run: impl FnOnce()) -> libc::pid_t {
    // SAFETY: The child has its own copy of everything, and waits for no other thread.
    let pid = unsafe { libc::fork() };
    // To kill the process -1 would be to kill all.
    assert!(pid >= 0, "cannot fork: {}", errno_name(errno()));
    if pid == 0 {
        run();
        exit(0);
    }
    pid
}

/// The same without the C library, which holds locks meanwhile that the reader of the event may
/// need. The child ends with what `run` returns.
pub fn clone(flags: i32, run: impl FnOnce() -> i32) -> Answer {
    // SAFETY: The child has a copy of the memory. It makes system calls and touches memory of the
    // tests.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
    if pid == 0 {
        exit(run());
    }
    Answer::of(pid)
}

/// The argument of clone3().
#[repr(C)]
pub struct CloneArguments {
    pub flags: u64,
    /// Where the descriptor goes.
    pub pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    /// The numbers that the child is to have.
    pub set_tid: u64,
    pub set_tid_size: u64,
    cgroup: u64,
}

impl Default for CloneArguments {
    fn default() -> Self {
        // SAFETY: All values are valid.
        let mut arguments: Self = unsafe { std::mem::zeroed() };
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments
    }
}

/// clone3() with a copy of the memory. The child ends with what `run` returns.
pub fn clone3(arguments: &CloneArguments, run: impl FnOnce() -> i32) -> Answer {
    let size = size_of::<CloneArguments>();
    // SAFETY: The structure is what the call expects. The child has a copy of the memory. It makes
    // system calls and touches memory of the tests.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, arguments, size) };
    if pid == 0 {
        exit(run());
    }
    Answer::of(pid)
}

/// Clones, waits for the child, and says how it ended.
pub fn fork_with(flags: i32, child: impl FnOnce() -> i32) -> String {
    match clone(flags, child) {
        Answer(Ok(pid)) => match Status::of(pid as libc::pid_t) {
            Status::Signal(signal) => format!("child killed by {signal}"),
            Status::Code(code) => format!("child {code}"),
        },
        answer => answer.to_string(),
    }
}

/// Ends this process at once.
pub fn exit(status: i32) -> ! {
    // SAFETY: No destructor has to run: memory and descriptors go with the process.
    unsafe { libc::_exit(status) }
}

/// Waits for a signal that ends the process, or that is handled.
pub fn pause() -> Answer {
    // SAFETY: No pointers are involved.
    Answer::of(unsafe { libc::pause() })
}

/// Runs another program in this process.
pub fn run_program() {
    let path = c"/bin/true".as_ptr();
    // SAFETY: The string ends in a zero and the list in a null pointer.
    unsafe { libc::execv(path, [path, std::ptr::null()].as_ptr()) };
}

pub fn kill(process: libc::pid_t, signal: i32) {
    // SAFETY: No pointers are involved.
    unsafe { libc::kill(process, signal) };
}

/// Kills the children of this process. Returns whether there are any.
pub fn kill_children() -> bool {
    let mut killed = false;
    let tasks = std::fs::read_dir("/proc/self/task").expect("there are tasks");
    for task in tasks.flatten() {
        let list = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in list.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            kill(child, libc::SIGKILL);
            killed = true;
        }
    }
    killed
}

/// How a process has ended.
pub enum Status {
    Code(i32),
    Signal(i32),
}

impl Status {
    /// Waits for a child.
    pub fn of(child: libc::pid_t) -> Self {
        let status = wait(child, 0);
        match libc::WIFSIGNALED(status) {
            true => Self::Signal(libc::WTERMSIG(status)),
            false => Self::Code(libc::WEXITSTATUS(status)),
        }
    }
}

/// waitpid(). Returns the status as it is.
pub fn wait(child: libc::pid_t, options: i32) -> i32 {
    let mut status = 0;
    // SAFETY: The pointer is valid.
    unsafe { libc::waitpid(child, &mut status, options) };
    status
}

/// Waits for a child, and says how it ended.
pub fn ended(child: libc::pid_t) -> String {
    match Status::of(child) {
        Status::Signal(signal) => format!("killed by {signal}"),
        Status::Code(code) => format!("ended with {code}"),
    }
}

/// Kills a child, and waits for its end.
pub fn kill_and_wait(child: libc::pid_t) {
    kill(child, libc::SIGKILL);
    wait(child, 0);
}

/// The number of this process.
pub fn this_process() -> libc::pid_t {
    std::process::id() as libc::pid_t
}

/// The number of this thread.
pub fn this_thread() -> u32 {
    // SAFETY: No pointers are involved.
    unsafe { libc::gettid() as u32 }
}

/// How many minor and major faults this thread has had.
pub fn fault_counts() -> [i64; 2] {
    // SAFETY: All values are valid, and the pointer is.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        [usage.ru_minflt, usage.ru_majflt]
    }
}

/// How many descriptors this process has.
pub fn descriptors() -> u32 {
    let list = std::fs::read_dir("/proc/self/fd").expect("there is a list");
    list.count() as u32
}

/// Sets how many descriptors this process may have.
pub fn limit_descriptors(count: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: The structure is valid.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    limit.rlim_cur = count.min(limit.rlim_max);
    set_limit(libc::RLIMIT_NOFILE, limit.rlim_cur, limit.rlim_max);
}

/// setrlimit()
pub fn set_limit(resource: libc::__rlimit_resource_t, current: u64, max: u64) {
    let limit = libc::rlimit {
        rlim_cur: current,
        rlim_max: max,
    };
    // SAFETY: The structure is valid.
    let set = unsafe { libc::setrlimit(resource, &limit) };
    assert_eq!(set, 0, "the limit cannot be set");
}

/// Starts a thread, and returns when it sleeps, interruptible or not.
pub fn sleeping_thread<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _ = sender.send(this_thread());
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
        // This fails if there is one processor only, and then nothing has to be done.
        libc::sched_setaffinity(0, std::mem::size_of_val(&set), &set);
    }
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
    // SAFETY: The array has room for two descriptors, which are new.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1]))
    }
}

/// Makes an eventfd.
pub fn eventfd() -> File {
    // SAFETY: The call returns a new descriptor.
    unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) }
}

/// A thread whose end can be waited for with poll().
pub struct Task<T> {
    thread: JoinHandle<T>,
    done: Arc<File>,
}

impl<T: Send + 'static> Task<T> {
    pub fn new(run: impl FnOnce() -> T + Send + 'static) -> Self {
        let done = Arc::new(eventfd());
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

/// Gives this thread a real-time priority, or none if it is 0.
pub fn set_priority(priority: i32) {
    let policy = match priority {
        0 => libc::SCHED_OTHER,
        _ => libc::SCHED_FIFO,
    };
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: The structure is valid.
    let set = unsafe { libc::sched_setscheduler(0, policy, &parameters) };
    assert_eq!(set, 0, "there is no priority {priority}");
}

/// A thread that keeps the first processor busy until this is dropped. No thread with a lower
/// priority runs there meanwhile.
pub struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Busy {
    pub fn new() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let its = stop.clone();
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            run_on(Some(0));
            set_priority(20);
            let _ = sender.send(());
            while !its.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        });
        receiver.recv().expect("a thread");
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("no panic");
        }
    }
}
