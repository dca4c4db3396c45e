// SPDX-License-Identifier: GPL-2.0

//! Results in the Test Anything Protocol.

use anyhow::Result;
use std::{fmt::Display, process::ExitCode};

/// The results so far.
pub struct Tap {
    count: u32,
    failed: u32,
}

impl Tap {
    pub fn new() -> Self {
        println!("TAP version 13");
        Self {
            count: 0,
            failed: 0,
        }
    }

    /// Reports a test, and why it failed if it did.
    pub fn test(&mut self, name: &str, result: Result<()>) {
        self.count += 1;
        match result {
            Ok(()) => println!("ok {} - {name}", self.count),
            Err(err) => {
                self.failed += 1;
                for line in format!("{err:#}").lines() {
                    println!("# {line}");
                }
                println!("not ok {} - {name}", self.count);
            }
        }
    }

    /// Reports a number that people compare.
    pub fn measure(&self, name: &str, value: impl Display, unit: &str) {
        println!("# measure: {name} = {value} {unit}");
    }

    /// Ends the results.
    pub fn finish(self) -> ExitCode {
        println!("1..{}", self.count);
        println!(
            "# Totals: pass:{} fail:{} xfail:0 xpass:0 skip:0 error:0",
            self.count - self.failed,
            self.failed
        );
        if self.failed == 0 && self.count != 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
