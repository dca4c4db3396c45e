// SPDX-License-Identifier: GPL-2.0

//! The process that is moved. Its threads look at its memory all the time.

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

/// What it says if all is well.
pub const GOOD: &str = "good";

/// How many threads look at the memory.
const THREADS: usize = 4;

/// How often each thread looks at all memory.
const PASSES: u64 = 3;

/// Each thread waits for this part of the pages, one by one. Then it rests, so that the others come
/// without being asked for, but not longer than this.
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
}

/// What the process holds.
struct Target {
    /// Every second page stays as it is. The others are written, each by one thread.
    memory: Mapping,
    shared: Mapping,
    /// How often each page was written.
    versions: Vec<AtomicU64>,
    /// Held to read while a page is written, so that a fork does not find half of it.
    whole: RwLock<()>,
    restored: AtomicBool,
}

/// Runs the process.
pub fn run(options: &Options) -> ExitCode {
    let result = Target::new(options.mib).and_then(|target| target.run(options));
    let said = say(&options.directory, &result);
    match (result, said) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Leaves the result where the parent finds it.
fn say(directory: &Path, result: &Result<()>) -> Result<()> {
    let text = match result {
        Ok(()) => GOOD.into(),
        Err(err) => format!("{err:#}"),
    };
    // It is there as a whole, or not at all.
    let new = directory.join("result.new");
    fs::write(&new, text)?;
    Ok(fs::rename(&new, directory.join("result"))?)
}

impl Target {
    fn new(mib: usize) -> Result<Self> {
        let memory = Mapping::anonymous(mib << 20)?;
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

    /// Looks at the memory before the dump, and after the restore.
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

    /// What a thread does.
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

    /// Waits until all pages are there, without asking for them.
    fn rest(&self) -> Result<()> {
        let deadline = Instant::now() + REST;
        while Instant::now() < deadline && self.memory.resident()?.contains(&false) {
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Looks at a page, and writes it if it is this thread's.
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

    /// Checks all memory. No thread may write meanwhile.
    fn verify_all(&self) -> Result<()> {
        (0..self.memory.pages()).try_for_each(|page| self.verify(page))?;
        (0..SHARED_PAGES)
            .try_for_each(|page| verify_page(&self.shared, page, 0))
            .context("in shared memory")
    }

    /// Makes a child, which looks at the memory too.
    fn fork(&self) -> Result<nix::unistd::Pid> {
        let whole = self.whole.write().unwrap();
        // SAFETY: The child has this thread only. It takes no lock that another thread may hold,
        // but that of the allocator, which the C library keeps usable.
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

    /// What the child does: what its parent writes is not its own, and the other way round.
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
