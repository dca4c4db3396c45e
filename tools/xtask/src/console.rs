// SPDX-License-Identifier: GPL-2.0

//! The consoles of guests.

use anyhow::{bail, Result};
use regex::Regex;
use serde::Deserialize;
use std::{fs, path::Path};

/// The patterns of lines that a console must not have, with the known exceptions.
pub struct ConsoleCheck {
    bad: Regex,
    exceptions: Vec<(Regex, Option<Regex>)>,
}

#[derive(Deserialize)]
struct Exception {
    pattern: String,
    /// A pattern that one of the lines just before has to match.
    after: Option<String>,
    #[allow(dead_code)] // It is for readers of the list.
    reason: String,
}

#[derive(Deserialize)]
struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

/// How many lines before a line may explain it.
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

/// Fails if there are lines on a console that should not be there.
pub fn refuse_complaints(console: &Path, kernel: &str) -> Result<()> {
    let bad = ConsoleCheck::new()?.check(console)?;
    if !bad.is_empty() {
        bail!("{kernel} complained:\n{}", bad.join("\n"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
