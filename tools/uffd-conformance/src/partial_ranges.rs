// SPDX-License-Identifier: GPL-2.0

//! Ranges of which an ioctl can do only a part.

use crate::{
    inspect::{pagemap, peek, vm_flags},
    kinds::{kind_of, memfd, new_file, Trait, BASIC},
    memory::{dontneed, madvise, map_over, mlock, mprotect, munmap, write_byte, Area, Names, RW},
    process::{fork, kill_and_wait, pause},
    sys::{ftruncate, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{
        call_across, inputs, Call, Called, Uffd, CONTINUE, COPY, MINOR, MISSING, MOVE, POISON,
        REGISTER, UNREGISTER, WAKE, WP, WRITEPROTECT, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;

const CALLS: [&Call; 6] = [&COPY, &ZEROPAGE, &CONTINUE, &POISON, &MOVE, &WRITEPROTECT];

/// What an obstacle is made of.
const OBSTACLES: [&str; 5] = ["page", "zero page", "poison", "hole", "read-only"];

/// An area that is registered, and one to take from.
struct Areas {
    uffd: Uffd,
    area: Area,
    source: Area,
    /// The same file elsewhere.
    alias: Option<Area>,
}

impl Areas {
    fn new(kind: &str, mode: u64, features: u64) -> Self {
        let area = kind_of(kind).area(0);
        let alias = (area.file.is_some() && mode & MINOR != 0).then(|| area.alias(2));
        let source = Area::anon(1, area.page / PAGE * area.pages());
        let areas = Self {
            uffd: Uffd::new(features),
            area,
            source,
            alias,
        };
        areas
            .uffd
            .must_register(areas.area.start, areas.area.len, mode);
        areas
    }

    fn call(&self, call: &Call, page: usize, pages: usize, mode: u64) -> Called {
        self.call_at(call, self.area.start + page * self.area.page, pages, mode)
    }

    fn call_at(&self, call: &Call, start: usize, pages: usize, mode: u64) -> Called {
        self.uffd.call(call, &self.inputs(call, start, pages, mode))
    }

    /// The fields that a call reads.
    fn inputs(&self, call: &Call, start: usize, pages: usize, mode: u64) -> Vec<u64> {
        let len = pages * self.area.page;
        inputs(call, start, self.source.start, len, mode)
    }

    /// What the first pages are, and what is in them.
    fn pages(&self, count: usize) -> String {
        (0..count)
            .map(|page| self.area.at(page))
            .map(|address| format!("{}{}", pagemap(address), peek(address)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The mode of registration that a call needs.
fn mode_for(call: &Call) -> u64 {
    match *call {
        CONTINUE => MINOR,
        WRITEPROTECT => WP,
        _ => MISSING,
    }
}

/// Whether a call can do something on a kind.
fn suits(kind: &str, call: &Call) -> bool {
    match *call {
        CONTINUE => kind_of(kind).is(Trait::Aliased),
        MOVE => kind_of(kind).is(Trait::Movable),
        ZEROPAGE => !kind_of(kind).is(Trait::Hugetlb),
        _ => true,
    }
}

/// The calls that a kind refuses.
fn refused(log: &mut Transcript, kind: &'static str) {
    for call in CALLS.into_iter().filter(|call| !suits(kind, call)) {
        let areas = Areas::new(kind, MISSING | WP, 0);
        areas.source.write();
        let called = areas.call(call, 0, 2, 0);
        log.record(call.name, format!("{called}; {}", areas.pages(2)));
    }
}

/// An obstacle at each page of a range.
fn positions(log: &mut Transcript, kind: &'static str, call: &'static Call) {
    let huge = kind_of(kind).is(Trait::Hugetlb);
    let count = if huge { 2 } else { 6 };
    for obstacle in OBSTACLES {
        if huge && obstacle == "zero page" {
            continue;
        }
        for position in 0..count {
            let areas = Areas::new(kind, mode_for(call), 0);
            areas.source.write();
            if let Some(alias) = &areas.alias {
                alias.write();
            }
            let at = areas.area.at(position);
            let protects = *call == WRITEPROTECT;
            if protects {
                // Only pages can be protected.
                for page in (0..count).filter(|page| *page != position) {
                    areas.call(&COPY, page, 1, 0);
                }
            }
            match obstacle {
                "page" if *call == CONTINUE => areas.call(&CONTINUE, position, 1, 0).to_string(),
                "page" => areas.call(&COPY, position, 1, 0).to_string(),
                "zero page" => areas.call(&ZEROPAGE, position, 1, 0).to_string(),
                "poison" => areas.call(&POISON, position, 1, 0).to_string(),
                "hole" => munmap(at, areas.area.page).to_string(),
                _ => mprotect(at, areas.area.page, libc::PROT_READ).to_string(),
            };
            areas.source.write();
            let mode = u64::from(protects);
            let called = areas.call(call, 0, count, mode);
            log.record(
                format!("{obstacle} at {position}"),
                format!("{called}; {}", areas.pages(count)),
            );
            // What is left, as a program would go on.
            let called = areas.call(call, position, count - position, mode);
            log.record(format!("{obstacle} at {position}, from there"), called);
            if position + 1 < count {
                let called = areas.call(call, position + 1, count - position - 1, mode);
                log.record(format!("{obstacle} at {position}, after it"), called);
            }
            log.record(
                format!("{obstacle} at {position}, pages"),
                areas.pages(count),
            );
        }
    }
}

/// A source of which a part is missing.
fn sources(log: &mut Transcript, kind: &'static str) {
    for call in [&COPY, &MOVE] {
        for state in [
            "unmapped",
            "empty",
            "no access",
            "read-only",
            "locked",
            "shared",
        ] {
            // The fourth stands for all three.
            for position in 0..4 {
                for mode in 0..4 {
                    if !suits(kind, call) {
                        continue;
                    }
                    // Pages can be write-protected only if that was asked for.
                    let protects = *call == COPY && mode & 2 != 0;
                    let registered = if protects { MISSING | WP } else { MISSING };
                    let areas = Areas::new(kind, registered, 0);
                    areas.source.write();
                    let (from, pages) = if position < 3 { (position, 1) } else { (0, 3) };
                    let len = pages * areas.area.page;
                    let at = areas.source.at(from);
                    let mut child = 0;
                    match state {
                        "unmapped" => drop(munmap(at, len)),
                        "empty" => drop(madvise(at, len, libc::MADV_DONTNEED)),
                        "no access" => drop(mprotect(at, len, libc::PROT_NONE)),
                        "read-only" => drop(mprotect(at, len, libc::PROT_READ)),
                        "locked" => drop(mlock(at, len, 0)),
                        _ => {
                            child = fork(|| {
                                pause();
                            });
                            if position < 3 {
                                // One of the pages is this process's own again.
                                write_byte(at, 0x77);
                            }
                        }
                    }
                    let called = areas.call(call, 0, 3, mode);
                    log.record(
                        format!("{},{state} at {position},mode={mode}", call.name),
                        format!("{called}; {}", areas.pages(3)),
                    );
                    if child != 0 {
                        kill_and_wait(child);
                    }
                }
            }
        }
    }
}

/// Ranges over more than one mapping.
fn mappings(log: &mut Transcript, kind: &'static str) {
    for call in [
        &COPY,
        &ZEROPAGE,
        &POISON,
        &WRITEPROTECT,
        &REGISTER,
        &UNREGISTER,
        &WAKE,
        &MOVE,
        &CONTINUE,
    ] {
        if !suits(kind, call) {
            continue;
        }
        for border in [
            "protection",
            "registration",
            "hole",
            "other kind",
            "other descriptor",
        ] {
            let mode = if *call == CONTINUE {
                MINOR | WP
            } else {
                MISSING | WP
            };
            let areas = Areas::new(kind, mode, 0);
            areas.source.write();
            if let Some(alias) = &areas.alias {
                alias.write();
            }
            let (start, page) = (areas.area.start, areas.area.page);
            if *call == WRITEPROTECT {
                areas.call(&COPY, 0, 3, 0);
            }
            let second = start + page;
            let other = Uffd::new(0);
            match border {
                "protection" => drop(mprotect(second, page, libc::PROT_READ)),
                "registration" => drop(areas.uffd.range(&UNREGISTER, second, page, 0)),
                "hole" => drop(munmap(second, page)),
                "other kind" => {
                    let file = memfd(0, page).expect("there are memfds");
                    map_over(second, page, RW, Some(&file));
                }
                _ => {
                    areas.uffd.range(&UNREGISTER, start + page, page, 0);
                    other.register(start + page, page, mode);
                }
            }
            let names = Names::new(&[("area", &areas.area)]);
            for (range, from, pages) in [
                ("into", 0, 2),
                ("over", 0, 3),
                ("inside", 1, 1),
                ("from", 1, 2),
                ("before", 0, 1),
            ] {
                let flags = match *call {
                    REGISTER => MISSING,
                    WRITEPROTECT => 1,
                    _ => 0,
                };
                let called = areas.call(call, from, pages, flags);
                log.record(
                    format!("{},{border},{range}", call.name),
                    format!("{called}; {}", areas.pages(3)),
                );
            }
            for index in 0..3 {
                log.record(
                    format!("{},{border},flags of {index}", call.name),
                    vm_flags(areas.area.at(index), &names),
                );
            }
        }
    }
}

/// An answer that cannot be written: what was done stays, and the caller cannot know.
fn unanswered(log: &mut Transcript, kind: &'static str, call: &'static Call) {
    catch_signals();
    let areas = Areas::new(kind, mode_for(call), 0);
    let names = Names::new(&[("area", &areas.area)]);
    areas.source.write();
    if let Some(alias) = &areas.alias {
        alias.write();
    }
    let start = areas.area.start;
    let thread = std::thread::spawn(move || load(start, &names));
    areas.uffd.wait_for_sleepers(1);
    let called = call_across(
        &areas.uffd,
        call,
        &areas.inputs(call, start, 2, 0),
        call.fields.len() - 1,
        [RW, libc::PROT_READ],
    );
    log.record("call", format!("{called}; {}", areas.pages(2)));
    log.record("fdinfo", areas.uffd.fdinfo());
    log.record("woken", areas.uffd.ends_or_sleeps(&thread));
    log.record("wake", areas.call(&WAKE, 0, 1, 0));
    log.record("load", thread.join().expect("no panic"));
}

/// Arguments that are not, or not all, memory, while the mappings change: then a call only writes.
fn arguments_while_changing(log: &mut Transcript, areas: &Areas, call: &Call, page: usize) {
    let answer = areas.uffd.raw(call.request(), 0);
    log.record(format!("while,{},null", call.name), answer);
    let inputs = areas.inputs(call, areas.area.at(page), 1, 0);
    let writable = RW;
    for (name, protections) in [
        ("nothing to read", [libc::PROT_NONE, writable]),
        ("no answer", [writable, libc::PROT_READ]),
    ] {
        let last = call.fields.len() - 1;
        let called = call_across(&areas.uffd, call, &inputs, last, protections);
        log.record(format!("while,{},{name}", call.name), called);
    }
}

/// Everything while the mappings change: an event that was not read yet.
fn changing(log: &mut Transcript, kind: &'static str) {
    let minor = if suits(kind, &CONTINUE) { MINOR } else { 0 };
    let calls = CALLS.into_iter().filter(|call| suits(kind, call));
    for read in [false, true] {
        let areas = Areas::new(kind, MISSING | WP | minor, UFFD_FEATURE_EVENT_REMOVE.into());
        areas.source.write();
        // The last page goes, and the one before it is in the file only.
        let pages = areas.area.pages();
        if let Some(alias) = &areas.alias {
            write_byte(alias.at(pages - 2), 0x77);
        }
        let place = |call: &Call| match *call {
            CONTINUE => pages - 2,
            POISON => 1,
            ZEROPAGE => 2,
            MOVE => 3,
            _ => 0,
        };
        let (last, page) = (areas.area.at(pages - 1), areas.area.page);
        let thread = std::thread::spawn(move || madvise(last, page, libc::MADV_DONTNEED));
        assert_ne!(areas.uffd.poll(10_000), 0, "there is no event");
        if read {
            areas.uffd.read().expect("there is an event");
            let answer = thread.join().expect("no panic");
            log.record("madvise", answer);
            for call in calls.clone() {
                let called = areas.call(call, place(call), 1, 0);
                log.record(
                    format!("after,{}", call.name),
                    format!("{called}; {}", areas.pages(pages.min(4))),
                );
            }
        } else {
            for call in calls.clone().chain([&WAKE, &REGISTER]) {
                for (name, mode) in [("page", 0), ("mode", 1 << 40)] {
                    let called = areas.call(call, place(call), 1, mode);
                    log.record(format!("while,{},{name}", call.name), called);
                }
                let called = areas.call(call, 0, 0, 0);
                log.record(format!("while,{},empty", call.name), called);
            }
            for call in calls.clone() {
                arguments_while_changing(log, &areas, call, place(call));
            }
            let names = Names::new(&[("area", &areas.area)]);
            for call in [&UNREGISTER, &REGISTER] {
                let called = areas.call(call, 0, 1, MISSING);
                log.record(
                    format!("while,{},missing", call.name),
                    format!("{called}; {}", vm_flags(areas.area.start, &names)),
                );
            }
            log.record("while,fdinfo", areas.uffd.fdinfo());
            areas.uffd.read().expect("there is an event");
            thread.join().expect("no panic");
        }
    }
}

/// More huge pages than there are: of this process only, or of a file.
fn exhausted(log: &mut Transcript, shared: bool) {
    let free: usize =
        std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("there are huge pages");
    let huge = 2 << 20;
    let size = (21 << libc::MAP_HUGE_SHIFT) | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
    let map = |slot, pages: usize| {
        Area::map(
            slot,
            pages * huge,
            huge,
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | size,
            None,
        )
        .expect("addresses are not reserved")
    };
    // All but two, which takes a while for nothing if they are many.
    let hog = map(0, free - 2);
    hog.write();
    let area = if shared {
        let file = memfd(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, 4 * huge);
        let protection = RW;
        let flags = libc::MAP_SHARED | libc::MAP_NORESERVE;
        let file = file.expect("there are memfds");
        Area::map(1, 4 * huge, huge, protection, flags, Some(file)).expect("there is memory")
    } else {
        map(1, 4)
    };
    // What is in a file stays there when it is not mapped any more.
    let removal = if shared {
        libc::MADV_REMOVE
    } else {
        libc::MADV_DONTNEED
    };
    let source = Area::anon(2, 4 * huge / PAGE);
    source.write();
    let uffd = Uffd::new(0);
    log.record("register", uffd.register(area.start, area.len, MISSING));
    let mut ask = |question: &str, called: Called| {
        let pages: Vec<String> = (0..4)
            .map(|page| format!("{}{}", pagemap(area.at(page)), peek(area.at(page))))
            .collect();
        log.record(question, format!("{called}; {}", pages.join(" ")));
    };
    let called = uffd.copy(area.start, source.start, area.len, 0);
    ask("copy of four", called);
    let called = uffd.copy(area.at(2), source.start, huge, 0);
    ask("copy of one more", called);
    let called = uffd.range(&POISON, area.at(3), huge, 0);
    ask("poison", called);
    // One comes back.
    madvise(hog.start, huge, libc::MADV_DONTNEED);
    let called = uffd.copy(area.at(2), source.start, huge, 0);
    ask("copy of one that is free", called);
    // A source that is not there yet takes a second page for a while.
    for hog_page in 1..3 {
        madvise(area.at(2), huge, removal);
        source.madvise(libc::MADV_DONTNEED);
        let called = uffd.copy(area.at(2), source.start, huge, 0);
        ask(
            &format!("copy of a source that is missing, {hog_page} free"),
            called,
        );
        madvise(hog.at(hog_page), huge, libc::MADV_DONTNEED);
    }
}

/// A file system that has room for half of its file.
fn full(log: &mut Transcript) {
    let pages = 8;
    let file = new_file(c"tmpfs", &[(c"size", c"16k")], pages * PAGE).expect("there is tmpfs");
    let protection = RW;
    let flags = libc::MAP_SHARED;
    let area = Area::map(0, pages * PAGE, PAGE, protection, flags, Some(file));
    let areas = Areas {
        uffd: Uffd::new(0),
        area: area.expect("there are addresses"),
        source: Area::anon(1, pages),
        alias: None,
    };
    areas.source.write();
    let (start, len) = (areas.area.start, areas.area.len);
    let called = areas.uffd.register(start, len, MISSING | WP | MINOR);
    log.record("register", called);
    let mut ask = |question: &str, call: &Call, page: usize, count: usize| {
        let called = areas.call(call, page, count, 0);
        log.record(question, format!("{called}; {}", areas.pages(pages)));
    };
    ask("copy of six", &COPY, 0, 6);
    ask("copy of one more", &COPY, 4, 1);
    ask("zeropage", &ZEROPAGE, 4, 1);
    ask("poison", &POISON, 5, 1);
    // One comes back.
    madvise(start, PAGE, libc::MADV_REMOVE);
    ask("zeropage where one is free", &ZEROPAGE, 6, 1);
    ask("copy of the last", &COPY, 7, 1);
    dontneed(areas.area.at(1));
    ask("continue", &CONTINUE, 1, 1);
}

/// A file that ends inside the area.
fn truncated(log: &mut Transcript, kind: &'static str) {
    for call in [&COPY, &ZEROPAGE, &CONTINUE, &POISON] {
        for when in ["before", "after"] {
            if !suits(kind, call) {
                continue;
            }
            let mode = if *call == CONTINUE { MINOR } else { MISSING };
            let areas = Areas::new(kind, mode, 0);
            areas.source.write();
            if let Some(alias) = &areas.alias {
                alias.write();
            }
            let file = areas.area.file.as_ref().expect("there is a file");
            let pages = areas.area.pages();
            let half = pages / 2 * areas.area.page;
            if when == "before" {
                ftruncate(file, half);
            }
            let mut ask = |what: &str, first: usize, count: usize| {
                let called = areas.call(call, first, count, 0);
                let at = |page| areas.area.at(pages / 2 + page - 1);
                log.record(
                    format!("{},{when},{what}", call.name),
                    format!(
                        "{called}; {}{} {}",
                        pagemap(at(0)),
                        peek(at(0)),
                        pagemap(at(1))
                    ),
                );
            };
            ask("across", pages / 2 - 1, 2);
            ask("past", pages / 2, 1);
            if when == "after" {
                ftruncate(file, half);
                ask("past again", pages / 2, 1);
            }
        }
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("partial/exhausted", |log| exhausted(log, false)),
        Case::new("partial/exhausted memfd", |log| exhausted(log, true)),
        Case::new("partial/full tmpfs", full),
    ];
    for kind in BASIC.iter().copied().chain(["hugetlb-memfd"]) {
        for call in CALLS {
            if suits(kind, call) {
                cases.push(Case::new(
                    format!("partial/{kind}/positions/{}", call.name),
                    move |log| positions(log, kind, call),
                ));
            }
            if suits(kind, call) && *call != WRITEPROTECT {
                cases.push(Case::new(
                    format!("partial/{kind}/unanswered/{}", call.name),
                    move |log| unanswered(log, kind, call),
                ));
            }
        }
        cases.push(Case::new(format!("partial/{kind}/refused"), move |log| {
            refused(log, kind)
        }));
        cases.push(Case::new(format!("partial/{kind}/mappings"), move |log| {
            mappings(log, kind)
        }));
        cases.push(Case::new(format!("partial/{kind}/changing"), move |log| {
            changing(log, kind)
        }));
    }
    for kind in ["anon", "shmem", "shmem-private"] {
        cases.push(Case::new(format!("partial/{kind}/sources"), move |log| {
            sources(log, kind)
        }));
    }
    for kind in ["shmem", "hugetlb-memfd"] {
        cases.push(Case::new(format!("partial/{kind}/truncated"), move |log| {
            truncated(log, kind)
        }));
    }
    cases
}
