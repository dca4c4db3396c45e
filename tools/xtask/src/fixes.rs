// SPDX-License-Identifier: GPL-2.0

//! Fixes of the base: patches for known defects, which come before the series in trees that have
//! them.

mod command;
mod functions;

pub use command::{fixes, Options};

use crate::{
    git::{self, git},
    patches,
    scratch::Scratch,
    ui,
};
use anyhow::{bail, Context, Result};
use comfy_table::Table;
use regex::Regex;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The directory of the fixes.
pub const FIXES: &str = "linux-patches/6.18-fixes";
/// The list of them, in that directory.
const LIST: &str = "fixes.toml";

/// A defect, and the patch that mends it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fix {
    /// The name of the patch file.
    patch: String,
    /// The subject of the commit in mainline.
    upstream: Option<String>,
    /// The file that has the defect.
    file: String,
    function: Option<String>,
    /// Matches there as long as the tree has the defect.
    #[serde(with = "expression")]
    defect: Regex,
    /// Whether a tree without the file or the function does not have the defect.
    #[serde(default)]
    may_be_missing: bool,
    #[allow(dead_code)] // It is for readers of the list.
    test: String,
}

/// Regular expressions in a list.
mod expression {
    use regex::Regex;
    use serde::{de::Error, Deserialize, Deserializer};

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Regex, D::Error> {
        Regex::new(&String::deserialize(from)?).map_err(Error::custom)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    fix: Vec<Fix>,
}

/// Whether a tree has a defect.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does, and lacks the fix.
    Lacking,
    /// It does not.
    Present,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Lacking => "lacking",
            Self::Present => "present",
        }
    }
}

/// The state of a place that may have a defect.
enum Place {
    Missing,
    Sound,
    Defective,
}

impl Fix {
    /// The place, for messages.
    fn place(&self) -> String {
        match &self.function {
            Some(function) => format!("{function}() of {}", self.file),
            None => self.file.clone(),
        }
    }

    fn look(&self, tree: &Path) -> Place {
        let Ok(text) = fs::read(tree.join(&self.file)) else {
            return Place::Missing;
        };
        let text = String::from_utf8_lossy(&text);
        let parts = match &self.function {
            Some(function) => functions::bodies(&text, function),
            None => vec![&*text],
        };
        if parts.is_empty() {
            Place::Missing
        } else if parts.iter().any(|part| self.defect.is_match(part)) {
            Place::Defective
        } else {
            Place::Sound
        }
    }

    fn state(&self, tree: &Path) -> Result<State> {
        match self.look(tree) {
            Place::Defective => Ok(State::Lacking),
            Place::Sound => Ok(State::Present),
            Place::Missing if self.may_be_missing => Ok(State::Present),
            Place::Missing => bail!(
                "there is no {} in this tree, where {} mends a defect; {LIST} does not say that \
                 it may be missing",
                self.place(),
                self.patch
            ),
        }
    }

    /// Applies the patch if the tree has the defect. Returns whether it had.
    fn apply(&self, tree: &Path, directory: &Path) -> Result<State> {
        let state = self.state(tree)?;
        if state == State::Present {
            return Ok(state);
        }
        if let Err(err) = git::am(tree, &directory.join(&self.patch)) {
            bail!(
                "{} has the defect that {} mends, and the patch does not apply:\n  {err:#}\nThe \
                 fixes are for Linux {}; is the tree another one?",
                self.place(),
                self.patch,
                patches::VERSION
            );
        }
        if let Place::Defective = self.look(tree) {
            bail!(
                "{} is applied, and {} still has the defect that {LIST} says it mends: /{}/",
                self.patch,
                self.place(),
                self.defect
            );
        }
        Ok(state)
    }
}

/// The fixes, in order.
pub struct Fixes {
    directory: PathBuf,
    list: Vec<Fix>,
}

impl Fixes {
    /// Reads the list, which has to agree with the patches beside it.
    pub fn load(repo: &Path) -> Result<Self> {
        Self::load_from(repo.join(FIXES))
    }

    fn load_from(directory: PathBuf) -> Result<Self> {
        let path = directory.join(LIST);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} cannot be read", path.display()))?;
        let list: List = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        let patches = patches::patches_in(&directory)?;
        let patches: Vec<String> = patches
            .iter()
            .map(|path| patches::file_name(path))
            .collect();
        let listed: Vec<&str> = list.fix.iter().map(|fix| fix.patch.as_str()).collect();
        if listed != patches {
            let missing = patches.iter().filter(|name| !listed.contains(&&***name));
            let without = listed
                .iter()
                .filter(|name| !patches.contains(&name.to_string()));
            let wrong: Vec<String> = missing
                .map(|name| format!("{name} is not in the list"))
                .chain(without.map(|name| format!("{name} is in the list, and there is no patch")))
                .collect();
            bail!(
                "{} and the patches beside it differ: {}",
                path.display(),
                if wrong.is_empty() {
                    "not in the same order".into()
                } else {
                    wrong.join("; ")
                }
            );
        }
        Ok(Self {
            directory,
            list: list.fix,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// The files of the patches.
    pub fn patches(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.list.iter().map(|fix| self.directory.join(&fix.patch))
    }

    /// Adds everything that decides what the fixes do to a tree.
    pub fn hash(&self, hash: &mut Sha256) -> Result<()> {
        for (fix, patch) in self.list.iter().zip(self.patches()) {
            hash.update(fs::read(patch)?);
            let function = fix.function.as_deref().unwrap_or_default();
            for part in [&fix.file, function, fix.defect.as_str()] {
                hash.update(part);
                hash.update([0]);
            }
            hash.update([fix.may_be_missing.into()]);
        }
        Ok(())
    }

    /// Applies the fixes that a tree lacks with `git am`. Returns the state of each. Calls `each`
    /// with the name of each patch before its turn.
    pub fn apply(&self, tree: &Path, each: impl Fn(&str)) -> Result<Vec<State>> {
        let apply = |fix: &Fix| {
            each(&fix.patch);
            fix.apply(tree, &self.directory)
        };
        let states = self.list.iter().map(apply).collect::<Result<_>>()?;
        // No fix may bring back a defect that an earlier one mends.
        for fix in &self.list {
            if fix.state(tree)? == State::Lacking {
                bail!(
                    "with all fixes, {} has the defect again that {} mends: /{}/",
                    fix.place(),
                    fix.patch,
                    fix.defect
                );
            }
        }
        Ok(states)
    }

    /// Returns what `apply` would, without changing the tree: it runs on copies of the files that
    /// matter. `read` returns the contents of a file, if the tree has it.
    fn try_on(&self, read: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Vec<State>> {
        if self.is_empty() {
            return Ok(Vec::new());
        }
        let scratch = Scratch::new()?;
        let mut files: BTreeSet<String> = self.list.iter().map(|fix| fix.file.clone()).collect();
        for patch in self.patches() {
            files.extend(patches::files_of(&patch)?);
        }
        for file in files {
            if let Some(contents) = read(&file) {
                scratch.write(&file, contents)?;
            }
        }
        scratch.commit("Files that matter")?;
        self.apply(&scratch.0, |_| ())
    }

    /// Returns the state of each fix in a kernel tree. If the tree is under git, its last commit
    /// counts, because copies are made of that.
    pub fn lacking_in(&self, kdir: &Path) -> Result<Vec<State>> {
        let committed =
            kdir.join(".git").exists() && git::run(kdir, "rev-parse --verify HEAD").is_ok();
        self.try_on(|file| {
            if committed {
                committed_file(kdir, "HEAD", file)
            } else {
                fs::read(kdir.join(file)).ok()
            }
        })
        .with_context(|| format!("{}", kdir.display()))
    }

    /// The patches for which a state was found.
    pub fn with<'a>(
        &'a self,
        states: &'a [State],
        state: State,
    ) -> impl Iterator<Item = PathBuf> + 'a {
        let wanted = move |(patch, found): (PathBuf, &State)| (*found == state).then_some(patch);
        self.patches().zip(states).filter_map(wanted)
    }

    /// Sums up what was found.
    pub fn summary(&self, version: &str, states: &[State]) -> String {
        let lacking = self.with(states, State::Lacking).count();
        match (lacking, self.len()) {
            (0, all) => format!("Linux {version} has all {all} fixes"),
            (1, all) => format!("Linux {version} lacks 1 of {all} fixes; it comes first"),
            (some, all) => format!("Linux {version} lacks {some} of {all} fixes; they come first"),
        }
    }

    /// Returns a line for each fix, with its state.
    pub fn lines(&self, states: &[State]) -> String {
        let names = self.list.iter().zip(states);
        names
            .map(|(fix, state)| format!("{} {}\n", state.name(), fix.patch))
            .collect()
    }

    /// Reads what `lines` wrote.
    pub fn states(&self, lines: &str) -> Result<Vec<State>> {
        let mut states = Vec::new();
        for (fix, line) in self.list.iter().zip(lines.lines()) {
            states.push(match line.split_once(' ') {
                Some(("lacking", name)) if name == fix.patch => State::Lacking,
                Some(("present", name)) if name == fix.patch => State::Present,
                _ => bail!("\"{line}\" is not about {}", fix.patch),
            });
        }
        if states.len() != self.len() {
            bail!("{} fixes are told of, of {}", states.len(), self.len());
        }
        Ok(states)
    }

    fn table(&self, states: &[State]) -> Table {
        let mut table = ui::table(["fix", "upstream", "state"]);
        for (fix, state) in self.list.iter().zip(states) {
            let upstream = fix.upstream.as_deref().unwrap_or("-");
            table.add_row([&fix.patch, upstream, state.name()]);
        }
        table
    }
}

/// Returns a file of a commit, if it is there.
fn committed_file(tree: &Path, commit: &str, file: &str) -> Option<Vec<u8>> {
    let mut command = git(tree);
    command.args(["show", &format!("{commit}:./{file}")]);
    let output = command.output().ok()?;
    output.status.success().then_some(output.stdout)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Files that have a defect each.
    pub const DEFECTS: [(&str, &str); 3] = [
        (
            "mm/a.c",
            "int other(void)\n{\n\treturn 0;\n}\n\nint a(int x,\n      int y)\n{\n\treturn 0;\n}\n",
        ),
        ("mm/b.c", "int b(void)\n{\n\treturn 0;\n}\n"),
        ("mm/c.c", "int c(void)\n{\n\treturn 0;\n}\n"),
    ];

    const FILES: [&str; 3] = [
        "mm/a.c\"\nfunction = \"a\"\nupstream = \"mm: mend a",
        "mm/b.c\"\nfunction = \"b",
        "mm/c.c",
    ];

    impl Scratch {
        /// A repository that has the first fixes of three.
        pub fn with_fixes(count: usize) -> Result<Self> {
            let scratch = Self::new()?;
            scratch.list(count, "return 0;")?;
            let tree = Self::with(&DEFECTS)?;
            git::run(&tree.0, "tag base")?;
            for (file, contents) in &DEFECTS[..count] {
                // The last `return` is that of the function.
                let (before, after) = contents.rsplit_once("return 0").context("no defect")?;
                tree.write(file, format!("{before}return 1{after}"))?;
                tree.commit(&format!("mend {}", &file[3..4]))?;
            }
            git::format(&tree.0, "refs/tags/base..HEAD", &scratch.0.join(FIXES))?;
            Ok(scratch)
        }

        /// A kernel tree of some files.
        pub fn with(files: &[(&str, &str)]) -> Result<Self> {
            let scratch = Self::new()?;
            for (file, contents) in files {
                scratch.write(file, contents)?;
            }
            scratch.commit("Pristine source")?;
            Ok(scratch)
        }

        fn list(&self, count: usize, defect: &str) -> Result<()> {
            let mut list = String::new();
            for (index, file) in FILES[..count].iter().enumerate() {
                let name = ["a", "b", "c"][index];
                list += &format!(
                    "[[fix]]\npatch = \"000{}-mend-{name}.patch\"\nfile = \"{file}\"\n\
                     defect = '''(?s)\\{{.*{defect}'''\ntest = \"none\"\n",
                    index + 1
                );
            }
            self.write(&format!("{FIXES}/{LIST}"), list)
        }
    }

    /// The message of an error.
    fn error<T>(result: Result<T>) -> String {
        result.map_or_else(|err| format!("{err:#}"), |_| "no error".into())
    }

    #[test]
    fn the_list_agrees_with_the_patches() -> Result<()> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let fixes = Fixes::load(&repo)?;
        for (fix, patch) in fixes.list.iter().zip(fixes.patches()) {
            let files = patches::files_of(&patch)?;
            assert!(files.contains(&fix.file), "{}: {}", fix.patch, fix.file);
            assert!(!fix.test.is_empty(), "{}: nothing shows it", fix.patch);
        }
        Ok(())
    }

    #[test]
    fn a_list_that_does_not_agree_is_refused() -> Result<()> {
        let repo = Scratch::with_fixes(3)?;
        repo.list(2, "return 0;")?;
        assert!(error(Fixes::load(&repo.0)).contains("0003-mend-c.patch is not in the list"));
        repo.list(3, "return 0;")?;
        let directory = repo.0.join(FIXES);
        fs::remove_file(directory.join("0002-mend-b.patch"))?;
        assert!(error(Fixes::load(&repo.0)).contains("0002-mend-b.patch is in the list, and"));
        fs::rename(
            directory.join("0001-mend-a.patch"),
            directory.join("0002-mend-b.patch"),
        )?;
        assert!(error(Fixes::load(&repo.0)).contains("0001-mend-a.patch is in the list, and"));
        repo.list(0, "")?;
        fs::remove_file(directory.join("0002-mend-b.patch"))?;
        fs::remove_file(directory.join("0003-mend-c.patch"))?;
        assert!(Fixes::load(&repo.0)?.is_empty());
        Ok(())
    }

    #[test]
    fn a_tree_gets_what_it_lacks() -> Result<()> {
        let repo = Scratch::with_fixes(3)?;
        let fixes = Fixes::load(&repo.0)?;
        let tree = Scratch::with(&DEFECTS)?;
        // The tree has one of the fixes, in words of its own.
        tree.write("mm/b.c", "int b(void)\n{\n\treturn mended();\n}\n")?;
        tree.commit("b: return what is right")?;

        let expected = [State::Lacking, State::Present, State::Lacking];
        assert_eq!(fixes.lacking_in(&tree.0)?, expected);
        let states = fixes.apply(&tree.0, |_| ())?;
        assert_eq!(states, expected);
        assert_eq!(fixes.states(&fixes.lines(&states))?, expected);
        assert!(fixes.states("lacking 0001-mend-a.patch\n").is_err());
        let summary = "Linux 6.18.20 lacks 2 of 3 fixes; they come first";
        assert_eq!(fixes.summary("6.18.20", &states), summary);
        let log = git::run(&tree.0, "log --format=%s -2")?;
        assert_eq!(log, "mend c\nmend a\n");
        // The list is not about the other function of the file.
        let a = fs::read_to_string(tree.0.join("mm/a.c"))?;
        assert!(a.contains("return 0;") && a.contains("return 1;"));

        let all = [State::Present; 3];
        assert_eq!(fixes.apply(&tree.0, |_| ())?, all);
        assert_eq!(
            fixes.summary("6.18.20", &all),
            "Linux 6.18.20 has all 3 fixes"
        );
        Ok(())
    }

    #[test]
    fn a_patch_that_does_not_mend_is_an_error() -> Result<()> {
        let repo = Scratch::with_fixes(1)?;
        repo.list(1, "return .;")?;
        let tree = Scratch::with(&DEFECTS)?;
        let err = error(Fixes::load(&repo.0)?.apply(&tree.0, |_| ()));
        assert!(err.contains("0001-mend-a.patch is applied"), "{err}");
        assert!(err.contains("a() of mm/a.c still has the defect"), "{err}");
        Ok(())
    }

    #[test]
    fn a_patch_that_does_not_apply_is_an_error() -> Result<()> {
        let repo = Scratch::with_fixes(1)?;
        let other = "int a(void)\n{\n\tint x = 1;\n\n\treturn 0;\n}\n";
        let tree = Scratch::with(&[("mm/a.c", other)])?;
        let err = error(Fixes::load(&repo.0)?.apply(&tree.0, |_| ()));
        assert!(
            err.contains("a() of mm/a.c has the defect that 0001-mend-a.patch"),
            "{err}"
        );
        assert!(err.contains("mm/a.c: patch does not apply"), "{err}");
        Ok(())
    }

    #[test]
    fn what_is_missing_is_an_error_unless_the_list_says_otherwise() -> Result<()> {
        let repo = Scratch::with_fixes(1)?;
        let no_file = Scratch::with(&[])?;
        let no_function = Scratch::with(&[("mm/a.c", "int a(int x, int y);\n")])?;
        for tree in [&no_file, &no_function] {
            let err = error(Fixes::load(&repo.0)?.lacking_in(&tree.0));
            assert!(err.contains("there is no a() of mm/a.c"), "{err}");
        }
        let path = repo.0.join(FIXES).join(LIST);
        let list = fs::read_to_string(&path)?;
        fs::write(&path, list + "may_be_missing = true\n")?;
        for tree in [&no_file, &no_function] {
            let states = Fixes::load(&repo.0)?.lacking_in(&tree.0)?;
            assert_eq!(states, [State::Present]);
        }
        Ok(())
    }
}
