// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask configs`: builds the objects under fs/, mm/ and rust/ with other configurations.

use crate::{
    config::Arch,
    lab::{self, Lab, Mounts},
    series::{self, Objects},
    ui, Session,
};
use anyhow::{bail, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

#[derive(clap::Args)]
pub struct Options {
    /// Only these configurations, such as `no-memcg`; all if there are none.
    names: Vec<String>,
}

/// A configuration: what differs from the test kernel in Rust.
struct Config {
    name: &'static str,
    arch: Arch,
    /// An option that is on.
    on: Option<&'static str>,
    /// The options that are off.
    off: &'static [&'static str],
    /// The options of the test kernel that depend on them, so that they are off as well or have
    /// another value (`NAME=VALUE`).
    with_them: &'static [&'static str],
    /// The arguments of make that ask for more warnings.
    checks: &'static str,
}

const fn without(
    name: &'static str,
    off: &'static [&'static str],
    with_them: &'static [&'static str],
) -> Config {
    Config {
        name,
        arch: Arch::X86,
        on: None,
        off,
        with_them,
        checks: series::CHECKS,
    }
}

const fn arm64(name: &'static str, pages: &'static str) -> Config {
    Config {
        arch: Arch::Arm64,
        on: Some(pages),
        ..without(name, &[], &[])
    }
}

/// All configurations. The test kernel itself is none of them: `series --build` builds it.
const CONFIGS: &[Config] = &[
    without("no-sysctl", &["SYSCTL", "PROC_SYSCTL"], &[]),
    without("no-hugetlb", &["HUGETLBFS", "HUGETLB_PAGE"], &[]),
    without(
        "no-shmem",
        &["SHMEM"],
        &["TMPFS", "TMPFS_POSIX_ACL", "TMPFS_XATTR"],
    ),
    without("no-swap", &["SWAP"], &[]),
    without("no-compat", &["COMPAT", "IA32_EMULATION"], &["UID16"]),
    without("no-memcg", &["MEMCG"], &[]),
    // The option has no prompt. It is off if there is one CPU only.
    without(
        "no-per-vma-lock",
        &["PER_VMA_LOCK", "SMP"],
        &[
            "ACPI_NUMA",
            "NR_CPUS=1",
            "NUMA",
            "PER_VMA_LOCK_STATS",
            "PT_RECLAIM",
            "RCU_CPU_STALL_TIMEOUT",
            "SLUB_CPU_PARTIAL",
            "X86_64_ACPI_NUMA",
        ],
    ),
    without(
        "no-thp",
        &["TRANSPARENT_HUGEPAGE"],
        &["TRANSPARENT_HUGEPAGE_MADVISE"],
    ),
    without(
        "no-proc",
        &["PROC_FS"],
        &[
            "ANON_VMA_NAME",
            "CHECKPOINT_RESTORE",
            "MEM_SOFT_DIRTY",
            "PROC_CHILDREN",
            "PROC_PAGE_MONITOR",
            "PROC_SYSCTL",
            "SYSCTL",
        ],
    ),
    without(
        "no-sysfs",
        &["SYSFS"],
        &[
            "IDLE_PAGE_TRACKING",
            "SECURITY",
            "SECURITY_NETWORK",
            "SECURITY_SELINUX",
            "SECURITY_SELINUX_DEVELOP",
            "SLUB_DEBUG",
            "ZRAM",
            "ZRAM_BACKEND_LZO",
            "ZSMALLOC",
        ],
    ),
    without(
        "no-kunit",
        &["KUNIT"],
        &["KUNIT_AUTORUN_ENABLED", "KUNIT_DEFAULT_ENABLED"],
    ),
    without(
        "no-ftrace",
        &["FTRACE", "TRACEPOINTS", "JUMP_LABEL"],
        &["KPROBE_EVENTS"],
    ),
    Config {
        on: Some("WERROR"),
        // All warnings are errors then, and the base has some of those that W=1 asks for.
        checks: "CLIPPY=1",
        ..without("werror", &[], &[])
    },
    arm64("arm64-4k", "ARM64_4K_PAGES"),
    arm64("arm64-16k", "ARM64_16K_PAGES"),
    arm64("arm64-64k", "ARM64_64K_PAGES"),
];

impl Config {
    /// The options that are not off.
    fn wanted(&self) -> String {
        let mut config = self.arch.config();
        if let Some(name) = self.on {
            config += &format!("CONFIG_{name}=y\n");
        }
        for name in self.off.iter().chain(self.with_them) {
            config += &match name.contains('=') {
                true => format!("CONFIG_{name}\n"),
                false => format!("# CONFIG_{name} is not set\n"),
            };
        }
        config + "CONFIG_USERFAULTFD_RUST=y\n"
    }

    /// What it is about, in words.
    fn about(&self) -> String {
        let mut about: Vec<String> = self.on.iter().map(|name| format!("{name} on")).collect();
        if !self.off.is_empty() {
            about.push(format!("{} off", self.off.join(", ")));
        }
        let (values, off): (Vec<&str>, Vec<&str>) =
            self.with_them.iter().partition(|name| name.contains('='));
        if !off.is_empty() {
            about.push(format!("so {} off", off.join(", ")));
        }
        about.extend(values.into_iter().map(str::to_string));
        about.join("; ")
    }

    /// Returns what is not as it was asked for in a configuration. `plain` is that of the test
    /// kernel: an option that is off there was not taken away.
    fn wrong(&self, plain: &str, config: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for name in self.on.into_iter().chain(["USERFAULTFD_RUST"]) {
            if setting(config, name) != Some("y") {
                wrong.push(format!("{name} is off"));
            }
        }
        for name in self.off {
            if setting(plain, name).is_none() {
                wrong.push(format!("{name} is off in the test kernel, too"));
            }
            if setting(config, name).is_some() {
                wrong.push(format!("{name} is on"));
            }
        }
        wrong
    }
}

/// Returns the value of an option, if it is on.
fn setting<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = config.lines();
    lines.find_map(|line| {
        line.strip_prefix("CONFIG_")?
            .strip_prefix(name)?
            .strip_prefix('=')
    })
}

/// Returns the configurations that have the names, or all.
fn chosen(names: &[String]) -> Result<Vec<&'static Config>> {
    let known = |name: &str| CONFIGS.iter().any(|config| config.name == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let all: Vec<&str> = CONFIGS.iter().map(|config| config.name).collect();
        bail!(
            "there is no configuration {name}; there are {}",
            all.join(", ")
        );
    }
    let chosen = |config: &&Config| names.is_empty() || names.iter().any(|n| n == config.name);
    Ok(CONFIGS.iter().filter(chosen).collect())
}

pub fn configs(session: &Session, options: &Options) -> Result<()> {
    let start = Instant::now();
    let configs = chosen(&options.names)?;
    let builder = session.builder()?;
    let build = session.cache.join("build/configs");
    // An object that is up to date says nothing of the warnings that an earlier attempt had.
    lab::remove_lab(&build)?;
    let objects = Place {
        session,
        lab: &builder.lab,
        source: &builder.source.tree,
        out: session.share("configs", &[])?,
    };
    let plain = objects.configure("plain", &Arch::X86.config(), Arch::X86, &build)?;
    let mut table = ui::table(["configuration", "what differs", "time"]);
    for config in configs {
        let start = Instant::now();
        objects.build(config, &plain, &build)?;
        let time = ui::duration(start.elapsed());
        table.add_row([config.name, &config.about(), &time]);
    }
    println!("\n{table}\n");
    println!("all objects under fs/, mm/ and rust/ are built, with no warning about the series");
    println!("total time: {}", ui::duration(start.elapsed()));
    Ok(())
}

/// Where configurations are built.
struct Place<'a> {
    session: &'a Session,
    lab: &'a Lab,
    source: &'a Path,
    out: PathBuf,
}

impl Place<'_> {
    /// Returns the mounts of a build. Architectures do not share a tree.
    fn mounts<'a>(&'a self, build: &'a Path) -> Result<Mounts<'a>> {
        fs::create_dir_all(build)?;
        Ok(Mounts {
            src: self.source,
            build,
            out: &self.out,
        })
    }

    /// Makes a configuration, and returns it. Fails if it is not as wanted.
    fn configure(&self, name: &str, wanted: &str, arch: Arch, build: &Path) -> Result<String> {
        let build = build.join(arch.name());
        fs::write(self.out.join("wanted.config"), wanted)?;
        self.session.ui.run(
            &format!("configs-{name}-config"),
            &format!("Configuring {name}"),
            &mut self.lab.sh(
                &self.mounts(&build)?,
                &[("toolchain", arch.clang())],
                include_str!("../scripts/configure.sh"),
            ),
        )?;
        Ok(fs::read_to_string(build.join(".config"))?)
    }

    fn build(&self, config: &Config, plain: &str, build: &Path) -> Result<()> {
        let Config { name, arch, .. } = *config;
        let refuse = |made: &str| {
            let wrong = config.wrong(plain, made);
            if !wrong.is_empty() {
                bail!("{name} is not what it should be: {}", wrong.join("; "));
            }
            Ok(())
        };
        refuse(&self.configure(name, &config.wanted(), arch, build)?)?;
        let build = build.join(arch.name());
        series::build_objects(
            self.session,
            self.lab,
            &self.mounts(&build)?,
            &Objects {
                log: &format!("configs-{name}"),
                title: &format!("Building {name}: {}", config.about()),
                option: series::ON,
                toolchain: arch.clang(),
                checks: config.checks,
            },
        )?;
        // It is what was built.
        refuse(&fs::read_to_string(build.join(".config"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_must_be_what_was_asked_for() {
        let config = Config {
            on: Some("B"),
            ..without("no-a", &["A"], &["AB"])
        };
        let plain = "CONFIG_A=y\nCONFIG_AB=y\n# CONFIG_B is not set\n";
        let good = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_USERFAULTFD_RUST=y\n";
        assert!(config.wrong(plain, good).is_empty());
        assert_eq!(
            config.wrong(plain, plain),
            ["B is off", "USERFAULTFD_RUST is off", "A is on"]
        );
        // What does not exist cannot be taken away.
        let never = config.wrong("CONFIG_AB=y\n", good);
        assert_eq!(never, ["A is off in the test kernel, too"]);
    }

    #[test]
    fn what_is_off_is_wanted_off() {
        for config in CONFIGS {
            let wanted = config.wanted();
            for name in config.off {
                assert!(wanted.contains(&format!("# CONFIG_{name} is not set\n")));
            }
            assert!(!config.about().is_empty());
        }
        let config = without("no-a", &["A"], &["AB", "N=1"]);
        let wanted = config.wanted();
        assert!(wanted.contains("# CONFIG_A is not set\n# CONFIG_AB is not set\nCONFIG_N=1\n"));
        assert_eq!(config.about(), "A off; so AB off; N=1");
    }

    #[test]
    fn configurations_are_chosen_by_name() -> Result<()> {
        assert_eq!(chosen(&[])?.len(), CONFIGS.len());
        assert_eq!(chosen(&["werror".into()])?[0].on, Some("WERROR"));
        assert!(chosen(&["no-such".into()]).is_err());
        Ok(())
    }
}
