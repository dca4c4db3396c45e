// SPDX-License-Identifier: GPL-2.0

//! The one tool of the project: builds kernels with userfaultfd in Rust and in C, boots them, and
//! tests them.

mod bench;
mod boot;
mod builder;
mod config;
mod configs;
mod conformance;
mod console;
mod coverage;
mod doctor;
mod exec;
mod fixes;
mod git;
mod guest;
mod lab;
mod litmus;
mod package;
mod patches;
mod protocol;
mod report;
mod run;
mod scratch;
mod series;
mod session;
mod source;
mod suites;
mod test;
#[cfg(test)]
mod uffd_trace;
mod ui;

use anyhow::Result;
use clap::{Parser, Subcommand};
use config::{Impl, Kernel};
use nix::sys::signal::{signal, SigHandler, Signal};
use session::Session;
use std::{path::PathBuf, process::ExitCode};

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
    /// Ask both kernels the questions of the conformance suite, and compare the answers.
    Conformance(conformance::Options),
    /// Find the lines of the implementation in Rust that no test runs.
    Coverage(coverage::Options),
    /// Measure the Rust and the C kernel, side by side.
    Bench(bench::Options),
    /// Build a kernel.
    Build {
        #[arg(long = "impl", value_enum, default_value = "rust")]
        imp: Impl,
    },
    /// Make Debian packages of the Rust kernel, with your own configuration.
    Package(package::Options),
    /// Boot a kernel, with this machine's files, and run a shell on it.
    #[command(visible_alias = "shell")]
    Boot(boot::Options),
    /// Boot a kernel with the lab as its root, run a command there, and end.
    ///
    /// The command finds the selftests in $out/selftests and the programs of this repository in
    /// $out/programs.
    Exec(exec::Options),
    /// Run the wait set in all orders of its threads, and make mistakes that this has to find.
    Protocol(protocol::Options),
    /// Run the litmus tests under herd7, and changes of them that have to make a difference.
    Litmus(litmus::Options),
    /// Make a git work tree with the series applied, to work in.
    Tree { directory: PathBuf },
    /// Bring the patches of the series up to date with the files of the repository.
    Series(series::Options),
    /// Build the objects of the series with options off, and for arm64.
    Configs(configs::Options),
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

fn main() -> ExitCode {
    // A reader that ends early, such as `head`, should not cause a backtrace.
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
    let session = Session::new(cli.verbose, cli.host_tools, cli.kdir)?;
    match cli.command {
        Task::Run => run::run(&session),
        Task::Test(options) => test::test(&session, &options),
        Task::Conformance(options) => conformance::conformance(&session, &options),
        Task::Coverage(options) => coverage::coverage(&session, &options),
        Task::Bench(options) => bench::bench(&session, &options),
        Task::Build { imp } => {
            let out = session.builder()?.kernel(Kernel::plain(imp))?;
            println!("{}", out.join("bzImage").display());
            Ok(())
        }
        Task::Package(options) => package::package(&session, &options),
        Task::Boot(options) => boot::boot(&session, &options),
        Task::Exec(options) => exec::exec(&session, &options),
        Task::Protocol(options) => protocol::protocol(&session, &options),
        Task::Litmus(options) => litmus::litmus(&session, &options),
        Task::Tree { directory } => series::tree(&session, &directory),
        Task::Series(options) => series::series(&session, &options),
        Task::Configs(options) => configs::configs(&session, &options),
        Task::Fixes(options) => fixes::fixes(&session, &options),
        Task::Doctor => doctor::doctor(&session),
        Task::Clean { all } => lab::clean(&session, all),
    }
}
