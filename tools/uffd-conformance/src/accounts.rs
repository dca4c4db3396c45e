// SPDX-License-Identifier: GPL-2.0

//! What calls take and give back if they do only a part of what they are asked for, or nothing. What
//! is not given back is a page at most, so each is made many times. Less than half a page for a call,
//! and counts that stand for no memory, are not seen.

use crate::{
    cgroup::Cgroup,
    kinds::kind_of,
    ledger::Ledger,
    memory::{dontneed, madvise, mprotect, write_byte, Area, RW},
    process::{fork, kill_and_wait, pause},
    sys::{ftruncate, punch_hole, PAGE},
    transcript::{Case, Transcript},
    uffd::{
        inputs, Call, Called, Uffd, CONTINUE, COPY, MINOR, MISSING, MOVE, POISON, WP, WRITEPROTECT,
        ZEROPAGE,
    },
};
use std::os::fd::AsRawFd;

/// How often a call is made. A huge page takes longer, and is counted one by one.
const TIMES: usize = 1024;
const TIMES_HUGE: usize = 16;

/// How many pages each call is for.
const PAGES: usize = 4;

/// The page that a call cannot do. Those before it are done.
const BAD: usize = 2;

/// What is wrong.
#[derive(Copy, Clone, PartialEq)]
enum Wrong {
    Nothing,
    /// There is a page already.
    Taken,
    /// There is nothing to take it from.
    NoSource,
    /// The file ends before the page.
    Truncated,
    /// The VMA ends before the page.
    Outside,
    /// Another process has the page to be moved, too.
    Shared,
    /// The pages are their own source. Reading them fills them.
    Itself,
}
use Wrong::*;

/// What is wrong, and whether the source is not mapped. Then the kernel has a page in hand, drops its
/// locks, copies, and begins again, before it finds that something is wrong.
const WRONGS: &[(Wrong, bool, &str)] = &[
    (Nothing, false, "nothing wrong"),
    (Nothing, true, "source not mapped"),
    (Taken, false, "taken"),
    (Taken, true, "taken, source not mapped"),
    (NoSource, false, "no source"),
    (Truncated, false, "truncated"),
    (Truncated, true, "truncated, source not mapped"),
    (Outside, false, "outside"),
    (Shared, false, "shared"),
    (Itself, false, "copied to itself"),
];

/// What calls are about.
struct World {
    uffd: Uffd,
    area: Area,
    source: Area,
    /// Another mapping of the same file.
    alias: Option<Area>,
}

impl World {
    fn new(kind: &str, wrong: Wrong) -> Self {
        let area = kind_of(kind).area(0);
        let source = Area::anon(1, PAGES * area.page / PAGE);
        let shared = area.file.is_some() && !kind.ends_with("private");
        let alias = shared.then(|| area.alias(2));
        let uffd = Uffd::new(0);
        let mode = match shared {
            // Reading is not to be a fault that the process waits for.
            _ if wrong == Itself => WP,
            true => MISSING | MINOR | WP,
            false => MISSING | WP,
        };
        uffd.must_register(area.start, area.len, mode);
        Self {
            uffd,
            area,
            source,
            alias,
        }
    }

    /// Where a call begins.
    fn start(&self, wrong: Wrong) -> usize {
        match wrong {
            Outside => self.area.at(self.area.pages() - BAD),
            _ => self.area.start,
        }
    }

    /// Makes everything as it is before a call.
    fn prepare(&self, call: &Call, wrong: Wrong, unmapped: bool) {
        let start = self.start(wrong);
        let bad = start + BAD * self.area.page;
        let from = self.source.start + BAD * self.area.page;
        self.area.madvise(libc::MADV_DONTNEED);
        if let Some(file) = &self.area.file {
            punch_hole(file.as_raw_fd(), self.area.len);
            ftruncate(file, self.area.len);
        }
        // A page that is written to is no longer shared.
        let written = if wrong == Shared { BAD } else { PAGES };
        for page in (self.source.start..)
            .step_by(PAGE)
            .take(written * self.area.page / PAGE)
        {
            write_byte(page, 0x44);
        }
        if let (true, Some(alias)) = (*call == CONTINUE, &self.alias) {
            let offset = start - self.area.start;
            for page in 0..PAGES {
                let there = wrong != NoSource || page != BAD;
                if there && offset + page * alias.page < alias.len {
                    write_byte(alias.start + offset + page * alias.page, 0x55);
                }
            }
        }
        match wrong {
            Nothing | Outside | Shared | Itself => {}
            Taken if *call == CONTINUE => {
                self.uffd.range(call, bad, self.area.page, 0);
            }
            Taken => {
                let inputs = inputs(&COPY, bad, from, self.area.page, 0);
                self.uffd.call(&COPY, &inputs);
            }
            NoSource if *call == MOVE => {
                dontneed(from);
            }
            NoSource => {
                mprotect(from, self.area.page, libc::PROT_NONE);
            }
            Truncated => {
                let file = self.area.file.as_ref().expect("there is a file");
                ftruncate(file, BAD * self.area.page);
            }
        }
        if unmapped {
            madvise(from, self.area.page, libc::MADV_DONTNEED);
        }
    }

    /// The blocks of the file.
    fn blocks(&self) -> String {
        let blocks = self.area.blocks();
        blocks.map_or(String::new(), |blocks| format!("; {blocks} blocks"))
    }

    fn call(&self, call: &Call, wrong: Wrong) -> Called {
        let len = PAGES * self.area.page;
        let mode = u64::from(*call == WRITEPROTECT);
        let start = self.start(wrong);
        let from = if wrong == Itself {
            start
        } else {
            self.source.start
        };
        let inputs = inputs(call, start, from, len, mode);
        self.uffd.call(call, &inputs)
    }
}

/// Whether something can be wrong with a call on a kind of memory.
fn possible(kind: &str, call: &Call, wrong: Wrong, unmapped: bool) -> bool {
    let file = kind.starts_with("shmem") || kind.starts_with("hugetlb-memfd");
    let shared = matches!(kind, "shmem" | "hugetlb-memfd");
    let huge = kind.starts_with("hugetlb");
    let known = match *call {
        CONTINUE => shared,
        MOVE => kind == "anon",
        ZEROPAGE => !huge,
        _ => true,
    };
    let applies = match wrong {
        Nothing | Outside => true,
        Taken => *call != WRITEPROTECT,
        NoSource => matches!(*call, COPY | CONTINUE | MOVE),
        Truncated => file && matches!(*call, COPY | ZEROPAGE | CONTINUE | POISON),
        Shared => *call == MOVE,
        Itself => *call == COPY,
    };
    known && applies && (!unmapped || *call == COPY)
}

const CALLS: &[&Call] = &[&COPY, &ZEROPAGE, &CONTINUE, &POISON, &MOVE, &WRITEPROTECT];

/// What is charged to a cgroup, in pages.
fn charged(cgroup: &Cgroup) -> usize {
    let text = std::fs::read_to_string(cgroup.file("memory.current")).expect("it is accounted for");
    text.trim().parse::<usize>().expect("a number") / PAGE
}

/// Has a call fail, and looks at what is accounted for after it, and after many.
fn failing(
    log: &mut Transcript,
    kind: &'static str,
    call: &'static Call,
    wrong: Wrong,
    unmapped: bool,
) {
    let cgroup = Cgroup::new("memory", &[]);
    let process = log.in_process(|log| {
        cgroup.enter();
        let ledger = Ledger::new();
        let at_first = ledger.entry();
        let world = World::new(kind, wrong);
        let times = match world.area.page {
            PAGE => TIMES,
            _ => TIMES_HUGE,
        };
        let child = (wrong == Shared).then(|| {
            world.source.write();
            fork(|| {
                pause();
            })
        });
        let mut once = None;
        for _ in 0..times {
            world.prepare(call, wrong, unmapped);
            let before = once.is_none().then(|| ledger.entry());
            let called = world.call(call, wrong);
            // It may be protected.
            world.source.mprotect(RW);
            if let Some(before) = before {
                let after = ledger.entry();
                let blocks = world.blocks();
                log.record("once", format!("{called}; {}{blocks}", after - before));
                once = Some((after, charged(&cgroup)));
            }
        }
        child.into_iter().for_each(kill_and_wait);
        if let Some((after, in_use)) = once {
            log.record("many times", ledger.entry() - after);
            // Huge pages are not charged to the cgroup. The others are taken from it in advance, for
            // each processor.
            if world.area.page == PAGE {
                let grown = charged(&cgroup).saturating_sub(in_use);
                let answer = match grown < TIMES / 2 {
                    true => "as before",
                    false => "more",
                };
                log.record("many times, charged", answer);
            }
        }
        drop(world);
        let accounts = ledger.entry() - at_first;
        log.record("accounts at last", accounts.without_own());
    });
    log.record("process", process);
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [
        "anon",
        "shmem",
        "shmem-private",
        "hugetlb",
        "hugetlb-reserved",
        "hugetlb-memfd",
        "hugetlb-memfd-private",
    ] {
        for call in CALLS {
            for (wrong, unmapped, name) in WRONGS {
                if possible(kind, call, *wrong, *unmapped) {
                    let name = format!("accounts/{kind}/{}, {name}", call.name);
                    cases.push(Case::new(name, move |log| {
                        failing(log, kind, call, *wrong, *unmapped)
                    }));
                }
            }
        }
    }
    cases
}
