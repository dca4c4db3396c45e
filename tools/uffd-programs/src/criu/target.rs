// SPDX-License-Identifier: GPL-2.0

//! The process that is moved. Its threads check its memory all the time.

use crate::support::{describe, pattern, Mapping, PAGE, WORD};
use anyhow::{ensure, Context, Result};
use nix::{
    sys::wait::{waitpid, WaitStatus},
    unistd::{fork, ForkResult},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering},
        RwLock,
    },
    time::{Duration, Instant},
};

/// The result of the process if all of its memory is right.
pub const GOOD: &str = "good";

/// How many threads check the memory.
const THREADS: usize = 4;

/// How often each thread checks all memory.
const PASSES: u64 = 3;

/// After the restore, each thread uses one in so many pages, so that it faults at them. Then it
/// rests, but not longer than this, so that the other pages arrive without a fault.
const WAITED_FOR: usize = 32;
const REST: Duration = Duration::from_secs(15);

/// Memory that is shared, in pages. CRIU does not restore it lazily.
const SHARED_PAGES: usize = 256;

#[derive(clap::Args)]
pub struct Options {
    /// Where it meets its parent.
    directory: PathBuf,
    /// Its memory.
    #[arg(long)]
    mib: usize,
    /// Fork when it is restored.
    #[arg(long)]
    fork: bool,
    /// Advise that its memory may have large folios.
    #[arg(long)]
    large: bool,
}

/// The memory of the process.
struct Target {
    /// Every second page stays as it is. The others are written, each by one thread.
    memory: Mapping,
    shared: Mapping,
    /// How often each page was written.
    versions: Vec<AtomicU64>,
    /// Held to read while a page is written, so that a fork does not copy a half-written page.
    whole: RwLock<()>,
    restored: AtomicBool,
}

/// Runs the process.
pub fn run(options: &Options) -> ExitCode {
    let result = Target::new(options).and_then(|target| target.run(options));
    let said = say(&options.directory, &result);
    match (result, said) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Writes the result to the file that the parent waits for.
fn say(directory: &Path, result: &Result<()>) -> Result<()> {
    let text = match result {
        Ok(()) => GOOD.into(),
        Err(err) => format!("{err:#}"),
    };
    // The rename makes the whole result visible at once.
    let new = directory.join("result.new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, directory.join("result"))?)
}

impl Target {
    fn new(options: &Options) -> Result<Self> {
        let memory = Mapping::anonymous(options.mib << 20)?;
        if options.large {
            memory.advise(0, memory.len(), libc::MADV_HUGEPAGE)?;
        }
        let target = Self {
            versions: (0..memory.pages()).map(|_| AtomicU64::new(0)).collect(),
            memory,
            shared: Mapping::shared_anonymous(SHARED_PAGES * PAGE)?,
            whole: RwLock::new(()),
            restored: AtomicBool::new(false),
        };
        for page in 0..target.memory.pages() {
            store_page(&target.memory, page, 0);
        }
        for page in 0..SHARED_PAGES {
            store_page(&target.shared, page, 0);
        }
        Ok(target)
    }

    /// Checks the memory before the dump and after the restore.
    fn run(&self, options: &Options) -> Result<()> {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|me| scope.spawn(move || self.look(me)))
                .collect();
            fs::write(options.directory.join("ready"), "")?;
            while !options.directory.join("restored").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.restored.store(true, Ordering::Release);
            let child = options.fork.then(|| self.fork()).transpose();
            for thread in threads {
                thread
                    .join()
                    .unwrap_or_else(|_| panic!("a thread panicked"))?;
            }
            self.verify_all()?;
            if let Some(child) = child? {
                let status = waitpid(child, None)?;
                ensure!(
                    matches!(status, WaitStatus::Exited(_, 0)),
                    "the child ended with {status:?}"
                );
            }
            Ok(())
        })
    }

    /// Runs a thread that checks the memory.
    fn look(&self, me: usize) -> Result<()> {
        let mut pages: Vec<usize> = (0..self.memory.pages()).collect();
        fastrand::Rng::with_seed(me as u64).shuffle(&mut pages);
        let mut some = pages.iter().cycle();
        while !self.restored.load(Ordering::Acquire) {
            let page = *some.next().context("there are no pages")?;
            self.use_page(me, page).context("before the restore")?;
            std::thread::sleep(Duration::from_millis(1));
        }
        for page in &pages[..pages.len() / WAITED_FOR] {
            self.use_page(me, *page).context("when restored")?;
        }
        self.rest()?;
        for pass in 0..PASSES {
            for page in &pages {
                self.use_page(me, *page)
                    .with_context(|| format!("after the restore, pass {pass}"))?;
            }
        }
        Ok(())
    }

    /// Waits until all pages are present, and causes no fault.
    fn rest(&self) -> Result<()> {
        let deadline = Instant::now() + REST;
        while Instant::now() < deadline && self.memory.resident()?.contains(&false) {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Checks a page, and writes it if it belongs to this thread.
    fn use_page(&self, me: usize, page: usize) -> Result<()> {
        if page % 2 == 0 {
            return self.verify(page);
        }
        if page / 2 % THREADS != me {
            return Ok(());
        }
        self.verify(page)?;
        let _whole = self.whole.read().unwrap();
        self.write(page);
        Ok(())
    }

    fn write(&self, page: usize) {
        let version = self.versions[page].load(Ordering::Relaxed) + 1;
        store_page(&self.memory, page, version);
        self.versions[page].store(version, Ordering::Relaxed);
    }

    fn verify(&self, page: usize) -> Result<()> {
        let version = self.versions[page].load(Ordering::Relaxed);
        verify_page(&self.memory, page, version)
    }

    /// Checks all memory. No thread may write at the same time.
    fn verify_all(&self) -> Result<()> {
        (0..self.memory.pages()).try_for_each(|page| self.verify(page))?;
        (0..SHARED_PAGES)
            .try_for_each(|page| verify_page(&self.shared, page, 0))
            .context("in shared memory")
    }

    /// Makes a child, which checks the memory too.
    fn fork(&self) -> Result<nix::unistd::Pid> {
        let whole = self.whole.write().unwrap();
        // SAFETY: The child has this thread only. It takes no lock that another thread may hold,
        // except the lock of the allocator, which the C library keeps usable.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(child),
            ForkResult::Child => {
                drop(whole);
                let result = self.run_child();
                if let Err(err) = &result {
                    eprintln!("the child: {err:#}");
                }
                // SAFETY: It never returns, and there is nothing to clean up.
                unsafe { libc::_exit(result.is_err().into()) }
            }
        }
    }

    /// Runs the child. The child must not see what the parent writes, and the parent must not see
    /// what the child writes.
    fn run_child(&self) -> Result<()> {
        for page in (0..self.memory.pages()).step_by(WAITED_FOR) {
            self.verify(page)?;
        }
        self.rest()?;
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                (0..self.memory.pages())
                    .rev()
                    .step_by(2)
                    .try_for_each(|page| self.verify(page))
            });
            self.verify_all()?;
            other.join().unwrap_or_else(|_| panic!("a thread panicked"))
        })?;
        for page in 0..self.memory.pages() {
            self.write(page);
        }
        self.verify_all()
    }
}

fn store_page(memory: &Mapping, page: usize, version: u64) {
    for word in 0..PAGE / WORD {
        memory.store(page * PAGE + word * WORD, pattern(page, version, word));
    }
}

fn verify_page(memory: &Mapping, page: usize, version: u64) -> Result<()> {
    for (word, found) in memory.load_page(page).into_iter().enumerate() {
        let expected = pattern(page, version, word);
        ensure!(
            found == expected,
            "page {page}: word {word} is {} and not {}",
            describe(found),
            describe(expected)
        );
    }
    Ok(())
}
