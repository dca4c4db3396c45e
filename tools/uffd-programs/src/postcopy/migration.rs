// SPDX-License-Identifier: GPL-2.0

//! A migration that begins as precopy and continues as postcopy.

use super::{
    guest,
    machine::{wait_for, Backing, Config, Machine, Start},
};
use crate::tap::Tap;
use anyhow::{anyhow, ensure, Result};
use serde_json::json;
use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

/// What is special about a migration.
pub struct Scenario {
    pub name: &'static str,
    pub backing: Backing,
    /// Whether pages that the guest waits for have a channel of their own.
    pub preempt: bool,
    /// How often the channel is cut in the middle: first by the source, then by the destination.
    pub cuts: usize,
}

/// Precopy at this speed, in bytes per second, never catches up with the guest.
const PRECOPY_BANDWIDTH: u64 = 8 << 20;
/// Postcopy at this speed is so slow that the guest still faults at many pages. The limit does not
/// apply to these.
const POSTCOPY_BANDWIDTH: u64 = 16 << 20;
/// Postcopy at this speed is so slow that much is left when the channel is cut.
const CUT_BANDWIDTH: u64 = 1 << 20;
/// How many pages the guest has asked for before the channel is cut.
const REQUESTS_BEFORE_CUT: u64 = 20;
/// How long the guest is watched after a cut. It should wait for a page during this time.
const CUT_TIME: Duration = Duration::from_millis(500);

/// Migrates a guest, and checks that it has all of its data. After it has arrived it checks all of
/// its memory for so many `rounds`.
pub fn run(tap: &Tap, scenario: &Scenario, config: &Config, rounds: usize) -> Result<()> {
    let started = Instant::now();
    let mut migration = Migration {
        tap,
        scenario,
        config,
        source: Machine::start(config, "source", Start::Boot)?,
        destination: Machine::start(config, "destination", Start::Incoming)?,
        uri: format!("unix:{}/migration", config.dir.display()),
    };
    migration.run(rounds).map_err(|err| {
        let source = migration.source.diagnosis();
        let destination = migration.destination.diagnosis();
        anyhow!("{err:#}\n{source}\n{destination}")
    })?;
    migration.report("test time", started.elapsed().as_millis(), "ms");
    Ok(())
}

/// Two virtual machines, and the way between them.
struct Migration<'a> {
    tap: &'a Tap,
    scenario: &'a Scenario,
    config: &'a Config<'a>,
    source: Machine,
    destination: Machine,
    uri: String,
}

impl Migration<'_> {
    fn run(&mut self, rounds: usize) -> Result<()> {
        self.start_precopy()?;
        let switched = Instant::now();
        self.switch_to_postcopy()?;
        for number in 1..=self.scenario.cuts {
            self.cut(number)?;
            self.recover(number)?;
        }
        self.complete()?;
        self.report("time in postcopy", switched.elapsed().as_millis(), "ms");
        for _ in 0..rounds {
            self.destination.wait_round()?;
        }
        self.check_huge_pages()?;
        self.measure()
    }

    /// Migrates memory of the running guest until it has all been dirtied again.
    fn start_precopy(&mut self) -> Result<()> {
        // After this round, the guest has filled all memory and checks it.
        self.source.wait_round()?;

        let mut capabilities = vec!["postcopy-ram"];
        if self.scenario.preempt {
            capabilities.push("postcopy-preempt");
        }
        self.source.set_capabilities(&capabilities)?;
        capabilities.push("postcopy-blocktime");
        self.destination.set_capabilities(&capabilities)?;
        let limit = match self.scenario.cuts {
            0 => POSTCOPY_BANDWIDTH,
            _ => CUT_BANDWIDTH,
        };
        self.limit_postcopy(limit)?;
        let limit = json!({ "max-bandwidth": PRECOPY_BANDWIDTH });
        self.source.execute("migrate-set-parameters", limit)?;

        let arguments = json!({ "uri": self.uri });
        self.destination
            .execute("migrate-incoming", arguments.clone())?;
        self.source.execute("migrate", arguments)?;
        self.source.wait_status("active")?;
        self.source.wait_round()
    }

    /// Limits how fast the source sends pages that the guest does not ask for, in bytes per second.
    fn limit_postcopy(&mut self, limit: u64) -> Result<()> {
        let limit = json!({ "max-postcopy-bandwidth": limit });
        self.source.execute("migrate-set-parameters", limit)?;
        Ok(())
    }

    /// Lets the guest continue at the destination without most of its memory.
    fn switch_to_postcopy(&mut self) -> Result<()> {
        self.source.execute("migrate-start-postcopy", json!({}))?;
        self.source.wait_status("postcopy-active")?;
        self.destination.wait_status("postcopy-active")?;
        // The guest stopped at the source before, so its number of signs there is final.
        self.destination.continues(self.source.signs()?);
        Ok(())
    }

    /// Cuts the channel when the guest asks for pages, and checks that the guest waits for them.
    fn cut(&mut self, number: usize) -> Result<()> {
        let wanted = self.requests()? + REQUESTS_BEFORE_CUT;
        wait_for("requests before the cut", self.config.limit, || {
            Ok((self.requests()? >= wanted).then_some(()))
        })?;
        let side = match number % 2 {
            1 => &mut self.source,
            _ => &mut self.destination,
        };
        side.execute("migrate-pause", json!({}))?;
        self.source.wait_status("postcopy-paused")?;
        self.destination.wait_status("postcopy-paused")?;

        let left = self.source.migration_number("/ram/remaining")?;
        ensure!(left != 0, "the channel was cut when nothing was left");
        self.report(&format!("left at cut {number}"), left >> 10, "KiB");

        // The guest waits soon, because it reads pages in no order and most are missing.
        let before = self.destination.signs()?;
        thread::sleep(CUT_TIME);
        let signs = self.destination.signs()? - before;
        ensure!(signs <= 1, "the guest goes on without its pages");
        Ok(())
    }

    /// Makes a new channel after a cut.
    fn recover(&mut self, number: usize) -> Result<()> {
        if number == self.scenario.cuts {
            self.limit_postcopy(POSTCOPY_BANDWIDTH)?;
        }
        let uri = format!("{}-{number}", self.uri);
        self.destination
            .execute("migrate-recover", json!({ "uri": uri }))?;
        self.source
            .execute("migrate", json!({ "uri": uri, "resume": true }))?;
        self.source.wait_status("postcopy-active")?;
        self.destination.wait_status("postcopy-active")
    }

    /// Waits for the end of the migration.
    fn complete(&mut self) -> Result<()> {
        self.source.wait_status("completed")?;
        self.destination.wait_status("completed")?;
        self.source.wait_run_state("postmigrate")?;
        self.destination.wait_run_state("running")?;
        // If the guest had continued at the source too, the number of signs would be wrong now.
        self.destination.continues(self.source.signs()?);
        Ok(())
    }

    /// Checks that the guest is in huge pages, if it should be.
    fn check_huge_pages(&self) -> Result<()> {
        if matches!(
            self.scenario.backing,
            Backing::Hugetlb | Backing::SharedHugetlb
        ) {
            let huge = self.destination.hugetlb_bytes()?;
            ensure!(
                huge >= guest::area(self.config.memory_mib),
                "only {huge} bytes are in huge pages"
            );
        }
        Ok(())
    }

    /// How many pages the destination has asked for.
    fn requests(&mut self) -> Result<u64> {
        self.source.migration_number("/ram/postcopy-requests")
    }

    /// Reports what QEMU measured, and checks that there was something to measure.
    fn measure(&mut self) -> Result<()> {
        let area = guest::area(self.config.memory_mib);
        self.report("memory that the guest checks", area >> 20, "MiB");

        let requests = self.requests()?;
        ensure!(requests != 0, "the guest never waited for a page");
        self.report("page requests", requests, "requests");
        let time = self.source.migration_number("/total-time")?;
        self.report("migration time", time, "ms");
        // After a cut, QEMU reports another downtime.
        if self.scenario.cuts == 0 {
            let downtime = self.source.migration_number("/downtime")?;
            self.report("downtime", downtime, "ms");
        }
        for (what, path) in [
            ("blocktime", "/postcopy-blocktime"),
            ("blocktime of the processor", "/postcopy-vcpu-blocktime/0"),
        ] {
            let blocktime = self.destination.migration_number(path)?;
            self.report(what, blocktime, "ms");
        }
        Ok(())
    }

    /// Reports a number about this migration.
    fn report(&self, what: &str, value: impl Display, unit: &str) {
        let name = format!("{}: {what}", self.scenario.name);
        self.tap.measure(&name, value, unit);
    }
}
