// SPDX-License-Identifier: GPL-2.0

//! The transcript: a line for each question, with its answer.
//!
//! Questions are asked in cases. Each case runs in a process of its own, so that what it maps,
//! limits or breaks is gone with it, and has a time limit.

use crate::{
    process::{ended, fork, pipe},
    sys::{errno_name, errno_of, PAGE},
};
use std::{
    fmt::Display,
    fs::File,
    io::Write,
    os::unix::process::ExitStatusExt,
    sync::{
        atomic::{AtomicU32, Ordering},
        LazyLock,
    },
    time::Duration,
};
use uffd_guest::{Child, Mmap, RW};

/// How long a case may take, unless it is a slow one.
const CASE_TIME: Duration = Duration::from_secs(60);

/// Makes a counter that all processes share.
fn shared_counter() -> &'static AtomicU32 {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let page = Mmap::new(None, PAGE, RW, flags, None).expect("there is memory");
    // SAFETY: The mapping is new, has zeros in it, and stays.
    unsafe { &*page.leak().cast() }
}

/// Makes a counter of the panics of all processes of a case, whose status may be no problem.
fn count_panics() -> &'static AtomicU32 {
    let panics = shared_counter();
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics.fetch_add(1, Ordering::Relaxed);
        print(info);
    }));
    panics
}

/// The counter of the case that runs.
static PANICS: LazyLock<&AtomicU32> = LazyLock::new(count_panics);

/// How many failures were injected. It is first used before there are processes.
pub static INJECTED: LazyLock<&AtomicU32> = LazyLock::new(shared_counter);

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

    /// Does something of which nothing is recorded.
    pub fn unrecorded<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        self.flush();
        let none = File::create("/dev/null").expect("there is /dev/null");
        let out = std::mem::replace(&mut self.out, none);
        let result = run(self);
        self.flush();
        self.out = out;
        result
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
    time: Duration,
}

impl Case {
    pub fn new(name: impl Into<String>, run: impl FnOnce(&mut Transcript) + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
            time: CASE_TIME,
        }
    }

    /// A case that takes several times as long as others may.
    pub fn slow(self, times: u32) -> Self {
        Self {
            time: times * CASE_TIME,
            ..self
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the case. Returns its lines, and what went wrong if it did not end as it should.
    pub fn run(self) -> (String, Option<String>) {
        let (reader, writer) = pipe();
        // The child takes one end, which its parent closes, and closes its copy of the other.
        let mut reader = Some(reader);
        PANICS.store(0, Ordering::Relaxed);
        let (name, run) = (self.name.clone(), self.run);
        let child = Child::start(|| {
            reader.take();
            // SAFETY: No pointers are involved. A session of its own can be killed as a whole.
            unsafe { libc::setsid() };
            let mut log = Transcript {
                prefix: name,
                out: writer,
                text: String::new(),
            };
            run(&mut log);
            log.flush();
            0
        });
        let child =
            child.unwrap_or_else(|err| panic!("cannot fork: {}", errno_name(errno_of(err))));
        let reader = reader.expect("a pipe has two ends");
        let (text, status) = child
            .output(reader, self.time)
            .expect("a child can be watched");
        let problem = if let Some(status) = status {
            match (status.signal(), status.code()) {
                (Some(signal), _) => Some(format!("was killed by signal {signal}")),
                (_, Some(code @ 1..)) => Some(format!("ended with status {code}")),
                _ if PANICS.load(Ordering::Relaxed) != 0 => {
                    Some("one of its threads or processes panicked".to_string())
                }
                _ => None,
            }
        } else {
            Some("did not end in time".to_string())
        };
        (
            String::from_utf8_lossy(&text).into_owned(),
            problem.map(|problem| format!("{}: {problem}", self.name)),
        )
    }
}
