// SPDX-License-Identifier: GPL-2.0

//! Asks a kernel thousands of questions about userfaultfd, and writes down the answers, one on each
//! line: `chapter/case/question = answer`. The same questions are asked in the same order each
//! time, so that two kernels can be compared line by line. Run as root inside a test guest.

#![warn(clippy::undocumented_unsafe_blocks)]

mod access;
mod action;
mod arguments;
mod cgroup;
mod changed_vmas;
mod delivery;
mod events;
mod failures;
mod faults;
mod fixture;
mod inspect;
mod ioctls;
mod kinds;
mod memory;
mod messages;
mod partial_ranges;
mod poll;
mod process;
mod processes;
mod random;
mod sys;
mod touch;
mod transcript;
mod uffd;

use clap::Parser;
use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};
use transcript::Case;

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
        random::cases(cli.seed),
    ]
    .into_iter()
    .flatten()
    .filter(|case| case.name().starts_with(&cli.only))
    .collect();
    if cli.list {
        cases.iter().for_each(|case| println!("{}", case.name()));
        return ExitCode::SUCCESS;
    }

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
    eprintln!("{} questions", questions.len());
    if problems == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
