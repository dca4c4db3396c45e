// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask protocol`: runs the wait set in all orders of its threads, then makes mistakes in
//! it that the same checks have to find.

use crate::Session;
use anyhow::{bail, Result};
use std::process::Command;

#[derive(clap::Args)]
pub struct Options {
    /// Make no mistakes, but make the batches of wake-ups small.
    #[arg(long, conflicts_with = "mutants")]
    quick: bool,
    /// Make only the mistakes whose names contain one of these; all that is right is taken for
    /// granted.
    #[arg(value_name = "NAME")]
    mutants: Vec<String>,
}

pub fn protocol(session: &Session, options: &Options) -> Result<()> {
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).current_dir(&session.repo);
        command
    };
    let mut commands = Vec::new();
    if options.mutants.is_empty() {
        let mut tests = cargo(&["test", "--release", "--quiet", "--package", "waitset-check"]);
        tests.args(["--lib", "--features", "loom", "--", "--nocapture"]);
        commands.push(tests);
    }
    let mut mutants = cargo(&["run", "--quiet", "--package", "waitset-check", "--"]);
    if options.quick {
        // No mistake: scenarios for which the constant of the kernel is too large.
        mutants.arg("small-batches");
    }
    mutants.args(&options.mutants);
    commands.push(mutants);
    for mut command in commands {
        if !command.status()?.success() {
            bail!("the checks of the wait set failed");
        }
    }
    Ok(())
}
