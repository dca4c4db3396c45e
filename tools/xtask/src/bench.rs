// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask bench`: the costs of both implementations, side by side, and those of this machine's
//! own kernel.

mod compare;
mod native;
mod plot;
mod size;
mod stack;
mod targets;
mod tracepoints;

use crate::{
    builder::Builder,
    config::{Impl, Kernel},
    console,
    guest::{self, Accel, Guest},
    lab, ui, Session,
};
use anyhow::{bail, Context, Result};
use comfy_table::Table;
use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use targets::{Target, Verdict};

#[derive(clap::Args)]
pub struct Options {
    /// Fewer parameters, in a few minutes if the kernels are built.
    #[arg(long)]
    quick: bool,
    /// Only measures with this in their name, such as `waiters`.
    #[arg(long, value_name = "FILTER")]
    measure: Vec<String>,
    /// The directory for results and plots; target/bench or target/bench-native by default
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
    /// Measure the most important paths only, and fail if Rust is worse than C by more than the
    /// bound of the measure.
    #[arg(long, conflicts_with_all = ["quick", "measure", "out"])]
    check: bool,
    /// Measure the time of operations on this machine's own kernel, without a lab and a guest.
    #[arg(long, conflicts_with_all = ["quick", "check"])]
    native: bool,
    /// How long to measure; 60 seconds by default
    #[arg(long, requires = "native")]
    seconds: Option<u64>,
    /// How much memory to use at most; 256 MiB by default
    #[arg(long, requires = "native", value_name = "MIB")]
    memory: Option<u64>,
    /// Compare two files that --native wrote: tables, and plots.
    #[arg(long, num_args = 2, value_names = ["A", "B"],
          conflicts_with_all = ["quick", "measure", "check", "native"])]
    compare: Option<Vec<PathBuf>>,
}

impl Options {
    fn out(&self, session: &Session, default: &str) -> PathBuf {
        let default = || session.repo.join("target").join(default);
        self.out.clone().unwrap_or_else(default)
    }
}

/// Counting instructions, and counting operations per second.
const PATH_LENGTH: &str = "path-length";
const CONTENTION: &str = "contention";
/// The faults of one thread.
const FAULT: &str = "single-fault";
/// Inspecting the objects.
const BUILD: &str = "build";

/// How often path lengths and contention are measured on each kernel, unless `--quick` is given.
const PATH_LENGTH_RUNS: usize = 2;
const CONTENTION_RUNS: usize = 3;
/// How many CPUs there are for it, at most.
const CONTENTION_CPUS: usize = 16;
/// How many CPUs there have to be for its targets.
const ASSERTED_CPUS: usize = 8;

/// The measures of a test, and how much of C a test lets Rust take.
const BOUNDS: &[(&str, f64)] = &[
    (FAULT, 0.97),
    ("ioctl", 1.01),
    ("unrelated-resolve", 1.0),
    ("waiters", 1.01),
];

/// The first line of each file of results.
const LICENSE: &str = "<!-- SPDX-License-Identifier: GPL-2.0 -->";

/// The same for rows of which the targets demand nothing.
const BOUND_OF_EXCEPTIONS: f64 = 1.02;

/// How long a guest may take.
const LIMIT: Duration = Duration::from_secs(1800);

/// What a line of the benchmark program is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub mode: String,
    pub measure: String,
    pub params: BTreeMap<String, Value>,
    pub unit: String,
}

impl Key {
    /// Returns a parameter as text.
    pub fn param(&self, name: &str) -> Option<String> {
        self.params.get(name).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        })
    }

    /// Returns a parameter that is a number.
    pub fn number(&self, name: &str) -> Option<f64> {
        self.params.get(name)?.as_f64()
    }

    /// Returns all parameters as text, apart from one.
    pub fn params(&self, without: &str) -> String {
        let params = self.params.keys().filter(|name| *name != without);
        params
            .map(|name| format!("{name} {}", self.param(name).unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(flatten)]
    key: Key,
    value: f64,
}

/// The values of both kernels.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub key: Key,
    /// A value for each run.
    pub rust: Vec<f64>,
    pub c: Vec<f64>,
}

impl Row {
    pub fn values(&self, imp: Impl) -> &[f64] {
        match imp {
            Impl::Rust => &self.rust,
            Impl::C => &self.c,
        }
    }

    /// The median of the runs.
    pub fn median(&self, imp: Impl) -> Option<f64> {
        let mut sorted = self.values(imp).to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }

    /// The smallest and the largest value.
    pub fn range(&self, imp: Impl) -> Option<(f64, f64)> {
        let values = || self.values(imp).iter().copied();
        Some((values().reduce(f64::min)?, values().reduce(f64::max)?))
    }

    /// Rust divided by C.
    pub fn ratio(&self) -> Option<f64> {
        let (rust, c) = (self.median(Impl::Rust)?, self.median(Impl::C)?);
        (c != 0.0).then_some(rust / c)
    }
}

/// A benchmark and its results so far.
struct Bench<'a> {
    builder: &'a Builder<'a>,
    programs: PathBuf,
    rows: Vec<Row>,
    /// Why cases were skipped, and which.
    skipped: BTreeMap<String, BTreeSet<String>>,
    /// The version that the kernels print.
    release: String,
    /// The compilers of the kernels.
    compilers: String,
}

impl<'a> Bench<'a> {
    fn new(builder: &'a Builder<'a>) -> Result<Self> {
        Ok(Self {
            builder,
            programs: builder.programs()?,
            rows: Vec::new(),
            skipped: BTreeMap::new(),
            release: String::new(),
            compilers: String::new(),
        })
    }

    /// Adds a value to its row.
    fn add(&mut self, imp: Impl, key: Key, value: f64) {
        let known = self.rows.iter().position(|row| row.key == key);
        let index = known.unwrap_or_else(|| {
            let (rust, c) = Default::default();
            self.rows.push(Row { key, rust, c });
            self.rows.len() - 1
        });
        let row = &mut self.rows[index];
        match imp {
            Impl::Rust => row.rust.push(value),
            Impl::C => row.c.push(value),
        }
    }

    /// Runs the benchmark program once, on one kernel.
    fn run(
        &mut self,
        kernel: Kernel,
        mode: &str,
        accel: Accel,
        cpus: u32,
        args: &str,
    ) -> Result<()> {
        let imp = kernel.imp;
        let session = self.builder.session;
        let image = self.builder.kernel(kernel)?;
        let compilers = compilers(&fs::read_to_string(image.join("config"))?)?;
        if ![&compilers, ""].contains(&&self.compilers[..]) {
            bail!("the kernels have {compilers} and {}", self.compilers);
        }
        self.compilers = compilers;
        let share = session.share(&format!("bench-{}", kernel.name()), &[&self.programs])?;
        let guest = Guest {
            cpus,
            ..Guest::new(&self.builder.lab, &image, &share, accel)
        };
        let job = format!(
            "\"$out\"/programs/uffd-bench --mode {mode} --change-settings {args}\n\
             echo \"@@ exit $?\"\n"
        );
        let title = format!("Measuring the {mode} of {}", kernel.title());
        let outcome = session.ui.step(&title, |bar| {
            guest.run(&job, LIMIT, |line| {
                if session.ui.verbose {
                    println!("  | {line}");
                }
                bar.set_message(line.to_string());
            })
        })?;
        match guest::ready(&outcome.output) {
            Some((release, name)) if name == imp.name() => self.release = release.into(),
            _ => bail!("{} has another implementation", kernel.title()),
        }
        for line in outcome.output.lines().filter(|line| line.starts_with('{')) {
            let line: Line =
                serde_json::from_str(line).with_context(|| format!("this is no result: {line}"))?;
            self.add(imp, line.key, line.value);
        }
        let lines = outcome.output.lines();
        for (case, missing) in lines.filter_map(|line| line.split_once(": skipped: ")) {
            let cases = self.skipped.entry(missing.trim_end().into()).or_default();
            cases.insert(case.into());
        }
        console::refuse_complaints(&outcome.console, &kernel.title())?;
        if !outcome.output.lines().any(|line| line == "@@ exit 0") {
            let errors = outcome
                .output
                .lines()
                .filter(|line| line.contains("error:"));
            bail!(
                "uffd-bench failed on {}:\n{}",
                kernel.title(),
                errors.collect::<Vec<_>>().join("\n")
            );
        }
        Ok(())
    }

    /// Measures what the options ask for.
    fn measure(&mut self, options: &Options, accel: Accel, cpus: u32) -> Result<()> {
        let mut args = format!("--scope {}", if options.quick { "quick" } else { "full" });
        for filter in &options.measure {
            write!(args, " --measure {}", lab::quote(filter))?;
        }
        let wants = |name: &str| {
            let filters = &options.measure;
            filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))
        };
        let imps = [Impl::Rust, Impl::C];
        let runs = |most| if options.quick { 1 } else { most };
        for _ in 0..runs(PATH_LENGTH_RUNS) {
            for imp in imps {
                self.run(Kernel::plain(imp), PATH_LENGTH, Accel::Icount, 1, &args)?;
            }
        }
        if !options.quick && wants(FAULT) {
            tracepoints::measure(self)?;
        }
        if wants("load") || wants("enqueue") {
            for _ in 0..runs(CONTENTION_RUNS) {
                for imp in imps {
                    self.run(Kernel::plain(imp), CONTENTION, accel, cpus, &args)?;
                }
            }
        }
        if wants("memory") {
            for imp in imps {
                for (key, value) in size::measure(self.builder, imp)? {
                    self.add(imp, key, value);
                }
            }
        }
        Ok(())
    }

    /// A line about each reason why cases were skipped.
    fn skipped(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (missing, cases) in &self.skipped {
            let first = cases.first().map_or("", String::as_str);
            lines.push(format!(
                "{} skipped, such as {first}: {missing}",
                cases.len()
            ));
        }
        lines
    }

    /// Writes the results, with plots, to a directory.
    fn write(&self, out: &Path, about: &str, targets: &[Target]) -> Result<()> {
        let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
        let about = format!(
            "Linux {}, built with {}; {about} by `cargo xtask {command}`",
            self.release, self.compilers
        );
        fs::create_dir_all(out)?;
        let plots = plot::all(&self.rows, out)?;
        fs::write(
            out.join("results.json"),
            serde_json::to_string_pretty(&serde_json::json!({
                "about": about,
                "rows": self.rows,
                "targets": targets,
                "skipped": self.skipped,
            }))?,
        )?;
        let mut text = markdown(&about, &self.rows, &plots, targets)?;
        for line in self.skipped() {
            writeln!(text, "\n{line}")?;
        }
        Ok(fs::write(out.join("results.md"), text)?)
    }
}

/// Measures, and prints which targets were met. Fails if a measurement fails, but not if a target
/// is missed.
pub fn bench(session: &Session, options: &Options) -> Result<()> {
    if options.native {
        return native::measure(session, options);
    }
    if let Some([a, b]) = options.compare.as_deref() {
        return compare::compare([a, b], &options.out(session, "bench-native"));
    }
    let builder = session.builder()?;
    if options.check {
        let found = check(&builder)?;
        println!("{}", found.summary);
        if !found.problems.is_empty() {
            bail!("Rust is worse than C:\n  {}", found.problems.join("\n  "));
        }
        return Ok(());
    }
    let mut bench = Bench::new(&builder)?;
    let rust = builder.kernel(Kernel::plain(Impl::Rust))?;
    builder.kernel(Kernel::plain(Impl::C))?;
    let accel = session.accel(&builder.lab, &rust)?;
    let cpus = std::thread::available_parallelism()?.get();
    let asserted = accel == Accel::Kvm && cpus >= ASSERTED_CPUS;
    let guest_cpus = cpus.clamp(2, CONTENTION_CPUS) as u32;

    let start = Instant::now();
    bench.measure(options, accel, guest_cpus)?;
    let about = format!(
        "path lengths on 1 CPU under icount, contention on {guest_cpus} CPUs under {accel:?}; made in \
         {}",
        ui::duration(start.elapsed())
    );
    let out = options.out(session, "bench");
    let targets = targets::judge(&bench.rows, asserted);
    bench.write(&out, &about, &targets)?;
    println!("\n{}", targets_table(&targets));
    for line in bench.skipped() {
        println!("{line}");
    }
    println!("results:    {}", out.join("results.md").display());
    println!("total time: {}", ui::duration(start.elapsed()));
    Ok(())
}

/// The result of [`check`].
pub struct Check {
    /// What is to be said about all of it.
    pub summary: String,
    /// The paths that are longer than their bounds, or could not be measured.
    pub problems: Vec<String>,
}

/// Returns how much of C a test lets Rust take.
fn bound(row: &Row) -> Option<f64> {
    if targets::is_exception(row) {
        return Some(BOUND_OF_EXCEPTIONS);
    }
    let mut bounds = BOUNDS.iter();
    let (_, bound) = bounds.find(|(name, _)| *name == row.key.measure)?;
    Some(*bound)
}

/// Compares the lengths of the most important paths, for a test.
pub fn check(builder: &Builder) -> Result<Check> {
    let mut bench = Bench::new(builder)?;
    for imp in [Impl::Rust, Impl::C] {
        let kernel = Kernel::plain(imp);
        bench.run(kernel, PATH_LENGTH, Accel::Icount, 1, "--scope check")?;
    }
    let mut problems = Vec::new();
    let mut worst = (0.0, String::from("nothing"));
    for row in &bench.rows {
        let title = format!("{} ({})", row.key.measure, row.key.params(""));
        let Some(ratio) = row.ratio() else {
            problems.push(format!("{title}: not measured on both kernels"));
            continue;
        };
        match bound(row) {
            Some(bound) if ratio <= bound => (),
            Some(bound) => problems.push(format!("{title}: {ratio:.3} x C, more than {bound}")),
            None => problems.push(format!("{title}: there is no bound of this measure")),
        }
        if ratio > worst.0 {
            worst = (ratio, title);
        }
    }
    for target in targets::judge(&bench.rows, false) {
        let missed = match target.measure {
            "single-fault" | "ioctl" => target.verdict == Verdict::NotMeasured,
            // With 16,384 threads it takes too long for a test.
            "unrelated-resolve" => target.verdict == Verdict::Missed,
            "waiters" => target.verdict != Verdict::Met,
            _ => false,
        };
        if missed {
            let Target {
                measure,
                what,
                verdict,
                found,
                ..
            } = target;
            problems.push(format!("{measure}: {what}: {verdict}: {found}"));
        }
    }
    Ok(Check {
        summary: format!(
            "path lengths: {} measured, the worst is {:.3} x C: {}\n\
             compilers of the kernels: {}",
            bench.rows.len(),
            worst.0,
            worst.1,
            bench.compilers
        ),
        problems,
    })
}

/// Returns the compilers that a configuration names, without what distributions add in parentheses.
fn compilers(config: &str) -> Result<String> {
    let added = Regex::new(r" \([^)]*\)")?;
    let version = |name: &str| {
        let mut lines = config.lines();
        let text = lines
            .find_map(|line| {
                line.strip_prefix(name)?
                    .strip_prefix("=\"")?
                    .strip_suffix('"')
            })
            .with_context(|| format!("the configuration has no {name}"))?;
        anyhow::Ok(added.replace_all(text, ""))
    };
    Ok(format!(
        "{} and {}",
        version("CONFIG_CC_VERSION_TEXT")?,
        version("CONFIG_RUSTC_VERSION_TEXT")?
    ))
}

/// Formats a value with three digits or more.
fn number(value: f64) -> String {
    if value.fract().abs() < 1e-9 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// Formats the median, and the spread if there are several runs.
fn value(row: &Row, imp: Impl) -> String {
    match (row.median(imp), row.range(imp)) {
        (Some(median), Some((low, high))) if low != high => {
            format!("{} ({} to {})", number(median), number(low), number(high))
        }
        (Some(median), _) => number(median),
        (None, _) => "-".into(),
    }
}

fn targets_table(targets: &[Target]) -> Table {
    let mut table = ui::table(["measure", "mode", "target", "", "found"]);
    for target in targets {
        table.add_row([
            target.measure,
            target.mode,
            &target.what,
            &target.verdict.to_string(),
            &target.found,
        ]);
    }
    table
}

fn markdown(about: &str, rows: &[Row], plots: &[String], targets: &[Target]) -> Result<String> {
    let mut text = format!("{LICENSE}\n# userfaultfd in Rust and in C\n\n{about}\n\n");
    writeln!(text, "## Targets\n\n{}\n", targets_table(targets))?;
    for plot in plots {
        writeln!(text, "![{plot}]({plot}.svg)\n")?;
    }
    writeln!(text, "## Results\n")?;
    let mut table = ui::table([
        "mode",
        "measure",
        "parameters",
        "unit",
        "Rust",
        "C",
        "Rust / C",
    ]);
    for row in rows {
        table.add_row([
            row.key.mode.clone(),
            row.key.measure.clone(),
            row.key.params(""),
            row.key.unit.clone(),
            value(row, Impl::Rust),
            value(row, Impl::C),
            row.ratio()
                .map_or("-".into(), |ratio| format!("{ratio:.3}")),
        ]);
    }
    writeln!(text, "{table}")?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_are_named() -> Result<()> {
        let rustc = "CONFIG_RUSTC_VERSION_TEXT=\"rustc 1.85.1 (4eb 2025-03-15) (source)\"\n";
        for (text, name) in [
            (
                "Debian clang version 19.1.7 (3+b1)",
                "Debian clang version 19.1.7",
            ),
            ("gcc (Debian 14.2.0-19) 14.2.0", "gcc 14.2.0"),
        ] {
            let config = format!("CONFIG_CC_VERSION_TEXT=\"{text}\"\n{rustc}");
            assert_eq!(compilers(&config)?, format!("{name} and rustc 1.85.1"));
        }
        assert!(compilers(rustc).is_err());
        Ok(())
    }
}
