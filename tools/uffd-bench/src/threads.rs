// SPDX-License-Identifier: GPL-2.0

//! Thousands of threads with small stacks, and the order in which they run.

use anyhow::{anyhow, ensure, Context, Result};
use std::{
    ffi::c_void,
    fs, io, mem, ptr,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::Duration,
};
use uffd_guest::{Mmap, RW};

/// The stack of a thread, in bytes.
const STACK: usize = 32 << 10;

/// What a thread starts with.
struct Start {
    body: &'static (dyn Fn(usize) + Sync),
    index: usize,
}

extern "C" fn enter(start: *mut c_void) -> *mut c_void {
    // SAFETY: `spawn` passes it, and it is never freed.
    let start = unsafe { &*start.cast::<Start>() };
    (start.body)(start.index);
    ptr::null_mut()
}

/// Starts `count` threads, each of which calls `body` with its number.
///
/// The threads and their stacks exist until the process ends, because each case has a process of
/// its own.
pub fn spawn(count: usize, body: impl Fn(usize) + Send + Sync + 'static) -> Result<()> {
    let body: &'static (dyn Fn(usize) + Sync) = Box::leak(Box::new(body));
    let starts = Vec::leak((0..count).map(|index| Start { body, index }).collect());
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let stacks = Mmap::new(None, count * STACK, RW, flags, None)
        .map_err(|_| anyhow!("no memory for {count} stacks"))?
        .leak();
    for (index, start) in starts.iter_mut().enumerate() {
        // SAFETY: Each thread has a stack of its own, and what it starts with is never freed.
        let error = unsafe {
            let mut attr: libc::pthread_attr_t = mem::zeroed();
            let mut thread = 0;
            libc::pthread_attr_init(&mut attr);
            let stack = stacks.add(index * STACK).cast();
            match libc::pthread_attr_setstack(&mut attr, stack, STACK) {
                0 => libc::pthread_create(&mut thread, &attr, enter, ptr::from_mut(start).cast()),
                error => error,
            }
        };
        if error != 0 {
            let error = io::Error::from_raw_os_error(error);
            return Err(error).with_context(|| format!("cannot start thread {index} of {count}"));
        }
    }
    Ok(())
}

/// Gives this process and the threads that it starts a real-time priority. Each then runs until it
/// sleeps, in the order in which they wake up, so that the counts do not depend on time slices.
pub fn run_in_order() -> Result<()> {
    run_with_priority(10)
}

/// Makes this thread run before all others as soon as it is woken.
pub fn run_first() -> Result<()> {
    run_with_priority(11)
}

fn run_with_priority(sched_priority: i32) -> Result<()> {
    let param = libc::sched_param { sched_priority };
    // SAFETY: The structure is valid.
    let ret = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) };
    ensure!(
        ret == 0,
        "no real-time priority: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Lets the other threads run until all of them sleep. Exact with one CPU and
/// [`run_in_order`] only.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(2));
}

/// A futex on which threads wait. It does not use userfaultfd, so it costs the same on both
/// kernels.
#[derive(Default)]
pub struct Gate {
    opened: AtomicU32,
    waiters: AtomicUsize,
}

impl Gate {
    fn futex(&self, operation: i32, value: u32) {
        // SAFETY: The word is valid; nothing else is passed.
        unsafe {
            let timeout: *const libc::timespec = ptr::null();
            libc::syscall(
                libc::SYS_futex,
                self.opened.as_ptr(),
                operation,
                value,
                timeout,
            );
        }
    }

    /// Waits until the gate was opened `times` times.
    pub fn wait(&self, times: u32) {
        self.waiters.fetch_add(1, Ordering::Relaxed);
        loop {
            let now = self.opened.load(Ordering::Acquire);
            if now >= times {
                break;
            }
            self.futex(libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG, now);
        }
    }

    /// Waits until `count` threads wait at the gate and most likely sleep.
    pub fn wait_for_waiters(&self, count: usize) {
        while self.waiters.load(Ordering::Relaxed) < count {
            settle();
        }
        settle();
    }

    /// Opens the gate once more.
    pub fn open(&self) {
        self.opened.fetch_add(1, Ordering::AcqRel);
        self.futex(libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX as u32);
    }
}

/// The number of context switches of the process or of this thread, because it slept or was
/// preempted.
pub fn context_switches(who: i32) -> u64 {
    // SAFETY: The structure is valid, and plain data.
    let usage = unsafe {
        let mut usage: libc::rusage = mem::zeroed();
        libc::getrusage(who, &mut usage);
        usage
    };
    (usage.ru_nvcsw + usage.ru_nivcsw) as u64
}

/// Raises the limits that 16,384 threads need, reserves huge pages, and disables the throttling of
/// real-time threads.
pub fn prepare_machine() -> Result<()> {
    const SETTINGS: &[(&str, u64)] = &[
        ("/proc/sys/kernel/threads-max", 65_536),
        ("/proc/sys/kernel/pid_max", 131_072),
        ("/proc/sys/vm/max_map_count", 262_144),
        ("/proc/sys/vm/nr_hugepages", 64),
        ("/proc/sys/fs/nr_open", 1 << 20),
    ];
    for (path, value) in SETTINGS {
        fs::write(path, value.to_string())
            .with_context(|| format!("cannot write {path}; this runs as root in a guest"))?;
        let now = fs::read_to_string(path)?;
        ensure!(
            now.trim().parse() == Ok(*value),
            "{path} is {now}, not {value}"
        );
    }
    let path = "/proc/sys/kernel/sched_rt_runtime_us";
    fs::write(path, "-1").with_context(|| format!("cannot write {path}"))?;
    for (resource, wanted) in [(libc::RLIMIT_NPROC, 65_536), (libc::RLIMIT_NOFILE, 32_768)] {
        let limit = libc::rlimit {
            rlim_cur: wanted,
            rlim_max: wanted,
        };
        // SAFETY: The structure is valid.
        let ret = unsafe { libc::setrlimit(resource, &limit) };
        ensure!(
            ret == 0,
            "cannot raise a limit: {}",
            io::Error::last_os_error()
        );
    }
    Ok(())
}
