// SPDX-License-Identifier: GPL-2.0

//! The heap is mapped twice. A collector corrects pages through one mapping, while mutators use the
//! other one. If a page is in the page cache and not in the page table, the fault is minor. The
//! handler resolves it by UFFDIO_CONTINUE, but corrects the page first.

use super::{
    create, exists, features, in_threads, store_object, verify_object, with_handler, Heap,
    Measures, Size, OBJECT, PAGE, PAGE_OBJECTS,
};
use crate::support::{memory_file, Mapping};
use anyhow::{bail, ensure, Context, Result};
use std::sync::atomic::Ordering;
use userfaultfd::{Event, FaultKind, FeatureFlags, RegisterMode, Uffd};

/// So many pages are corrected at a time.
const TOGETHER: usize = 4;

/// What the handler does in a round.
struct Corrector<'a> {
    uffd: &'a Uffd,
    heap: &'a Heap,
    alias: &'a Mapping,
    corrected: Vec<bool>,
    faults: u64,
    races: u64,
}

/// Collects garbage several times.
pub fn collect(size: Size) -> Result<Measures> {
    let len = size.pages * PAGE;
    let file = memory_file(len)?;
    let alias = Mapping::shared(&file, len)?;
    let heap = Heap::new(Mapping::shared(&file, len)?);
    let uffd = create(FeatureFlags::empty(), features::MINOR_SHMEM)?;
    uffd.register_with_mode(heap.memory.at(0), len, RegisterMode::MINOR)?;
    let (mut faults, mut races) = (0, 0);
    for round in 0..size.rounds {
        let result = collect_once(&uffd, &heap, &alias, size, round);
        let (more, lost) = result.with_context(|| format!("round {round}"))?;
        faults += more;
        races += lost;
    }
    Ok(vec![
        ("faults".into(), faults),
        ("pages that were there".into(), races),
    ])
}

/// Corrects all objects once, when they are used. Returns how many faults there were, and how many
/// pages were mapped already.
fn collect_once(
    uffd: &Uffd,
    heap: &Heap,
    alias: &Mapping,
    size: Size,
    round: u64,
) -> Result<(u64, u64)> {
    heap.memory
        .advise(0, heap.memory.len(), libc::MADV_DONTNEED)?;
    let mut corrector = Corrector {
        uffd,
        heap,
        alias,
        corrected: vec![false; size.pages],
        faults: 0,
        races: 0,
    };
    // Announce the version that the corrector will write, so that the mutators expect it.
    for version in &heap.versions {
        version.fetch_add(1, Ordering::AcqRel);
    }
    with_handler(
        uffd,
        |event| corrector.handle(event),
        || in_threads(size.mutators, |me| mutate(heap, size, round, me)),
    )?;
    ensure!(
        corrector.corrected.iter().all(|page| *page),
        "a page was not corrected"
    );
    for object in 0..heap.objects() {
        verify_object(alias, object * OBJECT, object, heap.version(object))?;
    }
    Ok((corrector.faults, corrector.races))
}

/// Uses all objects of a mutator at random.
fn mutate(heap: &Heap, size: Size, round: u64, me: usize) -> Result<()> {
    let mut objects: Vec<usize> = (me..heap.objects()).step_by(size.mutators).collect();
    fastrand::Rng::with_seed(round).shuffle(&mut objects);
    for object in objects {
        heap.verify(object)?;
        heap.write(object);
    }
    Ok(())
}

impl Corrector<'_> {
    /// Corrects the page that a thread waits for, and the next ones.
    fn handle(&mut self, event: Event) -> Result<()> {
        let Event::Pagefault {
            kind: FaultKind::Minor,
            addr,
            ..
        } = event
        else {
            bail!("not a minor fault: {event:?}");
        };
        self.faults += 1;
        let offset = self
            .heap
            .memory
            .offset(addr)
            .context("a fault outside of the heap")?;
        let first = offset / PAGE;
        let end = (first + TOGETHER).min(self.corrected.len());
        for page in first..end {
            self.correct(page);
        }
        self.map(first, end)
    }

    /// Writes all objects of a page again, once in a round.
    fn correct(&mut self, page: usize) {
        if std::mem::replace(&mut self.corrected[page], true) {
            return;
        }
        for object in page * PAGE_OBJECTS..(page + 1) * PAGE_OBJECTS {
            // No thread could use the object yet, so this is still its right state.
            store_object(
                self.alias,
                object * OBJECT,
                object,
                self.heap.version(object),
            );
        }
    }

    /// Maps pages, of which some may be mapped already.
    fn map(&mut self, first: usize, end: usize) -> Result<()> {
        let mut page = first;
        while page < end {
            let start = self.heap.memory.at(page * PAGE);
            match self.uffd.r#continue(start, (end - page) * PAGE, true) {
                Ok(mapped) => {
                    ensure!(
                        mapped > 0 && mapped % PAGE as u64 == 0,
                        "{mapped} bytes were mapped"
                    );
                    page += mapped as usize / PAGE;
                }
                Err(err) if exists(&err) => {
                    self.uffd.wake(start, PAGE)?;
                    self.races += 1;
                    page += 1;
                }
                Err(err) => return Err(err).context("UFFDIO_CONTINUE"),
            }
        }
        Ok(())
    }
}
