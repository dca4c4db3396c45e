// SPDX-License-Identifier: GPL-2.0

//! Compares what two kernels answered to the same questions.

use anyhow::{bail, Context, Result};
use regex::{Captures, Regex};
use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

/// The document that lists what is deliberately different.
const DOCUMENT: &str = "tools/uffd-conformance/differences.rst";

/// The heading of the list in that document.
const HEADING: &str = "Questions with another answer";

/// How many questions the suite has at least.
const QUESTIONS: usize = 60_000;

/// What a question ends with if the case could not make what it asks about. The kernels that are
/// compared have all kinds of memory.
const NOT_MADE: &str = "cannot be made";

/// A question, or several, whose answer is deliberately different.
struct Difference {
    pattern: String,
    question: Regex,
    /// What the implementation in Rust answers.
    answer: Regex,
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

/// What came of a comparison.
#[derive(Default)]
pub struct Comparison {
    pub asked: usize,
    pub identical: usize,
    /// Answers that differ as the document says.
    pub documented: usize,
    /// Everything that should not be.
    pub problems: Vec<String>,
}

impl Comparison {
    /// A line about all of it.
    pub fn summary(&self) -> String {
        format!(
            "conformance: {} questions asked, {} identical, {} documented differences",
            self.asked, self.identical, self.documented
        )
    }
}

/// Reads the list: in its section, each line that begins with two backquotes names questions, and
/// the line beneath it has the answer.
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

/// A transcript: questions with their answers, in order.
fn transcript(path: &Path) -> Result<Vec<(String, String)>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines: Vec<(String, String)> = text
        .lines()
        .map(|line| {
            let (question, answer) = line.split_once(" = ").unwrap_or((line, ""));
            (question.to_string(), answer.to_string())
        })
        .collect();
    if lines.len() < QUESTIONS {
        bail!("{} has only {} questions", path.display(), lines.len());
    }
    Ok(lines)
}

/// Compares two transcripts, of which the second is of the implementation in C.
pub fn compare(repo: &Path, ours: &Path, theirs: &Path) -> Result<Comparison> {
    compare_lists(
        &differences(repo)?,
        &transcript(ours)?,
        &transcript(theirs)?,
    )
}

/// Compares two transcripts of one kernel, between which nothing may differ.
pub fn compare_same(first: &Path, second: &Path) -> Result<Comparison> {
    compare_lists(&[], &transcript(first)?, &transcript(second)?)
}

/// Says which questions are not in the transcript of the other kernel: very many where that ended
/// early.
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
                result.documented += 1;
            }
            _ => result.problems.push(format!(
                "{question}\n      C:    {expected}\n      Rust: {answer}"
            )),
        }
    }
    result.problems.extend(asked_once("C", theirs, ours));
    result.problems.extend(asked_once("Rust", ours, theirs));
    for (difference, used) in differences.iter().zip(used) {
        if !used {
            result.problems.push(format!(
                "{DOCUMENT} lists {} as different, and nobody asks that",
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
        let found = compare_lists(&[], &rust, &c)?;
        assert_eq!((found.identical, found.problems.len()), (1, 1));
        let found = compare_lists(&[difference("{a1,b}", "EB*")], &rust, &c)?;
        assert_eq!((found.documented, found.problems.len()), (1, 0));
        let found = compare_lists(&[difference("b", "EPERM")], &rust, &c)?;
        // Neither as in C nor as listed, and so the listed one does not occur either.
        assert_eq!((found.documented, found.problems.len()), (0, 2));
        Ok(())
    }

    #[test]
    fn a_listed_difference_must_occur() -> Result<()> {
        let same = list(&[("a", "0")]);
        assert_eq!(
            compare_lists(&[difference("a", "0")], &same, &same)?
                .problems
                .len(),
            1
        );
        Ok(())
    }

    #[test]
    fn all_memory_must_be_there() -> Result<()> {
        let same = list(&[("a", "0"), ("b/cannot be made", "ENOMEM")]);
        let found = compare_lists(&[], &same, &same)?;
        assert_eq!((found.identical, found.problems.len()), (1, 1));
        Ok(())
    }

    #[test]
    fn questions_must_be_the_same() -> Result<()> {
        let (one, two) = (list(&[("a", "0")]), list(&[("a", "0"), ("b", "0")]));
        assert_eq!(compare_lists(&[], &one, &two)?.problems.len(), 1);
        assert_eq!(compare_lists(&[], &two, &one)?.problems.len(), 1);
        // However many they are.
        let many = list(&[("a", "0"), ("b", "0"), ("c", "1")]);
        let problems = compare_lists(&[], &one, &many)?.problems;
        assert_eq!(problems, ["b\n      asked in C only: 0\n      and 1 more"]);
        Ok(())
    }
}
