// SPDX-License-Identifier: GPL-2.0

//! The kernel source, and the patch series on top of it.

use crate::{
    lab,
    ui::{output, Ui},
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

/// The kernel that the series is for.
pub const VERSION: &str = "6.18.15";
/// The directory of its patches.
pub const SERIES: &str = "linux-patches/6.18";

const TARBALL: &str = "linux_6.18.15.orig.tar.xz";
const SHA256: &str = "fdf4c4d487c95b17a41cb38003faef86669e532a44fe702eb31a3390b6a60cca";
/// The version of Debian's package that has the same tarball.
const DEBIAN_VERSION: &str = "linux=6.18.15-1~bpo13+1";
const KERNEL_ORG: &str = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.18.15.tar.xz";

/// Directories of tarballs that are looked in first.
pub const DISTFILES: &str = "UFFD_DISTFILES";

/// Places in the repository whose files are those that the series adds; what was measured is not
/// for the kernel.
const OVERLAY: &[&str] = &[
    ":(exclude)Documentation/benchmark",
    "Documentation",
    "fs",
    "include",
    "mm",
    "rust",
    "tools/testing",
];

/// Who patches are from: the lists that they go to.
const AUTHOR: &str = "userfaultfd in Rust <rust-for-linux@vger.kernel.org>";

/// A git repository of the kernel, with the pristine tree and the series as commits.
pub struct Source {
    /// The tree that kernels are built from.
    pub tree: PathBuf,
    repo: PathBuf,
    am: PathBuf,
}

fn git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command
        .arg("-C")
        .arg(directory)
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "user.name=userfaultfd in Rust",
        ])
        .args(["-c", "user.email=rust-for-linux@vger.kernel.org"])
        .args([
            "-c",
            "commit.gpgsign=false",
            "-c",
            "advice.detachedHead=false",
        ])
        .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0"]);
    command
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(format!("{:x}", hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

fn check_sum(path: &Path) -> Result<()> {
    let sum = sha256(path)?;
    if sum != SHA256 {
        bail!(
            "{} is not the source of Linux {VERSION}: its SHA-256 is {sum}, and should be \
             {SHA256}. Remove it and try again.",
            path.display()
        );
    }
    Ok(())
}

/// Finds the tarball, or fetches it.
fn tarball(ui: &Ui, cache: &Path) -> Result<PathBuf> {
    if let Some(directories) = std::env::var_os(DISTFILES) {
        for directory in std::env::split_paths(&directories) {
            let path = directory.join(TARBALL);
            if path.exists() {
                check_sum(&path)?;
                return Ok(path);
            }
        }
    }
    let path = cache.join(TARBALL);
    if path.exists() {
        check_sum(&path)?;
        return Ok(path);
    }

    let part = cache.join(format!("{TARBALL}.part"));
    let _ = fs::remove_file(&part);
    let from_debian = ui.run(
        "source",
        "Fetching the kernel source from the Debian mirror of this machine",
        Command::new("sh")
            .args(["-c", DEBIAN_FETCH, "fetch"])
            .arg(&part)
            .args([DEBIAN_VERSION, TARBALL, SHA256]),
    );
    if let Err(err) = from_debian {
        ui.note(&format!("no source from a Debian mirror: {err:#}"));
        ui.run(
            "source",
            "Fetching the kernel source from kernel.org",
            Command::new("curl")
                .args([
                    "--fail",
                    "--location",
                    "--silent",
                    "--show-error",
                    "--output",
                ])
                .arg(&part)
                .arg(KERNEL_ORG),
        )
        .with_context(|| {
            format!(
                "the source of Linux {VERSION} cannot be fetched. Without a network, put \
                 {TARBALL} into a directory and name that in {DISTFILES}, or name a kernel tree \
                 with --kdir."
            )
        })?;
    }
    check_sum(&part)?;
    fs::rename(&part, &path)?;
    Ok(path)
}

/// Fetches the tarball of Debian's source package with lists of its own, from the mirror that the
/// machine is set up for. Arguments: destination, package and version, file, SHA-256.
const DEBIAN_FETCH: &str = r#"
set -e
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep debian |
	grep -v security | head -n 1)
test -n "$mirror"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
echo "deb-src $mirror trixie-backports main" > "$dir/sources.list"
options="-o Dir::Etc::SourceList=$dir/sources.list -o Dir::Etc::SourceParts=/dev/null
	-o Dir::State::Lists=$dir/lists -o Dir::Cache=$dir/cache"
apt-get $options update
uri=$(apt-get $options source --print-uris "$2" | sed -n "s/^'\([^']*$3\)'.*/\1/p")
test -n "$uri"
/usr/lib/apt/apt-helper download-file "$uri" "$1" "SHA256:$4"
"#;

impl Source {
    /// Gets the pristine source of the kernel as a git repository.
    pub fn pristine(ui: &Ui, cache: &Path) -> Result<Self> {
        let source = Self::at(cache.join("source"));
        if source.repo.join("done").exists() {
            return Ok(source);
        }
        fs::create_dir_all(cache)?;
        lab::require_space(cache, 8)?;
        let tarball = tarball(ui, cache)?;
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

    /// Uses somebody's own tree, of which a copy is made.
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
                .args(["-c", "if git -C \"$1\" rev-parse 2>/dev/null; then git -c safe.directory='*' clone --shared --quiet \"$1\" \"$2\" && rm -rf \"$2/.git\"; else cp -a --reflink=auto \"$1\" \"$2\"; fi", "copy"])
                .arg(&kdir)
                .arg(&source.tree),
        )?;
        source.commit_base(ui)?;
        fs::write(source.repo.join("done"), tree_id(&kdir)?)?;
        Ok(source)
    }

    fn at(repo: PathBuf) -> Self {
        Self {
            tree: repo.join("linux"),
            am: repo.join("am"),
            repo,
        }
    }

    fn commit_base(&self, ui: &Ui) -> Result<()> {
        ui.step("Putting the kernel source under git", |_| {
            output(git(&self.tree).args(["init", "--quiet"]))?;
            output(git(&self.tree).args(["add", "--force", "--all"]))?;
            output(git(&self.tree).args(["commit", "--quiet", "-m", "Pristine source"]))?;
            output(git(&self.tree).args(["tag", "base"]))?;
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

    /// Applies the series with `git am` to the pristine tree. Returns the commits, oldest first.
    pub fn apply(&self, ui: &Ui, repo: &Path) -> Result<Vec<String>> {
        let patches = patches(repo)?;
        ui.step(
            &format!("Applying {} patches to Linux {VERSION}", patches.len()),
            |bar| {
                self.reset()?;
                for patch in &patches {
                    bar.set_message(file_name(patch));
                    self.am(patch)?;
                }
                self.commits()
            },
        )
    }

    fn reset(&self) -> Result<()> {
        // An earlier attempt may have been cut short.
        let _ = output(git(&self.am).args(["am", "--abort"]));
        output(git(&self.am).args(["checkout", "--quiet", "--force", "--detach", "base"]))?;
        output(git(&self.am).args(["clean", "-fdq"]))?;
        Ok(())
    }

    fn am(&self, patch: &Path) -> Result<()> {
        let output = git(&self.am)
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
        bail!(
            "{} does not apply:\n  {}\nThe series is for Linux {VERSION}; is the tree another one?",
            file_name(patch),
            hunks.join("\n  ")
        )
    }

    fn commits(&self) -> Result<Vec<String>> {
        let list = output(git(&self.am).args(["rev-list", "--reverse", "base..HEAD"]))?;
        Ok(list.lines().map(str::to_string).collect())
    }

    /// Returns a file as it is in a commit.
    pub fn show(&self, commit: &str, file: &str) -> Result<String> {
        output(git(&self.tree).args(["show", &format!("{commit}:{file}")]))
    }

    /// Checks out a commit to build from. Files that do not differ are not touched.
    pub fn check_out(&self, commit: &str) -> Result<()> {
        output(git(&self.tree).args(["checkout", "--quiet", "--force", "--detach", commit]))?;
        Ok(())
    }

    /// Checks out the tree with the series applied. Returns what identifies it.
    pub fn prepare(&self, ui: &Ui, repo: &Path) -> Result<String> {
        let id = series_id(repo)?;
        let tag = format!("series-{}", &id[..16]);
        if output(git(&self.tree).args(["rev-parse", "--verify", "--quiet", &tag])).is_err() {
            let commits = self.apply(ui, repo)?;
            let last = commits.last().context("the series is empty")?;
            output(git(&self.tree).args(["tag", &tag, last]))?;
        }
        self.check_out(&tag)?;
        Ok(id)
    }

    /// Lists the files that a commit adds.
    fn added(&self, commit: &str) -> Result<Vec<String>> {
        let list = output(git(&self.am).args([
            "diff-tree",
            "-r",
            "--no-commit-id",
            "--name-only",
            "--diff-filter=A",
            commit,
        ]))?;
        Ok(list.lines().map(str::to_string).collect())
    }

    /// Fails where the files of the repository and those of the series differ.
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

    /// Writes the files of the repository into the patches that add them.
    pub fn regenerate(&self, ui: &Ui, repo: &Path) -> Result<()> {
        let patches = patches(repo)?;
        let mut missing = overlay(repo)?;
        ui.step("Bringing the series up to date", |bar| {
            self.reset()?;
            for patch in &patches {
                bar.set_message(file_name(patch));
                self.am(patch)?;
                for file in self.added("HEAD")? {
                    missing.remove(&file);
                    fs::copy(repo.join(&file), self.am.join(&file))
                        .with_context(|| format!("{file} is in the series, but not here"))?;
                    output(git(&self.am).args(["add", &file]))?;
                }
                output(git(&self.am).args([
                    "commit",
                    "--quiet",
                    "--amend",
                    "--no-edit",
                    "--allow-empty",
                ]))?;
            }
            if !missing.is_empty() {
                bail!(
                    "no patch adds these files: {}\nMake a commit for them in the tree of `cargo \
                     xtask tree`, and take it over with `cargo xtask series --from`.",
                    missing.into_iter().collect::<Vec<_>>().join(", ")
                );
            }
            self.format(&self.am, repo)
        })
    }

    /// Takes the series over from a git tree, with all commits after `base`.
    pub fn import(&self, ui: &Ui, tree: &Path, repo: &Path) -> Result<()> {
        ui.step("Taking the series over", |_| {
            self.format(tree, repo)?;
            Ok(())
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

    fn format(&self, tree: &Path, repo: &Path) -> Result<()> {
        let directory = repo.join(SERIES);
        for patch in patches(repo)? {
            fs::remove_file(patch)?;
        }
        output(
            git(tree)
                .args([
                    "format-patch",
                    "--quiet",
                    "--zero-commit",
                    "--no-signature",
                    "--numbered",
                ])
                .args(["--no-renames", "--full-index", "--diff-algorithm=histogram"])
                .arg(format!("--from={AUTHOR}"))
                .arg("-o")
                .arg(directory)
                .arg("base..HEAD"),
        )?;
        Ok(())
    }

    /// Lists the patches as files of the tree that `apply` left.
    pub fn am_tree(&self) -> &Path {
        &self.am
    }

    /// The files that the series touches, new or not.
    pub fn touched(&self) -> Result<Vec<String>> {
        let list = output(git(&self.am).args(["diff", "--name-only", "base", "HEAD"]))?;
        Ok(list.lines().map(str::to_string).collect())
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

/// The part of a MAINTAINERS file after its comments.
fn maintainers_entry(text: &str) -> &str {
    text.find("\n\n")
        .map_or(text, |end| &text[end + 2..])
        .trim_end()
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Lists the patches in order.
pub fn patches(repo: &Path) -> Result<Vec<PathBuf>> {
    let mut patches: Vec<PathBuf> = fs::read_dir(repo.join(SERIES))
        .with_context(|| format!("{SERIES} is missing"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    patches.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "patch")
    });
    patches.sort();
    Ok(patches)
}

/// Returns where the cover letter is.
pub fn cover_letter(repo: &Path) -> PathBuf {
    repo.join(SERIES).join("0000-cover-letter.txt")
}

/// What identifies the series: a hash of its patches.
pub fn series_id(repo: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    for patch in patches(repo)? {
        hash.update(fs::read(patch)?);
    }
    Ok(format!("{:x}", hash.finalize()))
}

/// Lists the files of the repository that are files of the kernel.
fn overlay(repo: &Path) -> Result<BTreeSet<String>> {
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

/// What identifies the state of a tree.
fn tree_id(kdir: &Path) -> Result<String> {
    Ok(output(git(kdir).args(["rev-parse", "HEAD"])).unwrap_or_default())
}

/// Checks that a tree is of the right version, and unchanged where the series changes it.
fn check_kdir(kdir: &Path, repo: &Path) -> Result<()> {
    let makefile = fs::read_to_string(kdir.join("Makefile"))
        .with_context(|| format!("{} is no kernel tree", kdir.display()))?;
    let field = |name: &str| {
        makefile
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} = ")))
            .unwrap_or("?")
            .trim()
            .to_string()
    };
    let version = (field("VERSION"), field("PATCHLEVEL"));
    if version != ("6".into(), "18".into()) {
        bail!(
            "{} is Linux {}.{}, and the series is for 6.18",
            kdir.display(),
            version.0,
            version.1
        );
    }
    if output(git(kdir).args(["rev-parse", "--git-dir"])).is_err() {
        return Ok(());
    }
    let mut touched = BTreeSet::new();
    for patch in patches(repo)? {
        for line in fs::read_to_string(patch)?.lines() {
            if let Some(file) = line.strip_prefix("+++ b/") {
                touched.insert(file.to_string());
            }
        }
    }
    let changed = output(
        git(kdir)
            .args(["status", "--porcelain", "--"])
            .args(&touched),
    )?;
    if !changed.is_empty() {
        bail!(
            "{} has local changes in files that the series changes too; commit or stash them:\n{}",
            kdir.display(),
            changed
        );
    }
    Ok(())
}
