// SPDX-License-Identifier: GPL-2.0

//! Programs that are built on userfaultfd, run as their users run them. Each checks that its data
//! are right, and not only that it ends. Run inside a test guest.
//!
//! Each command prints its results as TAP, and what it measured as `# measure: NAME = VALUE UNIT`.

mod criu;
mod crowd;
mod gc;
// Its virtual machines are for x86-64.
#[cfg(target_arch = "x86_64")]
mod postcopy;
mod snapshot;
mod support;
mod tap;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use tap::Tap;

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    /// More memory and more rounds.
    #[arg(long, global = true)]
    long: bool,
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// Migrate virtual machines with QEMU's postcopy, and take a background snapshot.
    #[cfg(target_arch = "x86_64")]
    Postcopy(postcopy::Options),
    /// Dump processes with CRIU and restore them lazily.
    Criu(criu::Options),
    /// What CRIU dumps.
    #[command(hide = true)]
    CriuTarget(criu::TargetOptions),
    /// Restore memory from a file in another process, as a virtual machine monitor does.
    Snapshot(snapshot::Options),
    /// Have very many threads sleep in faults, and go on.
    Crowd,
    /// Collect garbage: write protection, SIGBUS mode, compaction by UFFDIO_MOVE.
    Gc,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Program::CriuTarget(options) = &cli.program {
        return criu::run_target(options);
    }
    let mut tap = Tap::new();
    let result = match &cli.program {
        #[cfg(target_arch = "x86_64")]
        Program::Postcopy(options) => postcopy::run(&mut tap, options, cli.long),
        Program::Criu(options) => criu::run(&mut tap, options, cli.long),
        Program::CriuTarget(_) => unreachable!("it ran before"),
        Program::Snapshot(options) => snapshot::run(&mut tap, options, cli.long),
        Program::Crowd => crowd::run(&mut tap),
        Program::Gc => gc::run(&mut tap, cli.long),
    };
    if let Err(err) = result {
        tap.test("the program itself", Err(err));
    }
    tap.finish()
}
