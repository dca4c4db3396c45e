// SPDX-License-Identifier: GPL-2.0

//! What several programs share: processes with a time limit, mappings, and patterns that tell their
//! place.

use crate::tap::Tap;
use anyhow::{anyhow, bail, ensure, Context, Result};
use nix::{
    sys::wait::WaitStatus,
    unistd::{pipe, Pid},
};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::process::ExitStatusExt,
    },
    panic::{self, AssertUnwindSafe},
    sync::{
        atomic::{AtomicU64, Ordering},
        OnceLock,
    },
    time::{Duration, Instant},
};
use uffd_guest::{memfd, Child, Mmap, RW};

pub use uffd_guest::PAGE;

/// The size of a word of memory, as patterns have it.
pub const WORD: usize = 8;

/// What a process measured: names and values.
pub type Measures = Vec<(String, u64)>;

/// Reports what a case measured, and how long it took.
pub fn report_measures(tap: &Tap, case: &str, began: Instant, result: &Result<Measures>) {
    for (what, value) in result.iter().flatten() {
        tap.measure(&format!("{case}: {what}"), value, "");
    }
    tap.measure(&format!("{case}: time"), began.elapsed().as_millis(), "ms");
}

/// The pipe to which this process writes its result, if [`Process::start`] made it.
static RESULT: OnceLock<File> = OnceLock::new();

/// A process that runs a function. It is killed when this is dropped, and when its parent ends.
///
/// Code that may wait forever for a page runs in such a process, because a thread that sleeps in a
/// page fault cannot be told to give up.
pub struct Process {
    child: Child,
    result: File,
}

impl Process {
    /// Runs a function in a process of its own. To be called while there is only one thread.
    pub fn start(body: impl FnOnce() -> Result<Measures>) -> Result<Self> {
        let (read, write) = pipe()?;
        // The child takes one end, which its parent closes, and closes its copy of the other.
        let mut read = Some(File::from(read));
        let child = Child::start(|| {
            read.take();
            RESULT.get_or_init(|| write.into());
            let result = panic::catch_unwind(AssertUnwindSafe(body));
            report(result.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
        })?;
        let result = read.context("a pipe has two ends")?;
        Ok(Self { child, result })
    }

    /// Waits for the result.
    pub fn wait(self, limit: Duration) -> Result<Measures> {
        let id = Pid::from_raw(self.child.id());
        let (text, status) = self.child.output(self.result, limit)?;
        let status = status.with_context(|| format!("it did not finish in {limit:?}"))?;
        if text.is_empty() {
            let status = WaitStatus::from_raw(id, status.into_raw())?;
            bail!("the process ended without a result: {status:?}");
        }
        let (measures, err): (Option<Measures>, String) = serde_json::from_slice(&text)?;
        measures.ok_or_else(|| anyhow!(err))
    }
}

/// Runs a function in a process of its own, with a time limit.
pub fn isolated(limit: Duration, body: impl FnOnce() -> Result<Measures>) -> Result<Measures> {
    Process::start(body)?.wait(limit)
}

/// Ends a process that [`Process::start`] made, with an error. A handler calls this if it fails,
/// because the threads that sleep in page faults would wait for it forever.
pub fn abandon(err: anyhow::Error) -> ! {
    report(Err(err))
}

/// Reports the result of this process, and ends it.
fn report(result: Result<Measures>) -> ! {
    let result = match result {
        Ok(measures) => (Some(measures), String::new()),
        Err(err) => (None, format!("{err:#}")),
    };
    if let (Some(mut pipe), Ok(text)) = (RESULT.get(), serde_json::to_string(&result)) {
        let _ = pipe.write_all(text.as_bytes());
    }
    // SAFETY: It never returns. There is nothing to clean up, and threads that sleep in page faults
    // could not be joined.
    unsafe { libc::_exit(0) }
}

/// Waits until descriptors can be read or are at their end. Returns which ones.
pub fn readable(fds: &[&dyn AsFd], limit: Duration) -> Result<Vec<bool>> {
    let fds: Vec<_> = fds.iter().map(|fd| (*fd, libc::POLLIN)).collect();
    let ready = poll(&fds, limit)?;
    Ok(ready.iter().map(|events| *events != 0).collect())
}

/// Waits until a descriptor has one of its events. Returns the events of each descriptor.
pub fn poll(fds: &[(&dyn AsFd, i16)], limit: Duration) -> Result<Vec<i16>> {
    let mut polled: Vec<libc::pollfd> = fds
        .iter()
        .map(|(fd, events)| libc::pollfd {
            fd: fd.as_fd().as_raw_fd(),
            events: *events,
            revents: 0,
        })
        .collect();
    let millis = i32::try_from(limit.as_millis())
        .unwrap_or(i32::MAX)
        .max(i32::from(!limit.is_zero()));
    // SAFETY: The array is as long as it says.
    let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as u64, millis) };
    if ready < 0 {
        let err = io::Error::last_os_error();
        if err.kind() == io::ErrorKind::Interrupted {
            return Ok(vec![0; fds.len()]);
        }
        return Err(err).context("poll");
    }
    for fd in &polled {
        ensure!(
            fd.revents & (libc::POLLERR | libc::POLLNVAL) == 0,
            "poll reports {:#x} for descriptor {}",
            fd.revents,
            fd.fd
        );
    }
    Ok(polled.iter().map(|fd| fd.revents).collect())
}

/// Turns the result of a system call into one of Rust's.
pub fn check(what: &'static str, result: impl Into<i64>) -> Result<i64> {
    match result.into() {
        -1 => Err(io::Error::last_os_error()).context(what),
        value => Ok(value),
    }
}

/// Makes a file that is only in memory.
pub fn memory_file(len: usize) -> Result<File> {
    let file = memfd(c"uffd-programs", 0, len).context("memfd_create")?;
    Ok(file.into())
}

/// Mapped memory. It is read and written in words, which several threads may do at a time.
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps private memory.
    pub fn anonymous(len: usize) -> Result<Self> {
        Self::new(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)
    }

    /// Maps private memory in huge pages of 2 MiB.
    pub fn huge(len: usize) -> Result<Self> {
        let flags =
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        Self::new(len, flags, None).context("are there huge pages of 2 MiB?")
    }

    /// Maps a file, so that the memory is shared with all other mappings of it.
    pub fn shared(file: &File, len: usize) -> Result<Self> {
        Self::new(len, libc::MAP_SHARED, Some(file.as_fd()))
    }

    /// Maps memory that is shared with children.
    pub fn shared_anonymous(len: usize) -> Result<Self> {
        Self::new(len, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None)
    }

    fn new(len: usize, flags: i32, file: Option<BorrowedFd>) -> Result<Self> {
        Ok(Self(Mmap::new(None, len, RW, flags, file).context("mmap")?))
    }

    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The number of pages of the usual size.
    pub fn pages(&self) -> usize {
        self.len() / PAGE
    }

    /// The address of a byte.
    pub fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset <= self.len());
        self.0.start().wrapping_add(offset).cast()
    }

    /// The offset of an address that is in this mapping.
    pub fn offset<T>(&self, address: *mut T) -> Option<usize> {
        let offset = (address as usize).checked_sub(self.0.start() as usize)?;
        (offset < self.len()).then_some(offset)
    }

    /// The word at an offset.
    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % WORD == 0 && offset < self.len());
        // SAFETY: The word is aligned and in the mapping, which lives as long. All words are
        // accessed like this, or by the kernel.
        unsafe { &*self.at::<AtomicU64>(offset) }
    }

    /// Reads a word.
    pub fn load(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Writes a word.
    pub fn store(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// Reads a page.
    pub fn load_page(&self, page: usize) -> [u64; PAGE / WORD] {
        std::array::from_fn(|word| self.load(page * PAGE + word * WORD))
    }

    /// madvise().
    pub fn advise(&self, offset: usize, len: usize, advice: i32) -> Result<()> {
        assert!(offset + len <= self.len());
        // SAFETY: The range is in this mapping. No code relies on the values of the words.
        check("madvise", unsafe {
            libc::madvise(self.at(offset), len, advice)
        })
        .map(|_| ())
    }

    /// Returns for each page whether it is resident.
    pub fn resident(&self) -> Result<Vec<bool>> {
        let mut vec = vec![0u8; self.pages()];
        // SAFETY: There is a byte for each page.
        check("mincore", unsafe {
            libc::mincore(self.at(0), self.len(), vec.as_mut_ptr())
        })?;
        Ok(vec.iter().map(|byte| byte & 1 != 0).collect())
    }
}

/// A word that tells its place: word `index` of the version `version` of thing `thing`. It is
/// never zero.
pub fn pattern(thing: usize, version: u64, index: usize) -> u64 {
    ((version << 44) | ((thing as u64) << 20) | index as u64) ^ KEY
}

/// Has bits that no version has.
const KEY: u64 = 0xfff5_a5a5_9c3c_1234;

/// What [`pattern`] was made of: thing, version, index.
pub fn parse_pattern(word: u64) -> (usize, u64, usize) {
    let word = word ^ KEY;
    let thing = (word >> 20) & 0xff_ffff;
    (thing as usize, word >> 44, (word & 0xf_ffff) as usize)
}

/// Describes a word.
pub fn describe(word: u64) -> String {
    match (word, parse_pattern(word)) {
        (0, _) => "zero".into(),
        (_, (_, version, _)) if version > 0xf_0000 => format!("{word:#x}"),
        (_, (thing, version, index)) => format!("{thing} version {version} word {index}"),
    }
}
