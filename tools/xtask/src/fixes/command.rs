// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask fixes`: says what a tree lacks, or takes the fixes over from a git tree.

use super::{committed_file, Fixes, State, FIXES};
use crate::{
    git, lab, patches,
    source::{self, Source},
    Session,
};
use anyhow::Result;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Options {
    /// Take the patches over from a git tree: all commits after the tag `base`.
    #[arg(long, value_name = "TREE")]
    from: Option<PathBuf>,
    /// The last commit that is taken over.
    #[arg(long, value_name = "REV", default_value = "HEAD", requires = "from")]
    to: String,
}

/// `cargo xtask fixes`
pub fn fixes(session: &Session, options: &Options) -> Result<()> {
    if let Some(tree) = &options.from {
        return take_over(session, &std::path::absolute(tree)?, &options.to);
    }
    let fixes = Fixes::load(&session.repo)?;
    let (version, states) = match &session.kdir {
        Some(kdir) => (source::version(kdir)?, fixes.lacking_in(kdir)?),
        None => {
            let tree = Source::pristine(&session.ui, &session.cache)?.tree;
            let states = fixes.try_on(|file| committed_file(&tree, "base", file))?;
            (patches::VERSION.into(), states)
        }
    };
    if fixes.is_empty() {
        println!("there are no fixes");
        return Ok(());
    }
    println!("{}\n", fixes.table(&states));
    println!("{}", fixes.summary(&version, &states));
    let lacking: Vec<PathBuf> = fixes.with(&states, State::Lacking).collect();
    if let (Some(kdir), false) = (&session.kdir, lacking.is_empty()) {
        println!("\n{}", am_line(kdir, &lacking));
    }
    Ok(())
}

/// The command that applies patches to a tree, one patch a line.
fn am_line(kdir: &Path, patches: &[PathBuf]) -> String {
    let quoted = |path: &Path| lab::quote(&path.display().to_string());
    let mut line = format!("git -C {} am", quoted(kdir));
    for patch in patches {
        line.push_str(&format!(" \\\n    {}", quoted(patch)));
    }
    line
}

/// Writes the commits of a tree as patches. The user has to bring the list up to date.
fn take_over(session: &Session, tree: &Path, to: &str) -> Result<()> {
    let directory = session.repo.join(FIXES);
    git::format(tree, &format!("refs/tags/base..{to}"), &directory)?;
    let count = patches::patches_in(&directory)?.len();
    println!("{} has {count} patches", directory.display());
    if let Err(err) = Fixes::load(&session.repo) {
        session.ui.note(&format!("{err:#}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted() {
        let patches = [
            PathBuf::from("/a/0001-x.patch"),
            PathBuf::from("/a b/2.patch"),
        ];
        let line = "git -C linux am \\\n    /a/0001-x.patch \\\n    '/a b/2.patch'";
        assert_eq!(am_line(Path::new("linux"), &patches), line);
    }
}
