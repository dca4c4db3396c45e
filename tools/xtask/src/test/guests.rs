// SPDX-License-Identifier: GPL-2.0

//! The guests of one kernel: the jobs that they run, and the problems that they show.

use crate::{
    builder::Builder,
    config::{Arch, Flavour, Impl, Kernel},
    conformance,
    console::ConsoleCheck,
    guest::{self, Accel, Guest, Outcome},
    report::{self, Report},
    suites::{self, Plan},
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// A kernel under test.
pub struct Guests<'a> {
    builder: &'a Builder<'a>,
    pub kernel: Kernel,
    plan: Plan,
    /// The directory of the kernel.
    image: PathBuf,
    programs: PathBuf,
    accel: Accel,
    /// Multiplies time limits.
    slowness: u32,
    /// See [`Guest::trace`].
    trace: Option<String>,
}

/// A boot of a guest.
struct Job<'a> {
    /// Follows the name of the kernel in the name of the directory that the guest shares.
    suffix: &'a str,
    title: &'a str,
    directories: &'a [&'a Path],
    append: &'a str,
    script: &'a str,
    seconds: u64,
}

impl<'a> Guests<'a> {
    /// Builds the kernel and the programs of the project.
    pub fn new(builder: &'a Builder<'a>, kernel: Kernel, slowness: u32) -> Result<Self> {
        let image = builder.kernel(kernel)?;
        let accel = match builder.arch {
            Arch::X86 => builder.session.accel(&builder.lab, &image)?,
            // The lab and its QEMU are for x86-64.
            Arch::Arm64 => Accel::Tcg,
        };
        Ok(Self {
            builder,
            kernel,
            plan: Plan::of(kernel.flavour),
            programs: builder.programs()?,
            accel,
            image,
            slowness,
            trace: None,
        })
    }

    /// Has QEMU log the code in these ranges of addresses that runs.
    pub fn traced(self, ranges: String) -> Self {
        Self {
            accel: Accel::Tcg,
            trace: Some(ranges),
            ..self
        }
    }

    fn boot(&self, job: &Job) -> Result<Outcome> {
        let session = self.builder.session;
        let name = format!("{}{}", self.kernel.name(), job.suffix);
        let share = session.share(&name, job.directories)?;
        if job.append == suites::LSM_APPEND {
            let policy = "selinux.policy";
            fs::copy(self.image.join(policy), share.join(policy))?;
        }
        let guest = Guest {
            arch: self.builder.arch,
            model: self.kernel.flavour.cpu_model(),
            append: job.append,
            trace: self.trace.as_deref(),
            ..Guest::new(&self.builder.lab, &self.image, &share, self.accel)
        };
        let limit = Duration::from_secs(u64::from(self.slowness) * job.seconds);
        let title = format!("{} on {}", job.title, self.kernel.title());
        session.ui.step(&title, |bar| {
            guest.run(job.script, limit, |line| {
                if session.ui.verbose {
                    println!("  | {line}");
                }
                if let Some(name) = line.strip_prefix("@@ begin ") {
                    bar.set_message(name.to_string());
                }
            })
        })
    }

    pub fn selftests(&self) -> Result<Outcome> {
        let selftests = self
            .builder
            .selftests(&suites::binaries(self.builder.arch))?;
        let suites = &self.plan.selftests;
        self.boot(&Job {
            suffix: "",
            title: "Running the selftests",
            directories: &[&selftests],
            append: suites::append(self.kernel.flavour),
            script: &suites::job(suites, self.slowness, self.kernel.imp),
            seconds: suites::limit(suites),
        })
    }

    /// Runs the programs, and asks the questions of the conformance suite. Returns the transcript
    /// as well. Some kernels run none of them.
    pub fn programs(&self, long: bool) -> Result<Option<(Outcome, PathBuf)>> {
        if self.plan.programs.is_empty() {
            return Ok(None);
        }
        let outcome = self.run_programs(long, "Running programs and asking questions")?;
        // The next guest removes it from the directory that it shares.
        let transcript = outcome.console.with_file_name(suites::TRANSCRIPT);
        let guests = self.builder.session.results.join("guest");
        let kept = guests.join(format!("{}.transcript", self.kernel.name()));
        fs::copy(transcript, &kept).context("there are no answers")?;
        Ok(Some((outcome, kept)))
    }

    fn run_programs(&self, long: bool, title: &str) -> Result<Outcome> {
        let suites = &self.plan.programs;
        let limit = suites::limit(suites);
        self.boot(&Job {
            suffix: "-programs",
            title,
            directories: &[&self.programs],
            append: suites::GIGANTIC,
            script: &suites::programs_job(suites, long, self.slowness),
            seconds: if long { 5 * limit } else { limit },
        })
    }

    /// Does the same as `programs` once more. Returns the problems, with the answers that differ
    /// from the first ones.
    pub fn repeat_programs(&self, (first, before): &(Outcome, PathBuf)) -> Result<Vec<String>> {
        // The second guest writes to the same console.
        let mut problems = ConsoleCheck::new()?.check(&first.console)?;
        let second = self.run_programs(true, "Running programs and asking questions once more")?;
        for (name, report) in report::reports(&second.output)? {
            let found = report.problems();
            problems.extend(found.iter().map(|problem| format!("{name}: {problem}")));
        }
        let again = second.console.with_file_name(suites::TRANSCRIPT);
        problems.extend(conformance::compare_same(&again, before)?.problems);
        Ok(problems)
    }

    /// Asks the questions of the cases whose names start with `prefix`. Returns the transcript as
    /// well.
    pub fn conformance(&self, prefix: &str) -> Result<(Outcome, PathBuf)> {
        let outcome = self.boot(&Job {
            suffix: "-conformance",
            title: "Asking questions",
            directories: &[&self.programs],
            append: suites::GIGANTIC,
            script: &suites::conformance_job(prefix, self.slowness),
            seconds: suites::limit(&[&suites::CONFORMANCE]),
        })?;
        let transcript = outcome.console.with_file_name(suites::TRANSCRIPT);
        Ok((outcome, transcript))
    }

    /// Has a security module refuse anonymous inodes. It takes a guest of its own, because the
    /// policy stays loaded. Some kernels do without.
    pub fn refused(&self) -> Result<Option<Outcome>> {
        if self.plan.lsm.is_empty() {
            return Ok(None);
        }
        let outcome = self.boot(&Job {
            suffix: "-lsm",
            title: "Refusing anonymous inodes",
            directories: &[],
            append: suites::LSM_APPEND,
            script: suites::LSM_JOB,
            seconds: suites::limit(&self.plan.lsm),
        })?;
        Ok(Some(outcome))
    }
}

/// Returns the problems of a guest, apart from those in the reports of its suites.
pub fn complaints(outcome: &Outcome, console: &ConsoleCheck, imp: Impl) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    if guest::ready(&outcome.output).is_none_or(|(_, name)| name != imp.name()) {
        problems.push("says that it has another implementation".to_string());
    }
    for line in outcome.output.lines() {
        let note = line.strip_prefix("@@ note ");
        // The conformance suite prints its own problems like this.
        let own = line.strip_prefix("problem: ");
        problems.extend(note.or(own).map(str::to_string));
    }
    for line in console.check(&outcome.console)? {
        problems.push(format!("console: {line}"));
    }
    Ok(problems)
}

/// Returns the problems in the reports of suites on a kernel. The suites of this repository must
/// run all their tests where they can.
pub fn failures(reports: &[(String, Report)], kernel: Kernel) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, report) in reports {
        for problem in report.problems() {
            problems.push(format!("{name}: {problem}"));
        }
        let all = report.passed != 0 && report.skipped == 0;
        // A PREEMPT_RT kernel lacks transparent huge pages, so suites skip tests.
        let complete =
            kernel.flavour != Flavour::Rt && (kernel.imp != Impl::C || suites::is_comparable(name));
        if complete && !all && suites::ours().any(|suite| suite.name == name) {
            problems.push(format!("{name}: {}", report.totals()));
        }
    }
    problems
}
