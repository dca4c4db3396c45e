// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask conformance`, and the comparison of what two kernels answered to the same
//! questions.

use crate::{
    config::{Impl, Kernel},
    console::ConsoleCheck,
    report::{self, Report},
    test::{
        self,
        guests::{complaints, failures, Guests},
    },
    ui, Session,
};
use anyhow::{bail, Context, Result};
use regex::{Captures, Regex};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

#[derive(clap::Args)]
pub struct Options {
    /// Run only the cases whose names start with this, such as `events/` or `limits/api`.
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
}

pub fn conformance(session: &Session, options: &Options) -> Result<()> {
    let start = Instant::now();
    let builder = session.builder()?;
    let mut problems = Vec::new();
    let mut answers = |imp| -> Result<PathBuf> {
        let answers = ask(
            &Guests::new(&builder, Kernel::plain(imp), 1)?,
            &options.prefix,
        )?;
        problems.extend(answers.problems);
        Ok(answers.transcript)
    };
    let (rust, c) = (answers(Impl::Rust)?, answers(Impl::C)?);
    let found = compare(&session.repo, &rust, &c, &options.prefix)
        .with_context(|| format!("cases that start with \"{}\"", options.prefix))?;
    for difference in &found.documented {
        println!("documented: {difference}");
    }
    println!("answers: {} and {}", rust.display(), c.display());
    println!("{}", found.summary());
    println!("total time: {}", ui::duration(start.elapsed()));
    problems.extend(found.problems);
    test::refuse(&problems)
}

/// What a kernel answered.
pub struct Answers {
    pub transcript: PathBuf,
    pub reports: Vec<(String, Report)>,
    /// With the name of the kernel.
    pub problems: Vec<String>,
}

/// Asks a kernel the questions of the cases whose names start with `prefix`, and nothing else.
pub fn ask(guests: &Guests, prefix: &str) -> Result<Answers> {
    let kernel = guests.kernel;
    let (outcome, transcript) = guests.conformance(prefix)?;
    let reports = report::reports(&outcome.output)?;
    let mut problems = complaints(&outcome, &ConsoleCheck::new()?, kernel.imp)?;
    problems.extend(failures(&reports, kernel));
    let title = kernel.title();
    let problems = problems.iter();
    Ok(Answers {
        transcript,
        problems: problems.map(|text| format!("{title}: {text}")).collect(),
        reports,
    })
}

/// The chapter that only debug kernels have, because it takes failures that are injected.
pub const INJECTED: &str = "injected/";

/// The document that lists the deliberate differences.
const DOCUMENT: &str = "tools/uffd-conformance/differences.rst";

/// The heading of the list in that document.
const HEADING: &str = "Questions with another answer";

/// How many questions the suite has at least.
const QUESTIONS: usize = 75_000;

/// What a question ends with if the case could not make what it asks about. The kernels that are
/// compared have all kinds of memory.
const NOT_MADE: &str = "cannot be made";

/// A question, or several, whose answer is deliberately different.
struct Difference {
    pattern: String,
    question: Regex,
    /// The answer of the implementation in Rust.
    answer: Regex,
}

impl Difference {
    /// Whether its questions are all asked when only those cases run whose names start with
    /// `prefix`. All cases are all but those of [`INJECTED`].
    ///
    /// A case is named `chapter/name`, and its questions `chapter/name/question`. So a longer
    /// prefix may be that of a question whose case does not run.
    fn is_asked(&self, prefix: &str) -> bool {
        self.pattern.starts_with(prefix)
            && prefix.matches('/').count() < 2
            && prefix.starts_with(INJECTED) == self.pattern.starts_with(INJECTED)
    }
}

/// A text, with `*` for any text and `{a,b}` for alternatives.
fn pattern(text: &str) -> Result<Regex> {
    let alternatives = Regex::new(r"\\\{(.*?)\\\}")?;
    let regex = regex::escape(text).replace(r"\*", ".*");
    let regex = alternatives.replace_all(&regex, |found: &Captures| {
        format!("({})", found[1].replace(',', "|"))
    });
    Ok(Regex::new(&format!("^{regex}$"))?)
}

/// The result of a comparison.
#[derive(Default)]
pub struct Comparison {
    pub asked: usize,
    pub identical: usize,
    /// Answers that differ as the document says.
    pub documented: Vec<String>,
    /// Everything that is wrong.
    pub problems: Vec<String>,
}

impl Comparison {
    /// A line about all of it.
    pub fn summary(&self) -> String {
        format!(
            "conformance: {} questions asked, {} identical, {} documented differences",
            self.asked,
            self.identical,
            self.documented.len()
        )
    }
}

/// Reads the list: in its section, each line that begins with two backquotes names questions, and
/// the line below it has the answer.
fn differences(repo: &Path) -> Result<Vec<Difference>> {
    let text = fs::read_to_string(repo.join(DOCUMENT))
        .with_context(|| format!("cannot read {DOCUMENT}"))?;
    let section = text
        .split_once(&format!("{HEADING}\n="))
        .with_context(|| format!("{DOCUMENT} has no section \"{HEADING}\""))?
        .1;
    // The underline of the next heading ends the section.
    let mut lines = section
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("==="));
    let literal = |line: &'_ str| -> Option<String> {
        Some(line.strip_prefix("``")?.strip_suffix("``")?.to_string())
    };
    let mut list = Vec::new();
    while let Some(line) = lines.next() {
        let Some(question) = literal(line) else {
            continue;
        };
        let answer = lines
            .next()
            .and_then(|line| literal(line.trim_start()))
            .with_context(|| format!("{DOCUMENT} lists {question} without an answer"))?;
        list.push(Difference {
            question: pattern(&question)?,
            answer: pattern(&answer)?,
            pattern: question,
        });
    }
    Ok(list)
}

/// Reads the questions of a transcript that start with `prefix`, with their answers, in order. Fails
/// if there are fewer than `least`.
fn transcript(path: &Path, prefix: &str, least: usize) -> Result<Vec<(String, String)>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines: Vec<(String, String)> = text
        .lines()
        .filter(|line| line.starts_with(prefix))
        .map(|line| {
            let (question, answer) = line.split_once(" = ").unwrap_or((line, ""));
            (question.to_string(), answer.to_string())
        })
        .collect();
    if lines.len() < least {
        bail!(
            "{} has {} questions, and should have at least {least}",
            path.display(),
            lines.len()
        );
    }
    Ok(lines)
}

/// Compares two transcripts, of which the second is of the implementation in C: the cases whose
/// names start with `prefix`, or all. All are asked where there is no [`INJECTED`].
pub fn compare(repo: &Path, ours: &Path, theirs: &Path, prefix: &str) -> Result<Comparison> {
    let least = if prefix.is_empty() { QUESTIONS } else { 1 };
    compare_lists(
        &differences(repo)?,
        &transcript(ours, prefix, least)?,
        &transcript(theirs, prefix, least)?,
        prefix,
    )
}

/// Compares two transcripts of one kernel, between which nothing may differ.
pub fn compare_same(first: &Path, second: &Path) -> Result<Comparison> {
    compare_lists(
        &[],
        &transcript(first, "", QUESTIONS)?,
        &transcript(second, "", QUESTIONS)?,
        "",
    )
}

/// Returns a problem for the questions that are not in the transcript of the other kernel. There
/// are very many if that transcript ended early.
fn asked_once(name: &str, here: &[(String, String)], there: &[(String, String)]) -> Option<String> {
    let there: HashSet<&str> = there.iter().map(|(question, _)| &question[..]).collect();
    let mut once = here
        .iter()
        .filter(|(question, _)| !there.contains(&question[..]));
    let (question, answer) = once.next()?;
    Some(format!(
        "{question}\n      asked in {name} only: {answer}\n      and {} more",
        once.count()
    ))
}

fn compare_lists(
    differences: &[Difference],
    ours: &[(String, String)],
    theirs: &[(String, String)],
    prefix: &str,
) -> Result<Comparison> {
    let mut result = Comparison {
        asked: theirs.len(),
        ..Comparison::default()
    };
    let answers: HashMap<&str, &str> = ours.iter().map(|(q, a)| (&q[..], &a[..])).collect();
    let mut used = vec![false; differences.len()];
    for (question, expected) in theirs {
        let Some(answer) = answers.get(&question[..]).copied() else {
            continue;
        };
        let both = || format!("{question}\n      C:    {expected}\n      Rust: {answer}");
        let known = differences
            .iter()
            .position(|difference| difference.question.is_match(question));
        match known {
            _ if question.ends_with(NOT_MADE) && answer == expected => {
                result
                    .problems
                    .push(format!("{question}: {expected} on both kernels"));
            }
            None if answer == expected => result.identical += 1,
            Some(index) if answer == expected => {
                used[index] = true;
                result.problems.push(format!(
                    "{DOCUMENT} lists {question} as different, and both answer {expected}"
                ));
            }
            Some(index) if differences[index].answer.is_match(answer) => {
                used[index] = true;
                result.documented.push(both());
            }
            _ => result.problems.push(both()),
        }
    }
    result.problems.extend(asked_once("C", theirs, ours));
    result.problems.extend(asked_once("Rust", ours, theirs));
    for (difference, used) in differences.iter().zip(used) {
        if !used && difference.is_asked(prefix) {
            result.problems.push(format!(
                "{DOCUMENT} lists {} as different, and no question is like that",
                difference.pattern
            ));
        }
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines
            .iter()
            .map(|(q, a)| (q.to_string(), a.to_string()))
            .collect()
    }

    fn difference(question: &str, answer: &str) -> Difference {
        Difference {
            pattern: question.into(),
            question: pattern(question).expect("a pattern"),
            answer: pattern(answer).expect("a pattern"),
        }
    }

    #[test]
    fn a_difference_is_a_problem_unless_it_is_listed() -> Result<()> {
        let c = list(&[("a", "0"), ("b", "EINVAL")]);
        let rust = list(&[("a", "0"), ("b", "EBUSY")]);
        let found = compare_lists(&[], &rust, &c, "")?;
        assert_eq!((found.identical, found.problems.len()), (1, 1));
        let found = compare_lists(&[difference("{a1,b}", "EB*")], &rust, &c, "")?;
        assert_eq!((found.documented.len(), found.problems.len()), (1, 0));
        let found = compare_lists(&[difference("b", "EPERM")], &rust, &c, "")?;
        // Neither as in C nor as listed, and so the listed one does not occur either.
        assert_eq!((found.documented.len(), found.problems.len()), (0, 2));
        Ok(())
    }

    #[test]
    fn a_listed_difference_must_occur() -> Result<()> {
        let same = list(&[("a", "0")]);
        assert_eq!(
            compare_lists(&[difference("a", "0")], &same, &same, "")?
                .problems
                .len(),
            1
        );
        Ok(())
    }

    #[test]
    fn a_difference_that_is_not_asked_about_is_not_missed() -> Result<()> {
        let same = list(&[("b/c/d", "0")]);
        let problems = |pattern: &str, prefix: &str| {
            let listed = [difference(pattern, "1")];
            anyhow::Ok(compare_lists(&listed, &same, &same, prefix)?.problems.len())
        };
        assert_eq!(problems("a/*", "b/")?, 0);
        assert_eq!(problems("*/c", "b/")?, 0);
        assert_eq!(problems("b/e/*", "b/")?, 1);
        assert_eq!(problems("b/c/e", "b/c/")?, 0);
        assert_eq!(problems("a/*", "")?, 1);
        // Ordinary kernels have no such chapter.
        assert_eq!(problems("injected/*", "")?, 0);
        assert_eq!(problems("injected/*", INJECTED)?, 1);
        Ok(())
    }

    #[test]
    fn all_memory_must_be_there() -> Result<()> {
        let same = list(&[("a", "0"), ("b/cannot be made", "ENOMEM")]);
        let found = compare_lists(&[], &same, &same, "")?;
        assert_eq!((found.identical, found.problems.len()), (1, 1));
        Ok(())
    }

    #[test]
    fn questions_must_be_the_same() -> Result<()> {
        let (one, two) = (list(&[("a", "0")]), list(&[("a", "0"), ("b", "0")]));
        assert_eq!(compare_lists(&[], &one, &two, "")?.problems.len(), 1);
        assert_eq!(compare_lists(&[], &two, &one, "")?.problems.len(), 1);
        // However many they are.
        let many = list(&[("a", "0"), ("b", "0"), ("c", "1")]);
        let problems = compare_lists(&[], &one, &many, "")?.problems;
        assert_eq!(problems, ["b\n      asked in C only: 0\n      and 1 more"]);
        Ok(())
    }
}
