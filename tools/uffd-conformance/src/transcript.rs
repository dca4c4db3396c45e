// SPDX-License-Identifier: GPL-2.0

//! The transcript: a line for each question, with its answer.
//!
//! Questions are asked in cases. Each case runs in a process of its own, so that what it maps,
//! limits or breaks is gone with it, and has a time limit.

use crate::{
    poll::first_ready,
    process::{ended, fork, kill, pipe, wait},
    sys::new_descriptor,
};
use std::{
    fmt::Display,
    fs::File,
    io::{Read, Write},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// How long a case may take.
const CASE_TIME: Duration = Duration::from_secs(60);

/// Makes a counter of panics that all processes of a case share, whose status may be no problem.
fn count_panics() -> &'static AtomicU32 {
    // SAFETY: The mapping is new, has zeros in it, and stays.
    let panics: &AtomicU32 = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let address = libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0);
        assert_ne!(address, libc::MAP_FAILED, "there is memory");
        &*address.cast()
    };
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics.fetch_add(1, Ordering::Relaxed);
        print(info);
    }));
    panics
}

/// The counter of the case that runs.
static PANICS: std::sync::LazyLock<&AtomicU32> = std::sync::LazyLock::new(count_panics);

/// What a case writes its questions and answers to.
pub struct Transcript {
    prefix: String,
    out: File,
    text: String,
}

impl Transcript {
    /// Writes down a question and its answer.
    pub fn record(&mut self, question: impl Display, answer: impl Display) {
        self.text
            .push_str(&format!("{}/{question} = {answer}\n", self.prefix));
        // What was asked before a case is killed should be known.
        if self.text.len() > 64 {
            self.flush();
        }
    }

    /// Hands over what was written so far.
    pub fn flush(&mut self) {
        self.out
            .write_all(self.text.as_bytes())
            .expect("the transcript is read");
        self.text.clear();
    }

    /// Makes a child that records something. Returns its number.
    pub fn fork(&mut self, run: impl FnOnce(&mut Self)) -> libc::pid_t {
        self.flush();
        fork(|| {
            run(self);
            self.flush();
        })
    }

    /// Has a child record something, and says how the child ended.
    pub fn in_process(&mut self, run: impl FnOnce(&mut Self)) -> String {
        ended(self.fork(run))
    }
}

/// Some questions that belong together.
pub struct Case {
    name: String,
    run: Box<dyn FnOnce(&mut Transcript)>,
}

impl Case {
    pub fn new(name: impl Into<String>, run: impl FnOnce(&mut Transcript) + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the case. Returns its lines, and what went wrong if it did not end as it should.
    pub fn run(self) -> (String, Option<String>) {
        let (reader, writer) = pipe();
        // The child takes its copy of one end, and closes the other.
        let (mut reader, mut writer) = (Some(reader), Some(writer));
        PANICS.store(0, Ordering::Relaxed);
        let (name, run) = (self.name.clone(), self.run);
        let pid = fork(|| {
            reader.take();
            // SAFETY: No pointers are involved. A session of its own can be killed as a whole.
            unsafe {
                libc::setsid();
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            }
            let mut log = Transcript {
                prefix: name,
                out: writer.take().expect("a pipe has two ends"),
                text: String::new(),
            };
            run(&mut log);
            log.flush();
        });
        drop(writer);
        let (text, problem) = collect(&mut reader.expect("a pipe has two ends"), pid);
        (
            text,
            problem.map(|problem| format!("{}: {problem}", self.name)),
        )
    }
}

/// Reads what a case writes until it ends, and ends all that it started.
fn collect(reader: &mut File, pid: libc::pid_t) -> (String, Option<String>) {
    // SAFETY: The call returns a new descriptor, or an error.
    let pidfd = unsafe { new_descriptor(libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32) };
    let pidfd = pidfd.expect("a child can be watched");
    let start = Instant::now();
    let mut text = Vec::new();
    let mut chunk = [0; 65536];
    let mut ended = false;
    loop {
        let left = CASE_TIME.saturating_sub(start.elapsed());
        let fds = [reader.as_raw_fd(), pidfd.as_raw_fd()];
        let watched = if ended { &fds[..1] } else { &fds[..] };
        let ready = first_ready(watched, left.as_millis() as i32);
        if ready == Some(0) {
            match reader.read(&mut chunk) {
                Ok(0) | Err(_) => {
                    // It is about to end by itself.
                    first_ready(&fds[1..], 1000);
                    break;
                }
                Ok(length) => text.extend_from_slice(&chunk[..length]),
            }
        } else if ended {
            break;
        } else if ready.is_some() || left.is_zero() {
            kill(-pid, libc::SIGKILL);
            if left.is_zero() {
                // It may not have got to its session.
                kill(pid, libc::SIGKILL);
            }
            ended = true;
        }
    }
    kill(-pid, libc::SIGKILL);
    let status = wait(pid, 0);
    let problem = if start.elapsed() >= CASE_TIME {
        Some("did not end in time".to_string())
    } else if libc::WIFSIGNALED(status) {
        Some(format!("was killed by signal {}", libc::WTERMSIG(status)))
    } else if libc::WEXITSTATUS(status) != 0 {
        Some(format!("ended with status {}", libc::WEXITSTATUS(status)))
    } else if PANICS.load(Ordering::Relaxed) != 0 {
        Some("one of its threads or processes panicked".to_string())
    } else {
        None
    };
    (String::from_utf8_lossy(&text).into_owned(), problem)
}
