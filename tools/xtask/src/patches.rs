// SPDX-License-Identifier: GPL-2.0

//! The patches of the series, as files.

use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The kernel that the series is for.
pub const VERSION: &str = "6.18.15";
/// The directory of its patches.
pub const SERIES: &str = "linux-patches/6.18";

/// Lists the patches of the series in order.
pub fn patches(repo: &Path) -> Result<Vec<PathBuf>> {
    patches_in(&repo.join(SERIES))
}

/// Lists the patches of a directory in order.
pub fn patches_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut patches: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("{} is missing", directory.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    patches.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "patch")
    });
    patches.sort();
    Ok(patches)
}

/// Returns the path of the cover letter.
pub fn cover_letter(repo: &Path) -> PathBuf {
    repo.join(SERIES).join("0000-cover-letter.txt")
}

/// Lists the files that a patch changes, adds or removes.
pub fn files_of(patch: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(patch)?;
    let file = |line: &str| {
        let old = line.strip_prefix("--- a/");
        old.or(line.strip_prefix("+++ b/")).map(str::to_string)
    };
    Ok(text.lines().filter_map(file).collect())
}

/// Returns the last component of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Lists the files that the series changes, adds or removes.
pub fn touched(repo: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for patch in patches(repo)? {
        files.extend(files_of(&patch)?);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;
    use regex::Regex;

    /// The names of patches have numbers, which change when patches are added.
    #[test]
    fn links_of_the_readme_lead_somewhere() -> Result<()> {
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let readme = fs::read_to_string(repo.join("README.md"))?;
        let headings: Vec<String> = readme
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|heading| heading.to_lowercase().replace(' ', "-"))
            .collect();
        for link in Regex::new(r"\]\(([^)]*)\)")?.captures_iter(&readme) {
            let known = match link[1].strip_prefix('#') {
                Some(heading) => headings.iter().any(|known| known == heading),
                None => repo.join(&link[1]).exists(),
            };
            ensure!(known, "README.md links to {}, which is not there", &link[1]);
        }
        Ok(())
    }
}
