// SPDX-License-Identifier: GPL-2.0

//! The owner of the memory: virtual CPUs, a device, and a balloon.

use super::{Case, Measures, Memory, Reading, PAGE_WORDS};
use crate::support::{check, describe, memory_file, parse_pattern, pattern, Mapping};
use anyhow::{bail, ensure, Context, Result};
use nix::sys::socket::{sendmsg, ControlMessage, MsgFlags};
use serde_json::json;
use std::{
    fs::File,
    io::IoSlice,
    os::{fd::AsRawFd, unix::net::UnixStream},
    path::Path,
    sync::{
        atomic::{AtomicU64, AtomicUsize, Ordering},
        Mutex, MutexGuard,
    },
    time::Duration,
};
use userfaultfd::{FeatureFlags, Uffd, UffdBuilder};

/// Virtual CPUs.
const CPUS: u64 = 4;

/// The most that a device reads at a time.
const DEVICE: usize = 64 << 10;

/// What a page has to contain.
#[derive(Copy, Clone)]
enum Content {
    /// What the file has.
    File,
    /// Zeros: the balloon gave it back.
    Zero,
    /// What was written last.
    Written(u64),
}

/// What the owner knows about a page.
struct Page {
    /// Every access to the page is under this lock, except in [`Guest::peek`].
    content: Mutex<Content>,
    /// How often the page was written and given back, counted before it is done.
    written: AtomicU64,
    removed: AtomicU64,
}

/// The memory of the guest.
struct Guest {
    case: Case,
    regions: Vec<Mapping>,
    pages: Vec<Page>,
    /// The page around which the balloon is about to give back some.
    target: AtomicUsize,
}

/// Uses the memory, and checks that it always has the right content.
pub fn run(socket: &Path, case: &Case) -> Result<Measures> {
    let guest = Guest::new(case)?;
    let uffd = guest.register()?;
    // The handler ends when this is closed.
    let stream = UnixStream::connect(socket)?;
    guest.send(&uffd, &stream)?;
    if case.delay.is_some() {
        guest.wait_for_first()?;
    }
    guest.run()?;
    guest.verify_all().context("in the end")?;
    let removed: u64 = guest
        .pages
        .iter()
        .map(|page| page.removed.load(Ordering::Relaxed))
        .sum();
    Ok(vec![("pages removed".into(), removed)])
}

impl Guest {
    /// Maps the memory.
    fn new(case: &Case) -> Result<Self> {
        let regions = case.regions.map(|len| match case.memory {
            Memory::Anonymous => Mapping::anonymous(len),
            Memory::Shared => Mapping::shared(&memory_file(len)?, len),
            Memory::Huge => Mapping::huge(len),
        });
        let pages = (0..case.len() / case.page()).map(|_| Page {
            content: Mutex::new(Content::File),
            written: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        });
        Ok(Self {
            case: *case,
            regions: regions.into_iter().collect::<Result<_>>()?,
            pages: pages.collect(),
            target: AtomicUsize::new(0),
        })
    }

    /// Creates the userfaultfd, and registers the memory.
    fn register(&self) -> Result<Uffd> {
        let features = match self.case.memory {
            Memory::Anonymous => FeatureFlags::empty(),
            Memory::Shared => FeatureFlags::MISSING_SHMEM,
            Memory::Huge => FeatureFlags::MISSING_HUGETLBFS,
        };
        let uffd = UffdBuilder::new()
            .close_on_exec(true)
            .non_blocking(self.case.reading != Reading::Blocking)
            .user_mode_only(false)
            .require_features(features | FeatureFlags::EVENT_REMOVE)
            .create()
            .context("cannot create the userfaultfd")?;
        for region in &self.regions {
            uffd.register(region.at(0), region.len())?;
        }
        Ok(uffd)
    }

    /// Sends the userfaultfd and the description of the memory to the handler.
    fn send(&self, uffd: &Uffd, stream: &UnixStream) -> Result<()> {
        let mut offset = 0;
        let mut regions = Vec::new();
        for region in &self.regions {
            regions.push(json!({
                "base_host_virt_addr": region.at::<u8>(0) as u64,
                "size": region.len(),
                "offset": offset,
                "page_size": self.case.page(),
                "zero_page": self.case.memory != Memory::Huge,
            }));
            offset += region.len();
        }
        let text = serde_json::to_vec(&regions)?;
        let sent = sendmsg::<()>(
            stream.as_raw_fd(),
            &[IoSlice::new(&text)],
            &[ControlMessage::ScmRights(&[uffd.as_raw_fd()])],
            MsgFlags::empty(),
            None,
        )?;
        ensure!(sent == text.len(), "only {sent} bytes were sent");
        Ok(())
    }

    /// Touches a page for which the handler takes its time.
    fn wait_for_first(&self) -> Result<()> {
        let number = self.pages.len() / 3;
        let (region, offset) = self.place(number);
        let address = region.at::<u8>(offset) as usize;
        // The first thread of a process has its number.
        let process = std::process::id();
        println!("# delayed: process {process} thread {process} address {address:#x}");
        self.verify(number, &self.lock(number))
    }

    /// Lets virtual CPUs and a balloon run.
    fn run(&self) -> Result<()> {
        std::thread::scope(|scope| {
            let mut threads: Vec<_> = (0..CPUS)
                .map(|cpu| scope.spawn(move || self.cpu(cpu).with_context(|| format!("CPU {cpu}"))))
                .collect();
            threads.push(scope.spawn(|| self.balloon().context("the balloon")));
            for thread in threads {
                thread
                    .join()
                    .unwrap_or_else(|_| bail!("a thread panicked"))?;
            }
            Ok(())
        })
    }

    /// Runs a virtual CPU and its device.
    fn cpu(&self, cpu: u64) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(cpu);
        let file = memory_file(DEVICE)?;
        let buffer = Mapping::shared(&file, DEVICE.min(self.case.page()))?;
        for _ in 0..self.case.accesses {
            let number = rng.usize(..self.pages.len());
            match rng.usize(..8) {
                0 => self.peek(number, rng.usize(..PAGE_WORDS))?,
                1 | 2 => {
                    let target = self.target.load(Ordering::Relaxed) + rng.usize(..self.most());
                    self.peek(target % self.pages.len(), rng.usize(..PAGE_WORDS))?;
                }
                3 => self.write(number),
                4 => self.send_to_device(number, &buffer, &file)?,
                _ => self.verify(number, &self.lock(number))?,
            }
        }
        Ok(())
    }

    fn lock(&self, number: usize) -> MutexGuard<'_, Content> {
        self.pages[number].content.lock().unwrap()
    }

    /// Returns the mapping and the offset of a page.
    fn place(&self, number: usize) -> (&Mapping, usize) {
        let mut offset = number * self.case.page();
        for region in &self.regions {
            if offset < region.len() {
                return (region, offset);
            }
            offset -= region.len();
        }
        unreachable!("there are no more pages than the regions have");
    }

    /// Reads a word without the lock, so that the balloon may give the page back at the same time.
    fn peek(&self, number: usize, word: usize) -> Result<()> {
        let (region, offset) = self.place(number);
        let value = region.load(offset + word * self.case.stride());
        let page = &self.pages[number];
        if value == 0 {
            ensure!(
                page.removed.load(Ordering::SeqCst) > 0,
                "page {number}: word {word} is zero, and the page was never removed"
            );
            return Ok(());
        }
        let (of, version, index) = parse_pattern(value);
        ensure!(
            (of, index) == (number, word) && version <= page.written.load(Ordering::SeqCst),
            "page {number}: word {word} is {}",
            describe(value)
        );
        Ok(())
    }

    /// Writes a whole page.
    fn write(&self, number: usize) {
        let mut content = self.lock(number);
        let version = self.pages[number].written.fetch_add(1, Ordering::SeqCst) + 1;
        let (region, offset) = self.place(number);
        for word in 0..PAGE_WORDS {
            let value = pattern(number, version, word);
            region.store(offset + word * self.case.stride(), value);
        }
        *content = Content::Written(version);
    }

    /// Has the kernel read a page, or the start of it.
    fn send_to_device(&self, number: usize, buffer: &Mapping, file: &File) -> Result<()> {
        let content = self.lock(number);
        let (region, offset) = self.place(number);
        let len = buffer.len();
        // SAFETY: The page is the guest's, which is accessed in atomic words.
        let wrote = unsafe { libc::pwrite(file.as_raw_fd(), region.at(offset), len, 0) };
        let wrote = check("pwrite", wrote as i64)?;
        ensure!(
            wrote as usize == len,
            "a system call read {wrote} bytes of page {number}"
        );
        self.verify_in(number, buffer, 0, &content)
    }

    /// Checks a page.
    fn verify(&self, number: usize, content: &Content) -> Result<()> {
        let (region, offset) = self.place(number);
        self.verify_in(number, region, offset, content)
    }

    /// Checks a page, or the first part of it, at an offset of `memory`.
    fn verify_in(
        &self,
        number: usize,
        memory: &Mapping,
        offset: usize,
        content: &Content,
    ) -> Result<()> {
        let words = PAGE_WORDS.min((memory.len() - offset) / self.case.stride());
        for word in 0..words {
            let expected = match content {
                Content::File => pattern(number, 0, word),
                Content::Zero => 0,
                Content::Written(version) => pattern(number, *version, word),
            };
            let found = memory.load(offset + word * self.case.stride());
            ensure!(
                found == expected,
                "page {number}: word {word} is {} and not {}",
                describe(found),
                describe(expected)
            );
        }
        Ok(())
    }

    /// Checks all pages.
    fn verify_all(&self) -> Result<()> {
        (0..self.pages.len()).try_for_each(|number| self.verify(number, &self.lock(number)))
    }

    /// How many pages the balloon gives back at most.
    fn most(&self) -> usize {
        self.pages.len() / 32 + 1
    }

    /// Gives memory back.
    fn balloon(&self) -> Result<()> {
        let mut rng = fastrand::Rng::with_seed(CPUS);
        let advice = match self.case.memory {
            Memory::Anonymous | Memory::Huge => libc::MADV_DONTNEED,
            Memory::Shared => libc::MADV_REMOVE,
        };
        let page_size = self.case.page();
        for _ in 0..self.case.removals {
            let first = rng.usize(..self.pages.len());
            let (region, offset) = self.place(first);
            let count = 1 + rng.usize(..self.most().min((region.len() - offset) / page_size));
            // The worst case is a thread that waits for a page that is about to be removed.
            self.target.store(first, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(200));
            // The locks are taken in ascending order. All other threads hold one lock only.
            let mut contents: Vec<_> = (first..first + count).map(|page| self.lock(page)).collect();
            for page in &self.pages[first..first + count] {
                page.removed.fetch_add(1, Ordering::SeqCst);
            }
            region.advise(offset, count * page_size, advice)?;
            contents
                .iter_mut()
                .for_each(|content| **content = Content::Zero);
            drop(contents);
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}
