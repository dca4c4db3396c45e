// SPDX-License-Identifier: GPL-2.0

//! What the kernel keeps account of: memory and page tables of this process, and huge pages.

use crate::inspect::mappings;
use std::{fs::File, ops::Sub, os::unix::fs::FileExt};

/// The lines of /proc/self/status, in kB.
const STATUS: [&str; 6] = [
    "RssAnon:",
    "RssFile:",
    "RssShmem:",
    "VmSwap:",
    "VmPTE:",
    "HugetlbPages:",
];

/// The files of the pool of huge pages, in pages.
const POOL: [&str; 3] = ["free_hugepages", "resv_hugepages", "surplus_hugepages"];

/// The files, opened once: the reader allocates no memory, which would be accounted for.
pub struct Ledger {
    status: File,
    pool: [File; 3],
}

/// The numbers at some time, or how they have changed.
#[derive(Copy, Clone, PartialEq)]
pub struct Entry {
    status: [i64; STATUS.len()],
    pool: [i64; POOL.len()],
}

/// How much of its heap and of its stack this program has touched before it counts, in bytes.
const HEAP: usize = 2 << 20;
const STACK: usize = 256 << 10;

/// Touches memory for later, so that this program takes none for itself while it counts. How much
/// of the heap is there would depend on where the kernel has put it.
fn touch_own() {
    // SAFETY: These are settings of the allocator. It gives nothing back, and takes all from the heap.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 2 * HEAP as i32);
    }
    drop(std::hint::black_box(vec![1u8; HEAP]));
    std::hint::black_box([1u8; STACK]);
}

impl Ledger {
    pub fn new() -> Self {
        touch_own();
        // Pages of this program that it has not used yet would count when it does.
        let program = std::fs::read_link("/proc/self/exe").expect("there is a program");
        for mapping in mappings() {
            if program.as_os_str() == mapping.name.as_str() {
                let len = mapping.end - mapping.start;
                // SAFETY: What is in the memory stays as it is.
                unsafe { libc::madvise(mapping.start as _, len, libc::MADV_POPULATE_READ) };
            }
        }
        let open = |path: &str| File::open(path).expect("there are accounts");
        let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
        let ledger = Self {
            status: open("/proc/self/status"),
            pool: POOL.map(|name| open(&format!("{pool}/{name}"))),
        };
        ledger.entry();
        ledger
    }

    pub fn entry(&self) -> Entry {
        // So that what is allocated before the next entry needs no page that is not there.
        drop(std::hint::black_box(vec![1u8; 64 << 10]));
        let mut buffer = [0; 4096];
        let text = text_of(&self.status, &mut buffer);
        let status = STATUS.map(|name| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
            number.expect("there is the number")
        });
        let pool = [0, 1, 2].map(|index| {
            let number = text_of(&self.pool[index], &mut buffer).trim().parse();
            // The kernel may count below zero.
            let number: u64 = number.expect("there is the number");
            number as i64
        });
        Entry { status, pool }
    }
}

/// Reads a short file.
fn text_of<'a>(file: &File, buffer: &'a mut [u8]) -> &'a str {
    let len = file.read_at(buffer, 0).expect("there are accounts");
    std::str::from_utf8(&buffer[..len]).expect("accounts are text")
}

impl Entry {
    /// What has to be as before when this process has given back what it had. The rest depends on
    /// what else the process did.
    pub fn without_own(mut self) -> Self {
        for (number, name) in self.status.iter_mut().zip(STATUS) {
            if matches!(name, "RssAnon:" | "RssFile:" | "VmPTE:") {
                *number = 0;
            }
        }
        self
    }
}

impl Sub for Entry {
    type Output = Self;

    fn sub(mut self, before: Self) -> Self {
        let numbers = self.status.iter_mut().chain(&mut self.pool);
        for (number, before) in numbers.zip(before.status.iter().chain(&before.pool)) {
            *number -= before;
        }
        self
    }
}

/// The numbers that are not zero.
impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        let status = STATUS.iter().zip(&self.status);
        for (name, number) in status.chain(POOL.iter().zip(&self.pool)) {
            if *number != 0 {
                write!(f, "{separator}{} {number:+}", name.trim_end_matches(':'))?;
                separator = ", ";
            }
        }
        if separator.is_empty() {
            f.write_str("as before")?;
        }
        Ok(())
    }
}
