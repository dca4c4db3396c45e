// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask test`: everything that must hold, on both kernels.

use crate::{
    bench,
    config::{Flavour, Impl, Kernel},
    conformance,
    guest::{Guest, Outcome},
    series,
    suites::{self, ConsoleCheck, Report},
    ui, Session, Workshop,
};
use anyhow::{bail, Context, Result};
use comfy_table::{presets::ASCII_MARKDOWN, Table};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

#[derive(clap::Args)]
pub struct Options {
    /// Run the selftests on a kernel with sanitizers, lockdep and assertions.
    #[arg(long, conflicts_with = "rt")]
    debug: bool,
    /// Run the unit tests that need no kernel, and nothing else.
    #[arg(long, conflicts_with_all = ["debug", "rt"])]
    host: bool,
    /// Run the selftests on a PREEMPT_RT kernel.
    #[arg(long)]
    rt: bool,
    /// Give the programs more memory and more rounds, and ask the C kernel all questions twice.
    #[arg(long, conflicts_with_all = ["debug", "rt"])]
    long: bool,
}

/// What a kernel did in all suites.
struct Results {
    kernel: Kernel,
    reports: Vec<(String, Report)>,
    problems: Vec<String>,
    kunit: (u32, u32, u32),
    /// The answers to the questions of the conformance suite.
    transcript: PathBuf,
}

pub fn test(session: &Session, options: &Options) -> Result<()> {
    let start = Instant::now();
    if options.host {
        return host_tests(session, &session.source()?.tree);
    }
    let workshop = session.workshop()?;
    let (kernels, slowness): (Vec<Kernel>, u32) = match (options.debug, options.rt) {
        (true, _) => (flavour(&[Impl::Rust], Flavour::Debug), 8),
        (_, true) => (flavour(&[Impl::Rust], Flavour::Rt), 2),
        _ => (flavour(&[Impl::Rust, Impl::C], Flavour::Plain), 1),
    };
    if !options.debug && !options.rt {
        host_tests(session, &workshop.source.tree)?;
        series::check(session, &workshop.source, &workshop.lab)?;
    }
    let all: Vec<Results> = kernels
        .into_iter()
        .map(|kernel| run(session, &workshop, kernel, slowness, options.long))
        .collect::<Result<_>>()?;

    let measures = measures(&all).to_string();
    println!("\n{}\n\n{measures}\n", table(&all));
    for results in &all {
        let (passed, failed, skipped) = results.kunit;
        println!(
            "KUnit on {}: {passed} passed, {failed} failed, {skipped} skipped",
            results.kernel.title()
        );
    }
    print_exceptions(&all);

    let mut problems = Vec::new();
    let lost = measures.lines().filter(|line| line.contains(NOT_MEASURED));
    problems.extend(lost.map(str::to_string));
    for results in &all {
        for problem in &results.problems {
            problems.push(format!("{}: {problem}", results.kernel.title()));
        }
    }
    if let [rust, c] = &all[..] {
        problems.extend(differences(rust, c));
        let found = conformance::compare(&session.repo, &rust.transcript, &c.transcript)?;
        println!(
            "conformance: {} questions asked, {} identical, {} documented differences",
            found.asked, found.identical, found.documented
        );
        problems.extend(found.problems);
        let found = bench::check(session, &workshop)?;
        println!("{}", found.summary);
        let worse = found.problems.iter();
        problems.extend(worse.map(|problem| format!("slower than C: {problem}")));
    }
    println!("total time: {}", ui::duration(start.elapsed()));
    let passed: u32 = all
        .iter()
        .flat_map(|r| &r.reports)
        .map(|(_, r)| r.passed)
        .sum();
    let failed: u32 = all
        .iter()
        .flat_map(|r| &r.reports)
        .map(|(_, r)| r.failed)
        .sum();
    let skipped: u32 = all
        .iter()
        .flat_map(|r| &r.reports)
        .map(|(_, r)| r.skipped)
        .sum();
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if !problems.is_empty() {
        bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }
    Ok(())
}

/// Runs the unit tests of the code that is pure logic, which takes seconds.
fn host_tests(session: &Session, kernel: &Path) -> Result<()> {
    session.ui.run(
        "host-tests",
        "Running the unit tests on this machine",
        Command::new(env!("CARGO"))
            .args(["test", "--package", "host-tests", "--package", "xtask"])
            .args(["--lib", "--bins"])
            .current_dir(&session.repo)
            .env("UFFD_KERNEL", kernel),
    )?;
    let log = fs::read_to_string(session.ui.log_path("host-tests"))?;
    let results = log.lines().filter(|line| line.starts_with("test result:"));
    let ran: Vec<&str> = results.filter(|line| !line.contains(" 0 passed")).collect();
    if ran.len() != 2 {
        bail!(
            "the unit tests of two packages should have run, and not {}",
            ran.len()
        );
    }
    ran.iter().for_each(|line| session.ui.note(line));
    Ok(())
}

fn flavour(imps: &[Impl], flavour: Flavour) -> Vec<Kernel> {
    imps.iter()
        .map(|imp| Kernel { imp: *imp, flavour })
        .collect()
}

fn run(
    session: &Session,
    workshop: &Workshop,
    kernel: Kernel,
    slowness: u32,
    long: bool,
) -> Result<Results> {
    let builder = session.builder(workshop);
    let image = builder.kernel(kernel)?;
    let selftests = builder.selftests(&suites::binaries())?;
    let programs = builder.programs(&session.repo)?;
    let accel = session.accel(&workshop.lab, &image)?;
    let boot =
        |name: &str, title: &str, directories: &[&Path], append: &str, job: &str, seconds| {
            let share = session.share(name, directories)?;
            if append == suites::LSM_APPEND {
                fs::copy(image.join("selinux.policy"), share.join("selinux.policy"))?;
            }
            let guest = Guest {
                lab: &workshop.lab,
                kernel: &image,
                share: &share,
                accel,
                model: kernel.flavour.cpu_model(),
                cpus: 2,
                memory: "4G",
                append,
            };
            let limit = Duration::from_secs(u64::from(slowness) * seconds);
            session.ui.step(title, |bar| {
                guest.run(job, limit, |line| {
                    if session.ui.verbose {
                        println!("  | {line}");
                    }
                    if let Some(name) = line.strip_prefix("@@ begin ") {
                        bar.set_message(name.to_string());
                    }
                })
            })
        };
    let title = kernel.title();
    let selftests = boot(
        &kernel.name(),
        &format!("Running the selftests on {title}"),
        &[&selftests],
        "",
        &suites::job(suites::ALL, slowness, kernel.imp),
        suites::limit(suites::ALL),
    )?;
    let programs_name = format!("{}-programs", kernel.name());
    let programs = |again: &str| {
        boot(
            &programs_name,
            &format!("Running programs and asking questions{again} on {title}"),
            &[&programs],
            suites::GIGANTIC,
            &suites::programs_job(long, slowness),
            suites::limit(suites::PROGRAMS.iter().chain([&suites::CONFORMANCE]))
                * if long { 5 } else { 1 },
        )
    };
    let first = programs("")?;
    let transcript = session
        .results
        .join(format!("guest/{}.transcript", kernel.name()));
    let written = session
        .results
        .join("guest")
        .join(&programs_name)
        .join(suites::TRANSCRIPT);
    fs::copy(&written, &transcript).context("there are no answers")?;
    let mut problems = Vec::new();
    let console = ConsoleCheck::new()?;
    if long && kernel.imp == Impl::C {
        problems.extend(console.check(&first.console)?);
        let second = programs(" once more")?;
        for (name, report) in suites::reports(&second.output)? {
            let found = report.problems();
            problems.extend(found.iter().map(|problem| format!("{name}: {problem}")));
        }
        let found = conformance::compare_same(&written, &transcript)?;
        problems.extend(found.problems);
    }
    // A guest of its own, because the policy stays loaded.
    let refused = boot(
        &format!("{}-lsm", kernel.name()),
        &format!("Refusing anonymous inodes on {title}"),
        &[],
        suites::LSM_APPEND,
        suites::LSM_JOB,
        suites::limit([&suites::LSM]),
    )?;

    if !says(&selftests, kernel.imp) {
        problems.push("says that it has another implementation".to_string());
    }
    let mut reports: Vec<(String, Report)> = Vec::new();
    for outcome in [&selftests, &first, &refused] {
        for line in outcome.output.lines() {
            let note = line.strip_prefix("@@ note ");
            // What the program that asks says about itself.
            let own = line.strip_prefix("problem: ");
            problems.extend(note.or(own).map(str::to_string));
        }
        for line in console.check(&outcome.console)? {
            problems.push(format!("console: {line}"));
        }
        reports.extend(suites::reports(&outcome.output)?);
    }
    if kernel.imp == Impl::C {
        for (name, report) in &mut reports {
            problems.extend(report.document(name)?);
        }
    }
    let ours: Vec<&str> = suites::PROGRAMS
        .iter()
        .chain([&suites::CONFORMANCE, &suites::LSM])
        .map(|suite| suite.name)
        .collect();
    for (name, report) in &reports {
        for problem in report.problems() {
            problems.push(format!("{name}: {problem}"));
        }
        // Nothing of ours is skipped on a kernel that has all that it needs.
        let complete = report.passed != 0 && report.skipped == 0;
        if ours.contains(&name.as_str()) && kernel.flavour != Flavour::Rt && !complete {
            problems.push(format!("{name}: {}", report.totals()));
        }
    }
    let expected = names().count();
    if reports.len() != expected {
        problems.push(format!("{} of {expected} suites ran", reports.len()));
    }
    let kunit = suites::kunit(&selftests.console)?;
    if kunit.1 != 0 || (kernel.imp == Impl::Rust && kunit.0 == 0) {
        problems.push(format!("KUnit: {} passed, {} failed", kunit.0, kunit.1));
    }
    Ok(Results {
        kernel,
        reports,
        problems,
        kunit,
        transcript,
    })
}

/// Whether a guest said that it has an implementation.
fn says(outcome: &Outcome, imp: Impl) -> bool {
    let name = format!(" {}", imp.name());
    outcome
        .output
        .lines()
        .any(|line| line.starts_with("@@ ready") && line.ends_with(&name))
}

/// The names of all suites, in the order in which they are run.
fn names() -> impl Iterator<Item = &'static str> {
    suites::ALL
        .iter()
        .chain(suites::PROGRAMS)
        .chain([&suites::CONFORMANCE, &suites::LSM])
        .map(|suite| suite.name)
}

/// A row for each suite, a column for each kernel.
fn table(all: &[Results]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let mut header = vec!["suite".to_string()];
    for results in all {
        header.push(format!("{}: pass / fail / skip", results.kernel.name()));
        header.push("s".into());
    }
    table.set_header(header);
    for (index, name) in names().enumerate() {
        let mut row = vec![name.to_string()];
        for results in all {
            match results.reports.get(index) {
                Some((_, report)) => {
                    row.push(report.totals());
                    row.push(format!("{:.1}", report.seconds));
                }
                None => row.extend(["did not run".into(), String::new()]),
            }
        }
        table.add_row(row);
    }
    table
}

/// What stands in place of a value that a program printed on one kernel only.
const NOT_MEASURED: &str = "not measured";

/// What the programs measured, a column for each kernel.
fn measures(all: &[Results]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let mut header = vec!["measured".to_string()];
    header.extend(all.iter().map(|results| results.kernel.name()));
    table.set_header(header);
    let of = |results: &Results, name: &str| {
        let measures = results.reports.iter().flat_map(|(_, r)| &r.measures);
        let mut found = measures.filter(|(other, _)| other == name);
        found
            .next()
            .map_or(NOT_MEASURED.into(), |(_, value)| value.clone())
    };
    for (name, _) in all[0].reports.iter().flat_map(|(_, r)| &r.measures) {
        let mut row = vec![name.clone()];
        row.extend(all.iter().map(|results| of(results, name)));
        table.add_row(row);
    }
    table
}

/// Lists what was skipped or run again, and why.
fn print_exceptions(all: &[Results]) {
    for results in all {
        for (name, report) in &results.reports {
            for skip in &report.skips {
                println!("skipped on {}: {name}: {skip}", results.kernel.title());
            }
            if !report.documented.is_empty() {
                println!(
                    "{name}: {} tests fail on {}, as is known: {}",
                    report.documented.len(),
                    results.kernel.title(),
                    suites::reasons(name).join("; ")
                );
            }
            if report.raced {
                println!(
                    "run again on {}: {name}: it lost the race that UFFDIO_UNREGISTER has in C",
                    results.kernel.title()
                );
            }
        }
    }
}

/// Compares two kernels test by test.
fn differences(a: &Results, b: &Results) -> Vec<String> {
    let mut differences = Vec::new();
    for ((name, left), (_, right)) in a.reports.iter().zip(&b.reports) {
        let same_totals = left.passed == right.passed + right.documented.len() as u32
            && (left.failed, left.skipped) == (right.failed, right.skipped);
        if !same_totals {
            differences.push(format!(
                "{name}: {} on {}, and {} on {}",
                left.totals(),
                a.kernel.title(),
                right.totals(),
                b.kernel.title()
            ));
        }
        for (test, status) in &left.tests {
            let other = right.tests.get(test).map_or("did not run", String::as_str);
            if other != status && !(other == suites::DOCUMENTED && status == "Pass") {
                differences.push(format!("{name}: {test}: {status}, and {other} in C"));
            }
        }
    }
    differences
}
