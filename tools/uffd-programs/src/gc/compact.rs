// SPDX-License-Identifier: GPL-2.0

//! Compaction without copying: pages that are in use move from a space in which they are scattered
//! to one in which they are dense, and back, by UFFDIO_MOVE. If a mutator accesses a page before it
//! is moved, the mutator waits.
//!
//! A collector moves all pages in order, several at a time, and a handler moves pages for which
//! threads wait, so that the two race.

use super::{
    create, features, in_threads, store_object, verify_object, with_handler, Heap, Measures, Size,
    OBJECT, PAGE, PAGE_OBJECTS,
};
use crate::support::Mapping;
use anyhow::{bail, ensure, Context, Result};
use std::{
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use userfaultfd::{Event, FaultKind, FeatureFlags, Uffd};

/// `struct uffdio_move` of linux/userfaultfd.h.
#[repr(C)]
struct MoveArg {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    moved: i64,
}

/// `_IOWR(UFFDIO, _UFFDIO_MOVE, struct uffdio_move)`
const UFFDIO_MOVE: u64 = 0xc028_aa05;

/// How often an ioctl is retried because a page is busy.
const TRIES: u32 = 10_000;

/// A mapping in which only the pages at some places are in use.
struct Space {
    memory: Mapping,
    places: Vec<usize>,
}

/// What the ioctl did.
#[derive(Default)]
struct Counters {
    faults: AtomicU64,
    /// Moved by the handler, because a thread waited.
    for_faults: AtomicU64,
    in_order: AtomicU64,
    /// Another thread had moved it.
    races: AtomicU64,
    busy: AtomicU64,
}

/// Collects garbage several times, in both directions.
pub fn collect(size: Size) -> Result<Measures> {
    let uffd = create(FeatureFlags::empty(), features::MOVE)?;
    let counters = Counters::default();
    // A heap of which only the versions are used: the objects are in the spaces.
    let versions = Heap::new(Mapping::anonymous(size.pages * PAGE)?);
    let mut from = Space::new(size.pages * 3, scattered(size.pages, 0))?;
    from.fill();
    let mut to = Space::new(size.pages * 3, Vec::new())?;
    for round in 0..=size.rounds {
        to.places = match round % 2 {
            0 => (0..size.pages).collect(),
            _ => scattered(size.pages, round),
        };
        compact(&uffd, &from, &to, &versions, size, &counters)
            .with_context(|| format!("round {round}"))?;
        (from, to) = (to, from);
    }
    let faults = counters.faults.into_inner();
    ensure!(faults > 0, "there were no faults");
    Ok(vec![
        ("faults".into(), faults),
        (
            "pages moved for a fault".into(),
            counters.for_faults.into_inner(),
        ),
        (
            "pages moved in order".into(),
            counters.in_order.into_inner(),
        ),
        ("races lost".into(), counters.races.into_inner()),
        ("busy".into(), counters.busy.into_inner()),
    ])
}

/// Places with random gaps, the same in each run.
fn scattered(pages: usize, seed: u64) -> Vec<usize> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut place = 0;
    (0..pages)
        .map(|_| {
            place += 1 + rng.usize(..3) / 2 * (1 + rng.usize(..2));
            place - 1
        })
        .collect()
}

/// Moves all pages from one space to another, while mutators use them there.
fn compact(
    uffd: &Uffd,
    from: &Space,
    to: &Space,
    versions: &Heap,
    size: Size,
    counters: &Counters,
) -> Result<()> {
    let len = to.memory.len();
    to.memory.advise(0, len, libc::MADV_DONTNEED)?;
    uffd.register(to.memory.at(0), len)?;
    with_handler(
        uffd,
        |event| move_for(uffd, from, to, event, counters),
        || {
            std::thread::scope(|scope| {
                let collector = scope.spawn(|| {
                    wait_for_faults(size.pages / 16, counters);
                    move_in_order(uffd, from, to, counters)
                });
                in_threads(size.mutators, |me| mutate(to, versions, size, me))?;
                collector
                    .join()
                    .unwrap_or_else(|_| bail!("the collector panicked"))
            })
        },
    )?;
    uffd.unregister(to.memory.at(0), len)?;
    // Between the places there may be pages if they were made together.
    let resident = from.memory.resident()?;
    let left = from.places.iter().filter(|place| resident[**place]).count();
    ensure!(left == 0, "{left} pages are still where they were");
    (0..versions.objects()).try_for_each(|object| to.verify(object, versions))
}

/// Gives mutators the time to access pages that were not moved.
fn wait_for_faults(faults: usize, counters: &Counters) {
    let before = counters.faults.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(5);
    while counters.faults.load(Ordering::Relaxed) < before + faults as u64
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Moves the page that a thread waits for.
fn move_for(
    uffd: &Uffd,
    from: &Space,
    to: &Space,
    event: Event,
    counters: &Counters,
) -> Result<()> {
    let Event::Pagefault {
        kind: FaultKind::Missing,
        addr,
        ..
    } = event
    else {
        bail!("not a fault of a missing page: {event:?}");
    };
    counters.faults.fetch_add(1, Ordering::Relaxed);
    let place = to
        .memory
        .offset(addr)
        .context("a fault outside of the space")?
        / PAGE;
    let page = to
        .places
        .binary_search(&place)
        .ok()
        .context("a fault at an unused place")?;
    let moved = move_pages(uffd, from, to, page, 1, counters)?;
    counters.for_faults.fetch_add(moved, Ordering::Relaxed);
    Ok(())
}

/// Moves all pages, as many at a time as are contiguous in both spaces.
fn move_in_order(uffd: &Uffd, from: &Space, to: &Space, counters: &Counters) -> Result<()> {
    let mut page = 0;
    while page < from.places.len() {
        let together = (1..8)
            .take_while(|next| {
                let adjacent = |space: &Space| {
                    space.places.get(page + next) == Some(&(space.places[page] + next))
                };
                adjacent(from) && adjacent(to)
            })
            .count();
        let moved = move_pages(uffd, from, to, page, 1 + together, counters)?;
        counters.in_order.fetch_add(moved, Ordering::Relaxed);
        page += 1 + together;
    }
    Ok(())
}

/// Moves contiguous pages. Returns how many this call moved. Other threads may move the rest.
fn move_pages(
    uffd: &Uffd,
    from: &Space,
    to: &Space,
    first: usize,
    count: usize,
    counters: &Counters,
) -> Result<u64> {
    let (mut page, end) = (first, first + count);
    let (mut total, mut tries) = (0, 0);
    while page < end {
        let mut arg = MoveArg {
            dst: to.memory.at::<u8>(to.places[page] * PAGE) as u64,
            src: from.memory.at::<u8>(from.places[page] * PAGE) as u64,
            len: ((end - page) * PAGE) as u64,
            mode: 0,
            moved: 0,
        };
        // SAFETY: The argument is what the ioctl expects. The pages belong to spaces, which are
        // accessed in atomic words.
        let result = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_MOVE as _, &mut arg) };
        let err = io::Error::last_os_error();
        if result == 0 || arg.moved > 0 {
            ensure!(
                result == 0 || err.raw_os_error() == Some(libc::EAGAIN),
                "UFFDIO_MOVE moved {} bytes of {} and failed: {err}",
                arg.moved,
                arg.len
            );
            page += arg.moved as usize / PAGE;
            total += arg.moved as u64 / PAGE as u64;
            continue;
        }
        match err.raw_os_error() {
            // Another thread has moved it, but a thread may have faulted before that. Wake it.
            Some(libc::EEXIST | libc::ENOENT) => {
                uffd.wake(to.memory.at(to.places[page] * PAGE), PAGE)?;
                counters.races.fetch_add(1, Ordering::Relaxed);
                page += 1;
            }
            Some(libc::EAGAIN | libc::EBUSY) if tries < TRIES => {
                counters.busy.fetch_add(1, Ordering::Relaxed);
                tries += 1;
                std::thread::yield_now();
            }
            _ => return Err(err).with_context(|| format!("UFFDIO_MOVE of page {page}")),
        }
    }
    Ok(total)
}

/// Uses the objects of a mutator at random.
fn mutate(space: &Space, versions: &Heap, size: Size, me: usize) -> Result<()> {
    let mut objects: Vec<usize> = (me..versions.objects()).step_by(size.mutators).collect();
    fastrand::Rng::with_seed(me as u64 / 2).shuffle(&mut objects);
    // The first objects in all pages, and some more.
    objects.truncate(versions.objects() / size.mutators / 4);
    for object in objects {
        space.verify(object, versions)?;
        space.write(object, versions);
        space.verify(object, versions)?;
    }
    Ok(())
}

impl Space {
    fn new(pages: usize, places: Vec<usize>) -> Result<Self> {
        let memory = Mapping::anonymous(pages * PAGE)?;
        Ok(Self { memory, places })
    }

    /// Makes all objects.
    fn fill(&self) {
        for object in 0..self.places.len() * PAGE_OBJECTS {
            store_object(&self.memory, self.offset(object), object, 0);
        }
    }

    /// Returns the place of an object.
    fn offset(&self, object: usize) -> usize {
        self.places[object / PAGE_OBJECTS] * PAGE + object % PAGE_OBJECTS * OBJECT
    }

    fn verify(&self, object: usize, versions: &Heap) -> Result<()> {
        verify_object(
            &self.memory,
            self.offset(object),
            object,
            versions.version(object),
        )
    }

    fn write(&self, object: usize, versions: &Heap) {
        let version = versions.version(object) + 1;
        store_object(&self.memory, self.offset(object), object, version);
        versions.versions[object].store(version, Ordering::Release);
    }
}
