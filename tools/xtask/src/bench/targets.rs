// SPDX-License-Identifier: GPL-2.0

//! The targets of the benchmark.

use super::{size::FRAMES, tracepoints, Row, BUILD, CONTENTION, PATH_LENGTH};
use crate::config::Impl;
use serde::Serialize;
use std::{cmp::Ordering, collections::BTreeMap, fmt};

/// How much a value may differ from another that should be the same.
const REPEATABLE: f64 = 1.01;
/// How much of C a fault takes at most, and one by a read that is resolved by these.
const FAULT: f64 = 0.94;
const READ_FAULT: f64 = 0.90;
const READ_FAULTS: &[&str] = &["zeropage", "continue"];
/// How much of C a fault takes at most if each thread that faults has a descriptor.
const LOAD_EACH: f64 = 0.95;
/// How much a process that does not use userfaultfd may differ from one on the C kernel.
const BUILTIN: f64 = 0.002;
/// How many instructions of a fault are for tracepoints, while they are off.
const OFF: f64 = 5.0;
/// How many instructions a page takes at most in a request for all pages of a page table, if entries
/// in a row are set together: by request and folios. Pages of zeroes are added to a file one by one.
const BULK: &[(&str, &str, f64)] = &[
    ("poison", "single", 40.0),
    ("zeropage", "single", 40.0),
    ("continue", "single", 600.0),
    ("continue", "huge", 80.0),
    ("copy", "64k", 780.0),
    ("copy", "huge", 620.0),
];
/// How much of C a page takes otherwise.
const BULK_OTHERS: f64 = 1.02;
/// How many bytes of stack more than C an operation takes at most.
const STACK: f64 = 64.0;
/// How much longer the slowest faults may take while very many threads sleep.
const LATENCY: f64 = 1.2;
/// How many threads sleep then, and with how many it is compared.
const LATENCY_SLEEPERS: (f64, f64) = (4096.0, 1.0);
/// The quantile of the slowest faults.
const SLOWEST: &str = "p99.9";
/// Rows of which no ratio is demanded, by measure and parameters, and why.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "single-fault",
        "access read, backing hugetlb, resolution copy",
        HUGE,
    ),
    (
        "single-fault",
        "access write, backing hugetlb, resolution copy",
        HUGE,
    ),
    (
        "single-fault",
        "access write, backing anon, resolution zeropage",
        AGAIN,
    ),
    (
        "single-fault",
        "access write, backing shmem, resolution writeprotect",
        AGAIN,
    ),
    (
        "single-fault",
        "access write, backing hugetlb, resolution writeprotect",
        AGAIN,
    ),
    (
        "single-fault",
        "access write, backing anon, resolution poison",
        AGAIN,
    ),
    (
        "single-fault",
        "access write, backing shmem, resolution poison",
        AGAIN,
    ),
    (
        "single-fault",
        "access write, backing hugetlb, resolution poison",
        AGAIN,
    ),
    (
        "mmap-lock",
        "access write, backing anon, resolution zeropage",
        AGAIN,
    ),
    (
        "mmap-lock",
        "access write, backing shmem, resolution writeprotect",
        AGAIN,
    ),
    (
        "mmap-lock",
        "access write, backing hugetlb, resolution writeprotect",
        AGAIN,
    ),
];
const HUGE: &str = "2 MiB are copied";
const AGAIN: &str = "what the waker did leaves the access to the fault, which is taken again";
/// How much a value that is flat may change.
const FLAT: f64 = 1.1;
/// How many times as many instructions C takes at least with so many sleeping threads.
const AHEAD: &[(f64, f64)] = &[(1024.0, 5.0), (16384.0, 50.0)];
/// From how many threads on it counts when all are woken at once.
const MANY: f64 = 64.0;
/// From how many faulting threads on Rust is ahead.
const AHEAD_FROM: f64 = 8.0;
/// How much of its peak the throughput keeps.
const OF_PEAK: f64 = 0.9;
/// How many bytes of the slab may come from something else that happens meanwhile.
const UNRELATED_BYTES: f64 = 8.0;

#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Met,
    Missed,
    /// It could not be shown on this machine.
    NotAsserted,
    /// The user did not ask for it, or the kernel has no such result.
    NotMeasured,
    /// It has no bound.
    NoTarget,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::NotAsserted => "not asserted",
            Self::NotMeasured => "not measured",
            Self::NoTarget => "no target",
        })
    }
}

#[derive(Debug, Serialize)]
pub struct Target {
    /// The name of the measure, or "all".
    pub measure: &'static str,
    pub mode: &'static str,
    pub what: String,
    pub verdict: Verdict,
    pub found: String,
}

/// A value that is compared, and the name of its row.
struct Found {
    name: String,
    value: f64,
}

impl Found {
    /// The value of a row for Rust.
    fn in_rust(name: String, row: &Row) -> Option<Self> {
        let value = row.median(Impl::Rust)?;
        Some(Self { name, value })
    }
}

/// A bound of values.
#[derive(Copy, Clone)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// Differs from 1 by at most so much.
    Near(f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound:.2}"),
            Self::AtLeast(bound) => write!(f, "at least {bound:.2}"),
            Self::Near(bound) => write!(f, "1.000 +- {bound:.3}"),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
            Self::Near(bound) => (1.0 - bound..=1.0 + bound).contains(&value),
        }
    }

    /// Compares values by how bad they are.
    fn worse(self, a: f64, b: f64) -> Ordering {
        match self {
            Self::AtMost(_) => a.total_cmp(&b),
            Self::AtLeast(_) => b.total_cmp(&a),
            Self::Near(_) => (a - 1.0).abs().total_cmp(&(b - 1.0).abs()),
        }
    }
}

/// Judges values by a bound. The worst is reported.
fn judge_by(
    measure: &'static str,
    mode: &'static str,
    what: String,
    bound: Bound,
    found: Vec<Found>,
) -> Target {
    let bad = found
        .iter()
        .filter(|found| !bound.holds(found.value))
        .count();
    let worst = found.iter().max_by(|a, b| bound.worse(a.value, b.value));
    Target {
        measure,
        mode,
        what,
        verdict: match (worst, bad) {
            (None, _) => Verdict::NotMeasured,
            (Some(_), 0) => Verdict::Met,
            (Some(_), _) => Verdict::Missed,
        },
        found: match worst {
            Some(worst) if bad == 0 => format!("worst: {:.3} {}", worst.value, worst.name),
            Some(worst) => format!(
                "{bad} of {} miss it, worst: {:.3} {}",
                found.len(),
                worst.value,
                worst.name
            ),
            None => String::new(),
        },
    }
}

/// Rows of a measure, by the parameters other than the one that grows.
type Curves<'a> = BTreeMap<String, Vec<(f64, &'a Row)>>;

fn curves<'a>(rows: &[&'a Row], param: &str) -> Curves<'a> {
    let mut curves = Curves::new();
    for row in rows {
        if let Some(x) = row.key.number(param) {
            curves
                .entry(row.key.params(param))
                .or_default()
                .push((x, row));
        }
    }
    curves
}

/// The largest cost of each curve for Rust, divided by that at its beginning.
fn growth(curves: &Curves<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (name, points) in curves {
        let costs: Vec<f64> = points
            .iter()
            .filter_map(|(_, row)| row.median(Impl::Rust))
            .collect();
        if let ([first, .., _], Some(most)) = (&costs[..], costs.iter().copied().reduce(f64::max)) {
            found.push(Found {
                name: name.clone(),
                value: most / first,
            });
        }
    }
    found
}

/// Whether no ratio is demanded of a row.
pub fn is_exception(row: &Row) -> bool {
    let params = row.key.params("");
    let mut exceptions = EXCEPTIONS.iter();
    exceptions.any(|(measure, of, _)| *measure == row.key.measure && *of == params)
}

/// Takes rows away that are exceptions, and returns what is to be said about them.
fn take_exceptions(
    measure: &str,
    rows: &mut Vec<&Row>,
    exceptions: &[(&str, &str, &str)],
) -> Vec<String> {
    let mut reasons = Vec::new();
    rows.retain(|row| {
        let params = row.key.params("");
        let mut known = exceptions.iter();
        let known = known.find(|(name, of, _)| *name == measure && *of == params);
        if let Some((_, _, why)) = known {
            reasons.push(format!("; without {params}: {why}"));
        }
        known.is_none()
    });
    reasons
}

/// Judges Rust divided by C, for rows that are no exceptions.
fn compared(measure: &'static str, what: &str, bound: Bound, mut rows: Vec<&Row>) -> Target {
    let reasons = take_exceptions(measure, &mut rows, EXCEPTIONS);
    let mut target = judge_by(measure, PATH_LENGTH, what.into(), bound, ratios(&rows));
    target.found.extend(reasons);
    target
}

/// Returns Rust divided by C for each row.
fn ratios(rows: &[&Row]) -> Vec<Found> {
    let found = |row: &&Row| {
        let name = format!("{} {}", row.key.measure, row.key.params(""));
        Some(Found {
            name,
            value: row.ratio()?,
        })
    };
    rows.iter().filter_map(found).collect()
}

/// How much the runs of each row differ, for rows that count instructions.
fn spreads(rows: &[&Row]) -> Vec<Found> {
    let mut found = Vec::new();
    for row in rows {
        if row.key.mode != PATH_LENGTH || !row.key.unit.starts_with("instructions") {
            continue;
        }
        for imp in [Impl::Rust, Impl::C] {
            if let ([_, _, ..], Some((low, high))) = (row.values(imp), row.range(imp)) {
                found.push(Found {
                    name: format!("{} {}, {}", row.key.measure, row.key.params(""), imp.name()),
                    value: high / low,
                });
            }
        }
    }
    found
}

/// Whether the name of the way in which threads are woken has a text in it.
fn has(row: &Row, how: &str) -> bool {
    row.key.param("how").is_some_and(|name| name.contains(how))
}

/// Returns the rows in which a parameter is not less than a number.
fn at_least<'a>(mut rows: Vec<&'a Row>, param: &str, least: f64) -> Vec<&'a Row> {
    rows.retain(|row| row.key.number(param).is_some_and(|n| n >= least));
    rows
}

/// Judges how much less Rust takes than C, with many sleeping threads.
fn ahead(measure: &'static str, what: &str, rows: &[&Row]) -> Vec<Target> {
    let target = |&(sleepers, times): &(f64, f64)| {
        let found = rows
            .iter()
            .filter(|row| row.key.number("sleepers") == Some(sleepers))
            .filter_map(|row| {
                Some(Found {
                    name: row.key.params("sleepers"),
                    value: 1.0 / row.ratio()?,
                })
            });
        judge_by(
            measure,
            PATH_LENGTH,
            format!("{what}{times} x fewer instructions than C at {sleepers}"),
            Bound::AtLeast(times),
            found.collect(),
        )
    };
    AHEAD.iter().map(target).collect()
}

/// Judges all targets. `asserted` tells whether this machine can show contention.
pub fn judge(rows: &[Row], asserted: bool) -> Vec<Target> {
    let results = Results(rows);
    let mut targets = vec![judge_by(
        "all",
        PATH_LENGTH,
        format!("two runs differ by at most {REPEATABLE} x"),
        Bound::AtMost(REPEATABLE),
        spreads(&rows.iter().collect::<Vec<_>>()),
    )];
    targets.extend(single_fault(&results));
    targets.push(mmap_lock(&results));
    targets.push(tracepoints_off(&results));
    targets.extend(bulk(&results));
    let measures = [
        ("ioctl", Bound::AtMost(1.0)),
        ("event", Bound::AtMost(REPEATABLE)),
        ("builtin", Bound::Near(BUILTIN)),
    ];
    targets.extend(measures.map(|(measure, bound)| {
        let what = format!("{bound} x the instructions of C");
        compared(measure, &what, bound, results.path(measure))
    }));
    targets.push(latency(&results));
    targets.extend(unrelated_resolve(&results));
    targets.extend(resolve_sleepers(&results));
    targets.push(waiters(&results));
    targets.extend(load(&results));
    targets.extend(contention(&results, asserted));
    targets.extend(memory(rows));
    targets
}

/// All rows.
struct Results<'a>(&'a [Row]);

impl<'a> Results<'a> {
    fn of(&self, mode: &str, measure: &str, unit: &str) -> Vec<&'a Row> {
        let fits = |row: &&Row| {
            row.key.mode == mode && row.key.measure == measure && row.key.unit.starts_with(unit)
        };
        self.0.iter().filter(fits).collect()
    }

    /// The rows of a measure that count instructions.
    fn path(&self, measure: &str) -> Vec<&'a Row> {
        self.of(PATH_LENGTH, measure, "instructions")
    }
}

fn single_fault(results: &Results) -> [Target; 2] {
    let measure = "single-fault";
    let rows = results.path(measure);
    let mut reads = rows.clone();
    reads.retain(|row| {
        let is = |name, values: &[&str]| {
            let value = row.key.param(name);
            value.is_some_and(|value| values.contains(&value.as_str()))
        };
        is("access", &["read"]) && is("resolution", READ_FAULTS)
    });
    let parts = [
        ("", FAULT, rows),
        ("reads, zeropage and continue: ", READ_FAULT, reads),
    ];
    parts.map(|(part, bound, rows)| {
        let bound = Bound::AtMost(bound);
        let what = format!("{part}{bound} x the instructions of C");
        compared(measure, &what, bound, rows)
    })
}

/// Judges how often a fault that was resolved takes the lock, of which C takes it once.
fn mmap_lock(results: &Results) -> Target {
    let measure = "mmap-lock";
    let rows = results.of(PATH_LENGTH, measure, "mmap_lock acquisitions");
    let what = "the mmap_lock is not taken after the fault was resolved";
    compared(measure, what, Bound::AtMost(0.0), rows)
}

/// Judges what tracepoints take while they are off, in instructions for a fault.
fn tracepoints_off(results: &Results) -> Target {
    let rows = results.path(tracepoints::OFF).into_iter();
    let found = rows.filter_map(|row| Found::in_rust(row.key.params(""), row));
    let bound = Bound::AtMost(OFF);
    let what = format!("{bound} instructions for a fault");
    judge_by(tracepoints::OFF, PATH_LENGTH, what, bound, found.collect())
}

/// Judges requests for all pages of a page table.
fn bulk(results: &Results) -> Vec<Target> {
    let measure = "bulk";
    let mut others = results.path(measure);
    let mut targets = Vec::new();
    for &(request, folios, instructions) in BULK {
        let (rows, rest) = others.into_iter().partition(|row: &&Row| {
            let is = |name, value: &str| row.key.param(name).as_deref() == Some(value);
            let adds = request == "zeropage" && is("backing", "shmem");
            is("request", request) && is("folios", folios) && !adds
        });
        others = rest;
        let bound = Bound::AtMost(instructions);
        let what = format!("{request}, {folios} folios: {bound} instructions for a page");
        let rows: Vec<&Row> = rows;
        let found = rows
            .into_iter()
            .filter_map(|row| Found::in_rust(row.key.params(""), row));
        targets.push(judge_by(measure, PATH_LENGTH, what, bound, found.collect()));
    }
    let bound = Bound::AtMost(BULK_OTHERS);
    let what = format!("others: {bound} x the instructions of C");
    targets.push(compared(measure, &what, bound, others));
    targets
}

/// Judges the slowest faults by those with few threads asleep.
fn latency(results: &Results) -> Target {
    let measure = "latency";
    let (many, few) = LATENCY_SLEEPERS;
    let rows = results.path(measure);
    let with = |sleepers| {
        let mut rows = rows.iter().filter(|row| {
            row.key.number("sleepers") == Some(sleepers)
                && row.key.param("quantile").as_deref() == Some(SLOWEST)
        });
        rows.next()?.median(Impl::Rust)
    };
    let value = with(many).zip(with(few)).map(|(many, few)| many / few);
    let found = value.map(|value| Found {
        name: SLOWEST.into(),
        value,
    });
    judge_by(
        measure,
        PATH_LENGTH,
        format!("{SLOWEST} at {many} at most {LATENCY} x that at {few}"),
        Bound::AtMost(LATENCY),
        found.into_iter().collect(),
    )
}

/// Judges whether a cost stays the same when more threads sleep.
fn flat(measure: &'static str, what: &str, rows: &[&Row]) -> Target {
    judge_by(
        measure,
        PATH_LENGTH,
        format!("{what}flat in N, at most {FLAT} x the cost of the fewest"),
        Bound::AtMost(FLAT),
        growth(&curves(rows, "sleepers")),
    )
}

fn unrelated_resolve(results: &Results) -> Vec<Target> {
    let measure = "unrelated-resolve";
    let rows = results.path(measure);
    let mut targets = vec![flat(measure, "", &rows)];
    targets.extend(ahead(measure, "", &rows));
    targets
}

fn resolve_sleepers(results: &Results) -> Vec<Target> {
    let measure = "resolve-sleepers";
    let rows = results.path(measure).into_iter();
    let (at_once, one_by_one): (Vec<&Row>, Vec<&Row>) = rows.partition(|row| has(row, "wake"));
    let (last, first): (Vec<&Row>, Vec<&Row>) =
        one_by_one.iter().partition(|row| has(row, "to the last"));
    let mut targets = vec![flat(measure, "one by one: ", &one_by_one)];
    targets.extend(ahead(measure, "while N sleep: ", &first));
    // Half of the threads sleep on average, so C takes less, and the copy itself is the same.
    targets.extend(ahead(measure, "to the last of them: ", &last));
    // With fewer threads it is the ioctl that is measured.
    let many = at_least(at_once.clone(), "sleepers", MANY);
    targets.push(flat(measure, "at once, for each thread: ", &many));
    let mut all = at_once;
    all.retain(|row| has(row, "wake all"));
    let bound = Bound::AtMost(1.0);
    let what = format!("all at once, for each thread: {bound} x the instructions of C");
    targets.push(compared(measure, &what, bound, all));
    targets
}

fn waiters(results: &Results) -> Target {
    let measure = "waiters";
    let switches = results
        .of(PATH_LENGTH, measure, "context switches")
        .into_iter()
        .filter(|row| {
            matches!(
                row.key.param("waiting").as_deref(),
                Some("read" | "epoll-exclusive")
            )
        })
        .filter_map(|row| Found::in_rust(row.key.params(""), row));
    judge_by(
        measure,
        PATH_LENGTH,
        "one context switch per fault, in read and with EPOLLEXCLUSIVE".into(),
        Bound::AtMost(REPEATABLE),
        switches.collect(),
    )
}

fn load(results: &Results) -> Vec<Target> {
    let measure = "load";
    let rows = results.path(measure);
    let mut targets = vec![judge_by(
        measure,
        PATH_LENGTH,
        format!("instructions flat in V, at most {FLAT} x those at V = 1"),
        Bound::AtMost(FLAT),
        growth(&curves(&rows, "faulting")),
    )];
    let (one, each): (Vec<&Row>, Vec<&Row>) = rows
        .into_iter()
        .partition(|row| row.key.param("descriptors").as_deref() == Some("one"));
    let what = format!("one descriptor: fewer instructions than C from V = {AHEAD_FROM} on");
    let one = at_least(one, "faulting", AHEAD_FROM);
    let bound = Bound::AtMost(1.0);
    targets.push(compared(measure, &what, bound, one));
    let bound = Bound::AtMost(LOAD_EACH);
    let what = format!("a descriptor each: {bound} x the instructions of C");
    targets.push(compared(measure, &what, bound, each));
    targets
}

fn memory(rows: &[Row]) -> Vec<Target> {
    let measure = "memory";
    let of_what = |what: &'static str| {
        let fits = move |row: &&Row| row.key.param("what").is_some_and(|name| name == what);
        rows.iter().filter(fits)
    };
    let both = |row: &Row| {
        let bytes = |imp| row.median(imp).unwrap_or(f64::NAN);
        format!(
            "{:.0} in Rust, {:.0} in C",
            bytes(Impl::Rust),
            bytes(Impl::C)
        )
    };
    // These have no bounds.
    let known = [
        ("stack of a sleeping thread", FRAMES, "whole stack frame: "),
        (
            "slab of a descriptor",
            "descriptor, of 10,000",
            "slab for each of 10,000 descriptors: ",
        ),
    ];
    let mut targets = Vec::from(known.map(|(what, name, found)| {
        let row = of_what(name).next();
        Target {
            measure,
            mode: BUILD,
            what: what.into(),
            verdict: row.map_or(Verdict::NotMeasured, |_| Verdict::NoTarget),
            found: row.map_or(String::new(), |row| format!("{found}{}", both(row))),
        }
    }));
    for row in rows {
        let what = row.key.param("what").unwrap_or_default();
        let (Some(rust), Some(c)) = (row.median(Impl::Rust), row.median(Impl::C)) else {
            continue;
        };
        if what.starts_with("stack of UFFDIO_") {
            let verdict = if rust <= c + STACK {
                Verdict::Met
            } else {
                Verdict::Missed
            };
            targets.push(Target {
                measure,
                mode: BUILD,
                what: format!("{what}: at most {STACK} bytes more than C"),
                verdict,
                found: both(row),
            });
        }
    }
    let heap = of_what("heap of a sleeping thread");
    targets.push(judge_by(
        measure,
        PATH_LENGTH,
        "no heap for a sleeping thread (objects of the slab, bytes)".into(),
        Bound::AtMost(UNRELATED_BYTES),
        heap.filter_map(|row| Found::in_rust(row.key.params(""), row))
            .collect(),
    ));
    targets
}

/// Judges the throughput.
fn contention(results: &Results, asserted: bool) -> Vec<Target> {
    let measure = "load";
    let rows = results.of(CONTENTION, measure, "faults");
    let mut kept = Vec::new();
    for (name, points) in curves(&rows, "faulting") {
        let rates: Vec<f64> = points
            .iter()
            .filter_map(|(_, row)| row.median(Impl::Rust))
            .collect();
        let mut peak = 0.0_f64;
        let mut worst = f64::INFINITY;
        for rate in rates {
            peak = peak.max(rate);
            worst = worst.min(rate / peak);
        }
        kept.push(Found { name, value: worst });
    }
    let many = at_least(rows, "faulting", AHEAD_FROM);
    let mut targets = vec![
        judge_by(
            measure,
            CONTENTION,
            format!("throughput keeps {OF_PEAK} of its own peak as V grows"),
            Bound::AtLeast(OF_PEAK),
            kept,
        ),
        judge_by(
            measure,
            CONTENTION,
            format!("throughput ahead of C from V = {AHEAD_FROM} on"),
            Bound::AtLeast(1.0),
            ratios(&many),
        ),
    ];
    for target in &mut targets {
        if !asserted && target.verdict != Verdict::NotMeasured {
            target.verdict = Verdict::NotAsserted;
            target.found = format!("takes KVM and 8 CPUs; {}", target.found);
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Key;
    use serde_json::Value;

    fn row_with(measure: &str, params: &[(&str, Value)], rust: f64, c: f64) -> Row {
        let params = params.iter();
        Row {
            key: Key {
                mode: PATH_LENGTH.into(),
                measure: measure.into(),
                params: params
                    .map(|(name, value)| ((*name).into(), value.clone()))
                    .collect(),
                unit: "instructions".into(),
            },
            rust: vec![rust],
            c: vec![c],
        }
    }

    fn row(measure: &str, sleepers: u64, rust: f64, c: f64) -> Row {
        row_with(measure, &[("sleepers", sleepers.into())], rust, c)
    }

    fn verdicts(rows: &[Row], measure: &str) -> Vec<Verdict> {
        let targets = judge(rows, false);
        let of = targets.iter().filter(|target| target.measure == measure);
        of.map(|target| target.verdict).collect()
    }

    #[test]
    fn targets_of_sleepers() {
        use Verdict::{Met, Missed, NotMeasured};
        let rows = |last| {
            let name = "unrelated-resolve";
            [
                row(name, 1, 100.0, 100.0),
                row(name, 1024, 100.0, 600.0),
                row(name, 16384, last, 6000.0),
            ]
        };
        assert_eq!(verdicts(&rows(109.0), "unrelated-resolve"), [Met, Met, Met]);
        assert_eq!(
            verdicts(&rows(121.0), "unrelated-resolve"),
            [Missed, Met, Missed]
        );
        assert_eq!(verdicts(&[], "unrelated-resolve"), [NotMeasured; 3]);
    }

    #[test]
    fn targets_of_ratios() {
        use Verdict::{Met, Missed};
        let verdict = |measure, rust, c| verdicts(&[row(measure, 1, rust, c)], measure);
        assert_eq!(verdict("event", 101.0, 100.0), [Met]);
        assert_eq!(verdict("event", 102.0, 100.0), [Missed]);
        assert_eq!(verdict("ioctl", 1000.0, 1000.0), [Met]);
        assert_eq!(verdict("ioctl", 1001.0, 1000.0), [Missed]);
        for (rust, expected) in [
            (997.0, Missed),
            (998.0, Met),
            (1002.0, Met),
            (1003.0, Missed),
        ] {
            assert_eq!(verdict("builtin", rust, 1000.0), [expected], "{rust}");
        }
    }

    #[test]
    fn targets_of_bulk() {
        use Verdict::{Met, Missed, NotMeasured};
        let bulk = |request: &str, backing: &str, folios: &str, rust| {
            let params = [
                ("request", request.into()),
                ("backing", backing.into()),
                ("folios", folios.into()),
            ];
            let mut verdicts = verdicts(&[row_with("bulk", &params, rust, 100.0)], "bulk");
            verdicts.retain(|verdict| *verdict != NotMeasured);
            verdicts
        };
        assert_eq!(bulk("zeropage", "anon", "single", 40.0), [Met]);
        assert_eq!(bulk("poison", "shmem", "single", 41.0), [Missed]);
        assert_eq!(bulk("zeropage", "shmem", "single", 102.0), [Met]);
        assert_eq!(bulk("continue", "shmem", "single", 600.0), [Met]);
        assert_eq!(bulk("continue", "shmem", "huge", 81.0), [Missed]);
        assert_eq!(bulk("copy", "anon", "single", 103.0), [Missed]);
    }

    #[test]
    fn targets_of_faults() {
        use Verdict::{Met, Missed, NotMeasured};
        let fault = |access: &str, resolution: &str, rust| {
            let params = [("access", access.into()), ("resolution", resolution.into())];
            let rows = [row_with("single-fault", &params, rust, 100.0)];
            verdicts(&rows, "single-fault")
        };
        assert_eq!(fault("write", "zeropage", 94.0), [Met, NotMeasured]);
        assert_eq!(fault("write", "zeropage", 95.0), [Missed, NotMeasured]);
        assert_eq!(fault("read", "copy", 94.0), [Met, NotMeasured]);
        assert_eq!(fault("read", "continue", 94.0), [Met, Missed]);
        assert_eq!(fault("read", "continue", 90.0), [Met, Met]);
    }

    #[test]
    fn targets_of_waking_all() {
        let verdict = |how: &str, sleepers: u64, rust| {
            let params = [("how", how.into()), ("sleepers", sleepers.into())];
            let rows = [row_with("resolve-sleepers", &params, rust, 100.0)];
            verdicts(&rows, "resolve-sleepers").pop()
        };
        for how in ["wake all", "wake all by closing"] {
            assert_eq!(verdict(how, 1, 100.0), Some(Verdict::Met));
            assert_eq!(verdict(how, 4096, 101.0), Some(Verdict::Missed));
        }
        let half = verdict("wake half", 4096, 200.0);
        assert_eq!(half, Some(Verdict::NotMeasured));
    }

    #[test]
    fn targets_of_load() {
        use Verdict::{Met, Missed, NotMeasured};
        let load = |descriptors: &str, faulting: u64, rust| {
            let params = [
                ("descriptors", descriptors.into()),
                ("faulting", faulting.into()),
            ];
            // The first target is about growth, the last two about throughput.
            verdicts(&[row_with("load", &params, rust, 100.0)], "load")[1..3].to_vec()
        };
        assert_eq!(load("one", 1, 101.0), [NotMeasured, NotMeasured]);
        assert_eq!(load("one", 8, 101.0), [Missed, NotMeasured]);
        assert_eq!(load("each", 1, 95.0), [NotMeasured, Met]);
        assert_eq!(load("each", 1, 96.0), [NotMeasured, Missed]);
    }

    #[test]
    fn targets_of_latency() {
        let verdict = |many| {
            let rows = [("p50", 1, 50.0), ("p99.9", 1, 100.0), ("p99.9", 4096, many)];
            let rows = rows.map(|(quantile, sleepers, rust)| {
                let params = [
                    ("quantile", quantile.into()),
                    ("sleepers", Value::from(sleepers)),
                ];
                row_with("latency", &params, rust, rust)
            });
            verdicts(&rows, "latency")
        };
        assert_eq!(verdict(120.0), [Verdict::Met]);
        assert_eq!(verdict(121.0), [Verdict::Missed]);
        assert_eq!(verdicts(&[], "latency"), [Verdict::NotMeasured]);
    }

    #[test]
    fn exceptions_have_reasons() {
        let (kept, left_out) = (row("ioctl", 1, 1.0, 1.0), row("ioctl", 2, 9.0, 1.0));
        let mut rows = vec![&kept, &left_out];
        let exceptions = [("ioctl", "sleepers 2", "it copies")];
        let reasons = take_exceptions("ioctl", &mut rows, &exceptions);
        assert_eq!(reasons, ["; without sleepers 2: it copies"]);
        assert_eq!(rows.len(), 1);
        assert!(take_exceptions("event", &mut rows, &exceptions).is_empty());
    }
}
