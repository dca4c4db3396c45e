// SPDX-License-Identifier: GPL-2.0

//! Test suites of the guest: what is run, and what came of it.

use crate::config::Impl;
use anyhow::{bail, Context, Result};
use regex::Regex;
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::Path};

/// A suite of the kernel's selftests.
pub struct Suite {
    pub name: &'static str,
    /// The binary, and its arguments.
    pub command: &'static str,
    /// The time limit, in seconds on an ordinary kernel.
    pub seconds: u32,
}

const fn suite(name: &'static str, command: &'static str, seconds: u32) -> Suite {
    Suite {
        name,
        command,
        seconds,
    }
}

/// A suite that fails on the C kernel now and then, and what it prints when it does. There,
/// UFFDIO_UNREGISTER wakes threads before it clears the area, so a thread may fault once more in
/// between, and its page is filled when the area is not registered any more. This is in
/// Documentation's list of differences.
pub const RACE_IN_C: (&str, &str) = ("uffd-unit-tests", "ERROR: UFFDIO_COPY error: -2 ");

/// What a guest prints before it runs a suite again, see `retry` in `guest/suites.sh`.
const AGAIN: &str = "@@ again";

/// Why tests of a suite fail on the C kernel.
pub fn reasons(suite: &str) -> Vec<&'static str> {
    let known = FAILS_IN_C.iter().filter(|(name, ..)| *name == suite);
    known.map(|(_, _, reason)| *reason).collect()
}

/// The suite that `run` shows.
pub const UNIT: &[Suite] = &[suite("uffd-unit-tests", "uffd-unit-tests", 900)];

/// All suites, in the order in which they are run.
pub const ALL: &[Suite] = &[
    suite("uffd-unit-tests", "uffd-unit-tests", 900),
    suite("uffd-stress anon", "uffd-stress anon 20 16", 120),
    suite("uffd-stress shmem", "uffd-stress shmem 20 16", 120),
    suite(
        "uffd-stress shmem-private",
        "uffd-stress shmem-private 20 16",
        120,
    ),
    suite("uffd-stress hugetlb", "uffd-stress hugetlb 64 32", 120),
    suite(
        "uffd-stress hugetlb-private",
        "uffd-stress hugetlb-private 64 32",
        120,
    ),
    suite("uffd-wp-mremap", "uffd-wp-mremap", 120),
    suite("pagemap_ioctl", "pagemap_ioctl", 240),
    suite("mkdirty", "mkdirty", 120),
    // It maps at fixed distances from where the kernel put something, which works or not with the
    // layout, and its data are random.
    suite("mremap_test", "mremap_test -p 1", 240),
    suite("guard-regions", "guard-regions", 120),
    suite("ksm_functional_tests", "ksm_functional_tests", 240),
    suite("hugepage-mremap", "hugepage-mremap", 120),
    suite("uffd-compat (32 bit)", "uffd-compat_32", 60),
    // What the fixes of the base mend.
    suite("uffd-move-huge-zero", "uffd-move-huge-zero", 120),
    suite("uffd-special", "uffd-special", 60),
    suite("uffd-move-pinned", "uffd-move-pinned", 120),
    suite("uffd-move-threads", "uffd-move-threads", 180),
    suite("uffd-markers", "uffd-markers", 60),
    suite("uffd-copy-retry", "uffd-copy-retry", 180),
    suite("uffd-hugetlb-wp", "uffd-hugetlb-wp", 120),
    // What C has wrong, see `FAILS_IN_C`.
    suite("uffd-busy-wait", "uffd-busy-wait", 180),
    suite("uffd-changing", "uffd-changing", 180),
    suite("uffd-close-fork", "uffd-close-fork", 180),
    suite("uffd-map-limit", "uffd-map-limit", 60),
    suite("uffd-eexist", "uffd-eexist", 180),
];

/// Tests that fail on the C kernel: the suite, a pattern of their names, and why. Some depend on
/// luck, but of each entry at least one fails.
pub const FAILS_IN_C: &[(&str, &str, &str)] = &[
    (
        "uffd-busy-wait",
        ": (waits asleep|one message for one fault)$",
        "a signal that is pending keeps a fault of the kernel from sleeping",
    ),
    (
        "uffd-changing",
        "ready for output (before|when)|a fill works$|woken when it is over|(no|most two) EAGAIN|taken away",
        "operations fail until the thread that caused the event runs, and nothing tells when",
    ),
    (
        "uffd-close-fork",
        "fork goes on$|removal go on$|with forks: nobody hangs$",
        "a fork waits for a reader when only its own child has the descriptor",
    ),
    (
        "uffd-map-limit",
        "all or nothing$",
        "what a registration that fails has done stays",
    ),
    (
        "uffd-eexist",
        "says EEXIST wakes$|going on from there wakes|nobody is stranded$",
        "EEXIST wakes nobody",
    ),
];

/// The binaries that the kernel's own makefile builds.
pub fn binaries() -> Vec<&'static str> {
    let mut names: Vec<&str> = ALL
        .iter()
        .filter_map(|suite| suite.command.split(' ').next())
        .collect();
    names.dedup();
    names
}

/// The programs that people run on userfaultfd.
pub const PROGRAMS: &[Suite] = &[
    suite("QEMU postcopy", "uffd-programs postcopy", 300),
    suite("CRIU lazy restore", "uffd-programs criu", 180),
    suite("snapshot restore", "uffd-programs snapshot", 90),
    suite("garbage collector", "uffd-programs gc", 90),
    suite("very many threads", "uffd-programs crowd", 600),
    suite("stress-ng", "sh \"$out\"/stress-ng.sh", 60),
];

/// The suite whose answers are compared. It leaves them in a file beside the console.
pub const CONFORMANCE: Suite = suite("conformance", "uffd-conformance", 900);

/// The file with the answers.
pub const TRANSCRIPT: &str = "transcript.txt";

/// The suite that needs a guest of its own, with SELinux.
pub const LSM: Suite = suite("LSM veto", "lsm.py", 60);

/// What the kernel's command line has for [`LSM`].
pub const LSM_APPEND: &str = "lsm=selinux";

/// The job that runs [`LSM`].
pub const LSM_JOB: &str = ". \"$out\"/suites.sh\nlsm_veto\n";

/// How long suites may take, in seconds, with the boot.
pub fn limit<'a>(suites: impl IntoIterator<Item = &'a Suite>) -> u64 {
    300 + suites
        .into_iter()
        .map(|suite| u64::from(suite.seconds))
        .sum::<u64>()
}

/// The job that runs suites of the kernel. `slowness` multiplies their time limits.
pub fn job(suites: &[Suite], slowness: u32, imp: Impl) -> String {
    let mut job = String::from(". \"$out\"/suites.sh\nprepare_selftests\n");
    for suite in suites {
        let races = imp == Impl::C && suite.name == RACE_IN_C.0;
        job.push_str(&format!(
            "{} '{}' {} setarch -R ./{}\n",
            if races { "retry" } else { "suite" },
            suite.name,
            suite.seconds * slowness,
            suite.command
        ));
    }
    job
}

/// What the kernel's command line has for the job that runs [`CONFORMANCE`]: a page that is too big
/// to be found later.
pub const GIGANTIC: &str = "hugepagesz=1G hugepages=1";

/// The job that runs [`PROGRAMS`] and [`CONFORMANCE`].
pub fn programs_job(long: bool, slowness: u32) -> String {
    let mut job = String::from(". \"$out\"/suites.sh\nprepare_programs\n");
    let factor = if long { 5 * slowness } else { slowness };
    for suite in PROGRAMS {
        let long = if long && suite.command.starts_with("uffd-") {
            " --long"
        } else {
            ""
        };
        job.push_str(&format!(
            "suite '{}' {} {}{long}\n",
            suite.name,
            suite.seconds * factor,
            suite.command
        ));
    }
    job.push_str(&format!("conformance {}\n", CONFORMANCE.seconds * slowness));
    job
}

/// How a test, or a suite, ended.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Pass,
    Fail,
    Skip,
}

/// What a test ended with that fails as [`FAILS_IN_C`] says.
pub const DOCUMENTED: &str = "fails in C";

/// What came of a suite.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// What each test of the suite ended with, where it says so.
    pub tests: BTreeMap<String, String>,
    /// The tests that were skipped, with the reason.
    pub skips: Vec<String>,
    /// What it measured: a name, and a value with its unit.
    pub measures: Vec<(String, String)>,
    pub exit: i32,
    pub seconds: f64,
    /// Contexts before and after.
    pub contexts: (u64, u64),
    /// Whether [`RACE_IN_C`] was lost, in this run or in one before it.
    pub raced: bool,
    /// The tests that failed as [`FAILS_IN_C`] says. They are not counted as failed.
    pub documented: Vec<String>,
}

impl Report {
    pub fn totals(&self) -> String {
        format!("{} / {} / {}", self.passed, self.failed, self.skipped)
    }

    /// Takes those failures for what they are that the C kernel is known to have. Returns what is
    /// wrong with the list.
    pub fn document(&mut self, suite: &str) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for (_, pattern, _) in FAILS_IN_C.iter().filter(|(name, ..)| *name == suite) {
            let pattern = Regex::new(pattern)?;
            let before = self.documented.len();
            for (test, status) in &mut self.tests {
                if status == "Fail" && pattern.is_match(test) {
                    *status = DOCUMENTED.to_string();
                    self.documented.push(test.clone());
                }
            }
            let found = self.documented.len() - before;
            if found == 0 {
                problems.push(format!("{suite}: nothing that is listed fails in C"));
            }
            self.failed = self.failed.saturating_sub(found as u32);
            if self.failed == 0 && self.exit == 1 {
                self.exit = 0;
            }
        }
        Ok(problems)
    }

    /// Whether nothing failed and nothing leaked.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.failed != 0 || !matches!(self.exit, 0 | 4) {
            problems.push(format!("{} failed, exit status {}", self.failed, self.exit));
        }
        if self.contexts.0 != self.contexts.1 {
            problems.push(format!(
                "there were {} contexts before and {} after",
                self.contexts.0, self.contexts.1
            ));
        }
        problems
    }
}

/// Reads what a guest printed: the reports of the suites, in order.
pub fn reports(output: &str) -> Result<Vec<(String, Report)>> {
    let mut reports = Vec::new();
    let mut current: Option<(String, Vec<&str>)> = None;
    let mut again = false;
    for line in output.lines() {
        if line == AGAIN {
            again = true;
        } else if let Some(name) = line.strip_prefix("@@ begin ") {
            current = Some((name.to_string(), Vec::new()));
        } else if let Some(end) = line.strip_prefix("@@ end ") {
            let (name, lines) = current.take().context("a suite ends that did not begin")?;
            let mut report = report(&lines, end.strip_prefix(&name).unwrap_or(end))?;
            report.raced = name == RACE_IN_C.0 && lines.iter().any(|l| l.contains(RACE_IN_C.1));
            if std::mem::take(&mut again) {
                let (_, first): &mut (String, Report) =
                    reports.last_mut().context("nothing was run before")?;
                // A failure of another kind stays one.
                if first.raced {
                    report.raced = true;
                    *first = report;
                }
            } else {
                reports.push((name, report));
            }
        } else if let Some((_, lines)) = &mut current {
            lines.push(line);
        }
    }
    if let Some((name, _)) = current {
        bail!("{name} did not end");
    }
    Ok(reports)
}

fn report(lines: &[&str], end: &str) -> Result<Report> {
    let fields: Vec<&str> = end.split_whitespace().collect();
    let [exit, start, end, before, after] = fields[..] else {
        bail!("not the end of a suite: {end}");
    };
    let mut report = Report {
        exit: exit.parse()?,
        seconds: end.parse::<f64>()? - start.parse::<f64>()?,
        contexts: (before.parse()?, after.parse()?),
        ..Report::default()
    };

    let tap = Regex::new(r"^(not )?ok (\d+)(?: -)? ?(.*?)(?: # (SKIP|XFAIL)\s*(.*))?$")?;
    let unit = Regex::new(r"^Testing (.*?)\.\.\. (done|skipped|failed)(.*)$")?;
    let totals = Regex::new(
        r"^# Totals: pass:(\d+) fail:(\d+) xfail:(\d+) xpass:(\d+) skip:(\d+) error:(\d+)",
    )?;
    let unit_totals = Regex::new(r"^Userfaults unit tests: pass=(\d+), skip=(\d+), fail=(\d+)")?;
    let measure = Regex::new(r"^# measure: (.*?) = (.*)$")?;
    let number = Regex::new(r"\d+(\.\d+)?")?;
    let mut counted = false;
    for line in lines {
        if let Some(test) = tap.captures(line) {
            let skipped = test.get(4).is_some_and(|word| word.as_str() == "SKIP");
            let status = match (test.get(1).is_some(), skipped) {
                (true, _) => Status::Fail,
                (false, true) => Status::Skip,
                (false, false) => Status::Pass,
            };
            // Some names have measurements in them.
            let name = format!("{} {}", &test[2], number.replace_all(&test[3], "N"));
            if skipped {
                report.skips.push(format!(
                    "{name}: {}",
                    test.get(5).map_or("", |m| m.as_str())
                ));
            }
            report.tests.insert(name, format!("{status:?}"));
        } else if let Some(test) = unit.captures(line) {
            if &test[2] == "skipped" {
                report.skips.push(format!("{}:{}", &test[1], &test[3]));
            }
            report
                .tests
                .insert(test[1].to_string(), test[2].to_string());
        } else if let Some(found) = measure.captures(line) {
            report
                .measures
                .push((found[1].to_string(), found[2].to_string()));
        } else if let Some(total) = totals.captures(line) {
            let number = |index: usize| total[index].parse::<u32>();
            report.passed = number(1)? + number(3)?;
            report.failed = number(2)? + number(4)? + number(6)?;
            report.skipped = number(5)?;
            counted = true;
        } else if let Some(total) = unit_totals.captures(line) {
            report.passed = total[1].parse()?;
            report.skipped = total[2].parse()?;
            report.failed = total[3].parse()?;
            counted = true;
        }
    }
    if !counted {
        // A suite that is one test says how it went by its exit status.
        match report.exit {
            0 => report.passed = 1,
            4 => report.skipped = 1,
            _ => report.failed = 1,
        }
    }
    Ok(report)
}

/// What a line of the console must not match, with the exceptions that are known.
pub struct ConsoleCheck {
    bad: Regex,
    exceptions: Vec<(Regex, Option<Regex>)>,
}

#[derive(Deserialize)]
struct Exception {
    pattern: String,
    /// What one of the lines just before has to match.
    after: Option<String>,
    #[allow(dead_code)] // It is there to be read by people.
    reason: String,
}

#[derive(Deserialize)]
struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

/// How many lines before a line are looked at for what explains it.
const LINES_BEFORE: usize = 6;

impl ConsoleCheck {
    pub fn new() -> Result<Self> {
        Self::from_list(include_str!("../console-exceptions.toml"))
    }

    fn from_list(exceptions: &str) -> Result<Self> {
        let exceptions: Exceptions = toml::from_str(exceptions)?;
        let exceptions = exceptions.exception.into_iter().map(|exception| {
            let after = exception
                .after
                .map(|after| Regex::new(&after))
                .transpose()?;
            Ok((Regex::new(&exception.pattern)?, after))
        });
        Ok(Self {
            bad: Regex::new(
                r"WARNING:|BUG:|Oops|Call Trace|KASAN:|UBSAN:|INFO: task|rcu:.*stall|suspicious RCU|refcount_t:|rust_kernel: panicked|not ok",
            )?,
            exceptions: exceptions.collect::<Result<_>>()?,
        })
    }

    /// Returns the lines that should not be there.
    pub fn check(&self, console: &Path) -> Result<Vec<String>> {
        Ok(self.check_text(&String::from_utf8_lossy(&fs::read(console)?)))
    }

    fn check_text(&self, text: &str) -> Vec<String> {
        let lines: Vec<&str> = text.lines().collect();
        let known = |index: usize| {
            let before = &lines[index.saturating_sub(LINES_BEFORE)..index];
            self.exceptions.iter().any(|(pattern, after)| {
                pattern.is_match(lines[index])
                    && after
                        .as_ref()
                        .is_none_or(|after| before.iter().any(|line| after.is_match(line)))
            })
        };
        (0..lines.len())
            .filter(|index| self.bad.is_match(lines[*index]) && !known(*index))
            .map(|index| lines[index].to_string())
            .collect()
    }
}

/// Reads the results of the KUnit suites of userfaultfd from a console: passed, failed, skipped.
pub fn kunit(console: &Path) -> Result<(u32, u32, u32)> {
    let text = String::from_utf8_lossy(&fs::read(console)?).into_owned();
    let subtest = Regex::new(r"# Subtest: (\S+)")?;
    let totals = Regex::new(r"# Totals: pass:(\d+) fail:(\d+) skip:(\d+)")?;
    let (mut ours, mut sum) = (false, (0, 0, 0));
    for line in text.lines() {
        if let Some(name) = subtest.captures(line) {
            ours = name[1].contains("userfaultfd");
        } else if let Some(total) = totals.captures(line).filter(|_| ours) {
            sum.0 += total[1].parse::<u32>()?;
            sum.1 += total[2].parse::<u32>()?;
            sum.2 += total[3].parse::<u32>()?;
            ours = false;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_race_of_c_is_forgiven() -> Result<()> {
        let output = |error: &str| {
            format!(
                "@@ begin uffd-unit-tests\n{error}\n@@ end uffd-unit-tests 1 1.0 2.0 0 0\n\
                 @@ again\n@@ begin uffd-unit-tests\nfine\n\
                 @@ end uffd-unit-tests 0 2.0 3.0 0 0\n"
            )
        };
        let raced = reports(&output("ERROR: UFFDIO_COPY error: -2 (errno=2, @a.c:1)"))?;
        assert_eq!(raced.len(), 1);
        assert!(raced[0].1.raced && raced[0].1.problems().is_empty());
        let failed = reports(&output("ERROR: UFFDIO_COPY error: -14 (errno=14, @a.c:1)"))?;
        assert_eq!(failed.len(), 1);
        assert!(!failed[0].1.problems().is_empty());
        Ok(())
    }

    #[test]
    fn an_exception_may_depend_on_the_lines_before() -> Result<()> {
        let check = ConsoleCheck::from_list(
            "[[exception]]\npattern = 'Call Trace'\nafter = 'oom-killer'\nreason = 'asked for'\n",
        )?;
        let trace = "a invoked oom-killer\nCPU: 0\nHardware name: x\nCall Trace:\n";
        assert!(check.check_text(trace).is_empty());
        assert_eq!(check.check_text("Call Trace:\n"), ["Call Trace:"]);
        let far = format!("oom-killer\n{}Call Trace:\n", "line\n".repeat(LINES_BEFORE));
        assert_eq!(check.check_text(&far).len(), 1);
        assert_eq!(check.check_text("oom-killer\nWARNING: x\n").len(), 1);
        Ok(())
    }
}
