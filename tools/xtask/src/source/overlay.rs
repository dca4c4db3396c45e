// SPDX-License-Identifier: GPL-2.0

//! The files of the repository, and the patches that add them: kept in step both ways.

use super::{Source, FIXED};
use crate::{
    fixes::Fixes,
    git::{self, git},
    patches::{file_name, patches, SERIES},
    ui::{output, Ui},
};
use anyhow::{bail, Context, Result};
use std::{collections::BTreeSet, fs, path::Path};

/// The directories whose files the series adds to a kernel tree.
const OVERLAY: &[&str] = &[
    "Documentation",
    "fs",
    "include",
    "mm",
    "rust",
    "tools/testing",
];

impl Source {
    /// Lists the files that a commit adds.
    fn added(&self, commit: &str) -> Result<Vec<String>> {
        let what = "-r --no-commit-id --name-only --diff-filter=A";
        let list = git::run(&self.am, &format!("diff-tree {what} {commit}"))?;
        Ok(list.lines().map(str::to_string).collect())
    }

    /// Fails if the files of the repository and the files that the series adds differ.
    pub fn check_overlay(&self, ui: &Ui, repo: &Path) -> Result<()> {
        let commits = self.apply(ui, repo)?;
        let mut in_series = BTreeSet::new();
        let mut stale = Vec::new();
        for commit in &commits {
            for file in self.added(commit)? {
                let theirs = fs::read(self.am.join(&file))?;
                if fs::read(repo.join(&file)).ok().as_ref() != Some(&theirs) {
                    stale.push(file.clone());
                }
                in_series.insert(file);
            }
        }
        for file in overlay(repo)? {
            if !in_series.contains(&file) {
                stale.push(format!("{file} (in no patch)"));
            }
        }
        let entry = fs::read_to_string(repo.join("MAINTAINERS"))?;
        if !fs::read_to_string(self.am.join("MAINTAINERS"))?.contains(maintainers_entry(&entry)) {
            stale.push("MAINTAINERS".into());
        }
        if !stale.is_empty() {
            bail!(
                "these files and the patches of the series differ; `cargo xtask series` brings \
                 the patches up to date:\n  {}",
                stale.join("\n  ")
            );
        }
        Ok(())
    }

    /// Fails if a file of the repository differs from the tree that kernels are built from, because
    /// its patch was not brought up to date after an edit.
    pub fn check_tree(&self, repo: &Path) -> Result<()> {
        let is_stale =
            |file: &String| fs::read(self.tree.join(file)).ok() != fs::read(repo.join(file)).ok();
        let stale: Vec<_> = overlay(repo)?.into_iter().filter(is_stale).collect();
        if !stale.is_empty() {
            bail!(
                "kernels are built from the patches, which lack edits of these files; `cargo xtask \
                 series` brings the patches up to date:\n  {}",
                stale.join("\n  ")
            );
        }
        Ok(())
    }

    /// Writes the files of the repository into the patches that add them.
    pub fn regenerate(&self, ui: &Ui, repo: &Path) -> Result<()> {
        let patches = patches(repo)?;
        let mut missing = overlay(repo)?;
        let fixed = self.fix(ui, repo)?;
        ui.step("Bringing the series up to date", |bar| {
            self.reset(&fixed)?;
            for patch in &patches {
                bar.set_message(file_name(patch));
                self.am(patch)?;
                for file in self.added("HEAD")? {
                    missing.remove(&file);
                    fs::copy(repo.join(&file), self.am.join(&file))
                        .with_context(|| format!("{file} is in the series, but not here"))?;
                    output(git(&self.am).args(["add", &file]))?;
                }
                git::run(&self.am, "commit --quiet --amend --no-edit --allow-empty")?;
            }
            if !missing.is_empty() {
                bail!(
                    "no patch adds these files: {}\nMake a commit for them in the tree of `cargo \
                     xtask tree`, and take it over with `cargo xtask series --from`.",
                    missing.into_iter().collect::<Vec<_>>().join(", ")
                );
            }
            git::format(&self.am, &format!("{fixed}..HEAD"), &repo.join(SERIES))
        })
    }

    /// Takes the series over from a git tree, with all commits after its fixes.
    pub fn import(&self, ui: &Ui, tree: &Path, repo: &Path) -> Result<()> {
        ui.step("Taking the series over", |_| {
            let range = format!("{}..HEAD", series_base(tree)?);
            refuse_fixes(tree, &range, &Fixes::load(repo)?)?;
            git::format(tree, &range, &repo.join(SERIES))
        })?;
        for commit in self.apply(ui, repo)? {
            for file in self.added(&commit)? {
                let path = repo.join(&file);
                fs::create_dir_all(path.parent().context("no directory")?)?;
                fs::copy(self.am.join(&file), path)?;
            }
        }
        Ok(())
    }
}

/// The part of a MAINTAINERS file after its comments.
fn maintainers_entry(text: &str) -> &str {
    text.find("\n\n")
        .map_or(text, |end| &text[end + 2..])
        .trim_end()
}

/// Returns the tag that the commits of the series come after, in a tree that the series is taken
/// from: the fixes if the tree has them, or the base. The tree may have older fixes than this
/// repository.
pub fn series_base(tree: &Path) -> Result<String> {
    let nearest = output(
        git(tree)
            .args(["describe", "--tags", "--abbrev=0"])
            .arg(format!("--match={FIXED}"))
            .arg(format!("--match={FIXED}-*"))
            .arg("HEAD"),
    );
    let tag = nearest.as_deref().map_or("base", str::trim);
    Ok(format!("refs/tags/{tag}"))
}

/// Fails if fixes of the base are among commits that are taken for the series.
fn refuse_fixes(tree: &Path, range: &str, fixes: &Fixes) -> Result<()> {
    let subjects = git::run(tree, &format!("log --format=%f {range}"))?;
    for patch in fixes.patches() {
        let name = file_name(&patch);
        if subjects
            .lines()
            .any(|subject| is_named_after(&name, subject))
        {
            bail!(
                "{name} is a fix of the base, and among the commits of the series in {}: put the \
                 tag `{FIXED}` on the last commit before the series",
                tree.display()
            );
        }
    }
    Ok(())
}

/// Whether git gives this name to a patch with this subject. A name begins with a number, and git
/// cuts it if it is too long.
fn is_named_after(patch: &str, subject: &str) -> bool {
    let name = patch.trim_end_matches(".patch");
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    name == subject || (name.len() >= 50 && subject.starts_with(name))
}

/// Lists the files of the repository that are files of the kernel.
pub fn overlay(repo: &Path) -> Result<BTreeSet<String>> {
    let list = output(
        git(repo)
            .args([
                "ls-files",
                "--cached",
                "--others",
                "--exclude-standard",
                "--",
            ])
            .args(OVERLAY),
    )?;
    Ok(list.lines().map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixes::tests::DEFECTS, scratch::Scratch};

    const SUBJECT: &str = "Documentation-userfaultfd-describe-the-implementation-in-Rust";

    #[test]
    fn names_of_patches_are_cut_subjects() {
        let cut = "0020-Documentation-userfaultfd-describe-the-implementatio.patch";
        assert!(is_named_after(cut, SUBJECT));
        assert!(is_named_after("0001-mm-fix-a.patch", "mm-fix-a"));
        assert!(!is_named_after("0001-mm-fix-a.patch", "mm-fix-a-leak"));
    }

    #[test]
    fn fixes_are_not_taken_for_the_series() -> Result<()> {
        let repo = Scratch::with_fixes(1)?;
        let fixes = Fixes::load(&repo.0)?;
        let tree = Scratch::with(&DEFECTS)?;
        git::run(&tree.0, "tag base")?;
        fixes.apply(&tree.0, |_| ())?;
        let refused = |tree: &Path| -> Result<bool> {
            let range = format!("{}..HEAD", series_base(tree)?);
            Ok(refuse_fixes(tree, &range, &fixes).is_err())
        };
        assert!(refused(&tree.0)?);
        git::run(&tree.0, &format!("tag {FIXED}"))?;
        assert!(!refused(&tree.0)?);
        Ok(())
    }
}
