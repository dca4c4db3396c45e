// SPDX-License-Identifier: GPL-2.0

//! The environment for builds and for QEMU: a Debian root of its own, or this machine.

use crate::{
    ui::{output, Ui},
    Session,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A Debian root that mmdebstrap makes.
pub struct Recipe {
    /// The name of its directory in the cache.
    name: &'static str,
    title: &'static str,
    suite: &'static str,
    packages: &'static [&'static [&'static str]],
    options: &'static [&'static str],
    /// The space that has to be free, in GiB.
    gib: u64,
}

/// The lab.
pub const LAB: Recipe = Recipe {
    name: "lab",
    title: "Making the lab (Debian 13 with compilers and QEMU)",
    suite: "trixie",
    packages: &[PACKAGES],
    options: &[
        "--variant=minbase",
        "--customize-hook=chroot $1 dpkg-query -W > $1/etc/lab-versions",
    ],
    gib: 12,
};

/// The lab for arm64. What runs in its guests has the same versions as what runs in it.
pub const LAB_ARM64: Recipe = Recipe {
    name: "lab-arm64",
    title: "Making the lab for arm64 (Debian 13 with compilers and QEMU)",
    packages: &[PACKAGES_ARM64],
    options: &[
        "--variant=minbase",
        "--architectures=amd64,arm64",
        "--customize-hook=chroot $1 dpkg-query -W > $1/etc/lab-versions",
    ],
    ..LAB
};

/// The lab with what makes Debian packages.
pub const LAB_PACKAGE: Recipe = Recipe {
    name: "lab-package",
    title: "Making the lab for packages (Debian 13 with compilers and packaging tools)",
    packages: &[PACKAGES, PACKAGING],
    ..LAB
};

/// A root that boots by itself, from a disk: what a kernel's package is tried in.
pub const ROOT_PACKAGE: Recipe = Recipe {
    name: "root-package",
    title: "Making a root that boots (Debian 13 with systemd)",
    packages: &[&[
        "init",
        "initramfs-tools",
        "kmod",
        "linux-base",
        "udev",
        "zstd",
    ]],
    gib: 1,
    ..LAB
};

/// A root that has herd7 and a shell.
pub const LITMUS: Recipe = Recipe {
    name: "litmus",
    title: "Making a root for herd7 (from Debian unstable)",
    suite: "unstable",
    packages: &[&["base-files", "bash", "coreutils", "herdtools7"]],
    options: &[
        // Programs are unpacked, but nothing is set up: herd7 works without.
        "--variant=extract",
        // Lists of unstable are valid for a week only, and a mirror may be a snapshot.
        r#"--aptopt=Acquire::Check-Valid-Until "false""#,
    ],
    gib: 1,
};

/// The packages of the lab: the toolchain, QEMU, and the programs of the guest.
const PACKAGES: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "bpftrace",
    "busybox-static",
    "ca-certificates",
    "cargo",
    "checkpolicy",
    "clang-19",
    "cpio",
    "criu",
    "flex",
    "gcc",
    "gcc-multilib",
    "git",
    "iproute2",
    "kmod",
    "libc6-dev",
    "libc6-dev-i386",
    "libcap-dev",
    "libclang-19-dev",
    "libelf-dev",
    "libnuma-dev",
    "libssl-dev",
    "liburing-dev",
    "lld-19",
    "llvm-19",
    "make",
    "perl",
    "procps",
    "python3",
    "qemu-system-x86",
    "rsync",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "sparse",
    "stress-ng",
    "util-linux",
    "virtme-ng",
    "xz-utils",
];

/// What `make bindeb-pkg` needs more, also for a distribution's configuration, and what makes a disk.
const PACKAGING: &[&str] = &[
    "build-essential",
    "debhelper",
    "dpkg-dev",
    "dwarves",
    "e2fsprogs",
    "libdw-dev",
    "lz4",
    "zstd",
];

/// The packages of the lab for arm64: the toolchain, QEMU, and what guests have of Debian.
const PACKAGES_ARM64: &[&str] = &[
    "bc",
    "bindgen",
    "bison",
    "busybox-static:arm64",
    "ca-certificates",
    "cargo",
    "checkpolicy",
    "clang-19",
    "cpio",
    "flex",
    "gcc",
    "gcc-aarch64-linux-gnu",
    "git",
    "kmod",
    "libc6-dev",
    "libc6-dev-arm64-cross",
    "libclang-19-dev",
    "libelf-dev",
    "libssl-dev",
    "libstd-rust-dev:arm64",
    "lld-19",
    "llvm-19",
    "make",
    "perl",
    "python3",
    "qemu-system-arm",
    "rsync",
    "rust-clippy",
    "rust-src",
    "rustc",
    "rustfmt",
    "util-linux",
    "xz-utils",
];

/// An environment for commands. It has a kernel source tree, a build tree, and a directory for
/// results, at paths that do not depend on the paths outside.
pub enum Lab {
    /// A root directory.
    Root(PathBuf),
    /// This machine, with the tools that it has.
    Host,
}

/// The directories that a command of the lab sees.
pub struct Mounts<'a> {
    pub src: &'a Path,
    pub build: &'a Path,
    pub out: &'a Path,
}

/// The paths of the directories inside.
pub struct Paths {
    pub src: String,
    pub build: String,
    pub out: String,
}

impl Lab {
    /// Returns the paths of the directories inside.
    pub fn paths(&self, mounts: &Mounts) -> Paths {
        match self {
            Self::Root(_) => Paths {
                src: "/src".into(),
                build: "/build".into(),
                out: "/out".into(),
            },
            Self::Host => Paths {
                src: mounts.src.display().to_string(),
                build: mounts.build.display().to_string(),
                out: mounts.out.display().to_string(),
            },
        }
    }

    /// Returns a command that runs a shell script inside. The script has the directories in `$src`,
    /// `$build` and `$out`, and further variables. All processes that it starts end with it.
    pub fn sh(&self, mounts: &Mounts, variables: &[(&str, &str)], script: &str) -> Command {
        let paths = self.paths(mounts);
        let directories = [
            ("src", &paths.src[..]),
            ("build", &paths.build),
            ("out", &paths.out),
        ];
        let mut assignments = String::new();
        for (name, value) in directories.iter().chain(variables) {
            assignments += &format!("{name}={}\n", quote(value));
        }
        let script = assignments + script;
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child"]);
        match self {
            Self::Root(root) => {
                command
                    .args(["sh", "-c", include_str!("../scripts/enter.sh"), "enter"])
                    .args([root.as_path(), mounts.src, mounts.build, mounts.out])
                    .args(["bash", "-c", &script]);
            }
            Self::Host => {
                command.args(["bash", "-c", &script]);
            }
        }
        command
    }

    /// Returns a text that changes when the tools do.
    pub fn id(&self) -> Result<String> {
        match self {
            Self::Root(root) => Ok(fs::read_to_string(root.join("etc/lab-versions"))?),
            Self::Host => host_versions(),
        }
    }
}

/// Returns a text as one word of a shell.
pub fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// Whether this program runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether a program is in the PATH.
pub fn has(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    })
}

/// The tool that makes the lab, and its package.
pub const LAB_TOOL: (&str, &str) = ("mmdebstrap", "mmdebstrap");

/// The tools that this program always needs on the host, with the package of each.
pub const HOST_TOOLS: &[(&str, &str)] = &[
    ("git", "git"),
    ("unshare", "util-linux"),
    ("tar", "tar"),
    ("xz", "xz-utils"),
];

/// Installs those of `tools` that the host lacks. Fails if it cannot, and says how to.
pub fn ensure_host_tools<'a>(
    ui: &Ui,
    tools: impl IntoIterator<Item = &'a (&'a str, &'a str)>,
) -> Result<()> {
    let missing: Vec<&str> = tools
        .into_iter()
        .filter(|(program, _)| !has(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !has("apt-get") {
        bail!("these tools are missing, please install them: {list}");
    }
    if !is_root() {
        bail!("some tools are missing; as root, run: apt-get install --yes {list}");
    }
    ui.note(&format!("missing on this machine, to be installed: {list}"));
    ui.run(
        "apt-get",
        "Installing packages on this machine",
        Command::new("sh")
            .arg("-c")
            .arg(format!("apt-get update && apt-get install --yes {list}"))
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Makes a root, if it is not there already.
pub fn ensure(ui: &Ui, cache: &Path, recipe: &Recipe) -> Result<Lab> {
    ensure_host_tools(ui, HOST_TOOLS.iter().chain([&LAB_TOOL]))?;
    let root = cache.join(recipe.name);
    let stamp = root.join("etc/lab-packages");
    let packages = recipe.packages.concat();
    let wanted = format!("{} {}\n", recipe.suite, packages.join(" "));
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(Lab::Root(root));
    }

    // An earlier attempt may have been cut short.
    remove_lab(&root)?;
    fs::create_dir_all(cache)?;
    require_space(cache, recipe.gib)?;
    ui.run(
        recipe.name,
        recipe.title,
        Command::new("mmdebstrap")
            .args(recipe.options)
            .arg(format!("--include={}", packages.join(",")))
            .arg("--extract-hook=mkdir -p $1/src $1/build $1/out")
            .arg(recipe.suite)
            .arg(&root),
    )
    .context("is there a network, and a Debian mirror that can be reached?")?;
    fs::write(&stamp, &wanted).or_else(|_| {
        // In a user namespace, the files of the root belong to another user.
        output(Command::new("unshare").args([
            "--user",
            "--map-root-user",
            "--map-auto",
            "sh",
            "-c",
            &format!("printf '%s' '{wanted}' > {}", stamp.display()),
        ]))
        .map(|_| ())
    })?;
    Ok(Lab::Root(root))
}

/// Removes the lab.
pub fn remove_lab(root: &Path) -> Result<()> {
    if !root.exists() {
        return Ok(());
    }
    let mut command = if is_root() {
        Command::new("rm")
    } else {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--map-auto", "rm"]);
        command
    };
    output(command.args(["-rf", "--one-file-system"]).arg(root)).map(|_| ())
}

/// `cargo xtask clean`
pub fn clean(session: &Session, all: bool) -> Result<()> {
    let _ = fs::remove_dir_all(&session.results);
    remove_lab(&session.cache.join("build"))?;
    if all {
        remove_lab(&session.cache)?;
    }
    Ok(())
}

/// Fails if there are fewer than `gib` GiB for `path`.
pub fn require_space(path: &Path, gib: u64) -> Result<()> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    let free = (stat.blocks_available() * stat.fragment_size()) >> 30;
    if free < gib {
        bail!(
            "{} has {free} GiB left, and {gib} are needed: free some, or name another place with \
             XDG_CACHE_HOME",
            path.display()
        );
    }
    Ok(())
}

/// A tool that `--host-tools` needs.
struct Tool {
    name: &'static str,
    /// The argument that makes it print its version.
    ask: &'static str,
    /// The versions that work, the first and the last.
    works: std::ops::RangeInclusive<(u32, u32)>,
}

const ANY: (u32, u32) = (u32::MAX, 0);

const fn tool(name: &'static str, from: (u32, u32), to: (u32, u32)) -> Tool {
    Tool {
        name,
        ask: "--version",
        works: from..=to,
    }
}

const TOOLCHAIN: &[Tool] = &[
    tool("clang-19", (19, 1), (19, u32::MAX)),
    tool("ld.lld-19", (19, 1), (19, u32::MAX)),
    // 1.95 cannot build this kernel any more.
    tool("rustc", (1, 78), (1, 94)),
    tool("bindgen", (0, 65), ANY),
    tool("qemu-system-x86_64", (7, 0), ANY),
    tool("make", (4, 0), ANY),
    tool("flex", (0, 0), ANY),
    tool("bison", (0, 0), ANY),
    tool("bc", (0, 0), ANY),
    tool("gcc", (0, 0), ANY),
    tool("checkpolicy", (0, 0), ANY),
    Tool {
        name: "busybox",
        ask: "--help",
        works: (0, 0)..=ANY,
    },
];

/// Checks the tools of this machine, and returns their versions.
pub fn host_versions() -> Result<String> {
    let number = regex::Regex::new(r"(\d+)\.(\d+)")?;
    let mut versions = String::new();
    let mut problems = Vec::new();
    for tool in TOOLCHAIN {
        let name = tool.name;
        let text = match Command::new(name).arg(tool.ask).output() {
            Ok(output) => [output.stdout, output.stderr].concat(),
            Err(_) => {
                problems.push(format!("{name} is missing"));
                continue;
            }
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().next().unwrap_or_default();
        let version = number
            .captures(line)
            .and_then(|found| Some((found[1].parse().ok()?, found[2].parse().ok()?)));
        if version.is_some_and(|version| !tool.works.contains(&version)) {
            let (from, to) = (tool.works.start(), tool.works.end());
            let newest = match *to {
                ANY => String::new(),
                (major, u32::MAX) => format!(" to {major}"),
                (major, minor) => format!(" to {major}.{minor}"),
            };
            problems.push(format!(
                "{name} has to be version {}.{}{newest}, and is: {line}",
                from.0, from.1
            ));
        }
        versions.push_str(&format!("{name}: {line}\n"));
    }
    if !problems.is_empty() {
        bail!(
            "--host-tools cannot be used here:\n  {}\nWithout it, a lab with all tools is made.",
            problems.join("\n  ")
        );
    }
    Ok(versions)
}
