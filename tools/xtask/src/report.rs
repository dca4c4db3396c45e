// SPDX-License-Identifier: GPL-2.0

//! The results of the suites of a guest, from its output.

use crate::suites::{AGAIN, FAILS_IN_C, RACE_IN_C};
use anyhow::{bail, Context, Result};
use regex::Regex;
use std::{collections::BTreeMap, fs, path::Path};

/// The result of a test that fails as [`FAILS_IN_C`] says.
pub const DOCUMENTED: &str = "fails in C";

/// The results of a suite.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub passed: u32,
    pub failed: u32,
    pub skipped: u32,
    /// The result of each test of the suite that names its tests.
    pub tests: BTreeMap<String, String>,
    /// The tests that were skipped, with the reason.
    pub skips: Vec<String>,
    /// The measured values: a name, and a value with its unit.
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

    /// Marks the failures that the C kernel is known to have, so that they do not count. Returns
    /// the problems of the list.
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

    /// Returns what failed and what leaked.
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

/// Reads the reports of the suites from the output of a guest, in order.
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
                // A failure of another kind still counts.
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
                (true, _) => "Fail",
                (false, true) => "Skip",
                (false, false) => "Pass",
            };
            // Some names have measurements in them.
            let name = format!("{} {}", &test[2], number.replace_all(&test[3], "N"));
            if skipped {
                report.skips.push(format!(
                    "{name}: {}",
                    test.get(5).map_or("", |m| m.as_str())
                ));
            }
            report.tests.insert(name, status.into());
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
}
