// SPDX-License-Identifier: GPL-2.0

//! The time that faults take, with several threads that fault and several that handle them.

use crate::{
    clock::{cost, Samples},
    faults::{must, serve},
    plan::{Descriptors, Fault, Handlers},
    report::{tells, Report, Row},
    threads,
    uffd::{Backing, Memory, Resolution, Uffd},
};
use anyhow::{ensure, Context, Result};
use hdrhistogram::Histogram;
use serde_json::Map;
use std::{
    io,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        Arc, Barrier, Mutex, MutexGuard, PoisonError,
    },
    time::Instant,
};

/// Nanoseconds, with three digits.
type Times = Histogram<u32>;

/// The longest time that a fault can take, in nanoseconds.
const LONGEST: u64 = 1_000_000_000_000;

/// The part of the pages that the first round has, which does not count.
const WARM_UP: usize = 8;

/// The pages of a page table. No two threads share one, as the memory of virtual CPUs is far apart.
const TABLE: usize = 512;

/// Threads that fault in rounds. In between, the pages are brought back to the state before.
struct Rounds {
    memory: Memory,
    /// The distance of the memory of two threads, and how much of it is used, in pages.
    stride: usize,
    pages: usize,
    start: Barrier,
    end: Barrier,
    /// How many pages there are in this round for each thread.
    limit: AtomicUsize,
    /// Set by the first thread that has used up its pages: the others stop too, so that all threads
    /// fault during the whole round.
    over: AtomicBool,
    times: Vec<Mutex<Times>>,
}

fn lock(times: &Mutex<Times>) -> MutexGuard<'_, Times> {
    times.lock().unwrap_or_else(PoisonError::into_inner)
}

fn times() -> Result<Times> {
    Ok(Times::new_with_bounds(1, LONGEST, 3)?)
}

impl Rounds {
    /// The memory of a thread.
    fn part(&self, thread: usize) -> Memory {
        self.memory.part(thread * self.stride, self.pages)
    }

    /// What a thread that faults does.
    fn fault(&self, thread: usize, fault: Fault, until: Option<Instant>) {
        let part = self.part(thread);
        loop {
            self.start.wait();
            let mut times = lock(&self.times[thread]);
            for page in 0..self.limit.load(Ordering::Relaxed) {
                times.saturating_record(cost(|| fault.access.touch(part.page(page))));
                if self.over.load(Ordering::Relaxed)
                    || until.is_some_and(|until| Instant::now() >= until)
                {
                    break;
                }
            }
            self.over.store(true, Ordering::Relaxed);
            drop(times);
            self.end.wait();
        }
    }

    /// Has all threads fault in so many pages each. Adds the times, and returns the faults per second.
    fn run(&self, pages: usize, all: &mut Times) -> Result<f64> {
        self.limit.store(pages, Ordering::Relaxed);
        self.over.store(false, Ordering::Relaxed);
        let begin = Instant::now();
        self.start.wait();
        self.end.wait();
        let seconds = begin.elapsed().as_secs_f64();
        let mut faults = 0;
        for times in &self.times {
            let mut times = lock(times);
            faults += times.len();
            all.add(&*times)?;
            times.reset();
        }
        Ok(faults as f64 / seconds)
    }
}

/// Brings pages into the state in which each of them faults.
fn reset(fault: Fault, uffds: &[(Uffd, Memory)], memory: &Memory) -> io::Result<()> {
    match (fault.resolution, fault.backing) {
        (Resolution::Writeprotect, _) => {
            for (uffd, registered) in uffds {
                uffd.protect(registered.start, registered.len(), true)?;
            }
            Ok(())
        }
        (Resolution::Continue, _) | (_, Backing::Anon) => memory.advise(libc::MADV_DONTNEED),
        // These pages would otherwise stay in the file.
        (_, Backing::Shmem | Backing::Hugetlb) => memory.advise(libc::MADV_REMOVE),
    }
}

/// Measures `faults`: each thread faults again as soon as it has its page.
pub fn faults(
    fault: Fault,
    faulting: usize,
    handlers: Handlers,
    descriptors: Descriptors,
    pages: usize,
    report: &Report,
) -> Result<()> {
    let Fault {
        backing,
        resolution,
        ..
    } = fault;
    let pages = pages / faulting;
    ensure!(pages != 0, "there are more threads than pages");
    let stride = match backing {
        Backing::Hugetlb => pages,
        _ => pages.next_multiple_of(TABLE),
    };
    let rounds = Arc::new(Rounds {
        memory: Memory::new(backing, stride * faulting)?,
        stride,
        pages,
        start: Barrier::new(faulting + 1),
        end: Barrier::new(faulting + 1),
        limit: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        times: (0..faulting)
            .map(|_| times().map(Mutex::new))
            .collect::<Result<_>>()?,
    });
    let memory = rounds.memory;
    // UFFDIO_MOVE takes its source page away, so each fault needs another one.
    let source = match resolution {
        Resolution::Move => Memory::new(backing, memory.pages)?,
        _ => Memory::new(backing, 1)?,
    };
    let fill_source = || match resolution {
        Resolution::Move => (0..faulting).for_each(|thread| {
            let part = source.part(thread * stride, pages);
            part.populate(part.start);
        }),
        _ => source.populate(source.start),
    };
    for thread in 0..faulting {
        let part = rounds.part(thread);
        match resolution {
            Resolution::Continue => part.populate(part.alias.context("this memory is not shared")?),
            Resolution::Writeprotect => part.populate(part.start),
            _ => (),
        }
    }

    let registered = |memory: Memory| {
        let uffd = Uffd::new(false, 0)?;
        uffd.register(&memory, resolution.register_mode())?;
        anyhow::Ok((uffd, memory))
    };
    let uffds: Arc<Vec<(Uffd, Memory)>> = Arc::new(match descriptors {
        Descriptors::One => vec![registered(memory)?],
        Descriptors::Each => (0..faulting)
            .map(|thread| registered(rounds.part(thread)))
            .collect::<Result<_>>()?,
    });
    let handled = uffds.clone();
    threads::spawn(handlers.count(faulting), move |index| loop {
        let (uffd, _) = &handled[index % handled.len()];
        let from = |address: usize| match resolution {
            Resolution::Move => source.start + (address - memory.start),
            _ => source.start,
        };
        must(serve(uffd, resolution, backing.page(), from), "a handler");
    })?;
    let (faults, until) = (rounds.clone(), report.until);
    threads::spawn(faulting, move |thread| faults.fault(thread, fault, until))?;

    let reset = || {
        fill_source();
        reset(fault, &uffds, &memory).context("the pages could not be taken away again")
    };
    reset()?;
    rounds.run(pages.div_ceil(WARM_UP), &mut times()?)?;
    let (mut all, mut rates) = (times()?, Samples::default());
    while rates.len() == 0 || !report.time_is_up() {
        reset()?;
        rates.push(rounds.run(pages, &mut all)?);
    }

    let value = |quantile| all.value_at_quantile(quantile) as f64;
    let slowest = |quantile| tells(quantile, all.len()).then(|| value(quantile));
    report.print(Row {
        mode: report.mode,
        measure: String::new(),
        params: Map::new(),
        unit: "ns".into(),
        value: value(0.5),
        low: value(0.1),
        high: value(0.9),
        samples: all.len(),
        p99: slowest(0.99),
        p99_9: slowest(0.999),
        per_second: Some([0.5, 0.1, 0.9].map(|part| rates.quantile(part))),
    })
}
