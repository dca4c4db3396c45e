// SPDX-License-Identifier: GPL-2.0

//! Measures the userfaultfd of the kernel that it runs on, in a guest of its own and as root; or, with
//! [`native`], on a machine that does something else too.
//!
//! In a guest, each result is a line of JSON on the standard output. The progress is on the standard
//! error. If a case cannot be measured, that is an error, but the other cases are still measured. If
//! the kernel has nothing to measure it by, the case is skipped.

mod clock;
mod faults;
mod footprint;
mod ioctls;
mod native;
mod operations;
mod plan;
mod report;
mod sleepers;
mod threads;
mod timed;
mod uffd;

use anyhow::{bail, ensure, Result};
use clap::{Parser, Subcommand};
use clock::Mode;
use plan::{Case, Scope};
use report::Report;
use std::{
    env, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode},
    time::Instant,
};
use uffd_guest::Child;

#[derive(Parser)]
#[command(
    about,
    version,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(flatten)]
    options: Option<Options>,
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Subcommand)]
enum Task {
    /// Measure how long faults take on this machine, without changing its settings.
    Native(native::Options),
}

#[derive(clap::Args)]
struct Options {
    #[arg(long, value_enum, required = true)]
    mode: Mode,
    #[arg(long, value_enum, default_value = "full")]
    scope: Scope,
    /// Only measures for which `--list` shows a line with this in it.
    #[arg(long, value_name = "FILTER")]
    measure: Vec<String>,
    /// Say what there is to measure.
    #[arg(long)]
    list: bool,
    /// Change the settings of this machine as the measures need it: it is a guest that is thrown
    /// away afterwards.
    #[arg(long)]
    change_settings: bool,
}

/// How long a case may take in the time of the guest, in seconds.
const LIMIT: u32 = 300;

const NOTHING: &str = "there is nothing to measure that is called this way";

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (&cli.task, &cli.options) {
        (Some(Task::Native(options)), _) => native::run(options),
        (None, Some(options)) => run(options),
        (None, None) => Err(anyhow::anyhow!("say --mode, or native")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut cases = plan::cases(options.mode, options.scope);
    if options.scope == Scope::Check && options.measure.is_empty() {
        cases.retain(|case| case.is_for_tests());
    }
    plan::retain(&mut cases, &options.measure);
    if options.list {
        for case in &cases {
            println!("{case}");
        }
        return Ok(());
    }
    ensure!(!cases.is_empty(), NOTHING);
    disable_aslr()?;
    options.mode.check()?;
    ensure!(
        options.change_settings,
        "this needs other settings than machines have: run it in a guest, with --change-settings"
    );
    threads::prepare_machine()?;

    let mut failed = 0;
    for case in cases {
        if let Some(missing) = missing(case)? {
            eprintln!("{case}: skipped: {missing}");
            continue;
        }
        let start = Instant::now();
        match in_child(|| measure(case, &Report::new(options.mode, case, None)?)) {
            Ok(()) => eprintln!("{case}: {:.1} s", start.elapsed().as_secs_f64()),
            Err(err) => {
                eprintln!("error: {case}: {err:#}");
                failed += 1;
            }
        }
    }
    if failed != 0 {
        bail!("{failed} could not be measured");
    }
    Ok(())
}

/// Returns what the kernel lacks to measure a case.
fn missing(case: Case) -> Result<Option<&'static str>> {
    Ok(match case {
        Case::MmapLock(_) if faults::mmap_locks()?.is_none() => {
            Some("no vma_lock_retry in /proc/vmstat (CONFIG_PER_VMA_LOCK_STATS)")
        }
        Case::TracedFault(_) if !faults::has_tracepoints() => {
            Some("the kernel has no tracepoints of userfaultfd")
        }
        _ => None,
    })
}

/// Starts this program again without address space layout randomization, because the cost of fork
/// depends on the number of page tables, and that depends on the addresses.
fn disable_aslr() -> Result<()> {
    // SAFETY: This affects only programs that are started later.
    let before = unsafe { libc::personality(0xffff_ffff) };
    ensure!(before >= 0, io::Error::last_os_error());
    if before & libc::ADDR_NO_RANDOMIZE != 0 {
        return Ok(());
    }
    // SAFETY: As above.
    let ret = unsafe { libc::personality((before | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong) };
    ensure!(ret >= 0, io::Error::last_os_error());
    Err(Command::new("/proc/self/exe")
        .args(env::args_os().skip(1))
        .exec()
        .into())
}

/// Runs a case in a process of its own, so that it leaves nothing behind and has a time limit.
fn in_child(case: impl FnOnce() -> Result<()>) -> Result<()> {
    let child = Child::start(|| {
        // The child ends itself. Its parent could not, because it may get no CPU while the child
        // has a real-time priority.
        // SAFETY: No pointers are involved.
        unsafe { libc::alarm(LIMIT) };
        match case() {
            Ok(()) => 0,
            Err(err) => {
                eprintln!("error: {err:#}");
                1
            }
        }
    })?;
    let status = child.wait()?;
    // SAFETY: No pointers are involved. What the console still has to print would disturb the next
    // case. If there is no console, this does nothing.
    unsafe { libc::tcdrain(libc::STDOUT_FILENO) };
    match status.signal() {
        Some(libc::SIGALRM) => bail!("it took more than {LIMIT} s"),
        Some(signal) => bail!("it was ended by signal {signal}"),
        None => ensure!(status.success(), "it failed"),
    }
    Ok(())
}

fn measure(case: Case, report: &Report) -> Result<()> {
    if report.mode == Mode::PathLength {
        threads::run_in_order()?;
    }
    match case {
        Case::SingleFault(fault) => faults::single(fault, report),
        Case::TracedFault(fault) => faults::traced(fault, report),
        Case::MmapLock(fault) => faults::mmap_lock(fault, report),
        Case::Ioctl {
            request,
            backing,
            pages,
        } => ioctls::ioctl(request, backing, pages, report),
        Case::Bulk {
            request,
            backing,
            folios,
        } => ioctls::bulk(request, backing, folios, report),
        Case::UnrelatedResolve { sleepers } => sleepers::unrelated(sleepers, report),
        Case::ResolveSleepers {
            sleepers,
            exhaustive,
        } => sleepers::resolve(sleepers, exhaustive, report),
        Case::Latency { sleepers, faults } => sleepers::latency(sleepers, faults, report),
        Case::Waiters { waiting, waiters } => faults::waiters(waiting, waiters, report),
        Case::Load {
            faulting,
            handlers,
            descriptors,
        } => faults::load(faulting, handlers, descriptors, report),
        Case::Faults {
            fault,
            faulting,
            handlers,
            descriptors,
            pages,
        } => timed::faults(fault, faulting, handlers, descriptors, pages, report),
        Case::BatchedRead { messages } => sleepers::batched(messages, report),
        Case::Enqueue { threads } => sleepers::enqueue(threads, report),
        Case::Event { event } => operations::event(event, report),
        Case::Builtin { operation } => operations::builtin(operation, report),
        Case::Memory => footprint::memory(report),
    }
}
