// SPDX-License-Identifier: GPL-2.0

//! The patch series: kept in step with the files, checked, and built patch by patch.

use crate::{
    builder,
    config::Arch,
    fixes::Fixes,
    lab::{Lab, Mounts},
    patches,
    source::Source,
    Session,
};
use anyhow::{bail, Context, Result};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[derive(clap::Args)]
pub struct Options {
    /// Take the series over from a git tree: all commits after the tag `fixed`.
    #[arg(long, value_name = "TREE", conflicts_with_all = ["check", "build"])]
    from: Option<PathBuf>,
    /// Check the series, and change nothing.
    #[arg(long)]
    check: bool,
    /// Build the objects under fs/, mm/ and rust/ after each fix of the base, and after each patch
    /// with the option on and off.
    #[arg(long)]
    build: bool,
    /// With --build, begin with this patch: what comes before it was built.
    #[arg(long, value_name = "NUMBER", requires = "build", default_value_t = 0)]
    start: usize,
}

pub fn series(session: &Session, options: &Options) -> Result<()> {
    let source = Source::pristine(&session.ui, &session.cache)?;
    if let Some(tree) = &options.from {
        return source.import(&session.ui, &std::path::absolute(tree)?, &session.repo);
    }
    if !options.check && !options.build {
        return source.regenerate(&session.ui, &session.repo);
    }
    let lab = session.lab()?;
    check(session, &source, &lab)?;
    if options.build {
        build(session, &source, &lab, options.start)?;
    }
    Ok(())
}

/// `cargo xtask tree`
pub fn tree(session: &Session, directory: &Path) -> Result<()> {
    let directory = std::path::absolute(directory)?;
    let source = session.source()?;
    source.add_tree(&session.ui, &session.repo, &directory)?;
    let at = directory.display();
    println!(
        "{at} has the series as commits after the tag `fixed`; `cargo xtask series --from {at}` \
         takes it over"
    );
    Ok(())
}

/// Checks that the series applies, that it agrees with the files, and the style of both.
pub fn check(session: &Session, source: &Source, lab: &Lab) -> Result<()> {
    source.check_overlay(&session.ui, &session.repo)?;
    let out = session.share("series", &[])?;
    let all = patches::patches(&session.repo)?;
    let subject = format!("Subject: [PATCH 00/{:02}] ", all.len());
    if !fs::read_to_string(patches::cover_letter(&session.repo))?.starts_with(&subject) {
        bail!("the cover letter does not begin with \"{subject}\"");
    }
    let fixes = Fixes::load(&session.repo)?;
    if session.kdir.is_none() && source.fixes(&session.repo)?.len() != fixes.len() {
        bail!(
            "Linux {} should have all defects that fixes.toml lists, and lack all fixes; `cargo \
             xtask fixes` says which it has",
            patches::VERSION
        );
    }
    let fixes = fixes.patches().collect();
    for (name, patches) in [("fixes", fixes), ("patches", all)] {
        let directory = out.join(name);
        fs::create_dir_all(&directory)?;
        for patch in patches {
            let name = patch.file_name().context("no name")?;
            fs::copy(&patch, directory.join(name))?;
        }
    }
    let touched = patches::touched(&session.repo)?;
    let touched: Vec<&str> = touched.iter().map(String::as_str).collect();
    let new: Vec<&str> = touched
        .iter()
        .copied()
        .filter(|file| session.repo.join(file).exists() && *file != "MAINTAINERS")
        .collect();
    let mounts = Mounts {
        src: &source.am,
        build: &out,
        out: &out,
    };
    session.ui.run(
        "series",
        "Checking the series",
        &mut lab.sh(
            &mounts,
            &[("new", &new.join(" ")), ("touched", &touched.join(" "))],
            include_str!("../scripts/check-series.sh"),
        ),
    )
}

fn build(session: &Session, source: &Source, lab: &Lab, start: usize) -> Result<()> {
    let ui = &session.ui;
    let commits = source.apply(ui, &session.repo)?;
    let build = session.cache.join("build/series");
    fs::create_dir_all(&build)?;
    let out = session.share("series", &[])?;
    fs::write(out.join("wanted.config"), Arch::X86.config())?;

    let mounts = Mounts {
        src: &source.tree,
        build: &build,
        out: &out,
    };
    let files = checked_files(session)?;
    if start > commits.len() {
        bail!(
            "there is no patch {start}: the series has {}",
            commits.len()
        );
    }
    let (steps, fixed) = steps(session, source, &commits)?;
    let first = if start == 0 { 0 } else { fixed + start };
    let mut pristine = None;
    for (index, (name, commit, option)) in steps.iter().enumerate().skip(first) {
        source.check_out(commit)?;
        build_objects(
            session,
            lab,
            &mounts,
            &Objects {
                log: &format!("series-build-{index:02}"),
                title: &format!("Building {name} ({option})"),
                option,
                toolchain: Arch::X86.clang(),
                checks: CHECKS,
            },
        )?;
        if index >= fixed && *option == OFF {
            let objects = fs::read_to_string(out.join("objects"))?;
            match &pristine {
                None => pristine = Some(objects),
                Some(before) if *before == objects => {}
                Some(before) => bail!(
                    "with the option off, the objects of userfaultfd are not what they were:\n\
                     before:\n{before}{name}:\n{objects}"
                ),
            }
        }
    }
    // The last step left the complete series with the option on.
    ui.run(
        "rustdoc",
        "Building the Rust documentation",
        &mut lab.sh(
            &mounts,
            &[],
            r#"make -C "$src" LLVM=-19 O="$build" -j"$(nproc)" rustdoc"#,
        ),
    )?;
    builder::refuse_warnings(ui, "rustdoc", &files)?;
    ui.run(
        "built-in",
        "Seeing that a module cannot use what is for built-in code",
        &mut lab.sh(&mounts, &[], include_str!("../scripts/not-built-in.sh")),
    )?;
    ui.note("with the option off, fs/userfaultfd.o and mm/userfaultfd.o are as before the series");
    Ok(())
}

/// The objects under fs/, mm/ and rust/ of one configuration.
pub struct Objects<'a> {
    pub log: &'a str,
    pub title: &'a str,
    /// A change of the configuration, as `scripts/config` takes it.
    pub option: &'a str,
    /// The arguments of make that choose the architecture and the compiler.
    pub toolchain: &'a str,
    /// The arguments of make that ask for more warnings.
    pub checks: &'a str,
}

/// All warnings that there are, with those of sparse and Clippy.
pub const CHECKS: &str = "W=1 C=1 CLIPPY=1";

/// Builds objects. Fails if there is a warning about a file of the series.
pub fn build_objects(
    session: &Session,
    lab: &Lab,
    mounts: &Mounts,
    objects: &Objects,
) -> Result<()> {
    let variables = [
        ("option", objects.option),
        ("toolchain", objects.toolchain),
        ("checks", objects.checks),
    ];
    let script = include_str!("../scripts/build-patch.sh");
    session.ui.run(
        objects.log,
        objects.title,
        &mut lab.sh(mounts, &variables, script),
    )?;
    builder::refuse_warnings(&session.ui, objects.log, &checked_files(session)?)
}

/// The files that warnings count of. sparse warns about C files of the base, too: of those, only
/// new ones count.
fn checked_files(session: &Session) -> Result<BTreeSet<String>> {
    let mut files = patches::touched(&session.repo)?;
    files.retain(|file| file.ends_with(".rs") || session.repo.join(file).exists());
    Ok(files)
}

/// A build: its name, a commit, and a setting of the option.
type Step = (String, String, &'static str);

const OFF: &str = "--disable USERFAULTFD_RUST";
pub const ON: &str = "--enable USERFAULTFD_RUST";
const WITHOUT: &str = "--disable USERFAULTFD";

/// Lists the steps of the build, and returns the number of the step with all fixes.
fn steps(session: &Session, source: &Source, commits: &[String]) -> Result<(Vec<Step>, usize)> {
    let mut steps = vec![("the base".to_string(), "base".to_string(), OFF)];
    for (number, commit) in (1..).zip(source.fixes(&session.repo)?) {
        steps.push((format!("after fix {number}"), commit, OFF));
    }
    // Fixes change the objects that the series does not.
    let fixed = steps.len() - 1;
    let after = |option| {
        let numbered = (1..).zip(commits);
        numbered
            .map(move |(number, commit)| (format!("after patch {number}"), commit.clone(), option))
    };
    steps.extend(after(OFF));
    // The kernel crate and its bindings do without userfaultfd, too.
    let last = commits.last().context("there is no patch")?;
    steps.push(("the series".to_string(), last.clone(), WITHOUT));
    // The option exists from one of the patches on.
    for step in after(ON) {
        let options = source.show(&step.1, "mm/Kconfig")?;
        if options.contains("config USERFAULTFD_RUST") {
            steps.push(step);
        }
    }
    Ok((steps, fixed))
}
