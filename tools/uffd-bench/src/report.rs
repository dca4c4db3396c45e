// SPDX-License-Identifier: GPL-2.0

//! Results: a line of JSON each.

use crate::{
    clock::{Mode, Samples},
    plan::Case,
};
use anyhow::{ensure, Context, Result};
use serde::Serialize;
use serde_json::{Map, Value};
use std::io::{self, Write};

#[derive(Serialize)]
struct Row<'a> {
    mode: Mode,
    measure: &'a Value,
    params: Map<String, Value>,
    unit: &'a str,
    /// The median.
    value: f64,
    /// A tenth of the samples are below.
    low: f64,
    /// A tenth of the samples are above.
    high: f64,
    samples: usize,
}

/// The output for the results of a case.
pub struct Report {
    pub mode: Mode,
    params: Map<String, Value>,
}

impl Report {
    pub fn new(mode: Mode, case: Case) -> Result<Self> {
        match serde_json::to_value(case)? {
            Value::Object(params) => Ok(Self { mode, params }),
            other => anyhow::bail!("not a structure: {other}"),
        }
    }

    /// Prints a result.
    pub fn row(&self, samples: &Samples, unit: &str) -> Result<()> {
        self.part(&[], samples, unit)
    }

    /// Prints one of the results of a case, which has further parameters.
    pub fn part(&self, more: &[(&str, &str)], samples: &Samples, unit: &str) -> Result<()> {
        ensure!(samples.len() != 0, "nothing was measured");
        let mut params = self.params.clone();
        let measure = params.remove("measure").context("a case has a name")?;
        params.extend(
            more.iter()
                .map(|(name, value)| ((*name).into(), Value::from(*value))),
        );
        let row = Row {
            mode: self.mode,
            measure: &measure,
            params,
            unit,
            value: samples.quantile(0.5),
            low: samples.quantile(0.1),
            high: samples.quantile(0.9),
            samples: samples.len(),
        };
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
