// SPDX-License-Identifier: GPL-2.0

//! The results of a machine: a file, and tables.

use super::machine::Machine;
use crate::report::Row;
use comfy_table::{presets::ASCII_MARKDOWN, CellAlignment, Table};
use serde::Serialize;
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// What a file starts with. `cargo xtask bench --compare` reads files with the same number.
pub const FORMAT: &str = "userfaultfd-bench 1";

#[derive(Serialize)]
pub struct Results {
    pub format: &'static str,
    pub date: String,
    pub machine: Machine,
    pub parameters: Parameters,
    /// How long all of it took.
    pub seconds: f64,
    /// That of the case with most, without huge pages.
    pub peak_memory_mib: u64,
    pub not_measured: Vec<NotMeasured>,
    pub rows: Vec<Row>,
}

#[derive(Serialize)]
pub struct Parameters {
    pub seconds: u64,
    pub memory_limit_mib: u64,
    pub huge_pages: usize,
    /// How userfaultfds are opened.
    pub opened_with: String,
}

#[derive(Serialize)]
pub struct NotMeasured {
    pub case: String,
    pub why: String,
}

impl Row {
    fn param(&self, name: &str) -> String {
        match self.params.get(name) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "-".into(),
        }
    }

    /// All parameters.
    fn params(&self) -> String {
        let names = self.params.keys();
        let params = names.map(|name| format!("{name} {}", self.param(name)));
        params.collect::<Vec<_>>().join(", ")
    }
}

/// How many threads handle the faults.
fn handlers(row: &Row) -> String {
    match row.param("handlers").as_str() {
        "one" => "1".into(),
        "four" => "4".into(),
        _ => row.param("faulting"),
    }
}

/// Formats nanoseconds as microseconds.
fn micros(nanoseconds: Option<f64>) -> String {
    nanoseconds.map_or("-".into(), |ns| format!("{:.2}", ns / 1000.0))
}

/// Makes a table whose last columns are numbers.
fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(header);
    for column in table.column_iter_mut().rev().take(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The faults of threads.
fn faults<'a>(rows: impl Iterator<Item = &'a Row>) -> Table {
    let header = [
        "memory",
        "resolution",
        "threads",
        "handlers",
        "descriptors",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "faults/s",
    ];
    let mut table = table(&header, 4);
    for row in rows {
        let rate = row.per_second.map_or(0.0, |[median, ..]| median);
        table.add_row([
            row.param("backing"),
            row.param("resolution"),
            row.param("faulting"),
            handlers(row),
            row.param("descriptors"),
            micros(Some(row.value)),
            micros(row.p99),
            micros(row.p99_9),
            format!("{rate:.0}"),
        ]);
    }
    table
}

/// All other operations.
fn operations<'a>(rows: impl Iterator<Item = &'a Row>) -> Table {
    let header = [
        "measure",
        "parameters",
        "p10 us",
        "p50 us",
        "p90 us",
        "p99 us",
    ];
    let mut table = table(&header, 4);
    for row in rows {
        let measure = match row.unit.strip_prefix("ns ") {
            Some(per) => format!("{}, {per}", row.measure),
            None => row.measure.clone(),
        };
        table.add_row([
            measure,
            row.params(),
            micros(Some(row.low)),
            micros(Some(row.value)),
            micros(Some(row.high)),
            micros(row.p99),
        ]);
    }
    table
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fault, other): (Vec<&Row>, Vec<&Row>) =
            self.rows.iter().partition(|row| row.per_second.is_some());
        if !other.is_empty() {
            writeln!(f, "{}\n", operations(other.into_iter()))?;
        }
        if !fault.is_empty() {
            writeln!(f, "{}\n", faults(fault.into_iter()))?;
        }
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for NotMeasured { case, why } in &self.not_measured {
            reasons.entry(why).or_default().push(case);
        }
        for (why, cases) in reasons {
            let first = cases.first().unwrap_or(&"");
            match cases.len() {
                1 => writeln!(f, "not measured: {first}: {why}")?,
                many => writeln!(f, "not measured: {many}, such as {first}: {why}")?,
            }
        }
        write!(
            f,
            "took {:.0} s and at most {} MiB",
            self.seconds, self.peak_memory_mib
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_in_microseconds() {
        assert_eq!(micros(Some(12_345.0)), "12.35");
        assert_eq!(micros(None), "-");
    }
}
