// SPDX-License-Identifier: GPL-2.0

//! Moves a process with CRIU, which restores it before it has its memory.
//!
//! `criu dump` freezes the process and keeps its private memory. `criu restore` creates it again,
//! in namespaces of its own, because its process and thread numbers are free there. Its memory is
//! missing at first: if a thread faults, `criu lazy-pages` gets the page from `criu dump`. It gets
//! the remaining pages afterwards.

mod target;

pub use target::{run as run_target, Options as TargetOptions};

use crate::{support::readable, tap::Tap};
use anyhow::{anyhow, bail, ensure, Context, Result};
use std::{
    fs::{self, File},
    io::{self, Read},
    net::TcpListener,
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use uffd_guest::end_with;

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub struct Options {
    /// The memory of the processes may have large folios, as they advise.
    #[arg(long)]
    large: bool,
}

/// A process to move.
struct Case {
    name: &'static str,
    mib: usize,
    /// Whether it forks before all of its memory is there.
    fork: bool,
    /// Whether it advises that its memory may have large folios.
    large: bool,
}

/// What CRIU did.
struct Outcome {
    /// What CRIU says of each process.
    transferred: Vec<Transferred>,
    faults: usize,
    forks: usize,
    took: Duration,
}

/// The pages of a process that CRIU copied to it, and all that it has in the end.
#[derive(Debug, PartialEq)]
struct Transferred {
    copied: usize,
    all: usize,
}

/// Runs all cases.
pub fn run(tap: &mut Tap, options: &Options, long: bool) -> Result<()> {
    let mib = if long { 256 } else { 32 };
    let cases = [
        Case {
            name: "threads",
            mib,
            fork: false,
            large: options.large,
        },
        Case {
            name: "threads and a fork",
            mib,
            fork: true,
            large: options.large,
        },
    ];
    for case in &cases {
        let directory = Directory::new()?;
        let began = Instant::now();
        let result = migrate(&directory.0, case)
            .map_err(|err| anyhow!("{err:#}\n{}", logs(&directory.0)))
            .and_then(|outcome| report(tap, case, &outcome));
        let time = format!("criu: {}: time", case.name);
        tap.measure(&time, began.elapsed().as_millis(), "ms");
        tap.test(&format!("criu: {}", case.name), result);
    }
    Ok(())
}

/// Reports what was measured, and checks that CRIU used userfaultfd.
fn report(tap: &Tap, case: &Case, outcome: &Outcome) -> Result<()> {
    let name = |what: &str| format!("criu: {}: {what}", case.name);
    let copied: usize = outcome.transferred.iter().map(|one| one.copied).sum();
    tap.measure(&name("pages through userfaultfd"), copied, "");
    tap.measure(&name("faults"), outcome.faults, "");
    tap.measure(
        &name("from the restore to the result"),
        outcome.took.as_millis(),
        "ms",
    );

    let processes = 1 + usize::from(case.fork);
    ensure!(
        outcome.forks == processes - 1 && outcome.transferred.len() == processes,
        "CRIU saw {} forks, and has {:?}",
        outcome.forks,
        outcome.transferred
    );
    ensure!(outcome.faults > 0, "no thread waited for a page");
    let pages = case.mib << 8;
    for one in &outcome.transferred {
        ensure!(
            one.copied >= pages,
            "only {one:?} of at least {pages} pages came"
        );
    }
    Ok(())
}

/// Moves a process.
fn migrate(directory: &Path, case: &Case) -> Result<Outcome> {
    let images = directory.join("images");
    fs::create_dir(&images)?;
    let mut target = start_target(directory, case)?;
    target.wait_for(&directory.join("ready"))?;

    let port = free_port()?.to_string();
    let server = ["--address", "127.0.0.1", "--port", &port];
    let (mut dump, ready) = start_with_status(
        criu("dump", &images)
            .args(["--lazy-pages", "--tree", &target.child.id().to_string()])
            .args(server),
    )?;
    dump.wait_ready(ready)?;

    // The process that sees this is the restored one: the other one is frozen.
    fs::write(directory.join("restored"), "")?;
    let (mut pages, ready) = start_with_status(
        criu("lazy-pages", &images)
            .arg("--page-server")
            .args(server),
    )?;
    pages.wait_ready(ready)?;

    let began = Instant::now();
    let mut restore = start(
        Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
            .args(command_line(&criu("restore", &images)))
            .arg("--lazy-pages"),
    )?;
    let result = wait_for_result(directory, &mut [&mut dump, &mut pages, &mut restore])?;
    let took = began.elapsed();
    ensure!(
        result == target::GOOD,
        "the restored process says: {result}"
    );

    for process in [&mut pages, &mut dump, &mut restore] {
        let status = process.wait(LIMIT)?;
        ensure!(status.success(), "{} ended with {status}", process.name);
    }
    // `criu dump` kills it when all of its memory is copied.
    let status = target.wait(LIMIT)?;
    ensure!(!status.success(), "the original process ended by itself");
    let log = fs::read_to_string(images.join("lazy-pages.log"))?;
    Ok(Outcome {
        transferred: transferred(&log),
        faults: log.matches("#PF at ").count(),
        forks: log.matches(" FORK: ").count(),
        took,
    })
}

/// Starts the process that is to be moved. It has nothing of its parent: no terminal, no session.
fn start_target(directory: &Path, case: &Case) -> Result<Process> {
    let log = File::create(directory.join("target.log"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("criu-target")
        .arg(directory)
        .args(["--mib", &case.mib.to_string()])
        .args(case.fork.then_some("--fork"))
        .args(case.large.then_some("--large"))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: It does system calls only.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    start(&mut command)
}

/// A command of CRIU.
fn criu(action: &'static str, images: &Path) -> Command {
    let mut command = Command::new("criu");
    command
        .arg(action)
        .args([
            "-v4",
            "--log-file",
            &format!("{action}.log"),
            "--images-dir",
        ])
        .arg(images)
        // Processes stay in the control group that they are in.
        .arg("--manage-cgroups=ignore");
    command
}

/// The program and the arguments of a command.
fn command_line(command: &Command) -> Vec<&std::ffi::OsStr> {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .collect()
}

/// Returns a port on which no process listens.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A process that is killed when this is dropped.
struct Process {
    name: String,
    child: Child,
}

/// Starts a process that ends with this one.
fn start(command: &mut Command) -> Result<Process> {
    let parent = process::id();
    // SAFETY: It does system calls only.
    unsafe {
        command.pre_exec(move || end_with(parent));
    }
    let name = format!("{command:?}");
    let child = command
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    Ok(Process { name, child })
}

/// Starts a command of CRIU that says when it is ready. Returns the pipe on which it does.
fn start_with_status(command: &mut Command) -> Result<(Process, File)> {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let number = write.as_raw_fd();
    command
        .args(["--status-fd", &number.to_string()])
        .stdout(Stdio::null());
    // SAFETY: It does a system call only.
    unsafe {
        command.pre_exec(move || match libc::fcntl(number, libc::F_SETFD, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    Ok((start(command)?, read.into()))
}

impl Process {
    /// Waits until the process says that it is ready.
    fn wait_ready(&mut self, mut status: File) -> Result<()> {
        let said = readable(&[&status], LIMIT)?[0];
        ensure!(said, "{} was not ready in {LIMIT:?}", self.name);
        let mut byte = [1];
        if status.read(&mut byte)? == 1 && byte == [0] {
            return Ok(());
        }
        let ended = self.wait(Duration::from_secs(5))?;
        bail!("{} ended with {ended}", self.name);
    }

    /// Waits until the process has made a file.
    fn wait_for(&mut self, path: &Path) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !path.exists() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status}", self.name);
            }
            pause(deadline).with_context(|| format!("{} is not there", path.display()))?;
        }
        Ok(())
    }

    /// Waits until the process ends.
    fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            pause(deadline).with_context(|| format!("{} does not end", self.name))?;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits a moment, or fails if there is no more time.
fn pause(deadline: Instant) -> Result<()> {
    ensure!(Instant::now() < deadline, "too late");
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// Waits for the result of the restored process. Fails early if a process fails that it needs.
fn wait_for_result(directory: &Path, needed: &mut [&mut Process]) -> Result<String> {
    let path = directory.join("result");
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Ok(text) = fs::read_to_string(&path) {
            return Ok(text);
        }
        for process in needed.iter_mut() {
            match process.child.try_wait()? {
                Some(status) if !status.success() => {
                    bail!("{} ended with {status}", process.name)
                }
                _ => (),
            }
        }
        pause(deadline).context("the restored process says nothing")?;
    }
}

/// Finds in the log how many pages were copied: `UFFD transferred pages: (COPIED/ALL)`.
fn transferred(log: &str) -> Vec<Transferred> {
    log.lines()
        .filter_map(|line| {
            let (_, numbers) = line.split_once("UFFD transferred pages: (")?;
            let (copied, all) = numbers.trim_end().trim_end_matches(')').split_once('/')?;
            Some(Transferred {
                copied: copied.parse().ok()?,
                all: all.parse().ok()?,
            })
        })
        .collect()
}

/// The ends of all logs, and the errors in them.
fn logs(directory: &Path) -> String {
    let names = [
        "target.log",
        "images/dump.log",
        "images/lazy-pages.log",
        "images/restore.log",
    ];
    let mut text = String::new();
    for name in names {
        let log = fs::read(directory.join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let end = lines.len().saturating_sub(6);
        let errors = lines[..end]
            .iter()
            .filter(|line| line.contains("Error") || line.contains("Warn"));
        text.push_str(&format!("--- {name}\n"));
        for line in errors.chain(&lines[end..]) {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// A directory that is removed when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("uffd-criu-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
