// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask exec`: boots a kernel, runs a command, and fails if the command or the kernel does.

use crate::{
    config::{Impl, Kernel},
    console,
    guest::Guest,
    suites, Session,
};
use anyhow::{bail, Result};
use std::{fs, time::Duration};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long = "impl", value_enum, default_value = "rust")]
    imp: Impl,
    #[arg(long, default_value_t = 2)]
    cpus: u32,
    /// The time limit, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// A script for sh.
    command: String,
}

pub fn exec(session: &Session, options: &Options) -> Result<()> {
    let builder = session.builder()?;
    let kernel = builder.kernel(Kernel::plain(options.imp))?;
    let selftests = builder.selftests(&suites::binaries(builder.arch))?;
    let programs = builder.programs()?;
    let accel = session.accel(&builder.lab, &kernel)?;
    let name = format!("exec-{}", std::process::id());
    let share = session.share(&name, &[&selftests, &programs])?;
    let guest = Guest {
        cpus: options.cpus,
        append: suites::GIGANTIC,
        ..Guest::new(&builder.lab, &kernel, &share, accel)
    };
    let job = format!(
        ". \"$out\"/suites.sh\nprepare_all\n(\n{}\n)\necho \"@@ exit $?\"\n",
        options.command
    );
    let limit = Duration::from_secs(options.seconds);
    let outcome = guest.run(&job, limit, |line| println!("{line}"))?;
    console::refuse_complaints(&outcome.console, "the kernel")?;
    let mut lines = outcome.output.lines();
    match lines.find_map(|line| line.strip_prefix("@@ exit ")) {
        // The files of the command are worth keeping only if it failed.
        Some("0") => Ok(fs::remove_dir_all(&share)?),
        status => bail!("the command ended with status {}", status.unwrap_or("?")),
    }
}
