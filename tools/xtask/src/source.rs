// SPDX-License-Identifier: GPL-2.0

//! The kernel source, and the patch series on top of it.

use crate::{
    fixes::{Fixes, State},
    lab,
    ui::{output, Ui},
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
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

/// The tag that shows people where the fixes of the base end and the series begins. It moves when
/// the fixes change; the tags that this tool goes by have the hash of what they stand for behind it.
const FIXED: &str = "fixed";

/// A git repository of the kernel, with the pristine tree, the fixes that it lacks and the series as
/// commits.
pub struct Source {
    /// The tree that kernels are built from.
    pub tree: PathBuf,
    repo: PathBuf,
    am: PathBuf,
    /// Whether it was said what the tree lacks.
    said: Cell<bool>,
}

/// Makes a git command that does not depend on who runs it.
pub fn git(directory: &Path) -> Command {
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
            "tag.gpgsign=false",
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
            said: Cell::new(false),
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
        hash.update(output(git(&self.tree).args(["rev-parse", "base"]))?);
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
                    let head = output(git(&self.am).args(["rev-parse", "HEAD"]))?;
                    self.tag(&tag, head.trim(), &fixes.lines(&states))
                })?;
            }
        }
        let commit = format!("{tag}^{{commit}}");
        output(git(&self.tree).args(["tag", "--force", FIXED, &commit]))?;
        if !fixes.is_empty() && !self.said.replace(true) {
            let contents = "--format=%(contents)";
            let reference = format!("refs/tags/{tag}");
            let lines = output(git(&self.tree).args(["for-each-ref", contents, &reference]))?;
            let states = fixes.states(&lines)?;
            ui.note(&fixes.summary(&version(&self.am)?, &states));
            fs::write(ui.log_path("fixes"), fixes.lines(&states))?;
        }
        Ok(tag)
    }

    fn has_tag(&self, tag: &str) -> bool {
        let reference = format!("refs/tags/{tag}");
        output(git(&self.tree).args(["rev-parse", "--verify", "--quiet", &reference])).is_ok()
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
        let _ = output(git(&self.am).args(["am", "--abort"]));
        output(git(&self.am).args(["checkout", "--quiet", "--force", "--detach", commit]))?;
        output(git(&self.am).args(["clean", "-fdq"]))?;
        Ok(())
    }

    fn am(&self, patch: &Path) -> Result<()> {
        if let Err(err) = am(&self.am, patch) {
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
        let list = output(git(&self.am).args(["rev-list", "--reverse", &range]))?;
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

    /// Checks out the tree with the series applied. Returns what identifies its contents: two trees
    /// with the same series are two kernels.
    pub fn prepare(&self, ui: &Ui, repo: &Path) -> Result<String> {
        let id = series_id(repo)?;
        let tag = format!("series-{}", &id[..16]);
        if self.has_tag(&tag) {
            self.fix(ui, repo)?;
        } else {
            let commits = self.apply(ui, repo)?;
            let last = commits.last().context("the series is empty")?;
            output(git(&self.tree).args(["tag", &tag, last]))?;
        }
        self.check_out(&tag)?;
        let tree = output(git(&self.tree).args(["rev-parse", "HEAD^{tree}"]))?;
        Ok(tree.trim().to_string())
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
            format(&self.am, &format!("{fixed}..HEAD"), &repo.join(SERIES))
        })
    }

    /// Takes the series over from a git tree, with all commits after its fixes.
    pub fn import(&self, ui: &Ui, tree: &Path, repo: &Path) -> Result<()> {
        ui.step("Taking the series over", |_| {
            let range = format!("{}..HEAD", series_base(tree)?);
            refuse_fixes(tree, &range, &Fixes::load(repo)?)?;
            format(tree, &range, &repo.join(SERIES))
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

    /// Lists the patches as files of the tree that `apply` left.
    pub fn am_tree(&self) -> &Path {
        &self.am
    }

    /// The files that the series touches, new or not.
    pub fn touched(&self, repo: &Path) -> Result<Vec<String>> {
        let fixed = self.fixed_tag(&Fixes::load(repo)?)?;
        let list = output(git(&self.am).args(["diff", "--name-only", &fixed, "HEAD"]))?;
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

pub fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Applies a patch with `git am`. Fails with what git says about it.
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
    // Nothing is removed for what is not there.
    if output(git(tree).args(["rev-list", range]))?.is_empty() {
        bail!("{} has no commits {range}", tree.display());
    }
    for patch in patches_in(directory)? {
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
            .arg(range),
    )?;
    Ok(())
}

/// What the commits of the series come after, in a tree that it is taken from: the fixes if it has
/// them, or the base. The fixes may be others than those of today.
fn series_base(tree: &Path) -> Result<String> {
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
    let subjects = output(git(tree).args(["log", "--format=%f", range]))?;
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

/// Whether a patch has the name that git gives to one with this subject, as in a name: after a
/// number, and cut where it gets too long.
fn is_named_after(patch: &str, subject: &str) -> bool {
    let name = patch.trim_end_matches(".patch");
    let name = name.split_once('-').map_or(name, |(_, name)| name);
    name == subject || (name.len() >= 50 && subject.starts_with(name))
}

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

/// Returns where the cover letter is.
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

/// What identifies the series: a hash of its patches and of the fixes before them.
pub fn series_id(repo: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    Fixes::load(repo)?.hash(&mut hash)?;
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

/// The version that a kernel tree says it has.
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

/// Checks that a tree is of the right version, and unchanged where the series or the fixes that it
/// lacks change it.
fn check_kdir(kdir: &Path, repo: &Path) -> Result<()> {
    let version = version(kdir)?;
    if !version.starts_with("6.18.") {
        bail!(
            "{} is Linux {version}, and the series is for 6.18",
            kdir.display()
        );
    }
    if output(git(kdir).args(["rev-parse", "--git-dir"])).is_err() {
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
    use crate::fixes::{
        tests::{Scratch, DEFECTS},
        FIXES,
    };

    const SUBJECT: &str = "Documentation-userfaultfd-describe-the-implementation-in-Rust";

    #[test]
    fn names_of_patches_are_cut_subjects() {
        let cut = "0020-Documentation-userfaultfd-describe-the-implementatio.patch";
        assert!(is_named_after(cut, SUBJECT));
        assert!(is_named_after("0001-mm-fix-a.patch", "mm-fix-a"));
        assert!(!is_named_after("0001-mm-fix-a.patch", "mm-fix-a-leak"));
    }

    /// A source and a repository with two fixes, of which the source lacks one, and with a series of
    /// one patch.
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
        output(git(&source.am).args(["add", "new.rs"]))?;
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
        assert_eq!(source.touched(&repo.0)?, ["new.rs"]);
        let log = fs::read_to_string(ui.log_path("fixes"))?;
        assert_eq!(
            log,
            "lacking 0001-mend-a.patch\npresent 0002-mend-b.patch\n"
        );

        // Without the fixes it is another tree, whatever was tagged before.
        let id = source.prepare(&ui, &repo.0)?;
        assert_eq!(source.prepare(&ui, &repo.0)?, id);
        fs::remove_dir_all(repo.0.join(FIXES))?;
        repo.write(&format!("{FIXES}/fixes.toml"), "")?;
        assert_ne!(source.prepare(&ui, &repo.0)?, id);
        assert_eq!(source.apply(&ui, &repo.0)?.len(), 1);
        assert_eq!(source.fixes(&repo.0)?.len(), 0);
        assert_eq!(source.touched(&repo.0)?, ["new.rs"]);

        // In a tree of before, the series comes after the fixes of before.
        source.reset(&commits[0])?;
        assert_eq!(series_base(&source.am)?, format!("refs/tags/{tag}"));
        Ok(())
    }

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

    #[test]
    fn fixes_are_not_taken_for_the_series() -> Result<()> {
        let repo = Scratch::with_fixes(1)?;
        let fixes = Fixes::load(&repo.0)?;
        let tree = Scratch::with(&DEFECTS)?;
        output(git(&tree.0).args(["tag", "base"]))?;
        fixes.apply(&tree.0, |_| ())?;
        let refused = |tree: &Path| -> Result<bool> {
            let range = format!("{}..HEAD", series_base(tree)?);
            Ok(refuse_fixes(tree, &range, &fixes).is_err())
        };
        assert!(refused(&tree.0)?);
        output(git(&tree.0).args(["tag", FIXED]))?;
        assert!(!refused(&tree.0)?);
        Ok(())
    }
}
