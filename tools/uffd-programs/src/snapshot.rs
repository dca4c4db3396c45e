// SPDX-License-Identifier: GPL-2.0

//! Restores memory from a file in another process, as a virtual machine monitor does that starts
//! from a snapshot.
//!
//! The *owner* is the monitor: it maps the guest's memory, registers it, and sends the userfaultfd
//! with a description of the memory over a socket. Its threads act as virtual CPUs, which use the
//! memory, and as a balloon, which gives parts of it back. The *handler* has the file, and fills
//! pages from it. If the balloon gave a page back, the handler fills it with zeros.

mod handler;
mod owner;

use crate::{
    support::{pattern, report_measures, Measures, Process, PAGE},
    tap::Tap,
};
use anyhow::{bail, Context, Result};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(120);

/// How many words of each page are checked, whether the page is small or huge.
const PAGE_WORDS: usize = 512;

/// What the guest's memory is.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Memory {
    Anonymous,
    Shared,
    Huge,
}

/// How the handler reads messages.
#[derive(Copy, Clone, PartialEq, Eq)]
enum Reading {
    /// It sleeps in read(), and reads one message at a time.
    Blocking,
    /// It sleeps in poll(), and reads one message at a time.
    One,
    /// It sleeps in poll(), reads all messages, and fills several pages at a time.
    Many,
}

#[derive(clap::Args)]
pub struct Options {
    /// Run one case, in which the first thread of the owner touches a page before all others do,
    /// and the handler waits so long before it fills it. Prints the page and the thread.
    #[arg(long, value_name = "MILLISECONDS")]
    delay: Option<u64>,
}

#[derive(Copy, Clone)]
struct Case {
    name: &'static str,
    memory: Memory,
    reading: Reading,
    /// The sizes of the regions of guest memory.
    regions: [usize; 2],
    /// How often each virtual CPU accesses a page.
    accesses: usize,
    /// How often the balloon gives memory back.
    removals: usize,
    /// How long the handler waits before it fills the first page.
    delay: Option<Duration>,
}

const MIB: usize = 1 << 20;

const CASES: &[Case] = &[
    Case {
        name: "blocking reads",
        memory: Memory::Anonymous,
        reading: Reading::Blocking,
        regions: [3 * MIB, MIB],
        accesses: 1500,
        // A handler that sleeps in read() cannot retry an ioctl when the removal is over.
        removals: 0,
        delay: None,
    },
    Case {
        name: "anonymous memory, a message at a time",
        memory: Memory::Anonymous,
        reading: Reading::One,
        regions: [6 * MIB, 2 * MIB],
        accesses: 2500,
        removals: 150,
        delay: None,
    },
    Case {
        name: "anonymous memory, many messages at a time",
        memory: Memory::Anonymous,
        reading: Reading::Many,
        regions: [6 * MIB, 2 * MIB],
        accesses: 2500,
        removals: 150,
        delay: None,
    },
    Case {
        name: "shared memory",
        memory: Memory::Shared,
        reading: Reading::Many,
        regions: [6 * MIB, 2 * MIB],
        accesses: 2500,
        removals: 150,
        delay: None,
    },
    Case {
        name: "huge pages",
        memory: Memory::Huge,
        reading: Reading::Many,
        regions: [16 * MIB, 8 * MIB],
        accesses: 120,
        removals: 20,
        delay: None,
    },
];

/// The case with a delay: its handler counts all answers of its operations.
const DELAYED: Case = CASES[1];

impl Case {
    /// The size of a page.
    fn page(&self) -> usize {
        match self.memory {
            Memory::Huge => 2 * MIB,
            _ => PAGE,
        }
    }

    /// The distance between two words that are checked.
    fn stride(&self) -> usize {
        self.page() / PAGE_WORDS
    }

    fn len(&self) -> usize {
        self.regions.iter().sum()
    }

    /// The same case with more memory, accesses and removals.
    fn longer(mut self) -> Self {
        if self.memory != Memory::Huge {
            self.regions = self.regions.map(|len| len * 4);
        }
        self.accesses *= 8;
        self.removals *= 8;
        self
    }
}

/// Runs all cases, or the one with a delay.
pub fn run(tap: &mut Tap, options: &Options, long: bool) -> Result<()> {
    let directory = Directory::new()?;
    let cases = match options.delay.map(Duration::from_millis) {
        Some(delay) => vec![Case {
            delay: Some(delay),
            ..DELAYED
        }],
        None => CASES.to_vec(),
    };
    for case in cases {
        let case = if long { case.longer() } else { case };
        let name = format!("snapshot: {}", case.name);
        let began = Instant::now();
        let result = restore(&directory.0, &case);
        report_measures(tap, &name, began, &result);
        tap.test(&name, result.map(|_| ()));
    }
    Ok(())
}

/// Runs a case.
fn restore(directory: &Path, case: &Case) -> Result<Measures> {
    let (file, socket) = (directory.join("memory"), directory.join("socket"));
    write_memory(&file, case).context("cannot write the memory file")?;
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    let handler = Process::start(|| handler::serve(&listener, &file, case))?;
    drop(listener);
    let owner = Process::start(|| owner::run(&socket, case))?;
    let used = match owner.wait(LIMIT).context("the owner of the memory failed") {
        Ok(used) => used,
        // The owner may have failed because the handler did.
        Err(err) => match handler.wait(Duration::from_secs(1)) {
            Err(reason) => bail!("{err:#}; the handler: {reason:#}"),
            Ok(_) => return Err(err),
        },
    };
    let mut measures = handler
        .wait(Duration::from_secs(10))
        .context("the handler failed")?;
    measures.extend(used);
    Ok(measures)
}

/// Writes a memory file, in which each word tells its place.
fn write_memory(path: &Path, case: &Case) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut page = vec![0; case.page()];
    for number in 0..case.len() / case.page() {
        for word in 0..PAGE_WORDS {
            let value = pattern(number, 0, word);
            page[word * case.stride()..][..8].copy_from_slice(&value.to_ne_bytes());
        }
        file.write_all(&page)?;
    }
    file.flush()?;
    Ok(())
}

/// A directory that is removed when this is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("uffd-snapshot-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
