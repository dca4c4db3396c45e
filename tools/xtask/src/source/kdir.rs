// SPDX-License-Identifier: GPL-2.0

//! Kernel trees that the user names with `--kdir`.

use super::Source;
use crate::{
    fixes::{Fixes, State},
    git::{self, git},
    patches::{files_of, patches},
    ui::{output, Ui},
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fs, path::Path, process::Command};

impl Source {
    /// Makes a copy of the user's own tree.
    pub fn from_kdir(ui: &Ui, cache: &Path, kdir: &Path, repo: &Path) -> Result<Self> {
        let kdir =
            fs::canonicalize(kdir).with_context(|| format!("{} does not exist", kdir.display()))?;
        check_kdir(&kdir, repo)?;
        let name = format!("{:x}", Sha256::digest(kdir.as_os_str().as_encoded_bytes()));
        let source = Self::at(cache.join(format!("source-{}", &name[..12])));
        if source.repo.join("done").exists()
            && fs::read_to_string(source.repo.join("done"))? == tree_id(&kdir)?
        {
            return Ok(source);
        }
        let _ = fs::remove_dir_all(&source.repo);
        fs::create_dir_all(&source.repo)?;
        ui.run(
            "copy",
            "Copying the kernel tree",
            Command::new("sh")
                .args(["-c", include_str!("../../scripts/copy-tree.sh"), "copy"])
                .arg(&kdir)
                .arg(&source.tree),
        )?;
        source.commit_base(ui)?;
        fs::write(source.repo.join("done"), tree_id(&kdir)?)?;
        Ok(source)
    }
}

/// Returns what identifies the state of a tree.
fn tree_id(kdir: &Path) -> Result<String> {
    Ok(git::run(kdir, "rev-parse HEAD").unwrap_or_default())
}

/// Returns the version in the makefile of a kernel tree.
pub fn version(tree: &Path) -> Result<String> {
    let makefile = fs::read_to_string(tree.join("Makefile"))
        .with_context(|| format!("{} is no kernel tree", tree.display()))?;
    let field = |name: &str| {
        makefile
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} =")))
            .unwrap_or("?")
            .trim()
    };
    let [version, patch, sub, extra] =
        ["VERSION", "PATCHLEVEL", "SUBLEVEL", "EXTRAVERSION"].map(field);
    Ok(format!("{version}.{patch}.{sub}{extra}"))
}

/// Checks that a tree is of the right version, and that the files that the series and the missing
/// fixes change have no local changes.
fn check_kdir(kdir: &Path, repo: &Path) -> Result<()> {
    let version = version(kdir)?;
    if !version.starts_with("6.18.") {
        bail!(
            "{} is Linux {version}, and the series is for 6.18",
            kdir.display()
        );
    }
    if git::run(kdir, "rev-parse --git-dir").is_err() {
        return Ok(());
    }
    let fixes = Fixes::load(repo)?;
    let states = fixes.lacking_in(kdir)?;
    let lacking = fixes.with(&states, State::Lacking);
    let mut touched = BTreeSet::new();
    for patch in patches(repo)?.into_iter().chain(lacking) {
        touched.extend(files_of(&patch)?);
    }
    let changed = output(
        git(kdir)
            .args(["status", "--porcelain", "--"])
            .args(&touched),
    )?;
    if !changed.is_empty() {
        bail!(
            "{} has local changes in files that the series or its fixes change too; commit or \
             stash them:\n{}",
            kdir.display(),
            changed
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixes::tests::DEFECTS, patches::SERIES, scratch::Scratch};

    #[test]
    fn changes_in_the_way_of_a_fix_are_refused() -> Result<()> {
        let repo = Scratch::with_fixes(2)?;
        repo.write(&format!("{SERIES}/0000-cover-letter.txt"), "")?;
        let version = "VERSION = 6\nPATCHLEVEL = 18\nSUBLEVEL = 20\nEXTRAVERSION =\n";
        let fixed = "int b(void)\n{\n\treturn two();\n}\n";
        let files = [("Makefile", version), DEFECTS[0], ("mm/b.c", fixed)];
        let tree = Scratch::with(&files)?;
        assert_eq!(super::version(&tree.0)?, "6.18.20");
        check_kdir(&tree.0, &repo.0)?;
        // The tree has the second fix: its file stays as it is.
        tree.write("mm/b.c", "int b(void)\n{\n\treturn three();\n}\n")?;
        check_kdir(&tree.0, &repo.0)?;
        tree.write("mm/a.c", format!("{}\n", DEFECTS[0].1))?;
        assert!(check_kdir(&tree.0, &repo.0).is_err());
        Ok(())
    }
}
