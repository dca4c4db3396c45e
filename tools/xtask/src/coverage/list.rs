// SPDX-License-Identifier: GPL-2.0

//! The list of lines that no test runs, each with its reason.

use anyhow::{bail, Context, Result};
use regex::Regex;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, path::Path};

/// The file with the list.
pub const LIST: &str = "tools/xtask/never-ran.toml";

/// A line, by what it says, because its number changes with every edit above it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub file: String,
    /// The function that begins last before the line.
    pub function: String,
    pub text: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file, self.function, self.text)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    file: String,
    function: String,
    lines: Vec<String>,
    reason: String,
    /// Whether it depends on a race if a test runs them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    sometimes: bool,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct List {
    #[serde(default)]
    entry: Vec<Entry>,
}

impl List {
    pub fn read(repo: &Path) -> Result<Self> {
        let text = fs::read_to_string(repo.join(LIST));
        let text = text.with_context(|| format!("cannot read {LIST}"))?;
        let list: Self = toml::from_str(&text).with_context(|| format!("{LIST} has an error"))?;
        let mut entries = list.entry.iter();
        if let Some(entry) = entries.find(|entry| entry.reason.is_empty()) {
            bail!(
                "{LIST} has no reason for {}: {}",
                entry.file,
                entry.function
            );
        }
        Ok(list)
    }

    /// Returns entries for lines, as a text to copy to the list. The reasons are to be written.
    pub fn draft<'a>(places: impl IntoIterator<Item = &'a Place>) -> Result<String> {
        let mut list = Self::default();
        for place in places {
            let (file, function, text) = (&place.file, &place.function, place.text.clone());
            match list.entry.last_mut() {
                Some(last) if last.file == *file && last.function == *function => {
                    last.lines.push(text);
                }
                _ => list.entry.push(Entry {
                    file: file.clone(),
                    function: function.clone(),
                    lines: vec![text],
                    reason: String::new(),
                    sometimes: false,
                }),
            }
        }
        Ok(toml::to_string_pretty(&list)?)
    }

    /// Returns what is listed, each line with its entry. A line is listed as often as the function
    /// has lines with this text that never ran.
    fn places(&self) -> BTreeMap<Place, Vec<&Entry>> {
        let mut places = BTreeMap::new();
        for entry in &self.entry {
            for text in &entry.lines {
                let place = Place {
                    file: entry.file.clone(),
                    function: entry.function.clone(),
                    text: text.clone(),
                };
                let entries: &mut Vec<&Entry> = places.entry(place).or_default();
                entries.push(entry);
                // The others are to be used first.
                entries.sort_by_key(|entry| !entry.sometimes);
            }
        }
        places
    }

    /// Returns the reason of each line that never ran, if it is listed, and what is listed and did
    /// run.
    pub fn reasons(&self, never: &[Place]) -> (Vec<Option<&str>>, Vec<Place>) {
        let mut listed = self.places();
        let reasons = never.iter().map(|place| {
            let entry = listed.get_mut(place)?.pop()?;
            Some(&entry.reason[..])
        });
        let reasons = reasons.collect();
        let mut stale = Vec::new();
        for (place, entries) in listed {
            let left = entries.iter().filter(|entry| !entry.sometimes);
            stale.extend(left.map(|_| place.clone()));
        }
        (reasons, stale)
    }
}

/// Returns a line of a file for the list of lines that never ran.
pub fn place(file: &str, source: &str, line: u32) -> Result<Place> {
    let pattern = if file.ends_with(".rs") {
        r"^\s*(?:[a-z()]+ )*fn (\w+)"
    } else {
        r"^[A-Za-z_][^(=]*?(\w+)\("
    };
    let function = Regex::new(pattern)?;
    let lines: Vec<&str> = source.lines().take(line as usize).collect();
    let text = lines.last().filter(|_| lines.len() == line as usize);
    let text = text.with_context(|| format!("{file} has no line {line}"))?;
    let mut before = lines
        .iter()
        .rev()
        .filter_map(|line| function.captures(line));
    Ok(Place {
        file: file.into(),
        function: before.next().map_or(String::new(), |name| name[1].into()),
        text: text.trim().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUST: &str = "/// Not fn this_one.\npub(super) const unsafe fn one() {\n    a();\n}\n\
                        fn two(f: fn(u32)) {\n    a();\n    a();\n}\n";
    const C: &str =
        "#define TWO(x) x\nstatic struct vma *one(struct vma *vma,\n\t\t       int x)\n{\n\
                     \tif (a())\n\t\tgoto out;\nout:\n}\nlong two(void)\n{\n\treturn 0;\n}\n";

    fn rust(line: u32) -> Place {
        place("a.rs", RUST, line).expect("there is the line")
    }

    fn list(text: &str) -> List {
        toml::from_str(text).expect("a list")
    }

    #[test]
    fn lines_are_named_after_their_functions() {
        let names = |line: u32| (rust(line).function, rust(line).text);
        assert_eq!(names(3), ("one".into(), "a();".into()));
        assert_eq!(names(7), ("two".into(), "a();".into()));
        assert_eq!(rust(1).function, "");
        let c = |line| place("a.c", C, line).expect("there is the line").function;
        assert_eq!(["one", "one", "two"], [c(6), c(7), c(11)]);
        assert!(place("a.rs", RUST, 9).is_err());
    }

    #[test]
    fn each_line_that_never_ran_must_be_listed() {
        let list =
            list("[[entry]]\nfile = 'a.rs'\nfunction = 'two'\nlines = ['a();']\nreason = 'r'\n");
        let (reasons, stale) = list.reasons(&[rust(3), rust(6), rust(7)]);
        assert_eq!(
            (&reasons[..], stale.len()),
            (&[None, Some("r"), None][..], 0)
        );
        assert_eq!(list.reasons(&[]).1, [rust(6)]);
    }

    #[test]
    fn a_line_may_run_if_it_depends_on_a_race() {
        let text = "[[entry]]\nfile = 'a.rs'\nfunction = 'two'\nlines = ['a();']\nreason = ";
        let list = list(&format!("{text}'race'\nsometimes = true\n{text}'never'\n"));
        let (reasons, stale) = list.reasons(&[rust(6)]);
        assert_eq!((&reasons[..], stale.len()), (&[Some("never")][..], 0));
        assert_eq!(list.reasons(&[]).1.len(), 1);
        let (reasons, _) = list.reasons(&[rust(6), rust(7)]);
        assert_eq!(reasons, [Some("never"), Some("race")]);
    }

    #[test]
    fn a_draft_is_a_list() -> Result<()> {
        let draft = List::draft(&[rust(3), rust(6), rust(7)])?;
        let list = list(&draft);
        assert_eq!(list.entry.len(), 2);
        let (reasons, stale) = list.reasons(&[rust(3), rust(6), rust(7)]);
        assert_eq!((&reasons[..], stale.len()), (&[Some(""); 3][..], 0));
        Ok(())
    }

    /// What is listed is in the files, as often as it is listed.
    #[test]
    fn the_list_is_about_lines_that_are_there() -> Result<()> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let list = List::read(&repo)?;
        for (listed, entries) in list.places() {
            let source = fs::read_to_string(repo.join(&listed.file))?;
            let mut count = 0;
            for line in 1..=source.lines().count() as u32 {
                count += usize::from(place(&listed.file, &source, line)? == listed);
            }
            assert!(entries.len() <= count, "{listed:?}: listed too often");
        }
        Ok(())
    }
}
