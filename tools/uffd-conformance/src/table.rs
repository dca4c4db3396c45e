// SPDX-License-Identifier: GPL-2.0

//! Each ioctl on each kind of memory, in each mode of registration, with and without pages there.

use crate::{
    book::{Book, Case},
    limits::{MINOR, MISSING, WP},
    memory::{kind_of, pagemap, peek, vm_flags, Area, Kind, Names, KINDS},
    sys::{errno_name, PAGE},
    uffd::{
        Call, Called, Uffd, CONTINUE, CONTINUE_WP, COPY, MOVE, MOVE_ALLOW_SRC_HOLES, POISON,
        UNREGISTER, WAKE, WRITEPROTECT, WRITEPROTECT_DONTWAKE, WRITEPROTECT_WP, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;

/// What is there before the registration.
#[derive(Copy, Clone, PartialEq)]
enum State {
    Empty,
    Read,
    Written,
    /// In the file, and not in the page table.
    Cached,
}

/// An operation on one page, with a mode.
struct Operation {
    name: &'static str,
    call: &'static Call,
    mode: u64,
}

const fn operation(name: &'static str, call: &'static Call, mode: u32) -> Operation {
    Operation {
        name,
        call,
        mode: mode as u64,
    }
}

/// The operations, each on a page of its own where there are enough.
const OPERATIONS: &[Operation] = &[
    operation("copy", &COPY, 0),
    operation("copy dontwake", &COPY, UFFDIO_COPY_MODE_DONTWAKE),
    operation("copy wp", &COPY, UFFDIO_COPY_MODE_WP),
    operation("zeropage", &ZEROPAGE, 0),
    operation(
        "zeropage dontwake",
        &ZEROPAGE,
        UFFDIO_ZEROPAGE_MODE_DONTWAKE,
    ),
    operation("continue", &CONTINUE, 0),
    operation("continue wp", &CONTINUE, CONTINUE_WP),
    operation("poison", &POISON, 0),
    operation("wp", &WRITEPROTECT, WRITEPROTECT_WP),
    operation("wp off", &WRITEPROTECT, 0),
    operation("wp off dontwake", &WRITEPROTECT, WRITEPROTECT_DONTWAKE),
    operation("wp dontwake", &WRITEPROTECT, 3),
    operation("move in", &MOVE, 0),
    operation("move in holes", &MOVE, MOVE_ALLOW_SRC_HOLES),
    operation("wake", &WAKE, 0),
];

/// All that a table entry is about.
struct Scene {
    uffd: Uffd,
    area: Area,
    /// Anonymous memory to take from, and to move into.
    other: Area,
    names: Names,
}

impl Scene {
    fn call(&self, operation: &Operation, page: usize) -> Called {
        let start = self.area.at(page);
        // One page of the area, unless that is far more than there is to take.
        let len = self.area.page;
        if operation.call.fields.len() == 5 {
            self.uffd.call(
                operation.call,
                &[
                    start as u64,
                    self.other.start as u64,
                    len as u64,
                    operation.mode,
                ],
            )
        } else {
            self.uffd.range(operation.call, start, len, operation.mode)
        }
    }
}

fn ask_kind(book: &mut Book, kind: &Kind, mode: u64, state: State, features: u64) {
    let area = match (kind.make)(0) {
        Ok(area) => area,
        Err(errno) => return book.ask("cannot be made", errno_name(errno)),
    };
    match state {
        State::Empty => {}
        State::Read => area.read(),
        State::Written => area.write(),
        State::Cached => {
            area.write();
            area.madvise(libc::MADV_DONTNEED);
        }
    }
    let other = Area::anon(1, area.page.max(8 * PAGE) / PAGE);
    if area.page <= 2 << 20 {
        other.write();
    }
    let names = Names::new(&[("area", &area), ("other", &other)]);
    let scene = Scene {
        uffd: Uffd::new(features),
        area,
        other,
        names,
    };
    book.ask(
        "register",
        scene.uffd.register(scene.area.start, scene.area.len, mode),
    );
    book.ask("flags", vm_flags(scene.area.start, &scene.names));

    // What is in the file that is mapped there, this program, is of no interest.
    let content = |address| match kind.name {
        "file-private" | "file-read" => String::new(),
        _ => peek(address),
    };
    let mut page = 0;
    for operation in OPERATIONS {
        let called = scene.call(operation, page);
        let address = scene.area.at(page);
        book.ask(
            operation.name,
            format!("{called}; {} {}", pagemap(address), content(address)),
        );
        let called = scene.call(operation, page);
        book.ask(
            format!("{} again", operation.name),
            format!("{called}; {}", pagemap(address)),
        );
        page += 1;
        // Where pages are few, each operation meets the state that it is about.
        if scene.area.pages() < OPERATIONS.len() && state == State::Empty {
            scene.area.madvise(libc::MADV_DONTNEED);
        }
    }

    // Out of the area, into registered anonymous memory.
    scene.other.madvise(libc::MADV_DONTNEED);
    scene
        .uffd
        .register(scene.other.start, scene.other.len, MISSING);
    if scene.area.page == PAGE {
        let called = scene.uffd.call(
            &MOVE,
            &[
                scene.other.start as u64,
                scene.area.at(page) as u64,
                PAGE as u64,
                0,
            ],
        );
        book.ask(
            "move out",
            format!(
                "{called}; {} {}",
                pagemap(scene.area.at(page)),
                pagemap(scene.other.start)
            ),
        );
    }

    let called = scene
        .uffd
        .range(&UNREGISTER, scene.area.start, scene.area.len, 0);
    book.ask("unregister", called);
    book.ask("flags after", vm_flags(scene.area.start, &scene.names));
    let map: Vec<String> = (0..scene.area.pages().min(16))
        .map(|page| pagemap(scene.area.at(page)))
        .collect();
    book.ask("pages", map.join(" "));
}

/// Registered areas beside each other, which mappings of the same kind are joined to or split from.
fn neighbours(book: &mut Book, kind: &'static str) {
    for (first, second) in [
        (MISSING, MISSING),
        (MISSING, WP),
        (WP, WP),
        (MISSING, MISSING | WP),
    ] {
        for same in [true, false] {
            let area = Area::basic(kind_of(kind), 0);
            let names = Names::new(&[("area", &area)]);
            let one = Uffd::new(0);
            let two = Uffd::new(0);
            let other = if same { &one } else { &two };
            let (page, pages) = (area.page, area.pages());
            let question = |text: &str| format!("{first}+{second},same={same},{text}");
            book.ask(question("first"), one.register(area.start, page, first));
            book.ask(
                question("second"),
                other.register(area.start + page, page, second),
            );
            book.ask(
                question("last"),
                other.register(area.at(pages - 1), page, second),
            );
            for index in [0, 1, 2, pages - 1] {
                book.ask(
                    question(&format!("flags of {index}")),
                    vm_flags(area.at(index), &names),
                );
            }
            book.ask(question("join"), one.register(area.start, 2 * page, first));
            book.ask(
                question("unregister over both"),
                one.range(&UNREGISTER, area.start, 2 * page, 0),
            );
            book.ask(
                question("unregister all"),
                one.range(&UNREGISTER, area.start, area.len, 0),
            );
            for index in [0, 1, 2, pages - 1] {
                book.ask(
                    question(&format!("flags after of {index}")),
                    vm_flags(area.at(index), &names),
                );
            }
            drop((one, two));
            book.ask(question("flags closed"), vm_flags(area.start, &names));
        }
    }
}

/// What PAGEMAP_SCAN finds in an area that is protected in part.
fn scan(book: &mut Book, kind: &'static str, features: u64, name: &str) {
    const PAGEMAP_SCAN: u64 = 0xc060_6610;
    const CATEGORIES: u64 = 0xff;
    let area = Area::basic(kind_of(kind), 0);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(features);
    uffd.register(area.start, area.len, WP);
    area.write();
    let half = area.start + area.len / 2;
    uffd.range(&WRITEPROTECT, half, area.len / 2, WRITEPROTECT_WP.into());
    let pagemap = std::fs::File::open("/proc/self/pagemap").expect("there is a pagemap");
    for (title, flags, mask) in [
        ("written", 0u64, 1u64 << 1),
        ("all", 0, 0),
        ("check", 2, 1 << 1),
        ("protect written", 1, 1 << 1),
        ("after", 0, 1 << 1),
        ("protect all, checked", 3, 0),
        ("last", 0, 0),
    ] {
        let mut regions = [[0u64; 3]; 16];
        let mut argument = [
            96,
            flags,
            area.start as u64,
            (area.start + area.len) as u64,
            0,
            regions.as_mut_ptr() as u64,
            regions.len() as u64,
            0,
            0,
            mask,
            0,
            CATEGORIES,
        ];
        // SAFETY: The argument and the regions are as long as is said.
        let answer = crate::sys::Answer::of(unsafe {
            libc::ioctl(
                std::os::fd::AsRawFd::as_raw_fd(&pagemap),
                PAGEMAP_SCAN,
                argument.as_mut_ptr(),
            )
        });
        let found = answer.0.unwrap_or(0) as usize;
        let list: Vec<String> = regions[..found.min(16)]
            .iter()
            .map(|[start, end, categories]| {
                format!(
                    "{}..{}:{categories:#x}",
                    names.name(*start),
                    names.name(*end)
                )
            })
            .collect();
        book.ask(
            format!("{name},{title}"),
            format!(
                "{answer} up to {} [{}]",
                names.name(argument[4]),
                list.join(" ")
            ),
        );
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in KINDS {
        for mode in [
            MISSING,
            WP,
            MINOR,
            MISSING | WP,
            MISSING | MINOR,
            WP | MINOR,
            7,
        ] {
            for (name, state) in [
                ("empty", State::Empty),
                ("read", State::Read),
                ("written", State::Written),
                ("cached", State::Cached),
            ] {
                let gigantic = kind.name == "hugetlb-gigantic";
                let special = !kind.writable && kind.name != "anon-read-only";
                let shared = ["anon-shared", "shmem", "hugetlb-memfd", "hugetlb-shared"];
                if state == State::Cached && !shared.contains(&kind.name)
                    || state == State::Written && !kind.writable
                    || state == State::Read && special
                    || gigantic && state != State::Empty
                {
                    continue;
                }
                let kind = *kind;
                cases.push(Case::new(
                    format!("table/{}/mode={mode}/{name}", kind.name),
                    move |book| ask_kind(book, &kind, mode, state, 0),
                ));
            }
        }
    }
    for kind in crate::memory::BASIC {
        for (name, features) in [
            ("wp_unpopulated", UFFD_FEATURE_WP_UNPOPULATED),
            ("wp_async", UFFD_FEATURE_WP_ASYNC),
        ] {
            for (state_name, state) in [("empty", State::Empty), ("written", State::Written)] {
                cases.push(Case::new(
                    format!("table/{kind}/{name}/{state_name}"),
                    move |book| ask_kind(book, kind_of(kind), WP, state, features.into()),
                ));
            }
        }
        cases.push(Case::new(format!("table/{kind}/neighbours"), |book| {
            neighbours(book, kind)
        }));
        cases.push(Case::new(format!("table/{kind}/scan"), |book| {
            scan(book, kind, 0, "plain")
        }));
        cases.push(Case::new(format!("table/{kind}/scan async"), |book| {
            scan(book, kind, UFFD_FEATURE_WP_ASYNC.into(), "async")
        }));
    }
    cases
}
