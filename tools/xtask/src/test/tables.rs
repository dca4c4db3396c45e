// SPDX-License-Identifier: GPL-2.0

//! The results of several kernels, side by side.

use super::Results;
use crate::{
    report::DOCUMENTED,
    suites::{self, Plan},
    ui,
};
use comfy_table::Table;

/// A row for each suite, a column for each kernel.
pub fn table(all: &[Results]) -> Table {
    let mut header = vec!["suite".to_string()];
    for results in all {
        header.push(format!("{}: pass / fail / skip", results.kernel.name()));
        header.push("s".into());
    }
    let mut table = ui::table(header);
    let plan = Plan::of(all[0].kernel.flavour);
    for (index, suite) in plan.all().enumerate() {
        let mut row = vec![suite.name.to_string()];
        for results in all {
            match results.reports.get(index) {
                Some((_, report)) => {
                    row.push(report.totals());
                    row.push(format!("{:.1}", report.seconds));
                }
                None => row.extend(["did not run".into(), String::new()]),
            }
        }
        table.add_row(row);
    }
    table
}

/// Stands for a value that a program printed on one kernel only.
pub const NOT_MEASURED: &str = "not measured";

/// The values that the programs measured, a column for each kernel.
pub fn measures(all: &[Results]) -> Table {
    let mut header = vec!["measured".to_string()];
    header.extend(all.iter().map(|results| results.kernel.name()));
    let mut table = ui::table(header);
    let of = |results: &Results, name: &str| {
        let measures = results.reports.iter().flat_map(|(_, r)| &r.measures);
        let mut found = measures.filter(|(other, _)| other == name);
        found
            .next()
            .map_or(NOT_MEASURED.into(), |(_, value)| value.clone())
    };
    for (name, _) in all[0].reports.iter().flat_map(|(_, r)| &r.measures) {
        let mut row = vec![name.clone()];
        row.extend(all.iter().map(|results| of(results, name)));
        table.add_row(row);
    }
    table
}

/// Lists the tests that were skipped or run again, with the reasons.
pub fn print_exceptions(all: &[Results]) {
    for results in all {
        for (name, report) in &results.reports {
            for skip in &report.skips {
                println!("skipped on {}: {name}: {skip}", results.kernel.title());
            }
            if !report.documented.is_empty() {
                println!(
                    "{name}: {} tests fail on {}, as is known: {}",
                    report.documented.len(),
                    results.kernel.title(),
                    suites::reasons(name).join("; ")
                );
            }
            if report.raced {
                println!(
                    "run again on {}: {name}: it lost the race that UFFDIO_UNREGISTER has in C",
                    results.kernel.title()
                );
            }
        }
    }
}

/// Lists the suites that these kernels do not run, with the reasons.
pub fn print_not_run(all: &[Results]) {
    let Some(kernel) = all.last().map(|results| results.kernel) else {
        return;
    };
    for suite in suites::every() {
        if let Some(reason) = suites::not_run(kernel.flavour, suite) {
            println!("not run on {}: {}: {reason}", kernel.title(), suite.name);
        }
    }
}

/// Compares two kernels test by test.
pub fn differences(a: &Results, b: &Results) -> Vec<String> {
    let mut differences = Vec::new();
    let both = a.reports.iter().zip(&b.reports);
    for ((name, left), (_, right)) in both.filter(|((name, _), _)| suites::is_comparable(name)) {
        let same_totals = left.passed == right.passed + right.documented.len() as u32
            && (left.failed, left.skipped) == (right.failed, right.skipped);
        if !same_totals {
            differences.push(format!(
                "{name}: {} on {}, and {} on {}",
                left.totals(),
                a.kernel.title(),
                right.totals(),
                b.kernel.title()
            ));
        }
        for (test, status) in &left.tests {
            let other = right.tests.get(test).map_or("did not run", String::as_str);
            if other != status && !(other == DOCUMENTED && status == "Pass") {
                differences.push(format!("{name}: {test}: {status}, and {other} in C"));
            }
        }
    }
    differences
}
