// SPDX-License-Identifier: GPL-2.0

//! Live migration by QEMU: postcopy, in which the destination fetches pages when its guest touches
//! them, and background snapshots, for which pages are saved before the guest writes to them.
//!
//! The guest checks all of its memory again and again while it is moved, see [`guest`].

mod background;
mod guest;
mod machine;
mod migration;
mod qmp;

use crate::tap::Tap;
use anyhow::{bail, Result};
use machine::{Backing, Config};
use migration::Scenario;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

#[derive(clap::Args)]
pub struct Options {
    /// Run only what has this in its name.
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// QEMU for x86-64.
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: String,
}

/// The migrations to make.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "postcopy",
        backing: Backing::Anonymous,
        preempt: false,
        cuts: 0,
    },
    Scenario {
        name: "postcopy-preempt",
        backing: Backing::Anonymous,
        preempt: true,
        cuts: 0,
    },
    Scenario {
        name: "postcopy-recovery",
        backing: Backing::Anonymous,
        preempt: false,
        cuts: 1,
    },
    Scenario {
        name: "postcopy-hugetlb",
        backing: Backing::Hugetlb,
        preempt: false,
        cuts: 0,
    },
    Scenario {
        name: "postcopy-memfd",
        backing: Backing::SharedMemfd,
        preempt: false,
        cuts: 0,
    },
];

/// More migrations, for the long run.
const MORE_SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "postcopy-preempt-recovery",
        backing: Backing::Anonymous,
        preempt: true,
        cuts: 2,
    },
    Scenario {
        name: "postcopy-memfd-recovery",
        backing: Backing::SharedMemfd,
        preempt: false,
        cuts: 2,
    },
    Scenario {
        name: "postcopy-hugetlb-memfd",
        backing: Backing::SharedHugetlb,
        preempt: false,
        cuts: 0,
    },
];

/// How much to do.
struct Extent {
    memory_mib: usize,
    /// Two machines must fit into 128 pages of 2 MiB.
    hugetlb_mib: usize,
    /// How often the guest checks all memory after it has arrived.
    rounds: usize,
    /// How long a step may take. It fails after that.
    limit: Duration,
}

const SHORT: Extent = Extent {
    memory_mib: 48,
    hugetlb_mib: 48,
    rounds: 2,
    limit: Duration::from_secs(60),
};

const LONG: Extent = Extent {
    memory_mib: 272,
    hugetlb_mib: 96,
    rounds: 5,
    limit: Duration::from_secs(300),
};

pub fn run(tap: &mut Tap, options: &Options, long: bool) -> Result<()> {
    let extent = if long { &LONG } else { &SHORT };
    let more = if long { MORE_SCENARIOS } else { &[] };
    let mut count = 0;
    for scenario in SCENARIOS.iter().chain(more) {
        if !scenario.name.contains(&options.only) {
            continue;
        }
        count += 1;
        let dir = Directory::new(scenario.name)?;
        let config = config(options, &dir.0, scenario.backing, extent);
        let result = migration::run(tap, scenario, &config, extent.rounds);
        tap.test(scenario.name, result);
    }
    if background::NAME.contains(&options.only) {
        count += 1;
        let dir = Directory::new(background::NAME)?;
        let config = config(options, &dir.0, Backing::Anonymous, extent);
        let result = background::run(tap, &config, extent.rounds);
        tap.test(background::NAME, result);
    }
    if count == 0 {
        bail!("nothing has {:?} in its name", options.only);
    }
    Ok(())
}

/// The machines of a scenario.
fn config<'a>(
    options: &'a Options,
    dir: &'a Path,
    backing: Backing,
    extent: &Extent,
) -> Config<'a> {
    let memory_mib = match backing {
        Backing::Anonymous | Backing::SharedMemfd => extent.memory_mib,
        Backing::Hugetlb | Backing::SharedHugetlb => extent.hugetlb_mib,
    };
    Config {
        qemu: &options.qemu,
        dir,
        backing,
        memory_mib,
        limit: extent.limit,
    }
}

/// A directory that is removed with its files when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(format!("uffd-programs-{name}-{}", process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If this fails, files are left in the guest, which is harmless.
        let _ = fs::remove_dir_all(&self.0);
    }
}
