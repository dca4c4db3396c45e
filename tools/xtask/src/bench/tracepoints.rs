// SPDX-License-Identifier: GPL-2.0

//! What tracepoints take while they are off: faults on the kernel in Rust, and on one in which Rust code
//! has no tracepoints. The implementation in C has none.

use super::{Bench, Key, Row, FAULT, PATH_LENGTH, PATH_LENGTH_RUNS};
use crate::{
    config::{Flavour, Impl, Kernel},
    guest::Accel,
};
use anyhow::Result;
use std::collections::BTreeMap;

/// The name of the measure.
pub const OFF: &str = "tracepoints-off";

/// Adds a row for each kind of fault that was measured: how many instructions more it takes.
pub fn measure(bench: &mut Bench) -> Result<()> {
    let mut without = Bench {
        builder: bench.builder,
        programs: bench.programs.clone(),
        rows: Vec::new(),
        skipped: BTreeMap::new(),
        release: String::new(),
        compilers: bench.compilers.clone(),
    };
    let kernel = Kernel {
        imp: Impl::Rust,
        flavour: Flavour::Untraced,
    };
    let args = format!("--scope full --measure {FAULT}");
    for _ in 0..PATH_LENGTH_RUNS {
        without.run(kernel, PATH_LENGTH, Accel::Icount, 1, &args)?;
    }
    for (key, value) in differences(&bench.rows, &without.rows) {
        bench.add(Impl::Rust, key.clone(), value);
        bench.add(Impl::C, key, 0.0);
    }
    Ok(())
}

/// Returns by how much the least of the runs differ. More than that is luck.
fn differences(with: &[Row], without: &[Row]) -> Vec<(Key, f64)> {
    let least = |row: &Row| row.range(Impl::Rust).map(|(least, _)| least);
    let faults = without.iter().filter(|row| row.key.measure == FAULT);
    let found = faults.filter_map(|row| {
        let with = with.iter().find(|with| with.key == row.key)?;
        let key = Key {
            measure: OFF.into(),
            ..row.key.clone()
        };
        Some((key, least(with)? - least(row)?))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_the_runs_are_compared() {
        let row = |measure: &str, rust: &[f64]| Row {
            key: Key {
                mode: PATH_LENGTH.into(),
                measure: measure.into(),
                params: BTreeMap::new(),
                unit: "instructions".into(),
            },
            rust: rust.to_vec(),
            c: vec![],
        };
        let with = [row("event", &[9.0]), row(FAULT, &[107.0, 105.0])];
        let without = [row("event", &[8.0]), row(FAULT, &[101.0, 103.0])];
        let found = differences(&with, &without);
        let [(key, value)] = &found[..] else {
            panic!("one kind of fault was measured")
        };
        assert_eq!((&key.measure[..], *value), (OFF, 4.0));
    }
}
