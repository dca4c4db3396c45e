// SPDX-License-Identifier: GPL-2.0

//! A read barrier without a handler thread, as Android's runtime has it: if a mutator accesses a
//! page that was not compacted yet, it gets SIGBUS, and its signal handler compacts the page.

use super::{
    create, exists, features, in_threads, store_object, verify_object, Heap, Measures, Memory,
    Size, OBJECT, PAGE, PAGE_OBJECTS,
};
use crate::support::{memory_file, Mapping, WORD};
use anyhow::{ensure, Context, Result};
use nix::sys::signal::{sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use std::{
    io,
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicU8, Ordering},
};
use userfaultfd::{FeatureFlags, RegisterMode, Uffd};

/// The collection that the signal handler is for.
static COLLECTION: AtomicPtr<Collection> = AtomicPtr::new(std::ptr::null_mut());

/// The states of a page.
const WAITING: u8 = 0;
const COMPACTING: u8 = 1;
const READY: u8 = 2;

/// A collection: objects move from the heap, in which they are in order, to other places.
struct Collection {
    uffd: Uffd,
    heap: Heap,
    /// The mapping to which the objects move. Its pages are missing at first.
    to: Mapping,
    /// The same memory without userfaultfd, if it is shared.
    alias: Option<Mapping>,
    /// The object that moves to each place.
    objects: Vec<usize>,
    /// The states of the pages of shared memory. Only one thread may fill each page.
    states: Vec<AtomicU8>,
    signals: AtomicU64,
    races: AtomicU64,
    /// Set by the signal handler, because it cannot return an error.
    failed: AtomicBool,
}

/// Collects garbage several times.
pub fn collect(size: Size, memory: Memory) -> Result<Measures> {
    let heap = Heap::sized(size.pages, Memory::Anonymous)?;
    let len = heap.memory.len();
    let (bits, mode) = match memory {
        Memory::Anonymous => (0, RegisterMode::MISSING),
        Memory::Shared => (
            features::MINOR_SHMEM,
            RegisterMode::MISSING | RegisterMode::MINOR,
        ),
    };
    let (to, alias) = match memory {
        Memory::Anonymous => (Mapping::anonymous(len)?, None),
        Memory::Shared => {
            let file = memory_file(len)?;
            (
                Mapping::shared(&file, len)?,
                Some(Mapping::shared(&file, len)?),
            )
        }
    };
    let uffd = create(FeatureFlags::SIGBUS | FeatureFlags::MISSING_SHMEM, bits)?;
    uffd.register_with_mode(to.at(0), len, mode)?;
    let mut collection = Collection {
        uffd,
        objects: (0..heap.objects()).collect(),
        heap,
        to,
        alias,
        states: (0..size.pages).map(|_| AtomicU8::new(WAITING)).collect(),
        signals: AtomicU64::new(0),
        races: AtomicU64::new(0),
        failed: AtomicBool::new(false),
    };
    install_handler()?;
    for round in 0..size.rounds {
        collection
            .collect_once(size, round)
            .with_context(|| format!("round {round}"))?;
    }
    let signals = collection.signals.into_inner();
    ensure!(
        signals >= size.rounds * size.pages as u64,
        "only {signals} signals"
    );
    Ok(vec![
        ("signals".into(), signals),
        ("pages made by two".into(), collection.races.into_inner()),
    ])
}

impl Collection {
    /// Compacts while mutators use the objects, and then copies the objects back.
    fn collect_once(&mut self, size: Size, round: u64) -> Result<()> {
        fastrand::Rng::with_seed(round).shuffle(&mut self.objects);
        self.clear()?;
        COLLECTION.store(self, Ordering::Release);
        let this = &*self;
        let result = this
            .refuse_kernel()
            .and_then(|()| in_threads(size.mutators, |me| this.mutate(size, me)));
        COLLECTION.store(std::ptr::null_mut(), Ordering::Release);
        result?;
        ensure!(
            !self.failed.load(Ordering::Acquire),
            "the signal handler failed"
        );
        ensure!(self.uffd.read_event()?.is_none(), "there is a message");
        self.bring_back()
    }

    /// Removes all pages of the mapping to which the objects move.
    fn clear(&self) -> Result<()> {
        let advice = match self.alias {
            None => libc::MADV_DONTNEED,
            Some(_) => libc::MADV_REMOVE,
        };
        self.to.advise(0, self.to.len(), advice)?;
        for state in &self.states {
            state.store(WAITING, Ordering::Release);
        }
        Ok(())
    }

    /// Checks that a system call that accesses a missing page fails, and that no signal is sent.
    fn refuse_kernel(&self) -> Result<()> {
        let before = self.signals.load(Ordering::Acquire);
        let file = memory_file(PAGE)?;
        // SAFETY: The address is in the mapping.
        let wrote = unsafe { libc::pwrite(file.as_raw_fd(), self.to.at(0), PAGE, 0) };
        let err = io::Error::last_os_error();
        ensure!(
            wrote == -1 && err.raw_os_error() == Some(libc::EFAULT),
            "write() from a missing page returned {wrote}, {err}"
        );
        ensure!(
            self.signals.load(Ordering::Acquire) == before,
            "write() from a missing page made a signal"
        );
        Ok(())
    }

    /// Uses all objects of a mutator. All mutators use pages in the same order, so that they race.
    fn mutate(&self, size: Size, me: usize) -> Result<()> {
        let mut pages: Vec<usize> = (0..size.pages).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut pages);
        for page in pages {
            for place in page * PAGE_OBJECTS..(page + 1) * PAGE_OBJECTS {
                if place % size.mutators != me {
                    continue;
                }
                let object = self.objects[place];
                let version = self.heap.version(object);
                verify_object(&self.to, place * OBJECT, object, version)?;
                store_object(&self.to, place * OBJECT, object, version + 1);
                self.heap.versions[object].store(version + 1, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Checks all objects, and copies them back to the heap.
    fn bring_back(&self) -> Result<()> {
        for (place, &object) in self.objects.iter().enumerate() {
            let version = self.heap.version(object);
            verify_object(&self.to, place * OBJECT, object, version)?;
            self.heap.store(object, version);
        }
        Ok(())
    }

    /// Fills a page. Called in a signal handler.
    fn resolve(&self, page: usize) -> userfaultfd::Result<()> {
        self.signals.fetch_add(1, Ordering::Relaxed);
        let result = match &self.alias {
            None => self.copy(page),
            Some(alias) => self.make(alias, page),
        };
        match result {
            Err(err) if exists(&err) => {
                self.races.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            result => result,
        }
    }

    /// Makes a page, and copies it to its place. If several threads do, only the first copy counts.
    fn copy(&self, page: usize) -> userfaultfd::Result<()> {
        let words: [u64; PAGE / WORD] = std::array::from_fn(|word| self.word(page, word));
        // SAFETY: The page belongs to the heap, which is accessed in atomic words.
        unsafe {
            self.uffd
                .copy(words.as_ptr().cast(), self.to.at(page * PAGE), PAGE, true)
        }
        .map(|_| ())
    }

    /// Fills a page in its place, and maps it for the mutators. Only the first thread may do this.
    fn make(&self, alias: &Mapping, page: usize) -> userfaultfd::Result<()> {
        let claimed = self.states[page].compare_exchange(
            WAITING,
            COMPACTING,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if claimed.is_err() {
            // If the other thread is not ready yet, this one faults again.
            self.races.fetch_add(1, Ordering::Relaxed);
            std::thread::yield_now();
            return Ok(());
        }
        for word in 0..PAGE / WORD {
            alias.store(page * PAGE + word * WORD, self.word(page, word));
        }
        self.uffd.r#continue(self.to.at(page * PAGE), PAGE, true)?;
        self.states[page].store(READY, Ordering::Release);
        Ok(())
    }

    /// Returns the right value of a word of a page, from the object that moves there.
    fn word(&self, page: usize, word: usize) -> u64 {
        let place = (page * PAGE + word * WORD) / OBJECT;
        self.heap
            .memory
            .load(self.objects[place] * OBJECT + word * WORD % OBJECT)
    }
}

/// Installs the handler of SIGBUS.
fn install_handler() -> Result<()> {
    let action = SigAction::new(
        SigHandler::SigAction(on_sigbus),
        SaFlags::SA_SIGINFO,
        SigSet::empty(),
    );
    // SAFETY: The handler does only what a signal handler may.
    unsafe { sigaction(Signal::SIGBUS, &action) }.context("sigaction")?;
    Ok(())
}

/// Resolves the fault, or restores the default action so that the signal kills the process.
extern "C" fn on_sigbus(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: The collection exists while the pointer is set. The kernel made the information.
    let (collection, address) = unsafe {
        (
            COLLECTION.load(Ordering::Acquire).as_ref(),
            (*info).si_addr(),
        )
    };
    // SAFETY: The location belongs to this thread.
    let errno = unsafe { *libc::__errno_location() };
    let resolved = collection.is_some_and(|collection| {
        let Some(offset) = collection.to.offset(address) else {
            return false;
        };
        let resolved = collection.resolve(offset / PAGE).is_ok();
        collection.failed.fetch_or(!resolved, Ordering::AcqRel);
        resolved
    });
    if !resolved {
        // SAFETY: The signal kills the process when the access is retried.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    }
    // SAFETY: As above.
    unsafe { *libc::__errno_location() = errno };
}
