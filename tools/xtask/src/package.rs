// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask package`: Debian packages of the Rust kernel, with the user's own configuration. They
//! are made by the kernel's own `make bindeb-pkg`.

mod config;

use crate::{
    builder::Builder,
    config::{Arch, Flavour},
    lab::{self, Lab, Mounts},
    Session,
};
use anyhow::{anyhow, bail, Context, Result};
use config::Config;
use std::{
    fs,
    path::{Path, PathBuf},
};

#[derive(clap::Args)]
pub struct Options {
    /// The configuration of the kernel, such as /boot/config-* (default: of the kernel that runs).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Build with gcc, and not with clang.
    #[arg(long)]
    gcc: bool,
    /// Install the package in a Debian root of its own, boot that under emulation, restore a
    /// snapshot there with userfaultfd, and remove the package again.
    #[arg(long = "try")]
    trial: bool,
}

/// What follows the name of the user's release, so that the user's kernel stays installed.
const SUFFIX: &str = "-uffd-rust";

/// What a kernel needs for the try, built in or as modules.
const FOR_TRIAL: &[&str] = &[
    "BLK_DEV_INITRD",
    "EXT4_FS",
    "HUGETLBFS",
    "VIRTIO_BLK",
    "VIRTIO_PCI",
];

pub fn package(session: &Session, options: &Options) -> Result<()> {
    let (file, old) = config::read(options.config.as_deref())?;
    session.ui.note(&format!(
        "the configuration is {}, with {} options",
        file.display(),
        old.len()
    ));
    let lab = if session.host_tools {
        session.lab()?
    } else {
        session.root(&lab::LAB_PACKAGE)?
    };
    let builder = session.builder_in(lab, Arch::X86)?;
    let toolchain = if options.gcc {
        Flavour::Gcc.toolchain()
    } else {
        Flavour::Plain.toolchain()
    };
    let out = session.results.join("package");
    let build = session.cache.join("build/package");
    // What was made before may be of another configuration.
    if out.exists() {
        fs::remove_dir_all(&out)?;
    }
    fs::create_dir_all(&out)?;
    fs::create_dir_all(&build)?;
    let place = Place {
        builder: &builder,
        mounts: Mounts {
            src: &builder.source.tree,
            build: &build,
            out: &out,
        },
        toolchain,
    };

    // What is there of an earlier build takes its space already.
    let resumes = build.join("linux/.config").exists();
    let new = configure(session, &place, &old)?;
    let trial = match options.trial {
        true => Some(Trial::prepare(session, &builder, &new, &out)?),
        false => None,
    };
    if !resumes {
        // The modules of a distribution have much debug info.
        let much = new.on("DEBUG_INFO") && new.on("MODULES");
        lab::require_space(&build, if much { 30 } else { 8 })?;
    }
    place.run(
        "package-build",
        "Building the packages",
        include_str!("../scripts/package-build.sh"),
    )?;
    let release = fs::read_to_string(out.join("release"))?.trim().to_string();
    if let Some(trial) = trial {
        trial.run(session, &builder, &out)?;
    }
    let packages = packages(&out)?;
    let names: Vec<_> = packages.iter().map(|path| name(path)).collect();
    println!("\nThe packages of {release}, beside those of the kernels that are installed:");
    for package in &packages {
        println!("  {}", package.display());
    }
    println!("to install, as root: dpkg -i {}/*.deb", out.display());
    println!(
        "to remove, when another kernel runs: apt-get purge {}",
        names.join(" ")
    );
    Ok(())
}

/// Where the packages are made.
struct Place<'a> {
    builder: &'a Builder<'a>,
    mounts: Mounts<'a>,
    toolchain: &'a str,
}

impl Place<'_> {
    /// Runs a script. An error is a line that says what to do, if that is known.
    fn run(&self, log: &str, title: &str, script: &str) -> Result<()> {
        let ui = &self.builder.session.ui;
        let variables = [("toolchain", self.toolchain), ("suffix", SUFFIX)];
        let mut command = self.builder.lab.sh(&self.mounts, &variables, script);
        ui.run(log, title, &mut command).map_err(|error| {
            let text = fs::read_to_string(ui.log_path(log)).unwrap_or_default();
            advice(&text).map_or(error, |advice| {
                anyhow!("{title}: {advice} (see {})", ui.log_path(log).display())
            })
        })
    }
}

/// Makes the configuration, and says what is not as in the user's own.
fn configure(session: &Session, place: &Place, old: &Config) -> Result<Config> {
    let out = place.mounts.out;
    let changes = config::changes(old);
    let mut wanted = old.clone();
    wanted.apply(&changes);
    fs::write(out.join("wanted.config"), wanted.text())?;
    place.run(
        "package-config",
        "Configuring the kernel",
        include_str!("../scripts/package-config.sh"),
    )?;
    let new = Config::parse(&fs::read_to_string(out.join("config"))?);
    config::check(&new, &changes)?;

    for change in &changes {
        session.ui.note(&format!(
            "CONFIG_{}={} (was {}): {}",
            change.option,
            change.value,
            old.get(change.option),
            change.why
        ));
    }
    // Kconfig follows with what depends on these, on the compiler, and on the version of the kernel.
    let followed = wanted.changed(&new);
    if !followed.is_empty() {
        session.ui.note(&format!(
            "{} more that differ because of these, the compiler, or the kernel's version:",
            followed.len()
        ));
    }
    for (option, was, is) in followed {
        session
            .ui
            .note(&format!("CONFIG_{option}={is} (was {was})"));
    }
    Ok(new)
}

/// Fails if a kernel cannot be tried.
fn refuse_trial(config: &Config) -> Result<()> {
    let missing: Vec<_> = FOR_TRIAL
        .iter()
        .filter(|option| !config.has(option))
        .chain(Some(&"SERIAL_8250_CONSOLE").filter(|option| !config.on(option)))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!(
        "--try boots in a virtual machine, for which this configuration lacks CONFIG_{}: leave --try \
         out, or turn these on",
        missing.join(", CONFIG_")
    )
}

/// What a package is tried in.
struct Trial {
    root: PathBuf,
    build: PathBuf,
}

impl Trial {
    /// Makes what a try needs, or fails if there can be none.
    fn prepare(session: &Session, builder: &Builder, config: &Config, out: &Path) -> Result<Self> {
        refuse_trial(config)?;
        if matches!(builder.lab, Lab::Host) {
            bail!("--try needs a lab: leave --host-tools or --try out");
        }
        let Lab::Root(root) = session.root(&lab::ROOT_PACKAGE)? else {
            bail!("a recipe makes a root");
        };
        let programs = builder.programs()?;
        fs::copy(programs.join("uffd-programs"), out.join("uffd-programs"))?;
        fs::write(
            out.join("uffd-check"),
            include_str!("../scripts/package-check.sh"),
        )?;
        let build = session.cache.join("build/package-try");
        fs::create_dir_all(&build)?;
        lab::require_space(&build, 6)?;
        Ok(Self { root, build })
    }

    /// Installs the package in a root of its own, boots it, and removes it.
    fn run(&self, session: &Session, builder: &Builder, out: &Path) -> Result<()> {
        let place = Place {
            builder,
            mounts: Mounts {
                src: &self.root,
                build: &self.build,
                out,
            },
            toolchain: "",
        };
        let tried = place.run(
            "package-try",
            "Installing, booting and removing the package",
            include_str!("../scripts/package-try.sh"),
        );
        let log = fs::read_to_string(session.ui.log_path("package-try"))?;
        for line in log.lines().filter_map(|line| line.strip_prefix("@@ ")) {
            session.ui.note(line);
        }
        tried
    }
}

/// Returns the packages in a directory.
fn packages(out: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(out)? {
        let path = entry
            .context("cannot read the directory of the packages")?
            .path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the name of the package in a file.
fn name(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    name.split('_').next().unwrap_or_default().to_string()
}

/// Says what to do about the output of a build, if it is known.
fn advice(log: &str) -> Option<&'static str> {
    let known: [(&str, &str); 8] = [
        (
            "No space left on device",
            "the disk is full: free some, or name another place with XDG_CACHE_HOME",
        ),
        (
            "No rule to make target 'debian/",
            "the configuration names a file of the distribution's source: take the option out of it",
        ),
        (
            "Rust bindings generator 'bindgen' is too old",
            "bindgen is too old: install a newer one, or leave --host-tools out",
        ),
        (
            "dpkg-buildpackage: not found",
            "dpkg-buildpackage is missing: install dpkg-dev and debhelper, or leave --host-tools out",
        ),
        (
            "unmet build dependencies",
            "dpkg-buildpackage says which packages are missing: install them, or leave --host-tools out",
        ),
        (
            "illegal package name",
            "the name of a package has no capitals and no underscores: take them out of the files \
             localversion* of the tree",
        ),
        (
            "dh_testdir: not found",
            "debhelper is missing: install it, or leave --host-tools out",
        ),
        (
            "@@ the guest did not",
            "the kernel did not boot, or did not finish: the log has its console",
        ),
    ];
    let found = known.iter().find(|(text, _)| log.contains(text));
    found.map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_a_build_have_their_advice() {
        for (log, word) in [
            (
                "cc1: fatal error: No space left on device",
                "XDG_CACHE_HOME",
            ),
            (
                "make: *** No rule to make target 'debian/certs/x.pem'",
                "distribution",
            ),
            ("*** Rust bindings generator 'bindgen' is too old.", "newer"),
            ("sh: 1: dpkg-buildpackage: not found", "dpkg-dev"),
        ] {
            assert!(advice(log).is_some_and(|advice| advice.contains(word)));
        }
        assert_eq!(advice("mm/gup.c:1:2: error: expected ';'"), None);
    }

    #[test]
    fn what_cannot_boot_in_a_virtual_machine_is_not_tried() {
        let enough = "CONFIG_BLK_DEV_INITRD=y\nCONFIG_EXT4_FS=m\nCONFIG_VIRTIO_BLK=m\n\
                      CONFIG_HUGETLBFS=y\nCONFIG_VIRTIO_PCI=y\nCONFIG_SERIAL_8250_CONSOLE=y\n";
        assert!(refuse_trial(&Config::parse(enough)).is_ok());
        let error = refuse_trial(&Config::parse(
            &enough.replace("VIRTIO_BLK=m", "VIRTIO_BLK=n"),
        ));
        assert!(error.is_err_and(|error| error.to_string().contains("lacks CONFIG_VIRTIO_BLK:")));
    }
}
