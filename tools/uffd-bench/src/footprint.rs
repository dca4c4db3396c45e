// SPDX-License-Identifier: GPL-2.0

//! Memory of the kernel: for each context, each sleeping thread and each descriptor.

use crate::{
    report::Report,
    threads::{self, Gate},
    uffd::{self, messages, Backing, Memory, Resolution, Uffd},
};
use anyhow::{Context, Result};
use linux_raw_sys::general as uapi;
use std::{fs, sync::Arc};

/// How many descriptors and how many sleeping threads there are. The result is the average of them.
const DESCRIPTORS: usize = 10_000;
const SLEEPERS: usize = 2_048;

/// Returns how many bytes of kernel objects there are.
fn slab() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    Ok(kib.context("no Slab in /proc/meminfo")?.parse::<f64>()? * 1024.0)
}

/// Measures `memory`.
pub fn memory(report: &Report) -> Result<()> {
    let path = "/sys/kernel/slab/userfaultfd_ctx_cache/object_size";
    let size = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    report.exact(&[("what", "context")], size.trim().parse()?, "bytes")?;

    // The threads sleep in a futex first and then in a fault, and the difference is reported.
    let memory = Memory::new(Backing::Anon, SLEEPERS)?;
    let uffd = Uffd::new(true, 0)?;
    uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MISSING)?;
    let gate = Arc::new(Gate::default());
    let opened = gate.clone();
    threads::spawn(SLEEPERS, move |thread| {
        opened.wait(1);
        uffd::write(memory.page(thread));
    })?;
    gate.wait_for_waiters(SLEEPERS);
    let before = slab()?;
    gate.open();
    let mut asleep = 0;
    while asleep < SLEEPERS {
        threads::settle();
        asleep += uffd.drain(&mut messages(SLEEPERS))?;
    }
    let heap = (slab()? - before) / SLEEPERS as f64;
    report.exact(&[("what", "heap of a sleeping thread")], heap, "bytes")?;
    uffd.resolve(Resolution::Zeropage, memory.start, memory.len(), 0)?;
    threads::settle();

    let before = slab()?;
    let descriptors: Vec<Uffd> = (0..DESCRIPTORS)
        .map(|_| Uffd::new(false, 0))
        .collect::<Result<_>>()?;
    let each = (slab()? - before) / descriptors.len() as f64;
    report.exact(&[("what", "descriptor, of 10,000")], each, "bytes")
}
