// SPDX-License-Identifier: GPL-2.0

//! What is counted: instructions, or time.

use anyhow::{ensure, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    arch::{asm, x86_64::_rdtsc},
    sync::OnceLock,
    thread::available_parallelism,
    time::Instant,
};

/// What a run measures. Named in all results.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Instructions for each operation: one CPU, on which the counter of cycles counts instructions
    /// (QEMU with `-icount shift=0,sleep=off`).
    PathLength,
    /// Operations for each second, on several CPUs.
    Contention,
    /// Nanoseconds for each operation, on a machine as it is.
    #[value(skip)]
    Time,
}

/// What is measured, once it is known that it can be.
static MODE: OnceLock<Mode> = OnceLock::new();

/// What two readings of the counter or of the clock cost by themselves.
static OVERHEAD: OnceLock<u64> = OnceLock::new();

/// The iterations of the loop that checks the counter. Each takes two instructions.
const LOOPS: u64 = 100_000;

impl Mode {
    /// Refuses machines on which this cannot be measured.
    pub fn check(self) -> Result<()> {
        let cpus = available_parallelism()?.get();
        match self {
            Self::PathLength => {
                ensure!(cpus == 1, "path lengths need one CPU, and there are {cpus}");
                // The shortest time counts, because an interrupt may arrive in between.
                let counted = (0..5)
                    .map(|_| {
                        let start = counter();
                        // SAFETY: It counts down a register.
                        unsafe {
                            asm!(
                                "2: dec {loops}",
                                "jnz 2b",
                                loops = inout(reg) LOOPS => _,
                                options(nomem, nostack),
                            );
                        }
                        counter() - start
                    })
                    .min()
                    .unwrap_or(0);
                ensure!(
                    counted.abs_diff(2 * LOOPS) < LOOPS / 100,
                    "the counter of cycles does not count instructions here: {counted} for {}",
                    2 * LOOPS
                );
            }
            Self::Contention => {
                ensure!(cpus > 1, "contention needs several CPUs, and there is one");
            }
            Self::Time => (),
        }
        MODE.get_or_init(|| self);
        let mut empty: Vec<u64> = (0..64).map(|_| raw(|| ())).collect();
        empty.sort_unstable();
        OVERHEAD.get_or_init(|| empty[empty.len() / 2]);
        Ok(())
    }
}

/// The counter of cycles.
pub fn counter() -> u64 {
    // SAFETY: All processors that this runs on have it.
    unsafe { _rdtsc() }
}

fn raw(operation: impl FnOnce()) -> u64 {
    if MODE.get() == Some(&Mode::Time) {
        let start = Instant::now();
        operation();
        return start.elapsed().as_nanos() as u64;
    }
    let start = counter();
    operation();
    counter() - start
}

/// Returns how many instructions the CPU executes during an operation, or how many nanoseconds pass
/// if time is measured. Other threads and interrupts count too.
pub fn cost(operation: impl FnOnce()) -> u64 {
    raw(operation).saturating_sub(*OVERHEAD.get().unwrap_or(&0))
}

/// Samples of one measure.
#[derive(Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Allocates room for `capacity` samples, so that the program does not allocate while it
    /// measures.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the samples divided by the number of pages that each of them is about.
    pub fn each(&self, pages: usize) -> Self {
        Self(self.0.iter().map(|sample| sample / pages as f64).collect())
    }

    /// Returns the quantile `part` of the samples, from 0 for the smallest to 1 for the largest.
    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            len => sorted[((len - 1) as f64 * part).round() as usize],
        }
    }
}
