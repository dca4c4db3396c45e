// SPDX-License-Identifier: GPL-2.0

//! The measures, with all parameters.

use crate::{
    clock::Mode,
    uffd::{Access, Backing, Resolution},
};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// How much is measured.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Scope {
    /// What a test has time for: four measures with few parameters.
    Check,
    /// All measures, with those parameters that the targets ask for.
    Quick,
    /// All measures with all parameters.
    Full,
}

/// A fault, and how it is resolved.
#[derive(Copy, Clone, Debug, Serialize)]
pub struct Fault {
    pub access: Access,
    pub backing: Backing,
    pub resolution: Resolution,
}

/// How threads wait for messages.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Waiting {
    /// In `read(2)`.
    Read,
    /// In `poll(2)`.
    Poll,
    /// In `epoll_wait(2)`, each on an epoll of its own.
    Epoll,
    /// The same with `EPOLLEXCLUSIVE`.
    EpollExclusive,
}

/// Which descriptors faulting threads have.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Descriptors {
    /// The same one for all.
    One,
    /// Each its own, with a handler of its own.
    Each,
}

/// How many threads handle the faults of many.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handlers {
    One,
    Four,
    /// As many as threads fault.
    AsMany,
}

/// A request to a descriptor.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    Copy,
    Zeropage,
    Continue,
    Poison,
    Move,
    /// Protects pages.
    Writeprotect,
    /// Lifts the protection of pages.
    WriteprotectLifted,
    Wake,
}

/// Which folios the kernel is told to take for memory.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Folios {
    /// A folio for each page.
    Single,
    /// Folios of 64 KiB, as transparent huge pages allow it.
    #[serde(rename = "64k")]
    Of64KiB,
    /// One folio, a transparent huge page.
    Huge,
}

/// An operation on registered memory that is reported as an event.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    Fork,
    Mremap,
    Munmap,
    Madvise,
}

/// An operation of a process that never uses userfaultfd.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    Fork,
    MmapMunmap,
    Mremap,
    Madvise,
    AnonFault,
    ShmemFault,
}

/// Something to measure. The variants are named as the measures are, and their fields as the
/// parameters.
#[derive(Copy, Clone, Debug, Serialize)]
#[serde(tag = "measure", rename_all = "kebab-case")]
pub enum Case {
    /// From an access to its completion, with one thread that reads and resolves.
    SingleFault(Fault),
    /// The same while all tracepoints of userfaultfd are on.
    TracedFault(Fault),
    /// How often a thread that faults takes the mmap_lock.
    MmapLock(Fault),
    /// A request for several pages, with no thread asleep.
    Ioctl {
        request: Request,
        backing: Backing,
        pages: usize,
    },
    /// A request for all pages of a page table, with no thread asleep: for each page.
    Bulk {
        request: Request,
        backing: Backing,
        folios: Folios,
    },
    /// Copying a page for which no thread waits, while threads sleep at other pages.
    UnrelatedResolve { sleepers: usize },
    /// Copying a page to each of the threads that sleep, in several orders; and waking all or
    /// half of them at once. Each is a result of its own.
    ResolveSleepers {
        sleepers: usize,
        /// Whether threads are resolved one by one even if there are very many.
        #[serde(skip)]
        exhaustive: bool,
    },
    /// Very many faults, while threads sleep. A result for each of several quantiles.
    Latency {
        sleepers: usize,
        #[serde(skip)]
        faults: usize,
    },
    /// A fault, while several threads wait for its message.
    Waiters { waiting: Waiting, waiters: usize },
    /// Threads that fault all the time, with continued shmem pages, and threads that resolve.
    Load {
        faulting: usize,
        handlers: Handlers,
        descriptors: Descriptors,
    },
    /// Threads that fault all the time, each of which takes the time of each of its faults.
    Faults {
        #[serde(flatten)]
        fault: Fault,
        faulting: usize,
        handlers: Handlers,
        descriptors: Descriptors,
        /// In which all of them fault, again and again.
        #[serde(skip)]
        pages: usize,
    },
    /// Reading several messages at once.
    BatchedRead { messages: usize },
    /// Threads that begin to sleep, while another one reads their messages.
    Enqueue { threads: usize },
    /// An operation that waits until its event was read.
    Event { event: EventKind },
    /// The cost for processes that do not use userfaultfd.
    Builtin { operation: Baseline },
    /// Bytes for each context, and for each thread that sleeps. Several results.
    Memory,
}

impl Handlers {
    /// How many there are for so many threads that fault.
    pub fn count(self, faulting: usize) -> usize {
        match self {
            Self::One => 1,
            Self::Four => 4,
            Self::AsMany => faulting,
        }
    }
}

impl Case {
    /// Whether a test measures it.
    pub fn is_for_tests(self) -> bool {
        matches!(
            self,
            Self::SingleFault(_)
                | Self::Ioctl { .. }
                | Self::UnrelatedResolve { .. }
                | Self::Waiters { .. }
        )
    }
}

/// The name of the measure and the parameters.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(Value::Object(mut params)) = serde_json::to_value(self) else {
            return Err(fmt::Error);
        };
        let text = |value: Value| value.as_str().map_or(value.to_string(), str::to_string);
        let measure = params.remove("measure").ok_or(fmt::Error)?;
        f.write_str(&text(measure))?;
        for (name, value) in params {
            write!(f, " {name} {}", text(value))?;
        }
        Ok(())
    }
}

use Access::{Read, Write};
use Backing::{Anon, Hugetlb, Shmem};
use Folios::{Huge, Of64KiB, Single};
use Resolution::{Continue, Copy, Move, Poison, Writeprotect, Zeropage};

/// The resolutions, the accesses that are measured with each of them, and the memory that the kernel
/// supports it for.
const FAULTS: &[(Resolution, &[Access], &[Backing])] = &[
    (Copy, &[Read, Write], &[Anon, Shmem, Hugetlb]),
    (Zeropage, &[Read, Write], &[Anon, Shmem]),
    (Continue, &[Read, Write], &[Shmem, Hugetlb]),
    (Writeprotect, &[Write], &[Anon, Shmem, Hugetlb]),
    (Move, &[Write], &[Anon]),
    (Poison, &[Write], &[Anon, Shmem, Hugetlb]),
];

/// The faults that are measured while tracepoints are on.
const TRACED_FAULTS: &[Fault] = &[
    Fault {
        access: Read,
        backing: Anon,
        resolution: Copy,
    },
    Fault {
        access: Write,
        backing: Shmem,
        resolution: Continue,
    },
];

/// Returns all faults that are measured.
fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for &(resolution, accesses, backings) in FAULTS {
        for &access in accesses {
            faults.extend(backings.iter().map(|&backing| Fault {
                access,
                backing,
                resolution,
            }));
        }
    }
    faults
}

/// The requests, and the memory that each of them is measured with.
const REQUESTS: &[(Request, Backing)] = &[
    (Request::Copy, Anon),
    (Request::Copy, Shmem),
    (Request::Zeropage, Anon),
    (Request::Zeropage, Shmem),
    (Request::Continue, Shmem),
    (Request::Poison, Anon),
    (Request::Poison, Shmem),
    (Request::Move, Anon),
    (Request::Writeprotect, Anon),
    (Request::WriteprotectLifted, Anon),
    (Request::Wake, Anon),
];

/// The requests of `Bulk`, and the memory that each of them is measured with.
const BULK: &[(Request, Backing, &[Folios])] = &[
    (Request::Copy, Anon, &[Single, Of64KiB, Huge]),
    (Request::Copy, Shmem, &[Single]),
    (Request::Zeropage, Anon, &[Single]),
    (Request::Zeropage, Shmem, &[Single]),
    (Request::Poison, Anon, &[Single]),
    (Request::Poison, Shmem, &[Single]),
    (Request::Continue, Shmem, &[Single, Huge]),
    (Request::Move, Anon, &[Single, Huge]),
    (Request::Writeprotect, Anon, &[Single, Huge]),
    (Request::WriteprotectLifted, Anon, &[Single]),
];

/// How many pages there are in `Ioctl`.
const PAGES: &[(usize, Scope)] = &[(1, Scope::Check), (16, Scope::Quick), (512, Scope::Quick)];

/// How many threads sleep in `UnrelatedResolve` and in `ResolveSleepers`, and the smallest scope of
/// each in which so many do.
const SLEEPERS: &[(usize, Scope, Scope)] = &[
    (1, Scope::Check, Scope::Quick),
    (4, Scope::Full, Scope::Full),
    (16, Scope::Full, Scope::Full),
    (64, Scope::Quick, Scope::Quick),
    (256, Scope::Full, Scope::Full),
    (1024, Scope::Check, Scope::Quick),
    (4096, Scope::Full, Scope::Full),
    (16384, Scope::Quick, Scope::Quick),
];

/// How many threads sleep in `Latency`.
const LATENCY_SLEEPERS: &[usize] = &[1, 64, 4096];

/// How many faults there are in `Latency`, in the full scope and otherwise.
const LATENCY_FAULTS: usize = 100_000;
const FEWER_LATENCY_FAULTS: usize = 10_000;

const WAITINGS: &[Waiting] = &[
    Waiting::Read,
    Waiting::Poll,
    Waiting::Epoll,
    Waiting::EpollExclusive,
];

/// How many threads wait in `Waiters`.
const WAITERS: &[(usize, Scope)] = &[
    (1, Scope::Check),
    (2, Scope::Full),
    (4, Scope::Full),
    (8, Scope::Quick),
    (16, Scope::Check),
    (32, Scope::Full),
    (64, Scope::Quick),
];

/// How many threads fault in `Load`.
const FAULTING: &[(usize, Scope)] = &[
    (1, Scope::Quick),
    (2, Scope::Full),
    (4, Scope::Full),
    (8, Scope::Quick),
    (16, Scope::Full),
    (32, Scope::Full),
    (64, Scope::Quick),
];

/// How many threads handle the faults in `Load`, and on which descriptors.
const LOADS: &[(Handlers, Descriptors)] = &[
    (Handlers::One, Descriptors::One),
    (Handlers::Four, Descriptors::One),
    (Handlers::AsMany, Descriptors::One),
    (Handlers::AsMany, Descriptors::Each),
];

/// How many messages are read at once in `BatchedRead`.
const MESSAGES: &[(usize, Scope)] = &[
    (1, Scope::Quick),
    (2, Scope::Full),
    (4, Scope::Full),
    (8, Scope::Quick),
    (16, Scope::Full),
    (32, Scope::Full),
    (64, Scope::Quick),
];

/// How many threads begin to sleep in `Enqueue`.
const ENQUEUE: usize = 1024;

/// How many threads sleep in `UnrelatedResolve` and in `ResolveSleepers` if time is measured.
const TIMED_SLEEPERS: &[usize] = &[64, 1024];

/// How many threads fault if time is measured and the fault is not the one of which all numbers of
/// threads are measured.
const TIMED_FAULTING: &[(usize, Handlers)] = &[(1, Handlers::One), (4, Handlers::AsMany)];

const EVENTS: &[EventKind] = &[
    EventKind::Fork,
    EventKind::Mremap,
    EventKind::Munmap,
    EventKind::Madvise,
];

const BASELINES: &[Baseline] = &[
    Baseline::Fork,
    Baseline::MmapMunmap,
    Baseline::Mremap,
    Baseline::Madvise,
    Baseline::AnonFault,
    Baseline::ShmemFault,
];

/// Keeps cases with one of these words in their titles, or all if there are none.
pub fn retain(cases: &mut Vec<Case>, filters: &[String]) {
    cases.retain(|case| {
        let title = case.to_string();
        filters.is_empty() || filters.iter().any(|filter| title.contains(filter.as_str()))
    });
}

/// The room that there is for what is measured in time.
#[derive(Copy, Clone, Debug)]
pub struct Room {
    pub cpus: usize,
    /// In bytes.
    pub memory: usize,
    /// Of 2 MiB.
    pub huge_pages: usize,
}

impl Room {
    /// How many pages faults are spread over. They take a quarter of the memory, because there are
    /// page tables, stacks and histograms, too.
    fn pages(self, backing: Backing) -> usize {
        let pages = self.memory / 4 / backing.page();
        match backing {
            // One more is copied from.
            Hugetlb => pages.min(self.huge_pages.saturating_sub(1)),
            _ => pages,
        }
    }
}

/// Returns all that is measured in time, on a machine of any size.
pub fn timed_cases(room: Room) -> Vec<Case> {
    let mut cases = Vec::new();
    for &(request, backing) in REQUESTS {
        cases.extend(PAGES.iter().map(|&(pages, _)| Case::Ioctl {
            request,
            backing,
            pages,
        }));
    }
    for &sleepers in TIMED_SLEEPERS {
        cases.push(Case::UnrelatedResolve { sleepers });
        cases.push(Case::ResolveSleepers {
            sleepers,
            exhaustive: false,
        });
    }
    cases.extend(EVENTS.iter().map(|&event| Case::Event { event }));

    let faults = |backing, resolution, faulting, handlers, descriptors| Case::Faults {
        fault: Fault {
            access: Write,
            backing,
            resolution,
        },
        faulting,
        handlers,
        descriptors,
        pages: room.pages(backing),
    };
    let most = (4 * room.cpus).max(16);
    for &(handlers, descriptors) in LOADS {
        let numbers = FAULTING.iter().map(|&(faulting, _)| faulting);
        let numbers = numbers.filter(|&n| n <= most && handlers.count(n) <= n);
        cases.extend(numbers.map(|n| faults(Anon, Copy, n, handlers, descriptors)));
    }
    for &(resolution, _, backings) in FAULTS.iter().filter(|(how, ..)| *how != Poison) {
        for &backing in backings
            .iter()
            .filter(|of| (resolution, **of) != (Copy, Anon))
        {
            for &(faulting, handlers) in TIMED_FAULTING {
                cases.push(faults(
                    backing,
                    resolution,
                    faulting,
                    handlers,
                    Descriptors::One,
                ));
            }
        }
    }
    cases
}

/// Returns all that is measured in a mode that counts, in a guest.
pub fn cases(mode: Mode, scope: Scope) -> Vec<Case> {
    let mut cases = Vec::new();
    let load = |cases: &mut Vec<Case>| {
        for &(handlers, descriptors) in LOADS {
            for &(faulting, _) in FAULTING.iter().filter(|(_, from)| *from <= scope) {
                // If there are more handlers than threads that fault, some have nothing to do.
                if handlers.count(faulting) > faulting {
                    continue;
                }
                cases.push(Case::Load {
                    faulting,
                    handlers,
                    descriptors,
                });
            }
        }
        if scope > Scope::Check {
            cases.push(Case::Enqueue { threads: ENQUEUE });
        }
    };
    if mode == Mode::Contention {
        load(&mut cases);
        return cases;
    }
    cases.extend(faults().into_iter().map(Case::SingleFault));
    if scope > Scope::Check {
        cases.extend(TRACED_FAULTS.iter().copied().map(Case::TracedFault));
        // The kernel does not count faults of system calls, which take the lock in any case.
        let counted = faults()
            .into_iter()
            .filter(|fault| fault.resolution != Poison);
        cases.extend(counted.map(Case::MmapLock));
    }
    for &(request, backing) in REQUESTS {
        for &(pages, _) in PAGES.iter().filter(|(_, from)| *from <= scope) {
            cases.push(Case::Ioctl {
                request,
                backing,
                pages,
            });
        }
    }
    if scope > Scope::Check {
        for &(request, backing, folios) in BULK {
            cases.extend(folios.iter().map(|&folios| Case::Bulk {
                request,
                backing,
                folios,
            }));
        }
    }
    for &(sleepers, from, _) in SLEEPERS {
        if from <= scope {
            cases.push(Case::UnrelatedResolve { sleepers });
        }
    }
    for &(sleepers, _, from) in SLEEPERS {
        if from <= scope {
            let exhaustive = scope == Scope::Full;
            cases.push(Case::ResolveSleepers {
                sleepers,
                exhaustive,
            });
        }
    }
    if scope > Scope::Check {
        let faults = match scope {
            Scope::Full => LATENCY_FAULTS,
            _ => FEWER_LATENCY_FAULTS,
        };
        let sleepers = LATENCY_SLEEPERS.iter();
        cases.extend(sleepers.map(|&sleepers| Case::Latency { sleepers, faults }));
    }
    for &waiting in WAITINGS {
        for &(waiters, _) in WAITERS.iter().filter(|(_, from)| *from <= scope) {
            cases.push(Case::Waiters { waiting, waiters });
        }
    }
    load(&mut cases);
    for &(messages, from) in MESSAGES {
        if from <= scope {
            cases.push(Case::BatchedRead { messages });
        }
    }
    if scope > Scope::Check {
        cases.extend(EVENTS.iter().map(|&event| Case::Event { event }));
        cases.extend(
            BASELINES
                .iter()
                .map(|&operation| Case::Builtin { operation }),
        );
        cases.push(Case::Memory);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_fit_into_the_room() {
        let room = Room {
            cpus: 2,
            memory: 256 << 20,
            huge_pages: 9,
        };
        let mut most = 0;
        for case in timed_cases(room) {
            let Case::Faults {
                fault,
                faulting,
                handlers,
                pages,
                ..
            } = case
            else {
                continue;
            };
            assert!(pages * fault.backing.page() <= room.memory / 4);
            assert!(fault.backing != Hugetlb || pages == 8);
            assert!(handlers.count(faulting) <= faulting, "{case}");
            most = most.max(faulting);
        }
        assert_eq!(most, 16);
    }

    #[test]
    fn cases_have_names_of_their_own() {
        let room = Room {
            cpus: 64,
            memory: 256 << 20,
            huge_pages: 0,
        };
        let names: Vec<String> = timed_cases(room).iter().map(Case::to_string).collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
