// SPDX-License-Identifier: GPL-2.0

//! A write barrier: the heap is write-protected, and a handler saves a page before it lets the
//! first write through. So a marker sees the heap as it was at the start, although mutators change
//! it.

use super::{
    count, create, features, mutate, same_pages, with_handler, Heap, Measures, Memory, Size, PAGE,
};
use crate::support::WORD;
use anyhow::{bail, Context, Result};
use std::sync::Mutex;
use userfaultfd::{Event, FaultKind, FeatureFlags, ReadWrite, RegisterMode, Uffd};

/// The content of a page before it was written in this round.
type Before = Mutex<Option<[u64; PAGE / WORD]>>;

/// Collects garbage several times.
pub fn collect(size: Size, memory: Memory) -> Result<Measures> {
    let heap = Heap::sized(size.pages, memory)?;
    let bits = match memory {
        Memory::Anonymous => 0,
        Memory::Shared => features::WP_HUGETLBFS_SHMEM,
    };
    let uffd = create(FeatureFlags::PAGEFAULT_FLAG_WP, bits)?;
    let len = heap.memory.len();
    uffd.register_with_mode(heap.memory.at(0), len, RegisterMode::WRITE_PROTECT)?;

    let (mut faults, mut dirty) = (0, 0);
    for round in 0..size.rounds {
        let result = collect_once(&heap, &uffd, size, round);
        let (more, pages) = result.with_context(|| format!("round {round}"))?;
        faults += more;
        dirty += pages;
    }
    uffd.unregister(heap.memory.at(0), len)?;
    heap.verify_all()?;
    Ok(vec![
        ("faults".into(), faults),
        ("dirty pages".into(), dirty),
    ])
}

/// Marks while mutators write. Returns how many faults there were, and how many dirty pages.
fn collect_once(heap: &Heap, uffd: &Uffd, size: Size, round: u64) -> Result<(u64, u64)> {
    let before: Vec<Before> = (0..size.pages).map(|_| Mutex::new(None)).collect();
    let versions = heap.versions();
    let mut faults = 0;
    uffd.write_protect(heap.memory.at(0), heap.memory.len())?;
    let written = with_handler(
        uffd,
        |event| {
            faults += 1;
            let_write(heap, uffd, &before, event)
        },
        || {
            std::thread::scope(|scope| {
                let marker = scope.spawn(|| mark(heap, &before, &versions));
                let written = mutate(heap, size, round)?;
                marker
                    .join()
                    .unwrap_or_else(|_| bail!("the marker panicked"))?;
                Ok(written)
            })
        },
    )?;

    let dirty: Vec<bool> = before
        .iter()
        .map(|page| page.lock().unwrap().is_some())
        .collect();
    same_pages(&written, &dirty)?;
    // Mark again, because no thread writes any more.
    mark(heap, &before, &versions)?;
    heap.verify_all()?;
    Ok((faults, count(&dirty)))
}

/// Saves a page, and lets the mutators write to it.
fn let_write(heap: &Heap, uffd: &Uffd, before: &[Before], event: Event) -> Result<()> {
    let Event::Pagefault {
        kind: FaultKind::WriteProtected,
        rw: ReadWrite::Write,
        addr,
        ..
    } = event
    else {
        bail!("not a write to a protected page: {event:?}");
    };
    let offset = heap
        .memory
        .offset(addr)
        .context("a fault outside of the heap")?;
    let page = offset / PAGE;
    // The second fault of a page finds it unprotected, and perhaps written.
    before[page]
        .lock()
        .unwrap()
        .get_or_insert_with(|| heap.memory.load_page(page));
    uffd.remove_write_protection(heap.memory.at(page * PAGE), PAGE, true)?;
    Ok(())
}

/// Checks that the heap can be seen as it was at the start.
fn mark(heap: &Heap, before: &[Before], versions: &[u64]) -> Result<()> {
    for (page, before) in before.iter().enumerate() {
        // If no content is saved yet, no thread could write to the page before it was read here.
        let now = heap.memory.load_page(page);
        let words = before.lock().unwrap().unwrap_or(now);
        Heap::verify_page(page, &words, versions).context("the marker sees something else")?;
    }
    Ok(())
}
