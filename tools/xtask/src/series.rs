// SPDX-License-Identifier: GPL-2.0

//! The patch series: kept in step with the files, checked, and built patch by patch.

use crate::{
    fixes::Fixes,
    kernel,
    lab::{Lab, Mounts},
    patches,
    source::Source,
    Session,
};
use anyhow::{bail, Context, Result};
use std::{fs, path::PathBuf};

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
        build(session, &source, &lab)?;
    }
    Ok(())
}

/// What is checked in the tree that has the series. The list of files that are new is in `$new`,
/// that of all files in `$touched`; the patches are in `$out/fixes` and `$out/patches`.
const CHECKS: &str = r#"
fail=
cd "$src"
echo "== checkpatch"
for patch in "$out"/fixes/*.patch "$out"/patches/*.patch; do
	test -e "$patch" || continue
	# The types are off that ask for what submitters add, or judge lists of files as a whole.
	scripts/checkpatch.pl --strict --no-tree --terse --no-summary --show-types \
		--ignore MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,FILE_PATH_CHANGES,NOT_UNIFIED_DIFF \
		"$patch" || fail=1
done
echo "== rustfmt"
for file in $(echo $touched | tr ' ' '\n' | grep '\.rs$'); do
	rustfmt --check --edition 2021 --config-path .rustfmt.toml --config skip_children=true "$file" 2>/dev/null ||
		{ rustfmt --check --edition 2021 "$file" || { echo "not formatted: $file"; fail=1; }; }
done
echo "== kernel-doc"
for file in $(echo $new | tr ' ' '\n' | grep '\.[ch]$'); do
	scripts/kernel-doc.py -none -Wall "$file" || fail=1
done
echo "== SPDX"
for file in $new; do
	head -n 2 "$file" | grep -q 'SPDX-License-Identifier: GPL-2.0' ||
		{ echo "no SPDX line: $file"; fail=1; }
done
echo "== bindings"
if grep -rnw --include='*.rs' bindings fs/userfaultfd; then
	echo "fs/userfaultfd names the bindings"; fail=1
fi
test -z "$fail"
"#;

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
    let touched: Vec<String> = patches::touched(&session.repo)?.into_iter().collect();
    let new: Vec<&String> = touched
        .iter()
        .filter(|file| session.repo.join(file).exists() && *file != "MAINTAINERS")
        .collect();
    let mounts = Mounts {
        src: &source.am,
        build: &out,
        out: &out,
    };
    let paths = lab.paths(&mounts);
    let new = new
        .iter()
        .map(|file| file.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let script = format!(
        "src='{}' out='{}' new='{new}' touched='{}'\n{CHECKS}",
        paths.src,
        paths.out,
        touched.join(" "),
    );
    session.ui.run(
        "series",
        "Checking the series",
        &mut lab.sh(&mounts, &script),
    )
}

/// Builds what the series touches at one commit, with one setting of the option.
const BUILD: &str = r#"
set -e
cd "$src"
if ! cmp -s "$out/wanted.config" "$build/wanted.config"; then
	KCONFIG_ALLCONFIG="$out/wanted.config" make LLVM=-19 O="$build" allnoconfig >/dev/null
	cp "$out/wanted.config" "$build/wanted.config"
fi
scripts/config --file "$build/.config" $option
make LLVM=-19 O="$build" olddefconfig >/dev/null
make LLVM=-19 O="$build" -j"$(nproc)" W=1 C=1 CLIPPY=1 rust/ fs/ mm/
sha256sum "$build/fs/userfaultfd.o" "$build/mm/userfaultfd.o" 2>/dev/null > "$out/objects" || true
"#;

/// Code of a module that uses what only code that is built in may use: it must not compile.
const MODULE: &str = r#"
set -e
dir="$build/not-built-in"
mkdir -p "$dir"
echo 'obj-m := not_built_in.o' > "$dir/Makefile"
cat > "$dir/not_built_in.rs" <<'END'
// SPDX-License-Identifier: GPL-2.0
//! Not to be compiled.
use kernel::{alloc::kmem_cache::StaticKmemCache, prelude::*};
module! {
    type: NotBuiltIn,
    name: "not_built_in",
    description: "Not to be compiled",
    license: "GPL",
}
static CACHE: StaticKmemCache<u32> = StaticKmemCache::new(kernel::c_str!("x"), kernel::built_in!());
struct NotBuiltIn;
impl kernel::Module for NotBuiltIn {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        CACHE.create().map(|()| Self)
    }
}
END
if make -C "$src" LLVM=-19 O="$build" M="$dir" "$dir/not_built_in.o" > "$dir/log" 2>&1; then
	echo "a module can use built_in!()"; exit 1
fi
grep -q 'this is for code that is built into the kernel' "$dir/log" || { cat "$dir/log"; exit 1; }
"#;

fn build(session: &Session, source: &Source, lab: &Lab) -> Result<()> {
    let ui = &session.ui;
    let commits = source.apply(ui, &session.repo)?;
    let build = session.cache.join("build/series");
    fs::create_dir_all(&build)?;
    let out = session.share("series", &[])?;
    fs::write(
        out.join("wanted.config"),
        include_str!("../config/kernel.config"),
    )?;

    // The option exists from one of the patches on.
    let (off, on) = ("--disable USERFAULTFD_RUST", "--enable USERFAULTFD_RUST");
    let mut steps = vec![("the base".to_string(), "base".to_string(), off)];
    for (number, commit) in (1..).zip(source.fixes(&session.repo)?) {
        steps.push((format!("after fix {number}"), commit, off));
    }
    // Fixes change the objects that the series does not.
    let fixed = steps.len() - 1;
    for (number, commit) in (1..).zip(&commits) {
        steps.push((format!("after patch {number}"), commit.clone(), off));
    }
    for (number, commit) in (1..).zip(&commits) {
        if source
            .show(commit, "mm/Kconfig")?
            .contains("config USERFAULTFD_RUST")
        {
            steps.push((format!("after patch {number}"), commit.clone(), on));
        }
    }
    let mut pristine = None;
    for (index, (name, commit, option)) in steps.iter().enumerate() {
        source.check_out(commit)?;
        let mounts = Mounts {
            src: &source.tree,
            build: &build,
            out: &out,
        };
        let paths = lab.paths(&mounts);
        let script = format!(
            "src='{}' build='{}' out='{}' option='{option}'\n{BUILD}",
            paths.src, paths.build, paths.out
        );
        let log = format!("series-build-{index:02}");
        ui.run(
            &log,
            &format!("Building {name} ({option})"),
            &mut lab.sh(&mounts, &script),
        )?;
        kernel::refuse_warnings(&session.ui, &log)?;
        if index >= fixed && *option == off {
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
    let mounts = Mounts {
        src: &source.tree,
        build: &build,
        out: &out,
    };
    let paths = lab.paths(&mounts);
    ui.run(
        "rustdoc",
        "Building the Rust documentation",
        &mut lab.sh(
            &mounts,
            &format!(
                "make -C '{}' LLVM=-19 O='{}' -j\"$(nproc)\" rustdoc",
                paths.src, paths.build
            ),
        ),
    )?;
    kernel::refuse_warnings(&session.ui, "rustdoc")?;
    let script = format!("src='{}' build='{}'\n{MODULE}", paths.src, paths.build);
    ui.run(
        "built-in",
        "Seeing that a module cannot use what is for built-in code",
        &mut lab.sh(&mounts, &script),
    )?;
    ui.note("with the option off, fs/userfaultfd.o and mm/userfaultfd.o are as before the series");
    Ok(())
}
