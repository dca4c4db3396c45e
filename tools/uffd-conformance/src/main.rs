// SPDX-License-Identifier: GPL-2.0

//! Asks a kernel thousands of questions about userfaultfd, and writes down the answers, one on each
//! line: `chapter/case/question = answer`. The same questions are asked in the same order each
//! time, so that two kernels can be compared line by line. Run as root inside a test guest.
//!
//! # How to add a question
//!
//! 1. Find the chapter. Each chapter is a module with a function `cases`; its doc says what it asks
//!    about. The names in the transcript are older than some names of modules:
//!
//!    | chapter     | module           | asks about                                           |
//!    |-------------|------------------|------------------------------------------------------|
//!    | `limits`    | `arguments`      | arguments of ioctls at and around their limits       |
//!    | `table`     | `ioctls`         | each ioctl on each kind of memory                    |
//!    | `faults`    | `faults`         | each way to touch memory, and sleeping threads       |
//!    | `partial`   | `partial_ranges` | ranges of which an ioctl can do only a part          |
//!    | `messages`  | `messages`       | reading messages, and waiting for them               |
//!    | `events`    | `events`         | forks and changes of mappings                        |
//!    | `failures`  | `failures`       | what fails in the middle                             |
//!    | `processes` | `processes`      | several processes                                    |
//!    | `states`    | `changed_vmas`   | VMAs that change after they were registered          |
//!    | `access`    | `access`         | who may have a userfaultfd                           |
//!    | `review`    | `delivery`       | readers that compete, fail or die; POLLOUT           |
//!    | `claims`    | `claims`         | what happens while a thread reads about a fork       |
//!    | `fdinfo`    | `fdinfo`         | what an administrator sees: counters, wchan, stack   |
//!    | `accounts`  | `accounts`       | what is given back if a call fails in the middle     |
//!    | `charges`   | `charges`        | charges to memory cgroups that are refused           |
//!    | `runs`      | `runs`           | ranges that cross page tables, with obstacles        |
//!    | `moves`     | `moves`          | ranges of pages to move, with obstacles              |
//!    | `injected`  | `injected`       | failures at every place, on debug kernels            |
//!    | `random`    | `random`         | sequences made from a seed                           |
//!
//! 2. Call `log.record(question, answer)` in a function that gets a [`Transcript`], and list that
//!    function in `cases` with the name of the case, `chapter/case`, or extend one that is there.
//!    A case runs in a process of its own, and has a minute. No question is asked twice.
//! 3. Make the answer depend on the kernel alone. Write addresses down with `memory::Names`,
//!    results with `sys::Answer`, messages with `uffd::describe`. Where something depends on luck,
//!    wait until it is decided (`Uffd::wait_for_sleepers`, `process::sleeping_thread`), or sort.
//! 4. Ask both kernels: `cargo xtask conformance PREFIX` compares the answers of the cases whose
//!    names start with `PREFIX`, and prints in which files they are. `cargo xtask test --long` asks
//!    the C kernel twice, so that an answer that depends on luck shows.
//! 5. If the two implementations answer differently, and are meant to, list the question in
//!    `tools/uffd-conformance/differences.rst` with the answer of the one in Rust. Any other
//!    difference is a defect.
//!
//! What several chapters use is in modules that no chapter owns; chapters do not import from one
//! another. `memory`, `process`, `poll` and `sys` have safe functions for system calls, so a chapter
//! hardly ever needs `unsafe`.
//!
//! [`Transcript`]: transcript::Transcript

#![warn(clippy::undocumented_unsafe_blocks)]

mod access;
mod accounts;
mod action;
mod arguments;
mod cgroup;
mod changed_vmas;
mod charges;
mod claims;
mod delivery;
mod events;
mod failures;
mod faults;
mod fdinfo;
mod fixture;
mod injected;
mod inspect;
mod ioctls;
mod kinds;
mod leaks;
mod ledger;
mod memory;
mod messages;
mod moves;
mod partial_ranges;
mod poll;
mod process;
mod processes;
mod random;
mod runs;
mod sys;
mod touch;
mod transcript;
mod uffd;
mod watched;

use clap::Parser;
use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    process::ExitCode,
    sync::{atomic::Ordering, LazyLock},
    time::{Duration, Instant},
};
use transcript::{Case, INJECTED};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    /// What the random questions are made from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run only the cases whose name starts with this.
    #[arg(default_value = "")]
    only: String,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// For the program itself: a part that is run after exec.
    #[arg(long, hide = true)]
    after_exec: Option<i32>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(fd) = cli.after_exec {
        arguments::after_exec(fd);
        return ExitCode::SUCCESS;
    }
    let cases: Vec<Case> = [
        arguments::cases(),
        ioctls::cases(),
        faults::cases(),
        partial_ranges::cases(),
        messages::cases(),
        events::cases(),
        failures::cases(),
        processes::cases(),
        changed_vmas::cases(),
        access::cases(),
        delivery::cases(),
        claims::cases(),
        fdinfo::cases(),
        accounts::cases(),
        charges::cases(),
        runs::cases(),
        moves::cases(),
        random::cases(cli.seed),
        // The last one, because a failure can upset how huge pages are counted.
        injected::cases(),
    ]
    .into_iter()
    .flatten()
    .filter(|case| case.name().starts_with(&cli.only))
    .collect();
    if cli.list {
        cases.iter().for_each(|case| println!("{}", case.name()));
        return ExitCode::SUCCESS;
    }

    LazyLock::force(&INJECTED);
    let mut questions = HashSet::new();
    let mut problems = 0;
    let mut problem = |text: String| {
        problems += 1;
        eprintln!("problem: {text}");
    };
    let mut times: BTreeMap<String, Duration> = BTreeMap::new();
    let mut out = std::io::stdout().lock();
    for case in cases {
        let name = case.name().to_string();
        let start = Instant::now();
        let (text, trouble) = case.run();
        let chapter = name.split('/').next().unwrap_or_default();
        *times.entry(chapter.to_string()).or_default() += start.elapsed();
        if let Some(trouble) = trouble {
            problem(trouble);
        }
        if text.is_empty() {
            problem(format!("{name}: asks nothing"));
        }
        for line in text.lines() {
            let question = line.split(" = ").next().unwrap_or(line);
            if !questions.insert(question.to_string()) {
                problem(format!("{name}: asked twice: {question}"));
            }
        }
        if out.write_all(text.as_bytes()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    let _ = out.flush();
    for (chapter, time) in times {
        eprintln!("{chapter}: {:.1} s", time.as_secs_f64());
    }
    match INJECTED.load(Ordering::Relaxed) {
        0 => {}
        injected => eprintln!("# measure: failures injected = {injected}"),
    }
    eprintln!("{} questions", questions.len());
    if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
