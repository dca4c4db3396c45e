// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask test`: everything that must hold, on both kernels.

pub mod guests;
mod tables;

use crate::{
    bench,
    builder::Builder,
    config::{Arch, Flavour, Impl, Kernel},
    conformance,
    console::ConsoleCheck,
    report::{self, Report},
    series,
    suites::Plan,
    ui, Session,
};
use anyhow::{bail, Context, Result};
use guests::{complaints, failures, Guests};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

#[derive(clap::Args)]
pub struct Options {
    /// Run all suites on a Rust kernel with sanitizers, lockdep and assertions. Have each allocation
    /// and each copy of a call fail there and on such a C kernel, and compare what comes of it.
    #[arg(long, conflicts_with = "rt")]
    debug: bool,
    /// Run the unit tests that need no kernel, and nothing else.
    #[arg(long, conflicts_with_all = ["debug", "rt"])]
    host: bool,
    /// The same on a Rust kernel with PREEMPT_RT.
    #[arg(long)]
    rt: bool,
    /// Run the selftests and the conformance suite on kernels that gcc built.
    #[arg(long, conflicts_with_all = ["debug", "host", "rt"])]
    gcc: bool,
    /// Run what needs no more than an initramfs on kernels for this architecture.
    #[arg(long, value_enum, default_value = "x86", conflicts_with_all = ["debug", "gcc", "host", "rt"])]
    arch: Arch,
    /// Give the programs more memory and more rounds, and ask the C kernel all questions twice.
    #[arg(long, conflicts_with_all = ["arch", "debug", "gcc", "rt"])]
    long: bool,
}

/// The results of a kernel in all suites.
pub struct Results {
    kernel: Kernel,
    reports: Vec<(String, Report)>,
    problems: Vec<String>,
    kunit: Option<(u32, u32, u32)>,
    /// The answers to the questions of the conformance suite, if they were asked.
    transcript: Option<PathBuf>,
    /// The directories that the guests shared.
    pub shares: Vec<PathBuf>,
}

pub fn test(session: &Session, options: &Options) -> Result<()> {
    let start = Instant::now();
    if options.host {
        return host_tests(session, &session.source()?.tree);
    }
    let both: &[Impl] = &[Impl::Rust, Impl::C];
    let (flavours, imps, slowness): (&[Flavour], _, _) = match options {
        Options { debug: true, .. } => (&[Flavour::Debug], &both[..1], 8),
        Options { rt: true, .. } => (&[Flavour::Rt], &both[..1], 2),
        Options { gcc: true, .. } => (&[Flavour::Gcc], both, 1),
        Options { arch, .. } => match arch {
            Arch::X86 => (&[Flavour::Plain], both, 1),
            Arch::Arm64 => (&[Flavour::Arm64, Flavour::Arm64Pages64], both, 2),
        },
    };
    let builder = session.builder_for(options.arch)?;
    if flavours == [Flavour::Plain] {
        host_tests(session, &builder.source.tree)?;
        series::check(session, &builder.source, &builder.lab)?;
    }
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for &flavour in flavours {
        let kernels = imps.iter().map(|&imp| Kernel { imp, flavour });
        let same: Vec<Results> = kernels
            .map(|kernel| run(&Guests::new(&builder, kernel, slowness)?, options.long))
            .collect::<Result<_>>()?;
        problems.extend(show(&same));
        if let [rust, c] = &same[..] {
            problems.extend(compare(&builder, rust, c)?);
        }
        if let ([rust], Flavour::Debug) = (&same[..], flavour) {
            problems.extend(compare_injected(&builder, rust, slowness)?);
        }
        all.extend(same);
    }
    println!("total time: {}", ui::duration(start.elapsed()));
    let sum = |field: fn(&Report) -> u32| -> u32 {
        let reports = all.iter().flat_map(|results| &results.reports);
        reports.map(|(_, report)| field(report)).sum()
    };
    println!(
        "{} passed, {} failed, {} skipped",
        sum(|report| report.passed),
        sum(|report| report.failed),
        sum(|report| report.skipped)
    );
    refuse(&problems)
}

/// Fails if there are problems, and lists them.
pub fn refuse(problems: &[String]) -> Result<()> {
    if !problems.is_empty() {
        bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }
    Ok(())
}

/// Prints the results of each kernel. Returns the problems.
pub fn show(all: &[Results]) -> Vec<String> {
    println!("\n{}\n", tables::table(all));
    let measures = tables::measures(all);
    if !measures.is_empty() {
        println!("{measures}\n");
    }
    for results in all {
        if let Some((passed, failed, skipped)) = results.kunit {
            println!(
                "KUnit on {}: {passed} passed, {failed} failed, {skipped} skipped",
                results.kernel.title()
            );
        }
    }
    tables::print_exceptions(all);
    tables::print_not_run(all);

    let measures = measures.to_string();
    let lost = measures.lines();
    let lost = lost.filter(|line| line.contains(tables::NOT_MEASURED));
    let mut problems: Vec<String> = lost.map(str::to_string).collect();
    for results in all {
        for problem in &results.problems {
            problems.push(format!("{}: {problem}", results.kernel.title()));
        }
    }
    problems
}

/// Compares the two kernels: tests, answers, and path lengths. Returns the problems.
fn compare(builder: &Builder, rust: &Results, c: &Results) -> Result<Vec<String>> {
    let mut problems = tables::differences(rust, c);
    if let (Some(ours), Some(theirs)) = (&rust.transcript, &c.transcript) {
        let found = conformance::compare(&builder.session.repo, ours, theirs, "")?;
        println!("{}", found.summary());
        problems.extend(found.problems);
    }
    if rust.kernel.flavour == Flavour::Plain {
        let found = bench::check(builder)?;
        println!("{}", found.summary);
        let worse = found.problems.iter();
        problems.extend(worse.map(|problem| format!("slower than C: {problem}")));
    }
    Ok(problems)
}

/// Injects the same failures into a C kernel, and compares what came of them. Returns the problems.
fn compare_injected(builder: &Builder, rust: &Results, slowness: u32) -> Result<Vec<String>> {
    let kernel = Kernel {
        imp: Impl::C,
        ..rust.kernel
    };
    let c = conformance::ask(
        &Guests::new(builder, kernel, slowness)?,
        conformance::INJECTED,
    )?;
    let mut problems = c.problems;
    for (kernel, reports) in [(rust.kernel, &rust.reports), (kernel, &c.reports)] {
        let measures = reports.iter().flat_map(|(_, report)| &report.measures);
        let mut injected = measures.filter(|(name, _)| name == FAILURES);
        match injected.next() {
            Some((_, number)) => println!("{number} {FAILURES} into {}", kernel.title()),
            None => problems.push(format!("no {FAILURES} into {}", kernel.title())),
        }
    }
    let ours = rust.transcript.as_ref().context("there are no answers")?;
    let repo = &builder.session.repo;
    let found = conformance::compare(repo, ours, &c.transcript, conformance::INJECTED)?;
    println!("{}", found.summary());
    problems.extend(found.problems);
    Ok(problems)
}

/// What the conformance suite calls the number of the failures that it injects.
const FAILURES: &str = "failures injected";

/// Runs the unit tests of the code that is pure logic, which takes seconds.
fn host_tests(session: &Session, kernel: &Path) -> Result<()> {
    session.ui.run(
        "host-tests",
        "Running the unit tests on this machine",
        Command::new(env!("CARGO"))
            .args(["test", "--package", "host-tests", "--package", "xtask"])
            .arg("--tests")
            .current_dir(&session.repo)
            .env("UFFD_KERNEL", kernel),
    )?;
    let log = fs::read_to_string(session.ui.log_path("host-tests"))?;
    let results = log.lines().filter(|line| line.starts_with("test result:"));
    let ran: Vec<&str> = results.filter(|line| !line.contains(" 0 passed")).collect();
    if ran.len() != 3 {
        bail!(
            "the unit tests of two packages, and one of the compiler, should have run, and not {}",
            ran.len()
        );
    }
    ran.iter().for_each(|line| session.ui.note(line));
    Ok(())
}

/// Runs all suites on a kernel.
pub fn run(guests: &Guests, long: bool) -> Result<Results> {
    let kernel = guests.kernel;
    let selftests = guests.selftests()?;
    let programs = guests.programs(long)?;
    let mut problems = Vec::new();
    if let (true, Impl::C, Some(programs)) = (long, kernel.imp, &programs) {
        problems = guests.repeat_programs(programs)?;
    }
    let refused = guests.refused()?;
    let (programs, transcript) = programs.unzip();

    let console = ConsoleCheck::new()?;
    let mut reports = Vec::new();
    let mut shares = Vec::new();
    let outcomes = [Some(&selftests), programs.as_ref(), refused.as_ref()];
    for outcome in outcomes.into_iter().flatten() {
        problems.extend(complaints(outcome, &console, kernel.imp)?);
        reports.extend(report::reports(&outcome.output)?);
        shares.extend(outcome.console.parent().map(Path::to_path_buf));
    }
    if kernel.imp == Impl::C {
        for (name, report) in &mut reports {
            problems.extend(report.document(name)?);
        }
    }
    problems.extend(failures(&reports, kernel));
    let expected = Plan::of(kernel.flavour).all().count();
    if reports.len() != expected {
        problems.push(format!("{} of {expected} suites ran", reports.len()));
    }
    let mut kunit = None;
    if kernel.flavour != Flavour::Coverage {
        let (passed, failed, skipped) = report::kunit(&selftests.console)?;
        if failed != 0 || (kernel.imp == Impl::Rust && passed == 0) {
            problems.push(format!("KUnit: {passed} passed, {failed} failed"));
        }
        kunit = Some((passed, failed, skipped));
    }
    Ok(Results {
        kernel,
        reports,
        problems,
        kunit,
        transcript,
        shares,
    })
}
