// SPDX-License-Identifier: GPL-2.0

//! Steps that take long: shown while they run, with their output kept in a log.

use anyhow::{bail, Context, Result};
use comfy_table::{presets::ASCII_MARKDOWN, Table};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, IsTerminal, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Shows steps, and keeps their logs.
pub struct Ui {
    pub verbose: bool,
    logs: PathBuf,
}

/// How many lines of a log are shown when a step fails.
const TAIL: usize = 30;

impl Ui {
    pub fn new(verbose: bool, logs: PathBuf) -> Result<Self> {
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self { verbose, logs })
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Prints a line that is not about a step.
    pub fn note(&self, text: &str) {
        println!("  {text}");
    }

    fn bar(&self, title: &str) -> ProgressBar {
        if self.verbose || !std::io::stderr().is_terminal() {
            println!("> {title}");
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}")
        {
            bar.set_style(style);
        }
        bar.set_prefix(title.to_string());
        bar.enable_steady_tick(Duration::from_millis(150));
        bar
    }

    /// Runs a command to its end. Its output goes to the log `name`, and to the terminal if the
    /// user asked for that. If the command fails, the error has the end of the log.
    pub fn run(&self, name: &str, title: &str, command: &mut Command) -> Result<()> {
        let start = Instant::now();
        let log = self.log_path(name);
        let bar = self.bar(title);
        let verbose = self.verbose;

        let (reader, writer) = nix::unistd::pipe()?;
        command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer);
        let mut child = spawn(command)?;
        // The command holds the writing end: the loop below ends when the step does.
        command.stdout(Stdio::null()).stderr(Stdio::null());

        let mut file = File::create(&log)?;
        let mut lines = BufReader::new(File::from(reader));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line)? != 0 {
            file.write_all(&line)?;
            let text = String::from_utf8_lossy(&line);
            if verbose {
                print!("{text}");
            }
            bar.set_message(text.trim().chars().take(100).collect::<String>());
            line.clear();
        }
        let status = child.wait()?;
        bar.finish_and_clear();

        if !status.success() {
            bail!(
                "{title}: failed ({status})\n{}\nthe whole log is in {}",
                tail(&log)?,
                log.display()
            );
        }
        println!("  {title}: done in {}", duration(start.elapsed()));
        Ok(())
    }

    /// Runs a function as a step.
    pub fn step<T>(&self, title: &str, step: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let bar = self.bar(title);
        let result = step(&bar);
        bar.finish_and_clear();
        let value = result.with_context(|| format!("{title}: failed"))?;
        println!("  {title}: done in {}", duration(start.elapsed()));
        Ok(value)
    }
}

/// Starts a command that the kernel kills when this program ends.
pub fn spawn(command: &mut Command) -> Result<Child> {
    // SAFETY: prctl() is safe to call between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            Ok(())
        })
    };
    command.spawn().with_context(|| {
        format!(
            "cannot run {}: is it installed?",
            command.get_program().to_string_lossy()
        )
    })
}

/// Runs a command and returns its output. If it fails, the error has the output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "cannot run {}: is it installed?",
            command.get_program().to_string_lossy()
        )
    })?;
    if !output.status.success() {
        bail!(
            "{:?} failed:\n{}{}",
            command,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the last lines of a file.
pub fn tail(path: &Path) -> Result<String> {
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(TAIL);
    Ok(lines[first..].join("\n"))
}

/// Makes a table in the format of Markdown.
pub fn table<T: ToString>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(header.into_iter().map(|name| name.to_string()));
    table
}

/// Formats a duration.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", seconds as u64 / 60, seconds as u64 % 60)
    }
}
