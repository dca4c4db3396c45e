// SPDX-License-Identifier: GPL-2.0

//! The one tool of the project: builds kernels with userfaultfd in Rust and in C, boots them, and
//! tests them.

mod bench;
mod config;
mod conformance;
mod fixes;
mod git;
mod guest;
mod kernel;
mod lab;
mod patches;
mod scratch;
mod series;
mod source;
mod suites;
mod test;
mod ui;

use anyhow::{bail, Context, Result};
use clap::{Parser, Subcommand};
use config::{Impl, Kernel};
use guest::{Accel, Guest};
use kernel::Builder;
use lab::Lab;
use nix::sys::signal::{signal, SigHandler, Signal};
use source::Source;
use std::{
    cell::OnceCell,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};
use ui::Ui;

#[derive(Parser)]
#[command(name = "cargo xtask", about, version)]
struct Cli {
    /// Show the output of all that runs.
    #[arg(long, short, global = true)]
    verbose: bool,
    /// Build and boot with the tools of this machine, and not in a lab of their own.
    #[arg(long, global = true)]
    host_tools: bool,
    /// Use this kernel tree (Linux 6.18.y), of which a copy is made.
    #[arg(long, global = true, value_name = "TREE")]
    kdir: Option<PathBuf>,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the Rust kernel, boot it, and run the kernel's userfaultfd tests on it.
    Run,
    /// Run all tests on the Rust and the C kernel, side by side.
    Test(test::Options),
    /// Measure the Rust and the C kernel, side by side.
    Bench(bench::Options),
    /// Build a kernel.
    Build {
        #[arg(long = "impl", value_enum, default_value = "rust")]
        imp: Impl,
    },
    /// Boot a kernel, with this machine's files, and run a shell on it.
    #[command(visible_alias = "shell")]
    Boot {
        #[arg(long = "impl", value_enum, default_value = "rust")]
        imp: Impl,
        /// Boot a small initramfs with plain QEMU.
        #[arg(long)]
        initramfs: bool,
    },
    /// Boot a kernel with the lab as its root, run a command there, and end.
    ///
    /// The command finds the selftests in $out/selftests and the programs of this repository in
    /// $out/programs.
    Exec {
        #[arg(long = "impl", value_enum, default_value = "rust")]
        imp: Impl,
        #[arg(long, default_value_t = 2)]
        cpus: u32,
        /// The time limit, in seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
        /// A script for sh.
        command: String,
    },
    /// Make a git work tree with the series applied, to work in.
    Tree { directory: PathBuf },
    /// Bring the patches of the series up to date with the files of the repository.
    Series(series::Options),
    /// Say which fixes of the base a kernel tree lacks.
    Fixes(fixes::Options),
    /// Say what this machine has and what is missing.
    Doctor,
    /// Remove what was built, or also what was fetched.
    Clean {
        /// Also the lab and the kernel source.
        #[arg(long)]
        all: bool,
    },
}

/// Everything that the tasks share.
pub struct Session {
    pub ui: Ui,
    /// The repository.
    pub repo: PathBuf,
    /// What takes long to make, and is kept.
    pub cache: PathBuf,
    /// `target/kernel`
    pub results: PathBuf,
    host_tools: bool,
    kdir: Option<PathBuf>,
    accel: OnceCell<Accel>,
}

/// A source tree with the series applied, and the lab.
pub struct Workshop {
    pub lab: Lab,
    pub source: Source,
    pub series: String,
}

impl Session {
    pub fn lab(&self) -> Result<Lab> {
        if self.host_tools {
            lab::ensure_host_tools(&self.ui, lab::HOST_TOOLS)?;
            for line in lab::host_versions()?.lines() {
                self.ui.note(line);
            }
            return Ok(Lab::Host);
        }
        lab::ensure(&self.ui, &self.cache)
    }

    pub fn source(&self) -> Result<Source> {
        match &self.kdir {
            Some(kdir) => Source::from_kdir(&self.ui, &self.cache, kdir, &self.repo),
            None => Source::pristine(&self.ui, &self.cache),
        }
    }

    pub fn workshop(&self) -> Result<Workshop> {
        let lab = self.lab()?;
        let source = self.source()?;
        let series = source.prepare(&self.ui, &self.repo)?;
        Ok(Workshop {
            lab,
            source,
            series,
        })
    }

    pub fn builder<'a>(&'a self, workshop: &'a Workshop) -> Builder<'a> {
        Builder {
            ui: &self.ui,
            lab: &workshop.lab,
            src: &workshop.source.tree,
            series: &workshop.series,
            cache: &self.cache,
            results: &self.results,
        }
    }

    /// What guests run with. Finding out takes a boot, so it is done once.
    pub fn accel(&self, lab: &Lab, kernel: &Path) -> Result<Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let accel = guest::choose_accel(&self.ui, lab, kernel, &self.share("probe", &[])?)?;
        Ok(*self.accel.get_or_init(|| accel))
    }

    /// The directory that a guest shares, with copies of directories in it.
    pub fn share(&self, name: &str, directories: &[&Path]) -> Result<PathBuf> {
        let share = self.results.join("guest").join(name);
        let _ = fs::remove_dir_all(&share);
        fs::create_dir_all(&share)?;
        for directory in directories {
            let into = share.join(directory.file_name().context("a directory has a name")?);
            fs::create_dir_all(&into)?;
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_name() != "key" {
                    fs::copy(entry.path(), into.join(entry.file_name()))?;
                }
            }
        }
        Ok(share)
    }
}

fn main() -> ExitCode {
    // A reader that goes away, such as `head`, is no reason for a backtrace.
    // SAFETY: No handler is installed.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    // The alias in .cargo/config.toml works below the repository only.
    let repo = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
        .context("the repository is not where it was when this tool was built")?;
    let cache = dirs::cache_dir()
        .context("there is no home directory for a cache; set XDG_CACHE_HOME")?
        .join("userfaultfd-rust");
    let session = Session {
        ui: Ui::new(cli.verbose, repo.join("target/logs"))?,
        results: repo.join("target/kernel"),
        repo,
        cache,
        host_tools: cli.host_tools,
        kdir: cli.kdir,
        accel: OnceCell::new(),
    };
    match cli.command {
        Task::Run => run_once(&session),
        Task::Test(options) => test::test(&session, &options),
        Task::Bench(options) => bench::bench(&session, &options),
        Task::Build { imp } => {
            let workshop = session.workshop()?;
            let out = session.builder(&workshop).kernel(Kernel::plain(imp))?;
            println!("{}", out.join("bzImage").display());
            Ok(())
        }
        Task::Boot { imp, initramfs } => boot(&session, imp, initramfs),
        Task::Exec {
            imp,
            cpus,
            seconds,
            command,
        } => exec(&session, imp, cpus, Duration::from_secs(seconds), &command),
        Task::Tree { directory } => {
            let directory = std::path::absolute(directory)?;
            session
                .source()?
                .add_tree(&session.ui, &session.repo, &directory)?;
            println!(
                "{} has the series as commits after the tag `fixed`; `cargo xtask series --from \
                 {}` takes it over",
                directory.display(),
                directory.display()
            );
            Ok(())
        }
        Task::Series(options) => series::series(&session, &options),
        Task::Fixes(options) => fixes::fixes(&session, &options),
        Task::Doctor => doctor(&session),
        Task::Clean { all } => {
            let _ = fs::remove_dir_all(&session.results);
            lab::remove_lab(&session.cache.join("build"))?;
            if all {
                lab::remove_lab(&session.cache)?;
            }
            Ok(())
        }
    }
}

/// Builds, boots, runs the userfaultfd tests live, and sums up.
fn run_once(session: &Session) -> Result<()> {
    let start = Instant::now();
    let workshop = session.workshop()?;
    let builder = session.builder(&workshop);
    let kernel = builder.kernel(Kernel::plain(Impl::Rust))?;
    let selftests = builder.selftests(&suites::binaries())?;

    // What was shown for just this kernel need not be shown again.
    let key = fs::read_to_string(kernel.join("key"))? + &fs::read_to_string(selftests.join("key"))?;
    let shown = session.results.join("guest/run/shown");
    let share = session.results.join("guest/run");
    let output = if fs::read_to_string(&shown).is_ok_and(|have| have == key) {
        session
            .ui
            .note("nothing has changed since the last run; its results are:");
        fs::read_to_string(share.join("output.log"))?
    } else {
        let accel = session.accel(&workshop.lab, &kernel)?;
        let share = session.share("run", &[&selftests])?;
        let guest = Guest {
            lab: &workshop.lab,
            kernel: &kernel,
            share: &share,
            accel,
            model: "",
            cpus: 2,
            memory: "4G",
            append: "",
        };
        println!("> Booting, and running the kernel's uffd-unit-tests");
        let outcome = guest.run(
            &suites::job(suites::UNIT, 1, Impl::Rust),
            Duration::from_secs(1200),
            |line| println!("  | {line}"),
        )?;
        let bad = suites::ConsoleCheck::new()?.check(&outcome.console)?;
        if !bad.is_empty() {
            bail!("the kernel complained:\n{}", bad.join("\n"));
        }
        outcome.output
    };

    let ready = output
        .lines()
        .find_map(|line| line.strip_prefix("@@ ready "))
        .context("the guest did not say which kernel it has")?;
    let (release, imp) = ready.split_once(' ').unwrap_or((ready, "?"));
    let (_, report) = suites::reports(&output)?
        .pop()
        .context("the tests did not run")?;
    println!("\nkernel:          Linux {release}");
    println!("userfaultfd:     {imp}");
    println!(
        "uffd-unit-tests: {} passed, {} failed, {} skipped, in {:.0} s",
        report.passed, report.failed, report.skipped, report.seconds
    );
    println!("total time:      {}", ui::duration(start.elapsed()));
    println!("image:           {}", kernel.join("bzImage").display());
    if imp != "rust" {
        bail!("userfaultfd is not handled in Rust");
    }
    let problems = report.problems();
    if !problems.is_empty() {
        bail!("the tests failed: {}", problems.join("; "));
    }
    fs::write(shown, key)?;
    Ok(())
}

/// Boots a kernel, runs a command, and fails if the command or the kernel does.
fn exec(session: &Session, imp: Impl, cpus: u32, limit: Duration, command: &str) -> Result<()> {
    let workshop = session.workshop()?;
    let builder = session.builder(&workshop);
    let kernel = builder.kernel(Kernel::plain(imp))?;
    let selftests = builder.selftests(&suites::binaries())?;
    let programs = builder.programs(&session.repo)?;
    let accel = session.accel(&workshop.lab, &kernel)?;
    let share = session.share(
        &format!("exec-{}", std::process::id()),
        &[&selftests, &programs],
    )?;
    let guest = Guest {
        lab: &workshop.lab,
        kernel: &kernel,
        share: &share,
        accel,
        model: "",
        cpus,
        memory: "4G",
        append: suites::GIGANTIC,
    };
    let job = format!(". \"$out\"/suites.sh\nprepare_all\n(\n{command}\n)\necho \"@@ exit $?\"\n");
    let outcome = guest.run(&job, limit, |line| println!("{line}"))?;
    let bad = suites::ConsoleCheck::new()?.check(&outcome.console)?;
    if !bad.is_empty() {
        bail!("the kernel complained:\n{}", bad.join("\n"));
    }
    match outcome
        .output
        .lines()
        .find_map(|line| line.strip_prefix("@@ exit "))
    {
        // What the command left there may be of interest only if it failed.
        Some("0") => Ok(fs::remove_dir_all(&share)?),
        status => bail!("the command ended with status {}", status.unwrap_or("?")),
    }
}

/// Boots a kernel for a person.
fn boot(session: &Session, imp: Impl, initramfs: bool) -> Result<()> {
    let workshop = session.workshop()?;
    let kernel = session.builder(&workshop).kernel(Kernel::plain(imp))?;
    let image = kernel.join("bzImage");
    let accel = session.accel(&workshop.lab, &kernel)?;

    let share = session.share("boot", &[])?;
    let mounts = lab::Mounts {
        src: &kernel,
        build: &kernel,
        out: &share,
    };
    let mut command = if initramfs {
        let accel = if accel == Accel::Kvm {
            "-accel kvm -cpu host"
        } else {
            "-accel tcg -cpu max"
        };
        let mut command = workshop.lab.sh(
            &mounts,
            &[("accel", accel)],
            include_str!("../scripts/boot-initramfs.sh"),
        );
        command.stdin(std::process::Stdio::inherit());
        command
    } else if lab::has("vng") {
        let mut command = Command::new("vng");
        command.arg("--run").arg(&image);
        if accel == Accel::Tcg {
            command.args(["--disable-kvm", "--disable-microvm"]);
        }
        command.args(["--force-9p", "--cpus", "2", "--memory", "4G"]);
        command
    } else {
        session
            .ui
            .note("virtme-ng is not on this machine: the lab is the guest's root");
        let accel = if accel == Accel::Tcg {
            "--disable-kvm --disable-microvm"
        } else {
            ""
        };
        workshop.lab.sh(
            &mounts,
            &[("accel", accel)],
            include_str!("../scripts/boot-vng.sh"),
        )
    };
    let status = ui::spawn(&mut command)?.wait()?;
    if !status.success() {
        bail!("the guest ended with {status}");
    }
    Ok(())
}

/// Says what there is.
fn doctor(session: &Session) -> Result<()> {
    let mut missing = Vec::new();
    let lab_tool = (!session.host_tools).then_some(&lab::LAB_TOOL);
    for &(program, package) in lab::HOST_TOOLS.iter().chain(lab_tool) {
        if lab::has(program) {
            println!("{program:20} yes");
        } else {
            println!("{program:20} missing (package {package})");
            missing.push(package);
        }
    }
    println!(
        "{:20} {}",
        "root",
        if lab::is_root() { "yes" } else { "no" }
    );
    if !lab::is_root() {
        let works = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "true"])
            .status()
            .is_ok_and(|status| status.success());
        println!(
            "{:20} {}",
            "user namespaces",
            if works { "yes" } else { "no" }
        );
    }
    let host_versions = lab::host_versions();
    match &host_versions {
        Ok(_) => println!("{:20} yes", "--host-tools"),
        Err(err) => println!("{:20} no: {err}", "--host-tools"),
    }
    fs::create_dir_all(&session.cache)?;
    let root = session.cache.join("lab");
    let made = root.join("etc/lab-versions").exists();
    println!(
        "{:20} {}",
        "lab",
        if made { "made" } else { "not made yet" }
    );
    println!("{:20} {}", "cache", session.cache.display());
    if let Err(err) = lab::require_space(&session.cache, 20) {
        println!("{:20} {err}", "space");
    }
    let kernel = session.results.join("rust");
    let (lab, usable) = if session.host_tools {
        (Lab::Host, host_versions.is_ok())
    } else {
        (Lab::Root(root), made)
    };
    if usable && kernel.join("bzImage").exists() {
        session.accel(&lab, &kernel)?;
    } else {
        println!("{:20} known once a kernel is built", "KVM");
    }
    if !missing.is_empty() {
        bail!(
            "tools are missing: `cargo xtask run` installs them as root, or says how; packages: {}",
            missing.join(" ")
        );
    }
    if session.host_tools && host_versions.is_err() {
        bail!("--host-tools needs other tools, see above");
    }
    Ok(())
}
