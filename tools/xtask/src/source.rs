// SPDX-License-Identifier: GPL-2.0

//! The kernel source, and the patch series on top of it.

mod fetch;
mod kdir;
pub mod overlay;

pub use kdir::version;

use crate::{
    fixes::Fixes,
    git::{self, git},
    lab,
    patches::{file_name, patches, VERSION},
    ui::{output, Ui},
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The tag between the fixes of the base and the series, for the user. It moves when the fixes
/// change. The tags that this tool relies on have a hash of the fixes behind this name.
const FIXED: &str = "fixed";

/// A git repository of the kernel, with the pristine tree, the fixes that it lacks and the series
/// as commits.
pub struct Source {
    /// The tree that kernels are built from.
    pub tree: PathBuf,
    repo: PathBuf,
    /// The tree that patches are applied in.
    pub am: PathBuf,
    /// Whether the user was told which fixes the tree lacks.
    said: Cell<bool>,
}

impl Source {
    /// Gets the pristine source of the kernel as a git repository.
    pub fn pristine(ui: &Ui, cache: &Path) -> Result<Self> {
        let source = Self::at(cache.join("source"));
        if source.repo.join("done").exists() {
            return Ok(source);
        }
        fs::create_dir_all(cache)?;
        lab::require_space(cache, 8)?;
        let tarball = fetch::tarball(ui, cache)?;
        let _ = fs::remove_dir_all(&source.repo);
        fs::create_dir_all(&source.tree)?;
        ui.run(
            "extract",
            "Extracting the kernel source",
            Command::new("tar")
                .args(["-x", "--strip-components=1", "-C"])
                .arg(&source.tree)
                .arg("-f")
                .arg(&tarball),
        )?;
        source.commit_base(ui)?;
        Ok(source)
    }

    fn at(repo: PathBuf) -> Self {
        Self {
            tree: repo.join("linux"),
            am: repo.join("am"),
            repo,
            said: Cell::new(false),
        }
    }

    fn commit_base(&self, ui: &Ui) -> Result<()> {
        ui.step("Putting the kernel source under git", |_| {
            git::run(&self.tree, "init --quiet")?;
            git::run(&self.tree, "add --force --all")?;
            output(git(&self.tree).args(["commit", "--quiet", "-m", "Pristine source"]))?;
            git::run(&self.tree, "tag base")?;
            output(
                git(&self.tree)
                    .args(["worktree", "add", "--quiet", "--detach"])
                    .arg(&self.am)
                    .arg("base"),
            )?;
            fs::write(self.repo.join("done"), "")?;
            Ok(())
        })
    }

    /// Applies the series with `git am` to the pristine tree with the fixes that it lacks. Returns
    /// the commits of the series, oldest first.
    pub fn apply(&self, ui: &Ui, repo: &Path) -> Result<Vec<String>> {
        let patches = patches(repo)?;
        let fixed = self.fix(ui, repo)?;
        ui.step(
            &format!("Applying {} patches to Linux {VERSION}", patches.len()),
            |bar| {
                self.reset(&fixed)?;
                for patch in &patches {
                    bar.set_message(file_name(patch));
                    self.am(patch)?;
                }
                self.commits(&fixed, "HEAD")
            },
        )
    }

    /// The tag of the tree that has the fixes.
    fn fixed_tag(&self, fixes: &Fixes) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(git::run(&self.tree, "rev-parse base")?);
        fixes.hash(&mut hash)?;
        Ok(format!(
            "{FIXED}-{}",
            &format!("{:x}", hash.finalize())[..16]
        ))
    }

    /// Applies the fixes that the tree lacks, unless that was done. Returns the tag of the result.
    fn fix(&self, ui: &Ui, repo: &Path) -> Result<String> {
        let fixes = Fixes::load(repo)?;
        let tag = self.fixed_tag(&fixes)?;
        if !self.has_tag(&tag) {
            if fixes.is_empty() {
                self.tag(&tag, "base", "")?;
            } else {
                let title = format!("Looking for {} known defects in the base", fixes.len());
                ui.step(&title, |bar| {
                    self.reset("base")?;
                    let states = fixes.apply(&self.am, |name| bar.set_message(name.to_string()))?;
                    let head = git::run(&self.am, "rev-parse HEAD")?;
                    self.tag(&tag, head.trim(), &fixes.lines(&states))
                })?;
            }
        }
        git::run(&self.tree, &format!("tag --force {FIXED} {tag}^{{commit}}"))?;
        if !fixes.is_empty() && !self.said.replace(true) {
            let command = format!("for-each-ref --format=%(contents) refs/tags/{tag}");
            let lines = git::run(&self.tree, &command)?;
            let states = fixes.states(&lines)?;
            ui.note(&fixes.summary(&version(&self.am)?, &states));
            fs::write(ui.log_path("fixes"), fixes.lines(&states))?;
        }
        Ok(tag)
    }

    fn has_tag(&self, tag: &str) -> bool {
        let command = format!("rev-parse --verify --quiet refs/tags/{tag}");
        git::run(&self.tree, &command).is_ok()
    }

    /// Makes a tag with a message.
    fn tag(&self, tag: &str, commit: &str, message: &str) -> Result<()> {
        output(
            git(&self.tree)
                .args(["tag", "--annotate", "--cleanup=verbatim", "-m", message])
                .args([tag, commit]),
        )?;
        Ok(())
    }

    /// Returns the commits of the fixes that `apply` found lacking, oldest first.
    pub fn fixes(&self, repo: &Path) -> Result<Vec<String>> {
        self.commits("base", &self.fixed_tag(&Fixes::load(repo)?)?)
    }

    fn reset(&self, commit: &str) -> Result<()> {
        // An earlier attempt may have been cut short.
        let _ = git::run(&self.am, "am --abort");
        git::run(
            &self.am,
            &format!("checkout --quiet --force --detach {commit}"),
        )?;
        git::run(&self.am, "clean -fdq")?;
        Ok(())
    }

    fn am(&self, patch: &Path) -> Result<()> {
        if let Err(err) = git::am(&self.am, patch) {
            bail!(
                "{} does not apply:\n  {err:#}\nThe series is for Linux {VERSION}; is the tree \
                 another one?",
                file_name(patch)
            );
        }
        Ok(())
    }

    fn commits(&self, from: &str, to: &str) -> Result<Vec<String>> {
        let range = format!("{from}..{to}");
        let list = git::run(&self.am, &format!("rev-list --reverse {range}"))?;
        Ok(list.lines().map(str::to_string).collect())
    }

    /// Returns a file as it is in a commit.
    pub fn show(&self, commit: &str, file: &str) -> Result<String> {
        output(git(&self.tree).args(["show", &format!("{commit}:{file}")]))
    }

    /// Checks out a commit to build from. Files that do not differ keep their times.
    pub fn check_out(&self, commit: &str) -> Result<()> {
        git::run(
            &self.tree,
            &format!("checkout --quiet --force --detach {commit}"),
        )?;
        Ok(())
    }

    /// Checks out the tree with the series applied. Returns the hash of its contents, because two
    /// trees with the same series are two kernels.
    pub fn prepare(&self, ui: &Ui, repo: &Path) -> Result<String> {
        let id = series_id(repo)?;
        let tag = format!("series-{}", &id[..16]);
        if self.has_tag(&tag) {
            self.fix(ui, repo)?;
        } else {
            let commits = self.apply(ui, repo)?;
            let last = commits.last().context("the series is empty")?;
            git::run(&self.tree, &format!("tag {tag} {last}"))?;
        }
        self.check_out(&tag)?;
        let tree = output(git(&self.tree).args(["rev-parse", "HEAD^{tree}"]))?;
        Ok(tree.trim().to_string())
    }

    /// Adds a git work tree with the series applied.
    pub fn add_tree(&self, ui: &Ui, repo: &Path, at: &Path) -> Result<()> {
        let commits = self.apply(ui, repo)?;
        let last = commits.last().context("the series is empty")?;
        output(
            git(&self.tree)
                .args(["worktree", "add", "-B", "series"])
                .arg(at)
                .arg(last),
        )?;
        Ok(())
    }
}

/// Returns a hash of the patches of the series and of the fixes before them.
fn series_id(repo: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    Fixes::load(repo)?.hash(&mut hash)?;
    for patch in patches(repo)? {
        hash.update(fs::read(patch)?);
    }
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixes::{tests::DEFECTS, FIXES},
        patches::{touched, SERIES},
        scratch::Scratch,
    };

    /// A source and a repository with two fixes, of which the source lacks one, and with a series
    /// of one patch.
    #[test]
    fn the_series_comes_after_the_fixes_that_are_lacking() -> Result<()> {
        let scratch = Scratch::new()?;
        let repo = Scratch::with_fixes(2)?;
        let ui = Ui::new(false, repo.0.join("logs"))?;
        let source = Source::at(scratch.0.join("source"));
        for (file, contents) in [("Makefile", "VERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 15\n")]
            .into_iter()
            .chain(DEFECTS)
        {
            scratch.write(&format!("source/linux/{file}"), contents)?;
        }
        scratch.write(
            "source/linux/mm/b.c",
            "int b(void)\n{\n\treturn two();\n}\n",
        )?;
        source.commit_base(&ui)?;
        // The series is made in a tree that has the fix.
        repo.write(&format!("{SERIES}/0000-cover-letter.txt"), "")?;
        let before = series_id(&repo.0)?;
        let tag = source.fix(&ui, &repo.0)?;
        source.reset(&tag)?;
        fs::write(source.am.join("new.rs"), "one\n")?;
        git::run(&source.am, "add new.rs")?;
        output(git(&source.am).args(["commit", "--quiet", "-m", "rust: add new"]))?;
        repo.write("new.rs", "one\n")?;
        source.import(&ui, &source.am, &repo.0)?;
        let names =
            |patches: Vec<PathBuf>| patches.iter().map(|p| file_name(p)).collect::<Vec<_>>();
        assert_eq!(names(patches(&repo.0)?), ["0001-rust-add-new.patch"]);
        assert_ne!(series_id(&repo.0)?, before);

        let commits = source.apply(&ui, &repo.0)?;
        assert_eq!(commits.len(), 1);
        assert_eq!(source.fixes(&repo.0)?.len(), 1);
        assert_eq!(touched(&repo.0)?, ["new.rs".to_string()].into());
        let log = fs::read_to_string(ui.log_path("fixes"))?;
        assert_eq!(
            log,
            "lacking 0001-mend-a.patch\npresent 0002-mend-b.patch\n"
        );

        // Without the fixes it is another tree, even though tags of before exist.
        let id = source.prepare(&ui, &repo.0)?;
        assert_eq!(source.prepare(&ui, &repo.0)?, id);
        fs::remove_dir_all(repo.0.join(FIXES))?;
        repo.write(&format!("{FIXES}/fixes.toml"), "")?;
        assert_ne!(source.prepare(&ui, &repo.0)?, id);
        assert_eq!(source.apply(&ui, &repo.0)?.len(), 1);
        assert_eq!(source.fixes(&repo.0)?.len(), 0);

        // In a tree of before, the series comes after the fixes of before.
        source.reset(&commits[0])?;
        assert_eq!(
            overlay::series_base(&source.am)?,
            format!("refs/tags/{tag}")
        );
        Ok(())
    }
}
