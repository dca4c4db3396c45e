// SPDX-License-Identifier: GPL-2.0

//! Building kernels and selftests.

use crate::{
    config::{Arch, Flavour, Impl, Kernel},
    lab::{self, Lab, Mounts},
    patches,
    source::Source,
    ui::Ui,
    Session,
};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The lab, and a source tree with the series applied.
pub struct Builder<'a> {
    pub session: &'a Session,
    /// What guests run on.
    pub arch: Arch,
    pub lab: Lab,
    pub source: Source,
    /// The hash of the contents of the tree.
    pub tree_id: String,
}

impl Builder<'_> {
    /// Returns the directory that a kernel is built in.
    pub fn build_tree(&self, kernel: Kernel) -> PathBuf {
        self.session.cache.join("build").join(kernel.name())
    }

    /// Builds a kernel unless it is up to date. Returns its directory.
    pub fn kernel(&self, kernel: Kernel) -> Result<PathBuf> {
        let out = self.session.results.join(kernel.name());
        let config = kernel.config();
        let (arch, toolchain) = (kernel.flavour.arch(), kernel.flavour.toolchain());
        let key = self.key(&format!("{toolchain}\n{config}"))?;
        if fs::read_to_string(out.join("key")).is_ok_and(|have| have == key) {
            return Ok(out);
        }

        fs::create_dir_all(&out)?;
        let _ = fs::remove_file(out.join("key"));
        fs::write(out.join("wanted.config"), &config)?;
        let build = self.build_tree(kernel);
        self.seed(kernel, &build)?;
        let mounts = Mounts {
            src: &self.source.tree,
            build: &build,
            out: &out,
        };
        self.session.ui.run(
            &format!("config-{}", kernel.name()),
            &format!("Configuring {}", kernel.title()),
            &mut self.lab.sh(
                &mounts,
                &[("toolchain", toolchain)],
                include_str!("../scripts/configure.sh"),
            ),
        )?;
        let untraced = match kernel.flavour {
            Flavour::Untraced => "yes",
            _ => "",
        };
        let log = format!("build-{}", kernel.name());
        self.session.ui.run(
            &log,
            &format!("Building {}", kernel.title()),
            &mut self.lab.sh(
                &mounts,
                &[
                    ("toolchain", toolchain),
                    ("arch", arch.name()),
                    ("image", arch.image()),
                    ("untraced", untraced),
                ],
                include_str!("../scripts/build-kernel.sh"),
            ),
        )?;
        let files = patches::touched(&self.session.repo)?;
        refuse_warnings(&self.session.ui, &log, &files)?;
        fs::write(out.join("key"), key)?;
        Ok(out)
    }

    /// The first tree of a flavour starts as a copy of one from which it differs in little: that of
    /// the other implementation, or of the flavour that it is made from.
    fn seed(&self, kernel: Kernel, build: &Path) -> Result<()> {
        if build.join(".config").exists() {
            return Ok(());
        }
        fs::create_dir_all(build)?;
        lab::require_space(build, 6)?;
        let other = self.build_tree(match kernel {
            Kernel {
                imp,
                flavour: Flavour::Untraced,
            } => Kernel::plain(imp),
            Kernel { imp, flavour } => Kernel {
                imp: match imp {
                    Impl::Rust => Impl::C,
                    Impl::C => Impl::Rust,
                },
                flavour,
            },
        });
        if !other.join("vmlinux").exists() {
            return Ok(());
        }
        let mounts = Mounts {
            src: &other,
            build,
            out: &self.session.results,
        };
        let script = r#"cp -a "$src"/. "$build"/ && rm -f "$build"/wanted.config"#;
        self.session.ui.run(
            "seed",
            "Copying the build tree of another kernel",
            &mut self.lab.sh(&mounts, &[], script),
        )
    }

    fn key(&self, rest: &str) -> Result<String> {
        let mut hash = Sha256::new();
        for part in [&self.tree_id, rest, &self.lab.id()?] {
            hash.update(part);
            hash.update([0]);
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// Returns the directory of what guests run, and the directory that it is built in.
    fn places(&self, name: &str) -> (PathBuf, PathBuf) {
        let (results, build) = (&self.session.results, self.session.cache.join("build"));
        match self.arch {
            Arch::X86 => (results.join(name), build.join(name)),
            arch => (
                results.join(arch.name()).join(name),
                build.join(format!("{name}-{}", arch.name())),
            ),
        }
    }

    /// Builds the selftests, which are the same for all kernels. Returns their directory.
    pub fn selftests(&self, names: &[&str]) -> Result<PathBuf> {
        let (out, build) = self.places("selftests");
        let key = self.key(&format!("selftests {}", names.join(" ")))?;
        if fs::read_to_string(out.join("key")).is_ok_and(|have| have == key) {
            return Ok(out);
        }
        fs::create_dir_all(&out)?;
        let _ = fs::remove_file(out.join("key"));
        fs::create_dir_all(&build)?;
        let mounts = Mounts {
            src: &self.source.tree,
            build: &build,
            out: &out,
        };
        let make = match self.arch {
            Arch::X86 => "",
            // The guest has no libraries.
            Arch::Arm64 => "ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- LDFLAGS=-static",
        };
        self.session.ui.run(
            "selftests",
            "Building the mm selftests",
            &mut self.lab.sh(
                &mounts,
                &[("names", &names.join(" ")), ("make", make)],
                include_str!("../scripts/build-selftests.sh"),
            ),
        )?;
        fs::write(out.join("key"), key).context("cannot write the key")?;
        Ok(out)
    }

    /// Builds the programs of this repository that run in guests. Returns their directory.
    pub fn programs(&self) -> Result<PathBuf> {
        let (out, build) = self.places("programs");
        fs::create_dir_all(&out)?;
        fs::create_dir_all(&build)?;
        self.session.ui.run(
            "vendor",
            "Fetching what the programs depend on",
            Command::new(env!("CARGO"))
                .args(["vendor", "--locked"])
                .arg(build.join("vendor"))
                .current_dir(&self.session.repo),
        )?;
        let mounts = Mounts {
            src: &self.session.repo,
            build: &build,
            out: &out,
        };
        let (target, programs) = match self.arch {
            Arch::X86 => (
                "x86_64-unknown-linux-gnu",
                "uffd-bench uffd-conformance uffd-programs",
            ),
            Arch::Arm64 => (
                "aarch64-unknown-linux-gnu",
                "uffd-conformance uffd-programs",
            ),
        };
        self.session.ui.run(
            "programs",
            "Building the programs of the guest",
            &mut self.lab.sh(
                &mounts,
                &[("programs", programs), ("target", target)],
                include_str!("../scripts/build-programs.sh"),
            ),
        )?;
        Ok(out)
    }
}

/// Fails if a compiler or a checker warned about one of `files`.
pub fn refuse_warnings(ui: &Ui, log: &str, files: &BTreeSet<String>) -> Result<()> {
    let warnings = warnings_about(files, &fs::read_to_string(ui.log_path(log))?);
    if !warnings.is_empty() {
        bail!(
            "there are warnings about files of the series:\n{}",
            warnings.join("\n")
        );
    }
    Ok(())
}

fn warnings_about(files: &BTreeSet<String>, log: &str) -> Vec<String> {
    let names = |line: &str, file: &str| {
        let mut found = line.match_indices(file);
        found.any(|(at, _)| !line[..at].ends_with(char::is_alphanumeric))
    };
    let mut lines = log.lines().peekable();
    let mut warnings = Vec::new();
    while let Some(line) = lines.next() {
        if !line.contains("warning") {
            continue;
        }
        // The Rust tools name the place in the line that follows.
        let place = lines
            .next_if(|next| next.trim_start().starts_with("-->"))
            .unwrap_or_default();
        if files
            .iter()
            .any(|file| names(line, file) || names(place, file))
        {
            warnings.push(format!("{line}\n{place}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_count_if_they_are_about_files_of_the_series() {
        let log = "/src/mm/gup.c:1:2: warning: unused variable\n\
                   /src/fs/xfs/Makefile: warning: odd\n\
                   warning: unused import\n  --> /src/rust/kernel/mm.rs:3:4\n\
                   warning: unused import\n  --> /src/rust/kernel/net.rs:3:4\n\
                   CC mm/gup.o\n";
        let files = ["fs/Makefile", "mm/gup.c", "rust/kernel/mm.rs"];
        let files = files.map(str::to_string).into();
        let found = [
            "/src/mm/gup.c:1:2: warning: unused variable\n",
            "warning: unused import\n  --> /src/rust/kernel/mm.rs:3:4",
        ];
        assert_eq!(warnings_about(&files, log), found);
    }
}
