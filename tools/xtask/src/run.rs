// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask run`: builds the Rust kernel, boots it, and runs the userfaultfd tests live.

use crate::{
    config::{Impl, Kernel},
    console,
    guest::{self, Guest},
    report, suites, ui, Session,
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    time::{Duration, Instant},
};

/// How long the guest may take.
const LIMIT: Duration = Duration::from_secs(1200);

pub fn run(session: &Session) -> Result<()> {
    let start = Instant::now();
    let builder = session.builder()?;
    let kernel = builder.kernel(Kernel::plain(Impl::Rust))?;
    let selftests = builder.selftests(&suites::binaries(builder.arch))?;

    // There is no need to show again the results of the same kernel and selftests.
    let key = fs::read_to_string(kernel.join("key"))? + &fs::read_to_string(selftests.join("key"))?;
    let shared = session.results.join("guest/run");
    let shown = shared.join("shown");
    let output = if fs::read_to_string(&shown).is_ok_and(|have| have == key) {
        session
            .ui
            .note("nothing has changed since the last run; its results are:");
        fs::read_to_string(shared.join("output.log"))?
    } else {
        let accel = session.accel(&builder.lab, &kernel)?;
        let share = session.share("run", &[&selftests])?;
        let guest = Guest::new(&builder.lab, &kernel, &share, accel);
        println!("> Booting, and running the kernel's uffd-unit-tests");
        let job = suites::job(&[&suites::UNIT], 1, Impl::Rust);
        let outcome = guest.run(&job, LIMIT, |line| println!("  | {line}"))?;
        console::refuse_complaints(&outcome.console, "the kernel")?;
        outcome.output
    };

    let (release, imp) =
        guest::ready(&output).context("the guest did not say which kernel it has")?;
    let (_, report) = report::reports(&output)?
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
