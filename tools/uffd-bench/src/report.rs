// SPDX-License-Identifier: GPL-2.0

//! Results: a line of JSON each.

use crate::{
    clock::{Mode, Samples},
    plan::Case,
};
use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{
    io::{self, Write},
    time::Instant,
};

#[derive(Serialize, Deserialize)]
pub struct Row {
    pub mode: Mode,
    pub measure: String,
    pub params: Map<String, Value>,
    pub unit: String,
    /// The median.
    pub value: f64,
    /// A tenth of the samples are below.
    pub low: f64,
    /// A tenth of the samples are above.
    pub high: f64,
    pub samples: u64,
    /// The slowest ones, if time is measured and there are enough samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_9: Option<f64>,
    /// How many there were in a second: the median, and what a tenth of the rounds are below and
    /// above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<[f64; 3]>,
}

/// How many samples have to be beyond a quantile.
const BEYOND: f64 = 10.0;

/// Returns whether so many samples say something about a quantile.
pub fn tells(quantile: f64, samples: u64) -> bool {
    // The difference is a little off.
    (samples as f64 * (1.0 - quantile)).round() >= BEYOND
}

/// The output for the results of a case.
pub struct Report {
    pub mode: Mode,
    params: Map<String, Value>,
    /// When a case of which more can be measured than is needed is to end.
    pub until: Option<Instant>,
}

impl Report {
    pub fn new(mode: Mode, case: Case, until: Option<Instant>) -> Result<Self> {
        match serde_json::to_value(case)? {
            Value::Object(params) => Ok(Self {
                mode,
                params,
                until,
            }),
            other => anyhow::bail!("not a structure: {other}"),
        }
    }

    pub fn time_is_up(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Prints a result.
    pub fn row(&self, samples: &Samples, unit: &str) -> Result<()> {
        self.part(&[], samples, unit)
    }

    /// Prints one of the results of a case, which has further parameters. If time is measured, what
    /// would be instructions is nanoseconds.
    pub fn part(&self, more: &[(&str, &str)], samples: &Samples, unit: &str) -> Result<()> {
        let len = samples.len() as u64;
        ensure!(len != 0, "nothing was measured");
        let timed = self.mode == Mode::Time;
        let slowest = |part| (timed && tells(part, len)).then(|| samples.quantile(part));
        self.print(Row {
            mode: self.mode,
            measure: String::new(),
            params: more
                .iter()
                .map(|(name, value)| ((*name).into(), Value::from(*value)))
                .collect(),
            unit: match timed {
                true => unit.replace("instructions", "ns"),
                false => unit.into(),
            },
            value: samples.quantile(0.5),
            low: samples.quantile(0.1),
            high: samples.quantile(0.9),
            samples: len,
            p99: slowest(0.99),
            p99_9: slowest(0.999),
            per_second: None,
        })
    }

    /// Prints a result. The measure and the parameters of the case are added.
    pub fn print(&self, mut row: Row) -> Result<()> {
        let mut params = self.params.clone();
        let measure = params.remove("measure").context("a case has a name")?;
        row.measure = measure.as_str().unwrap_or_default().into();
        params.append(&mut row.params);
        row.params = params;
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", serde_json::to_string(&row)?)?;
        stdout.flush()?;
        Ok(())
    }

    /// Prints a result that is known exactly.
    pub fn exact(&self, more: &[(&str, &str)], value: f64, unit: &str) -> Result<()> {
        let mut samples = Samples::default();
        samples.push(value);
        self.part(more, &samples, unit)
    }
}
