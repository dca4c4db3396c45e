// SPDX-License-Identifier: GPL-2.0

//! Tracks writes without a handler: the kernel removes the protection by itself, and PAGEMAP_SCAN
//! reports which pages were written and protects them again.

use super::{
    count, create, features, mutate, same_pages, Done, Heap, Measures, Memory, Size, PAGE,
};
use crate::support::{check, Mapping};
use anyhow::{bail, ensure, Context, Result};
use std::{
    fs::File,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use userfaultfd::{FeatureFlags, RegisterMode};

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Copy, Clone, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;
const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// Collects garbage several times.
pub fn collect(size: Size, memory: Memory) -> Result<Measures> {
    let heap = Heap::sized(size.pages, memory)?;
    let bits = match memory {
        Memory::Anonymous => 0,
        Memory::Shared => features::WP_HUGETLBFS_SHMEM,
    };
    let bits = bits | features::WP_ASYNC | features::WP_UNPOPULATED;
    let uffd = create(FeatureFlags::PAGEFAULT_FLAG_WP, bits)?;
    let len = heap.memory.len();
    uffd.register_with_mode(heap.memory.at(0), len, RegisterMode::WRITE_PROTECT)?;
    uffd.write_protect(heap.memory.at(0), len)?;
    let pagemap = File::open("/proc/self/pagemap")?;

    let (mut scans, mut dirty) = (0, 0);
    for round in 0..size.rounds {
        let result = collect_once(&heap, &pagemap, size, round);
        let (more, pages) = result.with_context(|| format!("round {round}"))?;
        scans += more;
        dirty += pages;
        ensure!(uffd.read_event()?.is_none(), "there is a message");
    }
    uffd.unregister(heap.memory.at(0), len)?;
    heap.verify_all()?;
    Ok(vec![("scans".into(), scans), ("dirty pages".into(), dirty)])
}

/// Scans while mutators write. Returns how often, and how many dirty pages there were.
fn collect_once(heap: &Heap, pagemap: &File, size: Size, round: u64) -> Result<(u64, u64)> {
    let done = AtomicBool::new(false);
    let mut dirty = vec![false; size.pages];
    let (written, mut scans) = std::thread::scope(|scope| {
        let scanner = scope.spawn(|| scan_until(&heap.memory, pagemap, &done, &mut dirty));
        let written = {
            let _done = Done(&done);
            mutate(heap, size, round)
        };
        let scans = scanner
            .join()
            .unwrap_or_else(|_| bail!("the scanner panicked"))?;
        anyhow::Ok((written?, scans))
    })?;
    scan(&heap.memory, pagemap, &mut dirty)?;
    scans += 1;
    same_pages(&written, &dirty)?;

    let mut again = vec![false; size.pages];
    scan(&heap.memory, pagemap, &mut again)?;
    ensure!(count(&again) == 0, "pages are dirty that no thread wrote");
    heap.verify_all()?;
    Ok((scans, count(&dirty)))
}

/// Scans again and again.
fn scan_until(
    memory: &Mapping,
    pagemap: &File,
    done: &AtomicBool,
    dirty: &mut [bool],
) -> Result<u64> {
    let mut scans = 0;
    while !done.load(Ordering::Acquire) {
        scan(memory, pagemap, dirty)?;
        scans += 1;
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(scans)
}

/// Finds out which pages were written since the last scan, and protects them again.
fn scan(memory: &Mapping, pagemap: &File, dirty: &mut [bool]) -> Result<()> {
    // There are so few regions that the kernel has to stop in between.
    let mut regions = [Region::default(); 16];
    let end = memory.at::<u8>(memory.len()) as u64;
    let mut start = memory.at::<u8>(0) as u64;
    while start < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            start,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_mask: PAGE_IS_WRITTEN,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArg::default()
        };
        // SAFETY: The argument is what the ioctl expects, and the array is as long as it says.
        let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN as _, &mut arg) };
        let found = check("PAGEMAP_SCAN", found)? as usize;
        for region in &regions[..found] {
            ensure!(region.categories == PAGE_IS_WRITTEN, "not asked for");
            for address in (region.start..region.end).step_by(PAGE) {
                let offset = memory
                    .offset(address as *mut u8)
                    .context("outside of the heap")?;
                dirty[offset / PAGE] = true;
            }
        }
        ensure!(arg.walk_end > start, "the scan does not get on");
        start = arg.walk_end;
    }
    Ok(())
}
