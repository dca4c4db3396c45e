// SPDX-License-Identifier: GPL-2.0

//! Ranges of which an ioctl can do only a part.

use crate::{
    book::{Book, Case},
    limits::{MINOR, MISSING, WP},
    memory::{kind_of, memfd, pagemap, vm_flags, Area, Names, BASIC},
    sys::{Answer, PAGE},
    uffd::{
        Call, Called, Uffd, CONTINUE, COPY, MOVE, POISON, REGISTER, UNREGISTER, WAKE, WRITEPROTECT,
        ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::os::fd::AsRawFd;

const CALLS: [&Call; 6] = [&COPY, &ZEROPAGE, &CONTINUE, &POISON, &MOVE, &WRITEPROTECT];

/// What an obstacle is made of.
const OBSTACLES: [&str; 5] = ["page", "zero page", "poison", "hole", "read-only"];

/// An area that is registered, and one to take from.
struct Scene {
    uffd: Uffd,
    area: Area,
    source: Area,
    /// The same file elsewhere.
    alias: Option<Area>,
}

impl Scene {
    fn new(kind: &str, mode: u64, features: u64) -> Self {
        let area = Area::basic(kind_of(kind), 0);
        let alias = (area.file.is_some() && mode & MINOR != 0).then(|| area.alias(2));
        let source = Area::anon(1, area.page / PAGE * area.pages());
        let scene = Self {
            uffd: Uffd::new(features),
            area,
            source,
            alias,
        };
        let called = scene.uffd.register(scene.area.start, scene.area.len, mode);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        scene
    }

    fn call(&self, call: &Call, page: usize, pages: usize, mode: u64) -> Called {
        self.call_at(call, self.area.start + page * self.area.page, pages, mode)
    }

    fn call_at(&self, call: &Call, start: usize, pages: usize, mode: u64) -> Called {
        let len = pages * self.area.page;
        if call.fields.len() == 5 {
            let fields = [start as u64, self.source.start as u64, len as u64, mode];
            self.uffd.call(call, &fields)
        } else {
            self.uffd.range(call, start, len, mode)
        }
    }

    fn pages(&self, count: usize) -> String {
        (0..count)
            .map(|page| pagemap(self.area.at(page)))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// The mode of registration that a call needs.
fn mode_for(call: &Call) -> u64 {
    match call.name {
        "continue" => MINOR,
        "writeprotect" => WP,
        _ => MISSING,
    }
}

/// Whether a kind can be registered as a call needs it.
fn suits(kind: &str, call: &Call) -> bool {
    call.name != CONTINUE.name || matches!(kind, "shmem" | "hugetlb-memfd")
}

/// An obstacle at each page of a range.
fn positions(book: &mut Book, kind: &'static str, call: &'static Call) {
    let huge = kind.starts_with("hugetlb");
    let count = if huge { 2 } else { 6 };
    for obstacle in OBSTACLES {
        if huge && obstacle == "zero page" {
            continue;
        }
        for position in 0..count {
            let scene = Scene::new(kind, mode_for(call), 0);
            scene.source.write();
            if let Some(alias) = &scene.alias {
                alias.write();
            }
            let at = scene.area.at(position);
            match obstacle {
                "page" if call.name == CONTINUE.name => {
                    scene.call(&CONTINUE, position, 1, 0).to_string()
                }
                "page" => scene.call(&COPY, position, 1, 0).to_string(),
                "zero page" => scene.call(&ZEROPAGE, position, 1, 0).to_string(),
                "poison" => scene.call(&POISON, position, 1, 0).to_string(),
                // SAFETY (of both): The page is memory of the tests.
                "hole" => Answer::of(unsafe { libc::munmap(at as _, scene.area.page) }).to_string(),
                _ => {
                    Answer::of(unsafe { libc::mprotect(at as _, scene.area.page, libc::PROT_READ) })
                        .to_string()
                }
            };
            scene.source.write();
            let mode = u64::from(call.name == WRITEPROTECT.name);
            let called = scene.call(call, 0, count, mode);
            book.ask(
                format!("{obstacle} at {position}"),
                format!("{called}; {}", scene.pages(count)),
            );
            // What is left, as a program would go on.
            let called = scene.call(call, position, count - position, mode);
            book.ask(format!("{obstacle} at {position}, from there"), called);
            if position + 1 < count {
                let called = scene.call(call, position + 1, count - position - 1, mode);
                book.ask(format!("{obstacle} at {position}, after it"), called);
            }
            book.ask(
                format!("{obstacle} at {position}, pages"),
                scene.pages(count),
            );
        }
    }
}

/// A source of which a part is missing.
fn sources(book: &mut Book, kind: &'static str) {
    for call in [&COPY, &MOVE] {
        for state in [
            "unmapped",
            "empty",
            "no access",
            "read-only",
            "locked",
            "shared",
        ] {
            for position in 0..3 {
                for mode in 0..4 {
                    let scene = Scene::new(kind, MISSING, 0);
                    scene.source.write();
                    let page = scene.area.page;
                    let at = scene.source.start + position * page;
                    // SAFETY: The page is memory of the tests.
                    unsafe {
                        match state {
                            "unmapped" => libc::munmap(at as _, page),
                            "empty" => libc::madvise(at as _, page, libc::MADV_DONTNEED),
                            "no access" => libc::mprotect(at as _, page, libc::PROT_NONE),
                            "read-only" => libc::mprotect(at as _, page, libc::PROT_READ),
                            "locked" => libc::mlock(at as _, page),
                            _ => {
                                let pid = libc::fork();
                                if pid == 0 {
                                    libc::pause();
                                }
                                pid
                            }
                        }
                    };
                    let called = scene.call(call, 0, 3, mode);
                    book.ask(
                        format!("{},{state} at {position},mode={mode}", call.name),
                        format!("{called}; {}", scene.pages(3)),
                    );
                }
            }
        }
    }
}

/// Ranges over more than one mapping.
fn mappings(book: &mut Book, kind: &'static str) {
    for call in [
        &COPY,
        &ZEROPAGE,
        &POISON,
        &WRITEPROTECT,
        &REGISTER,
        &UNREGISTER,
        &WAKE,
        &MOVE,
    ] {
        for border in [
            "protection",
            "registration",
            "hole",
            "other kind",
            "other descriptor",
        ] {
            let mode = MISSING | WP;
            let scene = Scene::new(kind, mode, 0);
            scene.source.write();
            let (start, page) = (scene.area.start, scene.area.page);
            let second = (start + page) as *mut libc::c_void;
            let other = Uffd::new(0);
            // SAFETY: The pages are memory of the tests.
            match border {
                "protection" => unsafe {
                    libc::mprotect(second, page, libc::PROT_READ);
                },
                "registration" => {
                    scene.uffd.range(&UNREGISTER, start + page, page, 0);
                }
                "hole" => unsafe {
                    libc::munmap(second, page);
                },
                "other kind" => unsafe {
                    let file = memfd(0, page).expect("there are memfds");
                    libc::mmap(
                        second,
                        page,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_SHARED | libc::MAP_FIXED,
                        file.as_raw_fd(),
                        0,
                    );
                },
                _ => {
                    scene.uffd.range(&UNREGISTER, start + page, page, 0);
                    other.register(start + page, page, mode);
                }
            }
            let names = Names::new(&[("area", &scene.area)]);
            for (range, from, pages) in [
                ("into", 0, 2),
                ("over", 0, 3),
                ("inside", 1, 1),
                ("from", 1, 2),
            ] {
                let flags = if call.name == REGISTER.name {
                    MISSING
                } else {
                    0
                };
                let called = scene.call(call, from, pages, flags);
                book.ask(
                    format!("{},{border},{range}", call.name),
                    format!("{called}; {}", scene.pages(3)),
                );
            }
            for index in 0..3 {
                book.ask(
                    format!("{},{border},flags of {index}", call.name),
                    vm_flags(scene.area.at(index), &names),
                );
            }
        }
    }
}

/// Everything while the mappings change: an event that was not read yet.
fn changing(book: &mut Book, kind: &'static str) {
    for read in [false, true] {
        let scene = Scene::new(kind, MISSING | WP, UFFD_FEATURE_EVENT_REMOVE.into());
        scene.source.write();
        let (last, page) = (scene.area.at(scene.area.pages() - 1), scene.area.page);
        let thread = std::thread::spawn(move || {
            // SAFETY: The page is memory of the tests.
            Answer::of(unsafe { libc::madvise(last as _, page, libc::MADV_DONTNEED) })
        });
        assert_ne!(scene.uffd.poll(10_000), 0, "there is no event");
        if read {
            scene.uffd.read().expect("there is an event");
            let answer = thread.join().expect("no panic");
            book.ask("madvise", answer);
            for call in CALLS {
                let called = scene.call(call, 0, 1, 0);
                book.ask(format!("after,{}", call.name), called);
            }
        } else {
            for call in CALLS.into_iter().chain([&WAKE, &REGISTER]) {
                for (name, page, mode) in [("page", 0, 0), ("mode", 0, 1 << 40)] {
                    let called = scene.call(call, page, 1, mode);
                    book.ask(format!("while,{},{name}", call.name), called);
                }
                let called = scene.call(call, 0, 0, 0);
                book.ask(format!("while,{},empty", call.name), called);
            }
            book.ask("while,fdinfo", scene.uffd.fdinfo());
            scene.uffd.read().expect("there is an event");
            thread.join().expect("no panic");
        }
    }
}

/// More huge pages than there are.
fn exhausted(book: &mut Book) {
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
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | size,
            None,
        )
        .expect("addresses are not reserved")
    };
    // All but two, which takes a while for nothing if they are many.
    let hog = map(0, free - 2);
    hog.write();
    let area = map(1, 4);
    let source = Area::anon(2, 4 * huge / PAGE);
    let uffd = Uffd::new(0);
    book.ask("register", uffd.register(area.start, area.len, MISSING));
    let called = uffd.copy(area.start, source.start, area.len, 0);
    book.ask("copy of four", called);
    let called = uffd.copy(area.at(2), source.start, huge, 0);
    book.ask("copy of one more", called);
    let called = uffd.range(&POISON, area.at(2), huge, 0);
    book.ask("poison", called);
    let called = uffd.range(&ZEROPAGE, area.at(3), huge, 0);
    book.ask("zeropage", called);
}

/// A file that ends inside the area.
fn truncated(book: &mut Book, kind: &'static str) {
    for call in [&COPY, &ZEROPAGE, &CONTINUE, &POISON] {
        for when in ["before", "after"] {
            let mode = if call.name == CONTINUE.name {
                MINOR
            } else {
                MISSING
            };
            let scene = Scene::new(kind, mode, 0);
            scene.source.write();
            let file = scene
                .area
                .file
                .as_ref()
                .expect("there is a file")
                .as_raw_fd();
            let pages = scene.area.pages();
            let half = (pages / 2 * scene.area.page) as i64;
            if when == "before" {
                // SAFETY: No pointers are involved.
                unsafe { libc::ftruncate(file, half) };
            }
            let called = scene.call(call, pages / 2 - 1, 2, 0);
            book.ask(format!("{},{when},across", call.name), called);
            let called = scene.call(call, pages / 2, 1, 0);
            book.ask(format!("{},{when},past", call.name), called);
            if when == "after" {
                // SAFETY: As above.
                unsafe { libc::ftruncate(file, half) };
                let called = scene.call(call, pages / 2, 1, 0);
                book.ask(format!("{},{when},past again", call.name), called);
            }
        }
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![Case::new("partial/exhausted", exhausted)];
    for kind in BASIC.iter().copied().chain(["hugetlb-memfd"]) {
        for call in CALLS {
            if suits(kind, call) {
                cases.push(Case::new(
                    format!("partial/{kind}/positions/{}", call.name),
                    move |book| positions(book, kind, call),
                ));
            }
        }
        cases.push(Case::new(format!("partial/{kind}/mappings"), move |book| {
            mappings(book, kind)
        }));
        cases.push(Case::new(format!("partial/{kind}/changing"), move |book| {
            changing(book, kind)
        }));
    }
    for kind in ["anon", "shmem", "shmem-private"] {
        cases.push(Case::new(format!("partial/{kind}/sources"), move |book| {
            sources(book, kind)
        }));
    }
    for kind in ["shmem", "hugetlb-memfd"] {
        cases.push(Case::new(
            format!("partial/{kind}/truncated"),
            move |book| truncated(book, kind),
        ));
    }
    cases
}
