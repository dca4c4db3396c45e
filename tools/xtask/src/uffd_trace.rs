// SPDX-License-Identifier: GPL-2.0

//! Tests of `tools/uffd-trace/uffd-trace` on saved traces, with each awk of this machine.

use crate::{lab, scratch::Scratch};
use anyhow::{bail, Context, Result};
use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

const COMMANDS: &[&str] = &["latency", "slowest", "sleepers", "rate", "errors"];

/// A trace as tracefs prints it, and the same one as trace-cmd does.
const TRACES: &[&str] = &["trace", "trace-cmd"];

const AWKS: &[&str] = &["mawk", "gawk", "original-awk", "busybox"];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../uffd-trace")
}

/// Returns the path of a program.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut candidates = env::split_paths(&path).map(|directory| directory.join(program));
    candidates.find(|path| path.is_file())
}

/// A machine that has one awk.
struct Machine {
    awk: &'static str,
    bin: Scratch,
}

impl Machine {
    fn new(awk: &'static str) -> Result<Self> {
        let bin = Scratch::new()?;
        let path = find(awk).with_context(|| format!("no {awk}"))?;
        symlink(path, bin.0.join("awk"))?;
        Ok(Self { awk, bin })
    }

    /// Runs the script. The shell is that of busybox if its awk is.
    fn run(&self, args: &[&str]) -> Result<Output> {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.bin.0.clone()]
            .into_iter()
            .chain(env::split_paths(&path));
        let mut command = match self.awk {
            "busybox" => {
                let mut command = Command::new("busybox");
                command.arg("sh");
                command
            }
            _ => Command::new("sh"),
        };
        command.arg(directory().join("uffd-trace")).args(args);
        Ok(command.env("PATH", env::join_paths(path)?).output()?)
    }
}

fn machines() -> Result<Vec<Machine>> {
    let awks = AWKS.iter().copied().filter(|awk| lab::has(awk));
    let machines: Vec<Machine> = awks.map(Machine::new).collect::<Result<_>>()?;
    if machines.is_empty() {
        bail!("there is none of these on this machine: {AWKS:?}");
    }
    Ok(machines)
}

#[test]
fn saved_traces_are_understood() -> Result<()> {
    let tests = directory().join("tests");
    for machine in machines()? {
        for trace in TRACES {
            let file = tests.join(format!("{trace}.txt")).display().to_string();
            for command in COMMANDS {
                let output = machine.run(&[command, "--file", &file])?;
                let expected = fs::read_to_string(tests.join(format!("{trace}-{command}.out")))?;
                let found = String::from_utf8(output.stdout)?;
                let what = format!("{command} of {trace}.txt with {}", machine.awk);
                assert_eq!(found, expected, "{what}");
                assert!(
                    output.stderr.is_empty() && output.status.success(),
                    "{what}"
                );
            }
        }
    }
    Ok(())
}

/// trace-cmd puts the name of an instance before each line.
#[test]
fn instances_are_understood() -> Result<()> {
    let tests = directory().join("tests");
    let trace = fs::read_to_string(tests.join("trace-cmd.txt"))?;
    let lines: String = trace
        .lines()
        .map(|line| format!("uffd: {line}\n"))
        .collect();
    let expected = fs::read_to_string(tests.join("trace-cmd-slowest.out"))?;
    for machine in machines()? {
        machine.bin.write("trace.txt", &lines)?;
        let file = machine.bin.0.join("trace.txt").display().to_string();
        let output = machine.run(&["slowest", "--file", &file])?;
        assert_eq!(
            String::from_utf8(output.stdout)?,
            expected,
            "{}",
            machine.awk
        );
    }
    Ok(())
}

#[test]
fn only_the_slowest_faults_are_shown() -> Result<()> {
    let file = directory().join("tests/trace.txt").display().to_string();
    for machine in machines()? {
        let output = machine.run(&["slowest", "--top", "1", "--file", &file])?;
        let text = String::from_utf8(output.stdout)?;
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("0x")).collect();
        assert!(
            matches!(rows[..], [row] if row.contains("1500018")),
            "{text}"
        );
    }
    Ok(())
}

/// The script keeps the last few thousand operations only.
#[test]
fn long_traces_are_understood() -> Result<()> {
    let lines: String = (0..10_000)
        .map(|i| {
            let (second, address) = (1000 + i, 0x7f5a_3c00_0000_u64 + i * 0x1000);
            format!(
                "handler-900 (900) [001] ..... {second}.000010: userfaultfd_resolve: ctx=01 \
                 operation=copy start={address:#x} len=0x1000 done=4096 woken=1\n\
                 vcpu-815 (812) [000] ..... {second}.000020: userfaultfd_fault_end: ctx=01 \
                 address={address:#x} flags=missing why=resolved slept=20000\n"
            )
        })
        .collect();
    for machine in machines()? {
        machine.bin.write("trace.txt", &lines)?;
        let file = machine.bin.0.join("trace.txt").display().to_string();
        let output = machine.run(&["latency", "--file", &file])?;
        let text = String::from_utf8(output.stdout)?;
        let what = format!("{}: {text}", machine.awk);
        let header = "process 812 (vcpu), copy: 10000 faults, mean 20 us, longest 20 us";
        assert!(text.lines().any(|line| line == header), "{what}");
        assert_eq!(text.matches("process").count(), 1, "{what}");
    }
    Ok(())
}

#[test]
fn errors_are_one_line() -> Result<()> {
    let cases: &[(&[&str], &str)] = &[
        (&[], "give a command"),
        (&["pace"], "unknown: pace"),
        (&["rate", "errors"], "give one command"),
        (&["--pace"], "unknown: --pace"),
        (&["rate", "--top"], "--top takes a value"),
        (&["rate", "--buffer-kb", "1.5"], "a positive number"),
        (&["slowest", "--top", "0"], "a positive number"),
        (
            &["rate", "--file", "/nonexistent"],
            "cannot read /nonexistent",
        ),
        (
            &["rate", "--file", "/dev/null"],
            "no events of userfaultfd in /dev/null",
        ),
        (
            &["rate", "--file", "/dev/null", "--", "true"],
            "a saved trace needs no program",
        ),
    ];
    for machine in machines()? {
        for (args, expected) in cases {
            let output = machine.run(args)?;
            let text = String::from_utf8(output.stderr)?;
            let what = format!("{args:?} with {}: {text}", machine.awk);
            assert!(
                !output.status.success() && output.stdout.is_empty(),
                "{what}"
            );
            assert!(
                text.starts_with("uffd-trace: ") && text.contains(expected),
                "{what}"
            );
            assert_eq!(text.lines().count(), 1, "{what}");
        }
    }
    Ok(())
}
