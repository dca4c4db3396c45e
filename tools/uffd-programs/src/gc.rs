// SPDX-License-Identifier: GPL-2.0

//! What garbage collectors do with userfaultfd, while several threads (mutators) use the heap.
//!
//! A heap is full of objects. Each word of an object tells the object and how often the object was
//! written, so that a mutator notices if a page is filled too late, twice, or with other data.

mod barrier;
mod compact;
mod minor;
mod scan;
mod sigbus;

use crate::{
    support::{self, check, describe, isolated, memory_file, pattern, Mapping, Measures, PAGE},
    tap::Tap,
};
use anyhow::{ensure, Context, Result};
use std::{
    os::unix::net::UnixStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use userfaultfd::{Error, Event, FeatureFlags, Uffd, UffdBuilder};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The size of an object.
const OBJECT_WORDS: usize = 8;
const OBJECT: usize = OBJECT_WORDS * support::WORD;
const PAGE_OBJECTS: usize = PAGE / OBJECT;

/// How large the cases are.
#[derive(Copy, Clone)]
struct Size {
    /// Pages of the heap.
    pages: usize,
    mutators: usize,
    /// How often the garbage is collected.
    rounds: u64,
}

/// The memory of a heap.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Memory {
    Anonymous,
    Shared,
}

/// Features that the crate does not name yet, by their bits in linux/userfaultfd.h.
mod features {
    pub const MINOR_SHMEM: u64 = 1 << 10;
    pub const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
    pub const WP_UNPOPULATED: u64 = 1 << 13;
    pub const WP_ASYNC: u64 = 1 << 15;
    pub const MOVE: u64 = 1 << 16;
}

/// Runs all cases.
pub fn run(tap: &mut Tap, long: bool) -> Result<()> {
    let size = Size {
        pages: if long { 4096 } else { 512 },
        mutators: 4,
        rounds: if long { 12 } else { 3 },
    };
    type Case = fn(Size) -> Result<Measures>;
    let cases: &[(&str, Case)] = &[
        ("write barrier with a handler, anonymous memory", |size| {
            barrier::collect(size, Memory::Anonymous)
        }),
        ("write barrier with a handler, shared memory", |size| {
            barrier::collect(size, Memory::Shared)
        }),
        (
            "write tracking with PAGEMAP_SCAN, anonymous memory",
            |size| scan::collect(size, Memory::Anonymous),
        ),
        ("write tracking with PAGEMAP_SCAN, shared memory", |size| {
            scan::collect(size, Memory::Shared)
        }),
        ("read barrier by SIGBUS and UFFDIO_COPY", |size| {
            sigbus::collect(size, Memory::Anonymous)
        }),
        ("read barrier by SIGBUS and UFFDIO_CONTINUE", |size| {
            sigbus::collect(size, Memory::Shared)
        }),
        ("compaction by UFFDIO_MOVE", compact::collect),
        (
            "compaction by minor faults on a double mapping",
            minor::collect,
        ),
    ];
    for (name, case) in cases {
        let began = Instant::now();
        let result = isolated(LIMIT, || case(size));
        support::report_measures(tap, &format!("gc: {name}"), began, &result);
        tap.test(&format!("gc: {name}"), result.map(|_| ()));
    }
    Ok(())
}

/// Creates a userfaultfd. It handles faults in system calls too.
fn create(known: FeatureFlags, bits: u64) -> Result<Uffd> {
    UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(false)
        .require_features(known | FeatureFlags::from_bits_retain(bits))
        .create()
        .context("cannot create the userfaultfd")
}

/// Runs `body` while a thread handles the messages of a userfaultfd. Returns what `body` returns.
///
/// If the handler fails, the process ends, because the threads that wait for it cannot be told.
fn with_handler<T>(
    uffd: &Uffd,
    mut handle: impl FnMut(Event) -> Result<()> + Send,
    body: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (stop, stopped) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if let Err(err) = handle_until(uffd, &stopped, &mut handle) {
                support::abandon(err.context("the handler failed"));
            }
        });
        let result = body();
        drop(stop);
        result
    })
}

/// Handles messages until the other end of a socket is closed.
fn handle_until(
    uffd: &Uffd,
    stopped: &UnixStream,
    handle: &mut impl FnMut(Event) -> Result<()>,
) -> Result<()> {
    loop {
        let ready = support::readable(&[uffd, stopped], Duration::from_secs(1))?;
        while let Some(event) = uffd.read_event()? {
            handle(event)?;
        }
        if ready[1] {
            return Ok(());
        }
    }
}

/// Runs a function in several threads, each with its number, and fails if one does.
fn in_threads<T: Send>(count: usize, body: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|me| {
                let body = &body;
                scope.spawn(move || body(me))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| panic!("a mutator panicked"))
            })
            .collect()
    })
}

/// Returns whether an ioctl failed because another thread was faster: the page is present.
fn exists(err: &Error) -> bool {
    let exists = nix::errno::Errno::EEXIST as i32;
    match err {
        Error::CopyFailed(errno) => *errno as i32 == exists,
        Error::SystemError(errno) => *errno as i32 == exists,
        _ => false,
    }
}

/// A heap that is full of objects.
struct Heap {
    memory: Mapping,
    /// How often each object was written.
    versions: Vec<AtomicU64>,
}

impl Heap {
    /// Makes a heap and its objects.
    fn new(memory: Mapping) -> Self {
        let objects = memory.len() / OBJECT;
        let heap = Self {
            memory,
            versions: (0..objects).map(|_| AtomicU64::new(0)).collect(),
        };
        for object in 0..objects {
            heap.store(object, 0);
        }
        heap
    }

    /// Makes a heap of a size.
    fn sized(pages: usize, memory: Memory) -> Result<Self> {
        let len = pages * PAGE;
        Ok(Self::new(match memory {
            Memory::Anonymous => Mapping::anonymous(len)?,
            Memory::Shared => Mapping::shared(&memory_file(len)?, len)?,
        }))
    }

    fn objects(&self) -> usize {
        self.versions.len()
    }

    fn version(&self, object: usize) -> u64 {
        self.versions[object].load(Ordering::Acquire)
    }

    /// The versions of all objects.
    fn versions(&self) -> Vec<u64> {
        (0..self.objects())
            .map(|object| self.version(object))
            .collect()
    }

    fn store(&self, object: usize, version: u64) {
        store_object(&self.memory, object * OBJECT, object, version);
    }

    /// Writes an object. Only one mutator may do so at a time.
    fn write(&self, object: usize) {
        let version = self.version(object) + 1;
        self.store(object, version);
        self.versions[object].store(version, Ordering::Release);
    }

    /// Writes an object by a system call, so that the kernel faults.
    fn write_by_kernel(&self, object: usize, scratch: &Scratch) -> Result<()> {
        let version = self.version(object) + 1;
        store_object(&scratch.memory, 0, object, version);
        scratch.read_into(self.memory.at(object * OBJECT))?;
        self.versions[object].store(version, Ordering::Release);
        Ok(())
    }

    /// Checks an object that no thread is writing.
    fn verify(&self, object: usize) -> Result<()> {
        verify_object(&self.memory, object * OBJECT, object, self.version(object))
    }

    /// Checks all objects.
    fn verify_all(&self) -> Result<()> {
        (0..self.objects()).try_for_each(|object| self.verify(object))
    }

    /// Checks the words of a page against the versions that its objects had at some time.
    fn verify_page(page: usize, words: &[u64], versions: &[u64]) -> Result<()> {
        for (place, words) in words.chunks(OBJECT_WORDS).enumerate() {
            let object = page * PAGE_OBJECTS + place;
            for (index, &word) in words.iter().enumerate() {
                verify_word(object, versions[object], index, word)?;
            }
        }
        Ok(())
    }
}

/// Writes an object at an offset of `memory`.
fn store_object(memory: &Mapping, offset: usize, object: usize, version: u64) {
    for index in 0..OBJECT_WORDS {
        memory.store(
            offset + index * support::WORD,
            pattern(object, version, index),
        );
    }
}

/// Checks an object at an offset of `memory`.
fn verify_object(memory: &Mapping, offset: usize, object: usize, version: u64) -> Result<()> {
    (0..OBJECT_WORDS).try_for_each(|index| {
        let word = memory.load(offset + index * support::WORD);
        verify_word(object, version, index, word)
    })
}

fn verify_word(object: usize, version: u64, index: usize, word: u64) -> Result<()> {
    ensure!(
        word == pattern(object, version, index),
        "object {object} (page {}) should have version {version}, and word {index} is {}",
        object / PAGE_OBJECTS,
        describe(word)
    );
    Ok(())
}

/// A file with room for one object, and its memory.
struct Scratch {
    file: std::fs::File,
    memory: Mapping,
}

impl Scratch {
    fn new() -> Result<Self> {
        let file = memory_file(PAGE)?;
        let memory = Mapping::shared(&file, PAGE)?;
        Ok(Self { file, memory })
    }

    /// Lets the kernel copy the object to an address.
    fn read_into(&self, address: *mut libc::c_void) -> Result<()> {
        use std::os::fd::AsRawFd;
        // SAFETY: The heap is memory, which is accessed in atomic words.
        let read = check("pread", unsafe {
            libc::pread(self.file.as_raw_fd(), address, OBJECT, 0) as i64
        })?;
        ensure!(read as usize == OBJECT, "pread returned {read}");
        Ok(())
    }
}

/// Lets mutators write objects at random. Each has objects of its own, but they share the pages.
/// Returns which pages were written.
fn mutate(heap: &Heap, size: Size, seed: u64) -> Result<Vec<bool>> {
    // With so few writes, some pages are not written.
    let writes = heap.memory.pages() * 3 / 2 / size.mutators;
    let written = in_threads(size.mutators, |me| {
        let mut rng = fastrand::Rng::with_seed((seed << 8) | me as u64);
        let scratch = Scratch::new()?;
        let mut written = vec![false; heap.memory.pages()];
        for round in 0..writes {
            let object = rng.usize(..heap.objects() / size.mutators) * size.mutators + me;
            heap.verify(object)?;
            if round % 4 == 0 {
                heap.write_by_kernel(object, &scratch)?;
            } else {
                heap.write(object);
            }
            heap.verify(object)?;
            written[object / PAGE_OBJECTS] = true;
        }
        Ok(written)
    })?;
    Ok(union(written, heap.memory.pages()))
}

/// The pages that are in any of the sets.
fn union(sets: Vec<Vec<bool>>, pages: usize) -> Vec<bool> {
    sets.into_iter().fold(vec![false; pages], |all, set| {
        all.iter().zip(&set).map(|(all, one)| all | one).collect()
    })
}

/// Fails if two sets of pages are not the same.
fn same_pages(written: &[bool], found: &[bool]) -> Result<()> {
    let differing: Vec<usize> = (0..written.len())
        .filter(|&page| written[page] != found[page])
        .collect();
    ensure!(
        differing.is_empty(),
        "{} pages were written and not found dirty, or the other way round; the first is {}, which \
         was {}written",
        differing.len(),
        differing[0],
        if written[differing[0]] { "" } else { "not " }
    );
    Ok(())
}

/// The number of pages in a set.
fn count(pages: &[bool]) -> u64 {
    pages.iter().filter(|page| **page).count() as u64
}

/// Sets a flag when this is dropped, also after an error.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
