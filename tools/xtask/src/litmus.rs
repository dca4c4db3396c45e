// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask litmus`: runs the litmus tests under herd7 with the kernel's memory model, then makes
//! mistakes in them that have to show.

use crate::{
    lab::{self, Lab, Mounts},
    patches::file_name,
    ui::{self, output},
    Session,
};
use anyhow::{bail, ensure, Context, Result};
use serde::Deserialize;
use std::{fs, path::Path};

const TESTS: &str = "Documentation/litmus-tests/userfaultfd";
const LIST: &str = "tools/litmus-mutants.toml";

#[derive(clap::Args)]
pub struct Options {
    /// Run only the tests whose names contain this, and their mutants.
    name: Option<String>,
}

/// A change of a test.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    test: String,
    /// What is changed, for the user.
    change: String,
    /// Lines that are taken out. They must be there once.
    old: String,
    /// Lines that take their place.
    new: String,
    /// Why the result is Never all the same.
    never_because: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

impl Mutant {
    fn apply(&self, text: &str) -> Result<String> {
        let Self { test, change, .. } = self;
        let places = text.matches(&self.old).count();
        ensure!(
            places == 1,
            "{LIST}: {test} has the lines of `{change}` {places} times, and not once"
        );
        Ok(text.replace(&self.old, &self.new))
    }

    /// Returns the numbers of the lines that are taken out and not put back.
    fn dropped(&self, text: &str) -> Vec<usize> {
        let before = text.split(&self.old).next().unwrap_or_default();
        (before.lines().count()..)
            .zip(self.old.lines())
            .filter(|(_, line)| !self.new.lines().any(|new| new == *line))
            .map(|(number, _)| number)
            .collect()
    }
}

/// Returns the lines of a test that order other lines, and that no mutant drops.
fn untested<'a>(text: &'a str, mutants: &[&Mutant]) -> Vec<&'a str> {
    let dropped: Vec<usize> = mutants.iter().flat_map(|m| m.dropped(text)).collect();
    let lines = text.lines().map(str::trim).enumerate();
    lines
        .filter(|(number, line)| {
            let is_comment = line.starts_with("* ") || line.starts_with("(*");
            let orders = line.contains("smp_") || line.contains("_lock(");
            orders && !is_comment && !dropped.contains(number)
        })
        .map(|(_, line)| line)
        .collect()
}

/// Returns the result that a test expects, from the comment that the kernel's own scripts read.
fn expected(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    let result = lines.find_map(|line| line.get(1..)?.strip_prefix("* Result: "))?;
    result.split(|c: char| !c.is_alphabetic()).next()
}

/// A test or a mutant.
struct Case<'a> {
    test: &'a str,
    change: &'a str,
    text: String,
    expected: &'a str,
}

/// What herd7 says.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// Never, Sometimes or Always.
    result: String,
    race: bool,
    states: String,
    /// In seconds.
    time: String,
}

impl Found {
    fn parse(output: &str) -> Option<Self> {
        // The words after the first one of a line.
        let after = |first: &str| -> Option<Vec<&str>> {
            let mut lines = output.lines().map(|line| line.split(' '));
            let mut line = lines.find(|line| line.clone().next() == Some(first))?;
            line.next();
            Some(line.collect())
        };
        let result = match after("Observation")?[..] {
            // All threads block: this shows nothing.
            [_, _, "0", "0"] => "no end",
            [_, result, _, _] => result,
            _ => return None,
        };
        Some(Self {
            result: result.into(),
            race: output.lines().any(|line| line == "Flag data-race"),
            states: after("States")?.first()?.to_string(),
            time: after("Time")?.last()?.to_string(),
        })
    }

    /// Whether it is what is expected. The model promises nothing if there is a data race, so there
    /// must be none, unless a mistake was made.
    fn is_right(&self, case: &Case) -> bool {
        let may_race = !case.change.is_empty() && case.expected == "Sometimes";
        self.result == case.expected && (may_race || !self.race)
    }
}

/// Returns the names of the tests and their texts.
fn tests(directory: &Path) -> Result<Vec<(String, String)>> {
    let mut tests = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if let Some(name) = file_name(&path).strip_suffix(".litmus") {
            tests.push((name.to_string(), fs::read_to_string(&path)?));
        }
    }
    tests.sort();
    Ok(tests)
}

/// Returns what is to be run: the tests whose names contain `name`, each with its mutants behind it.
fn cases<'a>(
    tests: &'a [(String, String)],
    mutants: &'a [Mutant],
    name: &str,
) -> Result<Vec<Case<'a>>> {
    for mutant in mutants {
        ensure!(
            tests.iter().any(|(test, _)| *test == mutant.test),
            "{LIST}: there is no test {}",
            mutant.test
        );
    }
    let mut cases = Vec::new();
    for (test, text) in tests.iter().filter(|(test, _)| test.contains(name)) {
        let mutants: Vec<_> = mutants.iter().filter(|m| m.test == *test).collect();
        cases.push(Case {
            test,
            change: "",
            text: text.clone(),
            expected: expected(text).with_context(|| format!("{test} has no line `Result:`"))?,
        });
        for mutant in &mutants {
            cases.push(Case {
                test,
                change: &mutant.change,
                text: mutant.apply(text)?,
                expected: match mutant.never_because {
                    Some(_) => "Never",
                    None => "Sometimes",
                },
            });
        }
        let untested = untested(text, &mutants);
        ensure!(
            untested.is_empty(),
            "{LIST}: no mutant of {test} drops this:\n  {}",
            untested.join("\n  ")
        );
    }
    ensure!(!cases.is_empty(), "no litmus test has a name with {name}");
    Ok(cases)
}

pub fn litmus(session: &Session, options: &Options) -> Result<()> {
    let tests = tests(&session.repo.join(TESTS))?;
    let list = fs::read_to_string(session.repo.join(LIST))?;
    let list: List = toml::from_str(&list).context(LIST)?;
    let name = options.name.as_deref().unwrap_or_default();
    let cases = cases(&tests, &list.mutant, name)?;

    let lab = if session.host_tools {
        Lab::Host
    } else {
        session.root(&lab::LITMUS)?
    };
    let source = session.source()?;
    let out = session.results.join("litmus");
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let mounts = Mounts {
        src: &source.tree.join("tools/memory-model"),
        build: &out,
        out: &out,
    };
    let version = output(&mut lab.sh(&mounts, &[], "exec herd7 -version"))?;
    let version = version.split(',').next().unwrap_or_default();
    let script = r#"cd "$src" && exec herd7 -conf linux-kernel.cfg "$out/$file" 2>&1"#;

    let title = format!("Running {} tests and mutants under herd7", cases.len());
    let mut table = ui::table(["test", "change", "expected", "found", "states", "time"]);
    let mut wrong = 0;
    session.ui.step(&title, |bar| {
        for (number, case) in cases.iter().enumerate() {
            bar.set_message(format!("{} {}", case.test, case.change));
            let file = format!("{number:02}-{}.litmus", case.test);
            fs::write(out.join(&file), &case.text)?;
            let text = output(&mut lab.sh(&mounts, &[("file", &file)], script))?;
            fs::write(out.join(format!("{file}.out")), &text)?;
            let Some(found) = Found::parse(&text) else {
                bail!("herd7 cannot run {file}:\n{text}");
            };
            let is_right = found.is_right(case);
            wrong += usize::from(!is_right);
            let notes = [(found.race, ", data race"), (!is_right, ", WRONG")];
            let notes = notes.iter().filter(|(is, _)| *is).map(|(_, note)| *note);
            table.add_row([
                case.test.to_string(),
                case.change.to_string(),
                case.expected.to_string(),
                found.result + &notes.collect::<String>(),
                found.states,
                format!("{} s", found.time),
            ]);
        }
        Ok(())
    })?;
    println!("\n{table}\n");
    let mutants: Vec<_> = cases
        .iter()
        .filter(|case| !case.change.is_empty())
        .collect();
    let stay = mutants.iter().filter(|case| case.expected == "Never");
    println!(
        "herd7 {version}: tests: {}, mutants: {} ({} stay Never for a known reason), not as \
         expected: {wrong}",
        cases.len() - mutants.len(),
        mutants.len(),
        stay.count(),
    );
    if wrong != 0 {
        bail!(
            "some results are not as expected; what herd7 says is in {}",
            out.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: &str = "C t\n(*\n * Result: Never, says smp_mb()\n *)\nP0(int *x)\n{\n\
                        \tWRITE_ONCE(*x, 1);\n\tsmp_mb();\n\tsmp_store_release(x, 2);\n}\n";

    fn mutant(old: &str, new: &str) -> Mutant {
        Mutant {
            test: "t".into(),
            change: "a change".into(),
            old: old.into(),
            new: new.into(),
            never_because: None,
        }
    }

    #[test]
    fn results_of_herd7_are_understood() {
        let output = "Test t Allowed\nStates 2\n0:r0=0;\n0:r0=1;\nOk\nFlag data-race\n\
                      Observation t Sometimes 1 2\nTime t 0.03\nHash=1\n";
        let found = Found::parse(output).unwrap();
        let right = Found {
            result: "Sometimes".into(),
            race: true,
            states: "2".into(),
            time: "0.03".into(),
        };
        assert_eq!(found, right);
        // A test that never ends has no state that is wrong.
        let blocked = output.replace("Sometimes 1 2", "Never 0 0");
        assert_eq!(Found::parse(&blocked).unwrap().result, "no end");
        assert_eq!(Found::parse("Warning: Unknown macro smp_nb\n"), None);
    }

    #[test]
    fn a_data_race_is_right_in_a_mutant_only() {
        let found = |result: &str| Found {
            result: result.into(),
            race: true,
            states: "2".into(),
            time: "0.03".into(),
        };
        let case = |change, expected| Case {
            test: "t",
            change,
            text: String::new(),
            expected,
        };
        assert!(found("Sometimes").is_right(&case("a change", "Sometimes")));
        assert!(!found("Never").is_right(&case("a change", "Sometimes")));
        assert!(!found("Never").is_right(&case("a change", "Never")));
        assert!(!found("Never").is_right(&case("", "Never")));
    }

    #[test]
    fn mutants_have_to_fit() {
        assert_eq!(expected(TEST), Some("Never"));
        assert_eq!(expected("C t\n"), None);
        let barrier = mutant("\tsmp_mb();\n", "");
        assert_eq!(
            barrier.apply(TEST).unwrap(),
            TEST.replace("\tsmp_mb();\n", "")
        );
        assert!(mutant("\tsmp_rmb();\n", "").apply(TEST).is_err());
        assert!(mutant("x", "").apply(TEST).is_err());
        let release = mutant(
            "\tsmp_mb();\n\tsmp_store_release(x, 2);\n",
            "\tsmp_mb();\n\tWRITE_ONCE(x, 2);\n",
        );
        assert_eq!(untested(TEST, &[&release]), ["smp_mb();"]);
        assert!(untested(TEST, &[&barrier, &release]).is_empty());
    }

    #[test]
    fn names_have_to_match() {
        let tests = [("t".to_string(), TEST.to_string())];
        let drop_all = "\tsmp_mb();\n\tsmp_store_release(x, 2);\n";
        let list = [mutant(drop_all, "")];
        assert_eq!(cases(&tests, &list, "t").unwrap().len(), 2);
        assert!(cases(&tests, &list, "u").is_err());
        assert!(cases(&tests, &[], "t").is_err());
        assert!(cases(&[], &list, "").is_err());
    }
}
