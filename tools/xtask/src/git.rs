// SPDX-License-Identifier: GPL-2.0

//! Git, as this tool runs it.

use crate::{patches, ui::output};
use anyhow::{bail, Result};
use std::{fs, path::Path, process::Command};

/// Who patches are from: the lists that they go to.
const AUTHOR: &str = "userfaultfd in Rust <rust-for-linux@vger.kernel.org>";

/// Makes a git command that does not depend on the settings of the user.
pub fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(directory);
    for setting in [
        "advice.detachedHead=false",
        "commit.gpgsign=false",
        "core.hooksPath=/dev/null",
        "gc.auto=0",
        "safe.directory=*",
        "tag.gpgsign=false",
        "user.email=rust-for-linux@vger.kernel.org",
        "user.name=userfaultfd in Rust",
    ] {
        command.args(["-c", setting]);
    }
    command
}

/// Runs git with arguments that have no spaces in them. Returns its output.
pub fn run(directory: &Path, arguments: &str) -> Result<String> {
    output(git(directory).args(arguments.split(' ')))
}

/// Applies a patch with `git am`. The error has the messages of git.
pub fn am(tree: &Path, patch: &Path) -> Result<()> {
    let output = git(tree)
        .args(["am", "--quiet", "--committer-date-is-author-date"])
        .arg(patch)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let hunks: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("error: "))
        .collect();
    if hunks.is_empty() {
        bail!("{}", text.trim());
    }
    bail!("{}", hunks.join("\n  "))
}

/// Writes commits of a tree as the patches of a directory.
pub fn format(tree: &Path, range: &str, directory: &Path) -> Result<()> {
    // The old patches are removed only if there are new ones.
    if output(git(tree).args(["rev-list", range]))?.is_empty() {
        bail!("{} has no commits {range}", tree.display());
    }
    for patch in patches::patches_in(directory)? {
        fs::remove_file(patch)?;
    }
    output(
        git(tree)
            .args(["format-patch", "--quiet", "--zero-commit", "--numbered"])
            .args(["--no-signature", "--no-renames", "--full-index"])
            .arg("--diff-algorithm=histogram")
            .arg(format!("--from={AUTHOR}"))
            .arg("-o")
            .arg(directory)
            .arg(range),
    )?;
    Ok(())
}
