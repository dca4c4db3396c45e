// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask bench --native`: runs the benchmark program on this machine. An error is one line that
//! says what to do.

use super::Options;
use crate::Session;
use anyhow::{anyhow, Context, Result};
use std::{fs, os::unix::process::CommandExt, process::Command};

pub fn measure(session: &Session, options: &Options) -> Result<()> {
    let cargo = |task: &str| {
        let mut command = Command::new(env!("CARGO"));
        command.args([task, "--release", "--locked", "--package", "uffd-bench"]);
        command.arg("--manifest-path");
        command.arg(session.repo.join("Cargo.toml"));
        command
    };
    let log = "build-native";
    let title = "Building the benchmark program";
    session
        .ui
        .run(log, title, &mut cargo("build"))
        .map_err(|_| {
            let log = session.ui.log_path(log);
            let text = fs::read_to_string(&log).unwrap_or_default();
            let why =
                advice(&text).map_or_else(|| format!("see {}", log.display()), str::to_string);
            anyhow!("the benchmark program cannot be built: {why}")
        })?;
    let mut program = cargo("run");
    program.args(["--quiet", "--", "native", "--out"]);
    program.arg(options.out(session, "bench-native"));
    for (name, value) in [("--seconds", options.seconds), ("--memory", options.memory)] {
        if let Some(value) = value {
            program.args([name, &value.to_string()]);
        }
    }
    for filter in &options.measure {
        program.args(["--measure", filter]);
    }
    // Its exit code and its errors are those of this command.
    Err(program.exec()).context("cannot run cargo: is it installed?")
}

/// Says what to do about what cargo printed, if it is known.
fn advice(log: &str) -> Option<&'static str> {
    let has = |words: &[&str]| words.iter().any(|word| log.contains(word));
    if has(&["No space left on device"]) {
        Some("the disk is full: free some, or name another directory with CARGO_TARGET_DIR")
    } else if has(&[
        "failed to download",
        "Could not resolve host",
        "download of",
    ]) {
        Some("what it depends on cannot be fetched: connect this machine to a network once")
    } else if has(&["linker `cc` not found"]) {
        Some("there is no linker: install gcc")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_cargo_have_their_advice() {
        for (log, word) in [
            (
                "error: could not write: No space left on device (os error 28)",
                "full",
            ),
            ("error: failed to download from `https://…`", "network"),
            ("error: linker `cc` not found", "gcc"),
        ] {
            assert!(advice(log).is_some_and(|advice| advice.contains(word)));
        }
        assert_eq!(advice("error[E0308]: mismatched types"), None);
    }
}
