// SPDX-License-Identifier: GPL-2.0

//! What is measured, with all parameters.

use crate::{
    clock::Mode,
    uffd::{Backing, Resolution},
};
use clap::ValueEnum;
use serde::Serialize;

/// How much of it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Extent {
    /// What a test has time for: measures 1, 2 and 4, with few parameters.
    Check,
    /// All measures, with those parameters that the targets ask for.
    Quick,
    /// All measures with all parameters.
    Full,
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

/// What a process does to registered memory, so that an event is reported.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    Fork,
    Mremap,
    Munmap,
    Madvise,
}

/// What a process does that never uses userfaultfd.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plain {
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
    /// 1: from an access to its completion, with one thread that reads and resolves.
    SingleFault {
        resolution: Resolution,
        backing: Backing,
    },
    /// 2: copying a page that nobody waits for, while threads sleep at others.
    UnrelatedResolve { sleepers: usize },
    /// 3: copying a page to each of the threads that sleep, in several orders; and waking all or
    /// half of them at once. Each is a result of its own.
    ResolveSleepers {
        sleepers: usize,
        /// Whether one by one even if there are very many.
        #[serde(skip)]
        whole: bool,
    },
    /// 4: a fault that several threads wait to hear of.
    Waiters { waiting: Waiting, waiters: usize },
    /// 5: threads that fault all the time, with continued shmem pages, and threads that resolve.
    Load {
        faulting: usize,
        handlers: Handlers,
        descriptors: Descriptors,
    },
    /// 6: reading several messages at once.
    BatchedRead { messages: usize },
    /// 6: threads that begin to sleep, while another one reads what they have to say.
    Enqueue { threads: usize },
    /// 7: an operation that waits until its event was read.
    Event { event: EventKind },
    /// 8: what others pay.
    Builtin { operation: Plain },
    /// 9: bytes for each context, and for each thread that sleeps. Several results.
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
    /// The number of the measure.
    pub fn number(self) -> u32 {
        match self {
            Self::SingleFault { .. } => 1,
            Self::UnrelatedResolve { .. } => 2,
            Self::ResolveSleepers { .. } => 3,
            Self::Waiters { .. } => 4,
            Self::Load { .. } => 5,
            Self::BatchedRead { .. } | Self::Enqueue { .. } => 6,
            Self::Event { .. } => 7,
            Self::Builtin { .. } => 8,
            Self::Memory => 9,
        }
    }
}

use Backing::{Anon, Hugetlb, Shmem};
use Resolution::{Continue, Copy, Move, Poison, Writeprotect, Zeropage};

/// What the kernel can do.
const SINGLE_FAULTS: &[(Resolution, &[Backing])] = &[
    (Copy, &[Anon, Shmem, Hugetlb]),
    (Zeropage, &[Anon, Shmem]),
    (Continue, &[Shmem, Hugetlb]),
    (Writeprotect, &[Anon, Shmem, Hugetlb]),
    (Move, &[Anon]),
    (Poison, &[Anon, Shmem, Hugetlb]),
];

/// How many threads sleep in 2 and 3, and what it is measured for.
const SLEEPERS: &[(usize, Extent, Extent)] = &[
    // (N, 2 for, 3 for)
    (1, Extent::Check, Extent::Quick),
    (4, Extent::Full, Extent::Full),
    (16, Extent::Full, Extent::Full),
    (64, Extent::Quick, Extent::Quick),
    (256, Extent::Full, Extent::Full),
    (1024, Extent::Check, Extent::Quick),
    (4096, Extent::Full, Extent::Full),
    (16384, Extent::Quick, Extent::Quick),
];

const WAITINGS: &[Waiting] = &[
    Waiting::Read,
    Waiting::Poll,
    Waiting::Epoll,
    Waiting::EpollExclusive,
];

/// How many threads wait in 4.
const WAITERS: &[(usize, Extent)] = &[
    (1, Extent::Check),
    (2, Extent::Full),
    (4, Extent::Full),
    (8, Extent::Quick),
    (16, Extent::Check),
    (32, Extent::Full),
    (64, Extent::Quick),
];

/// How many threads fault in 5.
const FAULTING: &[(usize, Extent)] = &[
    (1, Extent::Quick),
    (2, Extent::Full),
    (4, Extent::Full),
    (8, Extent::Quick),
    (16, Extent::Full),
    (32, Extent::Full),
    (64, Extent::Quick),
];

/// Who handles them.
const LOADS: &[(Handlers, Descriptors)] = &[
    (Handlers::One, Descriptors::One),
    (Handlers::Four, Descriptors::One),
    (Handlers::AsMany, Descriptors::One),
    (Handlers::AsMany, Descriptors::Each),
];

/// How many messages are read at once in 6.
const MESSAGES: &[(usize, Extent)] = &[
    (1, Extent::Quick),
    (2, Extent::Full),
    (4, Extent::Full),
    (8, Extent::Quick),
    (16, Extent::Full),
    (32, Extent::Full),
    (64, Extent::Quick),
];

/// How many threads begin to sleep in 6.
const ENQUEUE: usize = 1024;

const EVENTS: &[EventKind] = &[
    EventKind::Fork,
    EventKind::Mremap,
    EventKind::Munmap,
    EventKind::Madvise,
];

const PLAIN: &[Plain] = &[
    Plain::Fork,
    Plain::MmapMunmap,
    Plain::Mremap,
    Plain::Madvise,
    Plain::AnonFault,
    Plain::ShmemFault,
];

/// Returns all that is measured in a mode.
pub fn cases(mode: Mode, extent: Extent) -> Vec<Case> {
    let mut cases = Vec::new();
    let load = |cases: &mut Vec<Case>| {
        for &(handlers, descriptors) in LOADS {
            for &(faulting, _) in FAULTING.iter().filter(|(_, from)| *from <= extent) {
                // More handlers than threads that fault have nothing to do.
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
        if extent > Extent::Check {
            cases.push(Case::Enqueue { threads: ENQUEUE });
        }
    };
    if mode == Mode::Contention {
        load(&mut cases);
        return cases;
    }
    for &(resolution, backings) in SINGLE_FAULTS {
        for &backing in backings {
            cases.push(Case::SingleFault {
                resolution,
                backing,
            });
        }
    }
    for &(sleepers, from, _) in SLEEPERS {
        if from <= extent {
            cases.push(Case::UnrelatedResolve { sleepers });
        }
    }
    for &(sleepers, _, from) in SLEEPERS {
        if from <= extent {
            let whole = extent == Extent::Full;
            cases.push(Case::ResolveSleepers { sleepers, whole });
        }
    }
    for &waiting in WAITINGS {
        for &(waiters, _) in WAITERS.iter().filter(|(_, from)| *from <= extent) {
            cases.push(Case::Waiters { waiting, waiters });
        }
    }
    load(&mut cases);
    for &(messages, from) in MESSAGES {
        if from <= extent {
            cases.push(Case::BatchedRead { messages });
        }
    }
    if extent > Extent::Check {
        cases.extend(EVENTS.iter().map(|&event| Case::Event { event }));
        cases.extend(PLAIN.iter().map(|&operation| Case::Builtin { operation }));
        cases.push(Case::Memory);
    }
    cases
}
