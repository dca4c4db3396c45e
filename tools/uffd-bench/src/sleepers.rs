// SPDX-License-Identifier: GPL-2.0

//! Many threads that sleep in faults.

use crate::{
    clock::{cost, counter, Mode, Samples},
    faults::{must, serve},
    report::Report,
    threads::{self, Gate},
    uffd::{self, messages, Backing, Memory, Message, Resolution, Uffd, PAGE},
};
use anyhow::{ensure, Context, Result};
use linux_raw_sys::general as uapi;
use std::{
    sync::{
        atomic::{AtomicU64, Ordering},
        Arc,
    },
    time::Instant,
};

/// How many unrelated pages are copied.
const UNRELATED: usize = 128;

/// The least size of the memory, in pages, so that it has room for the unrelated pages if few
/// threads sleep in it.
const MIN_PAGES: usize = 2 * UNRELATED;

/// The least number of resolves in an order if few threads sleep, and the most if many do. The
/// remaining threads are woken at once then.
const MIN_RESOLVES: usize = 64;
const MAX_RESOLVES: usize = 1024;

/// The order in which all threads are resolved one by one if the measure is exhaustive.
const RANDOM: &str = "random";

/// The first resolves count as done while all threads sleep: one in so many.
const FIRST_FRACTION: usize = 16;

/// How many messages are read at once, except in `batched-read`.
const BATCH: usize = 256;

/// How often this thread checks whether all threads sleep, before it gives up.
const MAX_SETTLES: usize = 10_000;

/// Threads that sleep in faults, each at a page of its own. When a thread is woken, it faults at
/// its page of the next round.
struct Sleepers {
    uffd: Uffd,
    count: usize,
    /// The distance of their pages, in pages.
    stride: usize,
    memory: Memory,
    /// A page to copy from.
    source: usize,
    round: usize,
    buffer: Vec<Message>,
}

impl Sleepers {
    fn new(count: usize, rounds: usize, stride: usize) -> Result<Self> {
        let pages = (count * rounds * stride).max(MIN_PAGES);
        let memory = Memory::new(Backing::Anon, pages)?;
        let source = Memory::new(Backing::Anon, 1)?;
        source.populate(source.start);
        let uffd = Uffd::new(true, 0)?;
        uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MISSING)?;
        threads::spawn(count, move |thread| {
            for round in 0..rounds {
                uffd::write(memory.page((round * count + thread) * stride));
            }
            Gate::default().wait(1);
        })?;
        Ok(Self {
            uffd,
            count,
            stride,
            memory,
            source: source.start,
            round: 0,
            buffer: messages(BATCH),
        })
    }

    /// Waits until all threads sleep, and reads their messages.
    fn settle(&mut self) -> Result<()> {
        let mut asleep = 0;
        for _ in 0..MAX_SETTLES {
            threads::settle();
            asleep += self.uffd.drain(&mut self.buffer)?;
            if asleep == self.count {
                return Ok(());
            }
        }
        anyhow::bail!("{asleep} of {} threads sleep", self.count)
    }

    /// The address of the page of the first thread in this round. The other pages follow.
    fn base(&self) -> usize {
        self.memory.page(self.round * self.count * self.stride)
    }

    /// Copies a page for each thread in the order `order`. After `max_resolves` threads, the
    /// remaining ones are woken at once. The samples of the first resolves are in `first` too,
    /// because nearly all threads sleep then.
    fn resolve(
        &mut self,
        order: &[usize],
        max_resolves: usize,
        first: &mut Samples,
        all: &mut Samples,
    ) -> Result<()> {
        self.settle()?;
        let (one_by_one, at_once) = order.split_at(order.len().min(max_resolves));
        for (index, &thread) in one_by_one.iter().enumerate() {
            let mut result = Ok(());
            let address = self.base() + thread * PAGE;
            let counted = cost(|| {
                result = self
                    .uffd
                    .resolve(Resolution::Copy, address, PAGE, self.source);
            });
            result?;
            all.push(counted as f64);
            if index < self.count.div_ceil(FIRST_FRACTION) {
                first.push(counted as f64);
            }
        }
        for &thread in at_once {
            let address = self.base() + thread * PAGE;
            self.uffd.copy_dontwake(address, 1, self.source)?;
        }
        if !at_once.is_empty() {
            self.uffd.wake(self.base(), self.count * PAGE)?;
        }
        self.round += 1;
        Ok(())
    }

    /// Wakes the first `woken` threads at once, and then the others.
    fn wake(&mut self, woken: usize, samples: &mut Samples) -> Result<()> {
        self.settle()?;
        let base = self.base();
        self.uffd.copy_dontwake(base, self.count, self.source)?;
        let mut result = Ok(());
        let counted = cost(|| result = self.uffd.wake(base, woken * PAGE));
        result?;
        samples.push(counted as f64 / woken as f64);
        if woken < self.count {
            self.uffd.wake(base, self.count * PAGE)?;
        }
        self.round += 1;
        Ok(())
    }

    /// Wakes all threads by closing the descriptor.
    fn close(mut self, samples: &mut Samples) -> Result<()> {
        self.settle()?;
        let Self { uffd, count, .. } = self;
        let counted = cost(|| drop(uffd));
        samples.push(counted as f64 / count as f64);
        Ok(())
    }
}

/// Measures `unrelated-resolve`: a copy of a page for which no thread waits. The page is between
/// pages of threads that sleep, so that an implementation finds neighbours when it looks for
/// waiters.
pub fn unrelated(count: usize, report: &Report) -> Result<()> {
    const STRIDE: usize = 2;
    let mut sleepers = Sleepers::new(count, 1, STRIDE)?;
    sleepers.settle()?;
    let distance = (count / UNRELATED).max(1) * STRIDE;
    let mut samples = Samples::with_capacity(UNRELATED);
    for index in 0..UNRELATED {
        let address = sleepers.memory.page(index * distance + 1);
        let mut result = Ok(());
        samples.push(cost(|| {
            result = sleepers
                .uffd
                .resolve(Resolution::Copy, address, PAGE, sleepers.source);
        }) as f64);
        result?;
    }
    report.row(&samples, "instructions")
}

/// The numbers below `count` in an order that is always the same.
fn shuffled(count: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..count).collect();
    let mut state = 1u64;
    for last in (1..count).rev() {
        // Knuth's MMIX generator. Only the upper half is used, because it is more random.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        numbers.swap(last, (state >> 33) as usize % (last + 1));
    }
    numbers
}

/// Measures `resolve-sleepers`: copies of a page for each thread, and wake-ups of many threads at
/// once, the last one by closing the descriptor. If `exhaustive` is set, threads are resolved one
/// by one even if there are very many.
pub fn resolve(count: usize, exhaustive: bool, report: &Report) -> Result<()> {
    let in_order: Vec<usize> = (0..count).collect();
    let reverse = in_order.iter().rev().copied().collect();
    let orders = [
        ("in order", in_order),
        ("reverse", reverse),
        (RANDOM, shuffled(count)),
    ];
    let parts = [("wake all", count), ("wake half", count / 2)];
    let repeats = MIN_RESOLVES.div_ceil(count);
    let wakes = repeats.max(3);

    let rounds = orders.len() * repeats + parts.len() * wakes + 1;
    let mut sleepers = Sleepers::new(count, rounds, 1)?;
    for (name, order) in &orders {
        let max_resolves = if exhaustive && *name == RANDOM {
            usize::MAX
        } else {
            MAX_RESOLVES
        };
        let mut first = Samples::with_capacity(repeats * count);
        let mut all = Samples::with_capacity(repeats * count);
        for _ in 0..repeats {
            sleepers.resolve(order, max_resolves, &mut first, &mut all)?;
        }
        report.part(&[("how", name)], &first, "instructions per thread")?;
        if count <= max_resolves {
            let name = format!("{name}, to the last");
            report.part(&[("how", &name)], &all, "instructions per thread")?;
        }
    }
    for (name, woken) in parts {
        if woken == 0 {
            continue;
        }
        let mut samples = Samples::with_capacity(wakes);
        for _ in 0..wakes {
            sleepers.wake(woken, &mut samples)?;
        }
        report.part(&[("how", name)], &samples, "instructions per thread")?;
    }
    let mut samples = Samples::with_capacity(1);
    sleepers.close(&mut samples)?;
    let how = [("how", "wake all by closing")];
    report.part(&how, &samples, "instructions per thread")
}

/// How many pages `latency` faults at until it removes them from the page table. These are less than
/// the table has, so that the kernel keeps it.
const CHUNK: usize = 256;

/// The quantiles of `latency`.
const QUANTILES: &[(&str, f64)] = &[("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];

/// Measures `latency`: how long each of very many faults takes, while other threads sleep. What
/// happens now and then counts, such as the interrupt of the timer.
///
/// An instruction takes a nanosecond of the guest's time, so this is the latency in nanoseconds, too.
pub fn latency(count: usize, faults: usize, report: &Report) -> Result<()> {
    let memory = Memory::new(Backing::Shmem, CHUNK + count)?;
    memory.populate(memory.alias.context("this memory is not shared")?);
    let uffd = Arc::new(Uffd::new(false, 0)?);
    uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MINOR)?;
    threads::spawn(count, move |thread| {
        uffd::write(memory.page(CHUNK + thread));
    })?;
    let mut buffer = messages(BATCH);
    let mut asleep = 0;
    while asleep < count {
        asleep += uffd.read(&mut buffer)?;
    }

    let handler = uffd.clone();
    threads::spawn(1, move |_| loop {
        let served = serve(&handler, Resolution::Continue, PAGE, |_| 0);
        must(served, "the handler");
    })?;
    threads::settle();
    let chunk = memory.part(0, CHUNK);
    let mut samples = Samples::with_capacity(faults);
    while samples.len() < faults {
        for page in 0..CHUNK.min(faults - samples.len()) {
            samples.push(cost(|| uffd::write(chunk.page(page))) as f64);
        }
        chunk.advise(libc::MADV_DONTNEED)?;
    }
    for (name, part) in QUANTILES {
        let value = samples.quantile(*part);
        report.exact(&[("quantile", name)], value, "instructions")?;
    }
    Ok(())
}

/// How many messages wait to be read in `batched-read`, and how often that is repeated.
const UNREAD: usize = 64;
const BATCH_ROUNDS: usize = 16;

/// Measures `batched-read`: reads of several messages at once.
pub fn batched(size: usize, report: &Report) -> Result<()> {
    ensure!(UNREAD % size == 0, "{UNREAD} is not a multiple of {size}");
    let mut sleepers = Sleepers::new(UNREAD, BATCH_ROUNDS, 1)?;
    let mut samples = Samples::with_capacity(BATCH_ROUNDS);
    for _ in 0..BATCH_ROUNDS {
        threads::settle();
        let mut read = 0;
        let buffer = &mut sleepers.buffer[..size];
        let counted = cost(|| {
            for _ in 0..UNREAD / size {
                read += sleepers.uffd.read(buffer).unwrap_or(0);
            }
        });
        ensure!(read == UNREAD, "{read} of {UNREAD} messages were read");
        samples.push(counted as f64 / UNREAD as f64);
        let len = UNREAD * PAGE;
        sleepers
            .uffd
            .resolve(Resolution::Zeropage, sleepers.base(), len, 0)?;
        sleepers.round += 1;
    }
    report.row(&samples, "instructions per message")
}

/// Measures `enqueue`: many threads begin to sleep, while another one reads their messages.
pub fn enqueue(count: usize, report: &Report) -> Result<()> {
    let memory = Memory::new(Backing::Shmem, count)?;
    let uffd = Uffd::new(false, 0)?;
    uffd.register(&memory, uapi::UFFDIO_REGISTER_MODE_MISSING)?;
    let gate = Arc::new(Gate::default());
    let times: Arc<Vec<AtomicU64>> = Arc::new((0..count).map(|_| AtomicU64::new(0)).collect());
    let (opened, noted) = (gate.clone(), times.clone());
    threads::spawn(count, move |thread| {
        opened.wait(1);
        noted[thread].store(counter(), Ordering::Relaxed);
        uffd::write(memory.page(thread));
    })?;
    gate.wait_for_waiters(count);
    if report.mode == Mode::PathLength {
        // The reader preempts the other threads when it is woken, because it would run at once if
        // it had a CPU of its own.
        threads::run_first()?;
    }

    let mut buffer = messages(BATCH);
    let mut read = 0;
    let begin = Instant::now();
    gate.open();
    while read < count {
        read += uffd.read(&mut buffer)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    match report.mode {
        Mode::Contention | Mode::Time => {
            report.exact(&[], count as f64 / seconds, "faults per second")
        }
        Mode::PathLength => {
            // From the access of one thread to the access of the next.
            let mut times: Vec<u64> = times
                .iter()
                .map(|time| time.load(Ordering::Relaxed))
                .collect();
            times.sort_unstable();
            let mut samples = Samples::with_capacity(count);
            for pair in times.windows(2) {
                samples.push((pair[1] - pair[0]) as f64);
            }
            report.row(&samples, "instructions per thread")
        }
    }
}
