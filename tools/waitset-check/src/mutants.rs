// SPDX-License-Identifier: GPL-2.0

//! Makes the mistakes of `mutants.txt` in a copy of the wait set, and tells which checks find them.
//!
//! `cargo run -p waitset-check [NAME…]` runs all of them, or those whose names contain one of the
//! arguments. It fails if a mistake is not found. Checks with sanitizers need a nightly toolchain;
//! without one they are left out.

use std::{
    env, fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// The time that a check of one mistake may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The time that all checks may take without a mistake.
const LIMIT_OF_ALL: Duration = Duration::from_secs(1800);

/// What has to be copied.
const PARTS: [&str; 7] = [
    "Cargo.lock",
    "rust/kernel/userfaultfd/fault.rs",
    "rust/kernel/userfaultfd/message.rs",
    "rust/kernel/userfaultfd/waitset.rs",
    "rust/kernel/userfaultfd/waitset",
    "tools/host-tests/macros",
    "tools/waitset-check",
];

const SOURCES: &str = "rust/kernel/userfaultfd";

const WORKSPACE: &str = "\
[workspace]
resolver = \"3\"
members = [\"tools/host-tests/macros\", \"tools/waitset-check\"]
[workspace.package]
edition = \"2021\"
rust-version = \"1.85\"
license = \"GPL-2.0\"
publish = false
[workspace.lints]
[profile.dev]
opt-level = 1
debug = false
[profile.dev.package.loom]
opt-level = 3
[profile.dev.package.generator]
opt-level = 3
";

#[derive(Copy, Clone, PartialEq, Eq)]
enum Check {
    Loom,
    Address,
    Thread,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Loom => "loom",
            Self::Address => "address",
            Self::Thread => "thread",
        }
    }

    /// Returns the command that runs tests.
    fn command(self, directory: &Path) -> Command {
        let target = directory.join("target");
        let mut command = Command::new("cargo");
        command
            .current_dir(directory)
            .env("RUST_BACKTRACE", "0")
            // Those of the toolchain that runs this program are not for the other one.
            .env_remove("CARGO")
            .env_remove("RUSTC")
            .env_remove("RUSTUP_TOOLCHAIN");
        match self {
            Self::Loom => {
                command
                    .args(["test", "--features", "loom"])
                    .env("CARGO_TARGET_DIR", target.join("loom"));
            }
            Self::Address | Self::Thread => {
                let suppressions = directory.join("tools/waitset-check/thread.supp");
                let suppressions = suppressions.display();
                let flags = format!(
                    "-Zsanitizer={} -Cunsafe-allow-abi-mismatch=sanitizer",
                    self.name()
                );
                command
                    .args(["+nightly", "test", "--target", "x86_64-unknown-linux-gnu"])
                    .env("RUSTFLAGS", flags)
                    .env("ASAN_OPTIONS", "detect_stack_use_after_return=1")
                    .env(
                        "TSAN_OPTIONS",
                        format!("halt_on_error=1 suppressions={suppressions}"),
                    )
                    .env("CARGO_TARGET_DIR", target.join(self.name()));
            }
        }
        command.args(["--quiet", "--package", "waitset-check"]);
        command
    }
}

/// A change of one file.
struct Edit {
    file: PathBuf,
    old: Vec<String>,
    new: Vec<String>,
}

impl Edit {
    /// Returns the changed text.
    fn apply(&self, text: &str) -> Result<String, String> {
        let lines: Vec<&str> = text.lines().collect();
        let len = self.old.len();
        let mut places = lines.windows(len).enumerate().filter(|(_, window)| {
            let window = window.iter().map(|line| line.trim());
            window.eq(self.old.iter().map(String::as_str))
        });
        let (Some((place, _)), None) = (places.next(), places.next()) else {
            let file = self.file.display();
            return Err(format!("{file} does not have these lines once"));
        };
        let mut changed: Vec<&str> = lines[..place].to_vec();
        changed.extend(self.new.iter().map(String::as_str));
        changed.extend(&lines[place + len..]);
        Ok(changed.join("\n") + "\n")
    }
}

struct Mutant {
    name: String,
    /// It is a mistake, and no variant that has to pass.
    is_wrong: bool,
    check: Check,
    tests: Vec<String>,
    edits: Vec<Edit>,
}

fn parse(text: &str) -> Vec<Mutant> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for line in text.lines().map(str::trim) {
        let mutant = line.strip_prefix("mutant ");
        if let Some(name) = mutant.or(line.strip_prefix("variant ")) {
            mutants.push(Mutant {
                name: name.into(),
                is_wrong: mutant.is_some(),
                check: Check::Loom,
                tests: Vec::new(),
                edits: Vec::new(),
            });
        }
        let Some(mutant) = mutants.last_mut() else {
            continue;
        };
        if let Some(by) = line.strip_prefix("by ") {
            let mut words = by.split_whitespace();
            mutant.check = match words.next() {
                Some("loom") => Check::Loom,
                Some("address") => Check::Address,
                Some("thread") => Check::Thread,
                check => panic!("{}: no check {check:?}", mutant.name),
            };
            mutant.tests = words.map(Into::into).collect();
        } else if let Some(file) = line.strip_prefix("in ") {
            mutant.edits.push(Edit {
                file: file.into(),
                old: Vec::new(),
                new: Vec::new(),
            });
        } else if let Some(edit) = mutant.edits.last_mut() {
            if let Some(old) = line.strip_prefix("-") {
                edit.old.push(old.trim().into());
            } else if let Some(new) = line.strip_prefix("+") {
                edit.new.push(new.trim().into());
            }
        }
    }
    mutants
}

/// Copies a file or directory. Links stay links.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_dir() {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name))?;
        }
    } else {
        if let Some(directory) = to.parent() {
            fs::create_dir_all(directory)?;
        }
        let _ = fs::remove_file(to);
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        } else {
            fs::copy(from, to)?;
        }
    }
    Ok(())
}

enum Outcome {
    Passed,
    Failed(Duration, String),
    NotRun(String),
}

/// Waits for the end of a process, and kills it if that takes too long.
fn wait(mut command: Command, limit: Duration, log: &Path) -> io::Result<Option<bool>> {
    let begin = Instant::now();
    let output = fs::File::create(log)?;
    let mut child = command
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if begin.elapsed() > limit {
            // The test is a child of cargo.
            Command::new("kill")
                .args(["-KILL", "--", &format!("-{}", child.id())])
                .status()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(20));
    }
}

/// Returns the first error in the output of a test.
fn first_error(log: &str) -> String {
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        let error = if line.contains("panicked at") {
            lines.next().unwrap_or_default()
        } else if let Some((_, error)) = line.split_once("Sanitizer: ") {
            error
        } else {
            continue;
        };
        // Loom goes on with the states of all threads.
        let error = error.split(['`', ';', '(']).next().unwrap_or_default();
        return error.trim().chars().take(60).collect();
    }
    "no message".into()
}

/// Runs tests of the copy; those with real threads `runs` times, because they meet by chance.
fn run_tests(
    check: Check,
    tests: &[String],
    runs: u32,
    limit: Duration,
    directory: &Path,
) -> io::Result<Outcome> {
    let mut build = check.command(directory);
    build.arg("--no-run");
    let output = build.output()?;
    if !output.status.success() {
        let err = String::from_utf8_lossy(&output.stderr);
        let line = err.lines().find(|line| line.starts_with("error"));
        return Ok(Outcome::NotRun(line.unwrap_or("no build").into()));
    }
    let begin = Instant::now();
    let mut run = check.command(directory);
    run.env("WAITSET_RUNS", runs.to_string());
    run.args(["--lib", "--", "--nocapture", "--test-threads", "2"]);
    run.args(tests);
    let log = directory.join("output.log");
    Ok(match wait(run, limit, &log)? {
        Some(true) => Outcome::Passed,
        Some(false) => {
            let log = String::from_utf8_lossy(&fs::read(log)?).into_owned();
            Outcome::Failed(begin.elapsed(), first_error(&log))
        }
        None => Outcome::NotRun(format!("no end in {} s", limit.as_secs())),
    })
}

/// Undoes all changes of the copy.
fn restore(root: &Path, directory: &Path) -> io::Result<()> {
    fs::write(directory.join("Cargo.toml"), WORKSPACE)?;
    PARTS
        .iter()
        .try_for_each(|part| copy(&root.join(part), &directory.join(part)))
}

fn try_mutant(mutant: &Mutant, directory: &Path) -> io::Result<Outcome> {
    let sources = directory.join(SOURCES);
    for edit in &mutant.edits {
        let path = sources.join(&edit.file);
        match edit.apply(&fs::read_to_string(&path)?) {
            Ok(text) => fs::write(path, text)?,
            Err(err) => return Ok(Outcome::NotRun(err)),
        }
    }
    // What is right has to pass in all orders.
    let limit = if mutant.is_wrong { LIMIT } else { LIMIT_OF_ALL };
    run_tests(mutant.check, &mutant.tests, 2000, limit, directory)
}

fn has_nightly() -> bool {
    let output = Command::new("cargo")
        .env_remove("RUSTUP_TOOLCHAIN")
        .args(["+nightly", "--version"])
        .output();
    output.is_ok_and(|output| output.status.success())
}

fn main() -> io::Result<ExitCode> {
    let names: Vec<String> = env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let directory = target.join("waitset-mutants");
    fs::create_dir_all(&directory)?;
    let directory = directory.canonicalize()?;

    let mut mutants = parse(include_str!("../mutants.txt"));
    mutants
        .retain(|mutant| names.is_empty() || names.iter().any(|name| mutant.name.contains(name)));
    if mutants.is_empty() {
        println!("No mistake has a name that contains one of these.");
        return Ok(ExitCode::FAILURE);
    }
    let has_nightly = has_nightly();
    if !has_nightly {
        println!("There is no nightly toolchain: the sanitizers are left out.");
    }
    let (mut caught, mut left_out, mut bad) = (0, 0, 0);
    for check in [Check::Loom, Check::Address, Check::Thread] {
        let mutants: Vec<_> = mutants
            .iter()
            .filter(|mutant| mutant.check == check)
            .collect();
        if mutants.is_empty() {
            continue;
        }
        if check != Check::Loom && !has_nightly {
            left_out += mutants.len();
            continue;
        }
        // Tests that fail without a mistake find none. The sanitizers run all of them.
        restore(&root, &directory)?;
        let tests: Vec<_> = match check {
            Check::Loom => mutants
                .iter()
                .flat_map(|mutant| mutant.tests.clone())
                .collect(),
            Check::Address => Vec::new(),
            // The others have one thread.
            Check::Thread => vec!["scenarios".into()],
        };
        print!("{:<36} {:<8} ", "(no mistake)", check.name());
        match run_tests(check, &tests, 300, LIMIT_OF_ALL, &directory)? {
            Outcome::Passed => println!("passed"),
            Outcome::Failed(_, err) => {
                println!("FAILED: {err}");
                bad += mutants.len();
                continue;
            }
            Outcome::NotRun(err) => {
                println!("NOT RUN: {err}");
                bad += mutants.len();
                continue;
            }
        }
        for mutant in mutants {
            restore(&root, &directory)?;
            print!("{:<36} {:<8} ", mutant.name, check.name());
            match try_mutant(mutant, &directory)? {
                Outcome::Passed if !mutant.is_wrong => println!("passed"),
                Outcome::Failed(_, err) if !mutant.is_wrong => {
                    bad += 1;
                    println!("FAILED: {err}");
                }
                Outcome::Failed(time, err) => {
                    caught += 1;
                    println!("caught in {:4.1} s: {err}", time.as_secs_f64());
                }
                Outcome::Passed => {
                    bad += 1;
                    println!("SURVIVED");
                }
                Outcome::NotRun(err) => {
                    bad += 1;
                    println!("NOT RUN: {err}");
                }
            }
        }
    }
    println!("{caught} caught, {bad} not caught, {left_out} left out");
    Ok(if bad == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
