// SPDX-License-Identifier: GPL-2.0

//! What the kernel has allocated and not freed.

use std::{collections::BTreeMap, fs::File, io::Read, path::Path, thread::sleep, time::Duration};

/// How long things may take to be given back: some are freed later, by other threads.
const ROUNDS: usize = 4;
const ROUND: Duration = Duration::from_millis(50);

/// More than there is to read, in bytes.
const SIZE: usize = 2 << 20;

/// Files of the kernel whose allocations are not counted: pages of slabs are kept, and their objects
/// are counted where they are allocated. Stacks of threads are kept as well. What is freed by way of
/// RCU waits until there is enough of it.
const LEFT_OUT: [&str; 5] = [
    "mm/slub.c",
    "mm/vmalloc.c",
    "mm/kasan/shadow.c",
    "lib/maple_tree.c",
    "fs/kernfs/file.c",
];

/// How many allocations of each file of the kernel's source are not freed: when they were counted,
/// and now. Those of a file are counted together, because a page of this program that is copied after
/// a fork moves from one place in a file to another.
pub struct Allocations {
    /// There from the beginning, because it is counted, too.
    text: Vec<u8>,
    counts: BTreeMap<String, [i64; 2]>,
}

impl Allocations {
    /// Whether the kernel counts them. Debug kernels do.
    pub fn are_counted() -> bool {
        Path::new("/proc/allocinfo").exists()
    }

    pub fn new() -> Self {
        let mut allocations = Self {
            text: vec![1; SIZE],
            counts: BTreeMap::new(),
        };
        allocations.read();
        allocations
    }

    /// Reads how many there are now. Each line has a size, a number, a place and a function.
    fn read(&mut self) {
        settle();
        let mut file = File::open("/proc/allocinfo").expect("allocations are counted");
        let mut len = 0;
        loop {
            match file.read(&mut self.text[len..]) {
                Ok(0) => break,
                Ok(read) => len += read,
                Err(err) => panic!("the counts cannot be read: {err}"),
            }
        }
        assert_ne!(len, SIZE, "there is room for all counts");
        let text = std::str::from_utf8(&self.text[..len]).expect("the counts are text");
        self.counts.values_mut().for_each(|counts| counts[1] = 0);
        for line in text.lines() {
            let mut fields = line.split_whitespace().skip(1);
            let count = fields.next().and_then(|count| count.parse::<i64>().ok());
            let file = fields.next().and_then(|place| place.split(':').next());
            let (Some(count), Some(file)) = (count, file) else {
                continue;
            };
            if let Some(counts) = self.counts.get_mut(file) {
                counts[1] += count;
            } else if !LEFT_OUT.contains(&file) {
                self.counts.insert(file.into(), [0, count]);
            }
        }
    }

    /// Counts those there are now.
    pub fn count(&mut self) {
        self.read();
        self.counts
            .values_mut()
            .for_each(|counts| counts[0] = counts[1]);
    }

    /// The files that have at least so many more than when they were counted, after some time to free
    /// all. Some things are kept until there is something else to do, so this is no proof.
    pub fn grown(&mut self, least: i64) -> Vec<String> {
        let has_grown = |[before, now]: &[i64; 2]| now - before >= least;
        for _ in 0..ROUNDS {
            self.read();
            if !self.counts.values().any(has_grown) {
                break;
            }
            sleep(ROUND);
        }
        let grown = self.counts.iter().filter(|(_, counts)| has_grown(counts));
        grown.map(|(file, _)| file.clone()).collect()
    }
}

/// Has all processors give back pages that they only keep in order to put them on lists. That is
/// what the kernel does before it moves pages from one node to others: here to the same one.
fn settle() {
    let node = 1u64;
    // SAFETY: Both sets of nodes are as long as is said.
    unsafe { libc::syscall(libc::SYS_migrate_pages, 0, 64, &node, &node) };
}
