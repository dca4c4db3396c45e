// SPDX-License-Identifier: GPL-2.0

//! `uffd-bench native`: measures the time that operations take on a machine as it is, without
//! changing its settings, and within bounds of time and memory.
//!
//! The results are a table, and a file of JSON to send. What cannot be measured is in both of them,
//! with the reason.

mod access;
mod machine;
mod results;

use crate::{
    clock::Mode,
    measure,
    plan::{self, Case, Room},
    report::{Report, Row},
    uffd::{Backing, Resolution, Uffd, EVENTS, WAY},
    NOTHING,
};
use anyhow::{bail, ensure, Context, Result};
use linux_raw_sys::general as uapi;
use machine::Machine;
use nix::{
    fcntl::OFlag,
    sys::{
        prctl,
        resource::{getrusage, UsageWho},
        signal::{signal, SigHandler, Signal},
    },
    unistd::{dup2_stderr, dup2_stdout, pipe2},
};
use results::{NotMeasured, Parameters, Results, FORMAT};
use std::{
    fs::{self, File},
    io::{self, IsTerminal, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};
use uffd_guest::Child;

#[derive(clap::Args)]
pub struct Options {
    /// How long to measure, in seconds.
    #[arg(long, default_value = "60", value_parser = clap::value_parser!(u64).range(5..=3600))]
    seconds: u64,
    /// How much memory to use at most, in MiB.
    #[arg(long, default_value = "256", value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(32..=65536))]
    memory: u64,
    /// Only measures in whose progress this is shown, such as `writeprotect`.
    #[arg(long, value_name = "FILTER")]
    measure: Vec<String>,
    /// The directory for the results
    #[arg(long, default_value = ".", value_name = "DIRECTORY")]
    out: PathBuf,
}

/// How long a case may take longer than there is time, until it is given up.
const GRACE: Duration = Duration::from_secs(3);

/// What a thread that sleeps in a fault takes: stacks, objects of the kernel, and the pages that it
/// faults at.
const SLEEPER: usize = 128 << 10;

/// More than a file of results takes.
const ROOM_ON_DISK: usize = 512 << 10;

/// Writes a line to the standard output.
fn say(text: impl std::fmt::Display) -> Result<()> {
    writeln!(io::stdout(), "{text}")
        .context("cannot print: free some of the disk, or print elsewhere")
}

pub fn run(options: &Options) -> Result<()> {
    // A reader that ends early, such as `head`, should not cause a backtrace.
    // SAFETY: No handler is installed.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }?;
    let way = access::choose()?;
    WAY.get_or_init(|| way);
    let memory = machine::Memory::now()?;
    let bytes = (options.memory as usize) << 20;
    memory.require(bytes)?;
    let machine = Machine::new()?;
    let date = SystemTime::now();
    let path = place(options, &machine, date)?;
    // Whether there are huge pages would depend on the machine, and on chance.
    prctl::set_thp_disable(true).context("cannot do without transparent huge pages")?;
    Mode::Time.check()?;

    let known = |text: &Option<String>| text.clone().unwrap_or("unknown".into());
    say(format_args!(
        "Linux {} on {} CPUs ({}), hypervisor: {}\n\
         built with: {}\n\
         userfaultfd: implementation: {}, opened with {way}",
        machine.kernel,
        machine.cpus,
        known(&machine.cpu),
        machine.hypervisor,
        known(&machine.compiler),
        machine.implementation.unwrap_or("unknown"),
    ))?;
    let room = Room {
        cpus: machine.cpus,
        memory: bytes,
        huge_pages: memory.huge_pages,
    };
    let limits = Limits {
        room,
        features: Uffd::features(0)?,
        events: Uffd::features(EVENTS).is_ok(),
    };
    let mut results = Results {
        format: FORMAT,
        date: humantime::format_rfc3339_seconds(date).to_string(),
        machine,
        parameters: Parameters {
            seconds: options.seconds,
            memory_limit_mib: options.memory,
            huge_pages: memory.huge_pages,
            opened_with: way.to_string(),
        },
        seconds: 0.0,
        peak_memory_mib: 0,
        not_measured: Vec::new(),
        rows: Vec::new(),
    };
    let mut cases = plan::timed_cases(limits.room);
    plan::retain(&mut cases, &options.measure);
    ensure!(!cases.is_empty(), NOTHING);
    let failed = measure_all(&limits, cases, options.seconds, &mut results);
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let failed = failed?;
    if results.rows.is_empty() {
        let why = results.not_measured.first().map_or("", |first| &first.why);
        bail!("nothing could be measured: {why}");
    }
    let text = serde_json::to_string_pretty(&results)?;
    let written = fs::write(&path, text).inspect_err(|_| drop(fs::remove_file(&path)));
    // They are not lost if the disk is full by now.
    say(format_args!("\n{results}"))?;
    written.with_context(|| cannot_write(&path))?;
    say(format_args!("to send: {}", path.display()))?;
    if failed != 0 {
        bail!("{failed} could not be measured: please report them with the file, which says why");
    }
    Ok(())
}

fn cannot_write(path: &Path) -> String {
    format!(
        "cannot write {}: free some of the disk, or name another directory with --out",
        path.display()
    )
}

/// Returns the path of the results, if there is room for them.
fn place(options: &Options, machine: &Machine, date: SystemTime) -> Result<PathBuf> {
    let date = humantime::format_rfc3339_seconds(date).to_string();
    let name = format!(
        "userfaultfd-{}-{}.json",
        machine.kernel,
        date.replace(':', "")
    );
    let path = options.out.join(name);
    fs::create_dir_all(&options.out).with_context(|| cannot_write(&path))?;
    let tried = File::create_new(&path).and_then(|mut file| {
        let written = file.write_all(&vec![0; ROOM_ON_DISK]);
        written.and_then(|()| file.sync_all())
    });
    let _ = fs::remove_file(&path);
    tried.with_context(|| cannot_write(&path))?;
    Ok(path)
}

/// Measures all cases, and adds what was found. Returns how many failed that should not have.
fn measure_all(
    limits: &Limits,
    cases: Vec<Case>,
    seconds: u64,
    results: &mut Results,
) -> Result<usize> {
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let all = cases.len();
    let mut failed = 0;
    for (index, case) in cases.into_iter().enumerate() {
        let left = end.saturating_duration_since(Instant::now());
        let why = match limits.missing(case) {
            Some(why) => why,
            None if left.is_zero() => "the time was over: allow more with --seconds".into(),
            None => {
                progress(format_args!("[{}/{all}] {case}", index + 1))?;
                match in_child(case, left / (all - index) as u32, left + GRACE)? {
                    Ok((rows, peak)) => {
                        results.rows.extend(rows);
                        results.peak_memory_mib = results.peak_memory_mib.max(peak);
                        continue;
                    }
                    Err(why) => {
                        failed += 1;
                        why
                    }
                }
            }
        };
        let case = case.to_string();
        results.not_measured.push(NotMeasured { case, why });
    }
    results.seconds = start.elapsed().as_secs_f64();
    Ok(failed)
}

/// Shows what is done, on a line that is always the same if there is a terminal.
fn progress(text: impl std::fmt::Display) -> Result<()> {
    if io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
        return Ok(());
    }
    say(text)
}

/// The results of a case, and how much memory its process had at most, in MiB.
type Measured = (Vec<Row>, u64);

/// Measures a case in a process of its own, in about the time `share`. Returns the results, or the
/// reason why there are none.
fn in_child(case: Case, share: Duration, limit: Duration) -> Result<Result<Measured, String>> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("no pipe: raise `ulimit -n`")?;
    let until = Instant::now() + share;
    let child = Child::start(|| {
        let measured = dup2_stdout(&writer)
            .and_then(|()| dup2_stderr(&writer))
            .map_err(anyhow::Error::from)
            .and_then(|()| measure(case, &Report::new(Mode::Time, case, Some(until))?))
            .and_then(|()| {
                // What this program waits for may be children of cargo, too.
                println!(
                    "{PEAK}{}",
                    getrusage(UsageWho::RUSAGE_SELF)?.max_rss() >> 10
                );
                Ok(())
            });
        match measured {
            Ok(()) => 0,
            Err(err) => {
                eprintln!("{ERROR}{err:#}");
                1
            }
        }
    })
    .context("no process can be started: end others, or raise `ulimit -u`")?;
    drop(writer);
    let (output, status) = child.output(reader.into(), limit)?;
    let output = String::from_utf8_lossy(&output);
    let Some(status) = status else {
        return Ok(Err("it did not end in time".into()));
    };
    if status.signal() == Some(libc::SIGKILL) {
        bail!(
            "{case} was killed, maybe because memory ran out: end other programs, or say less \
             with --memory"
        );
    }
    Ok(
        match (
            output.lines().find_map(|line| line.strip_prefix(ERROR)),
            status.signal(),
        ) {
            (Some(err), _) => Err(err.into()),
            (None, Some(signal)) => Err(format!("it was ended by signal {signal}")),
            (None, None) => Ok(results_in(&output)
                .with_context(|| format!("{case}: these are no results: {output}"))?),
        },
    )
}

/// What the line starts with that says how much memory a child had at most.
const PEAK: &str = "peak: ";

/// Returns what the output of a child says.
fn results_in(output: &str) -> Result<Measured> {
    let (mut rows, mut peak) = (Vec::new(), None);
    for line in output.lines() {
        match line.strip_prefix(PEAK) {
            Some(number) => peak = Some(number.parse()?),
            None => rows.push(serde_json::from_str(line)?),
        }
    }
    Ok((rows, peak.context("the memory is not known")?))
}

/// What a line of a child starts with if the case failed.
const ERROR: &str = "error: ";

/// What this machine has to measure with.
struct Limits {
    room: Room,
    /// `UFFD_FEATURE_*` of the kernel.
    features: u64,
    /// Whether events may be asked for.
    events: bool,
}

impl Limits {
    /// Returns why a case cannot be measured here, if it cannot.
    fn missing(&self, case: Case) -> Option<String> {
        let needs = |(feature, name): (u32, &str)| {
            let has = self.features & u64::from(feature) != 0;
            (!has).then(|| format!("this kernel has no {name}"))
        };
        match case {
            Case::Ioctl {
                request, backing, ..
            } => feature(request.resolution(), backing).and_then(needs),
            Case::Faults {
                fault,
                faulting,
                pages,
                ..
            } => feature(Some(fault.resolution), fault.backing)
                .and_then(needs)
                .or_else(|| {
                    let missing = pages < faulting;
                    missing.then(|| match fault.backing {
                        Backing::Hugetlb => format!(
                            "there are {} free huge pages of 2 MiB: reserve some with `sysctl -w \
                             vm.nr_hugepages=32`, as root",
                            self.room.huge_pages
                        ),
                        _ => "too little memory: allow more with --memory".into(),
                    })
                }),
            Case::Event { .. } if !self.events => {
                Some("fork events need CAP_SYS_PTRACE: run this as root".into())
            }
            Case::UnrelatedResolve { sleepers } | Case::ResolveSleepers { sleepers, .. } => {
                let takes = sleepers * SLEEPER;
                let missing = takes > self.room.memory;
                missing.then(|| format!("it takes --memory {}", takes >> 20))
            }
            _ => None,
        }
    }
}

/// Returns the feature that a kernel needs to resolve faults in a way, or to protect pages.
fn feature(how: Option<Resolution>, backing: Backing) -> Option<(u32, &'static str)> {
    macro_rules! feature {
        ($name:ident) => {
            Some((uapi::$name, stringify!($name)))
        };
    }
    match (how, backing) {
        (Some(Resolution::Move), _) => feature!(UFFD_FEATURE_MOVE),
        (Some(Resolution::Poison), _) => feature!(UFFD_FEATURE_POISON),
        (Some(Resolution::Writeprotect) | None, Backing::Anon) => {
            feature!(UFFD_FEATURE_PAGEFAULT_FLAG_WP)
        }
        (Some(Resolution::Writeprotect) | None, _) => feature!(UFFD_FEATURE_WP_HUGETLBFS_SHMEM),
        (Some(Resolution::Continue), Backing::Hugetlb) => feature!(UFFD_FEATURE_MINOR_HUGETLBFS),
        (Some(Resolution::Continue), _) => feature!(UFFD_FEATURE_MINOR_SHMEM),
        (Some(Resolution::Copy | Resolution::Zeropage), Backing::Anon) => None,
        (Some(Resolution::Copy | Resolution::Zeropage), Backing::Shmem) => {
            feature!(UFFD_FEATURE_MISSING_SHMEM)
        }
        (Some(Resolution::Copy | Resolution::Zeropage), Backing::Hugetlb) => {
            feature!(UFFD_FEATURE_MISSING_HUGETLBFS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(features: u32) -> Limits {
        Limits {
            room: Room {
                cpus: 2,
                memory: 64 << 20,
                huge_pages: 0,
            },
            features: features.into(),
            events: false,
        }
    }

    #[test]
    fn the_memory_is_that_of_the_child() {
        let found = results_in("peak: 12\n").map(|(rows, peak)| (rows.len(), peak));
        assert_eq!(found.ok(), Some((0, 12)));
        assert!(results_in("").is_err());
        assert!(results_in("hello\npeak: 12\n").is_err());
    }

    #[test]
    fn what_is_missing_is_said() {
        let all = limits(u32::MAX);
        let old = limits(0);
        let mut reasons = std::collections::BTreeSet::new();
        let mut measured = 0;
        for case in plan::timed_cases(all.room) {
            reasons.extend(all.missing(case));
            measured += usize::from(old.missing(case).is_none());
        }
        let words = ["fork events", "free huge pages", "--memory 128"];
        assert_eq!(reasons.len(), words.len(), "{reasons:?}");
        for word in words {
            assert!(reasons.iter().any(|reason| reason.contains(word)), "{word}");
        }
        assert!(measured > 0);
        let of_move = feature(Some(Resolution::Move), Backing::Anon);
        assert_eq!(
            of_move,
            Some((uapi::UFFD_FEATURE_MOVE, "UFFD_FEATURE_MOVE"))
        );
    }
}
