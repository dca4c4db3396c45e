// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask bench --compare`: two files that `--native` wrote, side by side.

use super::{
    number,
    plot::{self, Chart, Line},
    Key, LICENSE,
};
use crate::ui;
use anyhow::{anyhow, bail, Context, Result};
use comfy_table::Table;
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// What files start with that this reads.
const FORMAT: &str = "userfaultfd-bench 1";

/// A row about the faults of threads. Others are about other operations.
const FAULTS: &str = "faults";

#[derive(Deserialize)]
struct Results {
    date: String,
    machine: BTreeMap<String, Value>,
    parameters: BTreeMap<String, Value>,
    not_measured: Vec<NotMeasured>,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct NotMeasured {
    case: String,
    why: String,
}

#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    key: Key,
    value: f64,
    p99: Option<f64>,
    p99_9: Option<f64>,
    /// The median of the rounds, and between which values eight of ten are.
    per_second: Option<[f64; 3]>,
}

/// The columns of a table and the plots: names, and the value of a row.
type Quantity = (&'static str, &'static str, fn(&Row) -> Option<f64>);

const QUANTITIES: [Quantity; 4] = [
    ("p50", "microseconds", |row| Some(row.value / 1000.0)),
    ("p99", "microseconds", |row| Some(row.p99? / 1000.0)),
    ("p99.9", "microseconds", |row| Some(row.p99_9? / 1000.0)),
    ("rate", "faults per second", |row| Some(row.per_second?[0])),
];

fn parse(text: &str) -> Result<Results> {
    const FOREIGN: &str = "this is no result of a machine: name a file that `cargo xtask bench \
                           --native` wrote";
    let value: Value = serde_json::from_str(text).map_err(|_| anyhow!(FOREIGN))?;
    match value["format"].as_str() {
        Some(FORMAT) => serde_json::from_value(value).context("measure again: the file is damaged"),
        Some(other) if other.starts_with("userfaultfd-bench ") => bail!(
            "the format is `{other}`, and this tool reads `{FORMAT}`: measure again with this tool"
        ),
        _ => bail!(FOREIGN),
    }
}

fn load(path: &Path) -> Result<Results> {
    let text = fs::read_to_string(path).with_context(|| {
        format!(
            "cannot read {}: name a file that `cargo xtask bench --native` wrote",
            path.display()
        )
    })?;
    parse(&text).with_context(|| path.display().to_string())
}

/// How the files are called in tables and plots.
const NAMES: [&str; 2] = ["A", "B"];

impl Results {
    /// The kernel, and which userfaultfd it has.
    fn kernel(&self) -> String {
        let known = |name| text(self.machine.get(name));
        format!("Linux {} ({})", known("kernel"), known("implementation"))
    }
}

/// What there is to say about a machine.
fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "unknown".into(),
        Some(other) => other.to_string(),
    }
}

/// The rows that are in both files.
fn pairs(files: &[Results; 2]) -> Vec<(&Row, &Row)> {
    let [a, b] = files;
    let other = |row: &Row| b.rows.iter().find(|other| other.key == row.key);
    a.rows
        .iter()
        .filter_map(|row| Some((row, other(row)?)))
        .collect()
}

/// Formats two values and their ratio.
fn compared(quantity: Quantity, (a, b): (&Row, &Row)) -> String {
    let (name, _, of) = quantity;
    let (Some(x), Some(y)) = (of(a), of(b)) else {
        return "-".into();
    };
    let overlap = match (name, a.per_second, b.per_second) {
        ("rate", Some([_, low, high]), Some([_, other_low, other_high])) => {
            low <= other_high && other_low <= high
        }
        _ => false,
    };
    let mark = if overlap { " ~" } else { "" };
    format!("{}, {} ({:.2}{mark})", number(x), number(y), y / x)
}

/// What is known about both machines.
fn about(files: &[Results; 2]) -> Table {
    let mut table = ui::table(["", NAMES[0], NAMES[1]]);
    table.add_row(["date", &files[0].date, &files[1].date]);
    let [a, b] = files;
    for (a, b) in [(&a.machine, &b.machine), (&a.parameters, &b.parameters)] {
        for name in a.keys() {
            table.add_row([name.replace('_', " "), text(a.get(name)), text(b.get(name))]);
        }
    }
    table
}

/// A table of the rows about faults, or of the others.
fn table(pairs: &[(&Row, &Row)], faults: bool) -> Table {
    let quantities = if faults {
        &QUANTITIES[..]
    } else {
        &QUANTITIES[..2]
    };
    let mut header = vec!["measure".to_string()];
    header.extend(quantities.iter().map(|(name, unit, _)| match *unit {
        "microseconds" => format!("{name} us"),
        unit => unit.into(),
    }));
    let mut table = ui::table(header);
    for pair in pairs
        .iter()
        .filter(|(a, _)| (a.key.measure == FAULTS) == faults)
    {
        let key = &pair.0.key;
        let mut row = vec![format!("{}: {}", key.measure, key.params(""))];
        row.extend(quantities.iter().map(|quantity| compared(*quantity, *pair)));
        table.add_row(row);
    }
    table
}

/// The median of the ratios of each quantity of faults.
fn summary(pairs: &[(&Row, &Row)]) -> String {
    let faults = || pairs.iter().filter(|(a, _)| a.key.measure == FAULTS);
    let median = |(name, _, of): Quantity| {
        let mut ratios: Vec<f64> = faults()
            .filter_map(|(a, b)| Some(of(b)? / of(a)?))
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let median = ratios.get(ratios.len() / 2)?;
        Some(format!("{name} {median:.2}"))
    };
    let medians: Vec<String> = QUANTITIES.into_iter().filter_map(median).collect();
    format!(
        "B / A of faults, the median of {}: {}",
        faults().count(),
        medians.join(", ")
    )
}

/// What is in one file only, and what was not measured, with the reason.
fn alone(files: &[Results; 2]) -> Vec<String> {
    let mut lines = Vec::new();
    for (this, other, name) in [(0, 1, NAMES[0]), (1, 0, NAMES[1])] {
        let others = &files[other].rows;
        let missing = |row: &&Row| others.iter().all(|other| other.key != row.key);
        let missing = files[this].rows.iter().filter(missing).count();
        if missing != 0 {
            lines.push(format!("only in {name}: {missing} results"));
        }
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for NotMeasured { case, why } in &files[this].not_measured {
            reasons.entry(why).or_default().push(case);
        }
        lines.extend(reasons.iter().map(|(why, cases)| {
            format!(
                "not measured in {name}: {}, such as {}: {why}",
                cases.len(),
                cases[0]
            )
        }));
    }
    lines
}

/// Draws each quantity over the number of threads that fault. Returns the names of the plots.
fn plots(files: &[Results; 2], out: &Path) -> Result<Vec<&'static str>> {
    let mut drawn = Vec::new();
    for (name, unit, of) in QUANTITIES {
        let mut lines = Vec::new();
        for (index, (file, title)) in files.iter().zip(NAMES).enumerate() {
            let mut curves: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
            for row in file.rows.iter().filter(|row| row.key.measure == FAULTS) {
                let is = |name, value: &str| row.key.param(name).as_deref() == Some(value);
                let point = row.key.number("faulting").zip(of(row));
                if let (true, true, Some(point)) =
                    (is("backing", "anon"), is("resolution", "copy"), point)
                {
                    let [handlers, descriptors] =
                        ["handlers", "descriptors"].map(|name| row.key.param(name));
                    let label = format!(
                        "{title}: handlers {}, descriptor {}",
                        handlers.unwrap_or_default(),
                        descriptors.unwrap_or_default()
                    );
                    curves.entry(label).or_default().push(point);
                }
            }
            for ((label, points), shades) in curves.into_iter().zip(plot::SHADES.iter().cycle()) {
                let color = [shades.0, shades.1][index];
                lines.push(Line {
                    label,
                    points,
                    color,
                });
            }
        }
        lines.retain(|line| line.points.len() > 1);
        if lines.is_empty() {
            continue;
        }
        let title = format!("Faults of V threads, resolved with UFFDIO_COPY: {name}");
        let x = format!(
            "threads that fault; A: {}, B: {}",
            files[0].kernel(),
            files[1].kernel()
        );
        let chart = Chart {
            title: &title,
            x: &x,
            y: unit,
        };
        plot::draw(&chart, &lines, &out.join(format!("{name}.svg")))?;
        drawn.push(name);
    }
    Ok(drawn)
}

/// Compares two files.
pub fn compare(paths: [&PathBuf; 2], out: &Path) -> Result<()> {
    let [a, b] = paths;
    let files = [load(a)?, load(b)?];
    let pairs = pairs(&files);
    if pairs.is_empty() {
        bail!("the files have no result in common: measure again, both with the same tool");
    }
    let mut text = format!(
        "A is {}, and B is {}. Cells are: A, B (B / A). With a `~`, eight of ten rounds of A and of B \
         overlap.\n\n{}\n\n{}\n\n{}\n\n{}\n",
        a.display(),
        b.display(),
        about(&files),
        table(&pairs, false),
        table(&pairs, true),
        summary(&pairs),
    );
    for line in alone(&files) {
        writeln!(text, "\n{line}")?;
    }
    let failed = || {
        format!(
            "cannot write to {}: free some of the disk, or name another directory with --out",
            out.display()
        )
    };
    fs::create_dir_all(out).with_context(failed)?;
    let plots = plots(&files, out).with_context(failed)?;
    let mut page = format!("{LICENSE}\n# Two machines or kernels\n\n{text}");
    for plot in &plots {
        writeln!(page, "\n![{plot}]({plot}.svg)")?;
    }
    let path = out.join("compare.md");
    fs::write(&path, page).with_context(failed)?;
    println!("{text}\nplots: {} in {}", plots.join(", "), out.display());
    println!("page:  {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(value: f64) -> String {
        format!(
            r#"{{"format": "userfaultfd-bench 1", "date": "2026-01-01T00:00:00Z",
                "machine": {{"kernel": "6.18"}}, "parameters": {{"seconds": 60}},
                "not_measured": [{{"case": "faults hugetlb", "why": "no huge pages"}}],
                "rows": [{{"mode": "time", "measure": "faults", "params": {{"faulting": 1}},
                           "unit": "ns", "value": {value}, "low": 1, "high": 2, "samples": 3,
                           "per_second": [100, 90, 110]}}]}}"#
        )
    }

    #[test]
    fn two_files_are_compared() -> Result<()> {
        let files = [parse(&file(2000.0))?, parse(&file(3000.0))?];
        let pairs = pairs(&files);
        assert_eq!(pairs.len(), 1);
        assert_eq!(compared(QUANTITIES[0], pairs[0]), "2, 3 (1.50)");
        assert_eq!(compared(QUANTITIES[1], pairs[0]), "-");
        assert_eq!(compared(QUANTITIES[3], pairs[0]), "100, 100 (1.00 ~)");
        assert_eq!(
            summary(&pairs),
            "B / A of faults, the median of 1: p50 1.50, rate 1.00"
        );
        assert_eq!(files[0].kernel(), "Linux 6.18 (unknown)");
        let why = "1, such as faults hugetlb: no huge pages";
        assert_eq!(
            alone(&files),
            ["A", "B"].map(|name| format!("not measured in {name}: {why}"))
        );
        Ok(())
    }

    #[test]
    fn other_files_are_refused_with_one_line() {
        for (text, word) in [
            ("", "--native"),
            ("{}", "--native"),
            (r#"{"about": "Linux", "rows": []}"#, "--native"),
            (r#"{"format": "userfaultfd-bench 2"}"#, "bench 2"),
            (r#"{"format": "userfaultfd-bench 1"}"#, "damaged"),
        ] {
            let err = parse(text).map(drop).map_err(|err| format!("{err:#}"));
            assert!(err.is_err_and(|err| err.contains(word) && !err.contains('\n')));
        }
    }
}
