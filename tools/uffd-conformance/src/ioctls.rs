// SPDX-License-Identifier: GPL-2.0

//! Each ioctl on each kind of memory, in each mode of registration, with and without pages there.

use crate::{
    inspect::{huge_pages, names_within, pagemap, peek, vm_flags},
    kinds::{kind_of, Kind, Trait, BASIC, KINDS},
    ledger::Ledger,
    memory::{read_byte, write_byte, Area, Names, HUGE, MIB, RW},
    sys::{errno_name, Answer, PAGE},
    transcript::{Case, Transcript},
    uffd::{
        inputs, Call, Called, Uffd, CONTINUE, CONTINUE_WP, COPY, MINOR, MISSING, MOVE,
        MOVE_ALLOW_SRC_HOLES, POISON, UNREGISTER, WAKE, WP, WRITEPROTECT, WRITEPROTECT_DONTWAKE,
        WRITEPROTECT_WP, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{ffi::CStr, os::fd::AsRawFd};

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

/// The operations, each on a page of its own if there are enough.
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
struct Operands {
    uffd: Uffd,
    area: Area,
    /// Anonymous memory to take from, and to move into.
    other: Area,
    names: Names,
}

impl Operands {
    fn call(&self, operation: &Operation, page: usize) -> Called {
        let start = self.area.at(page);
        // One page of the area, unless that is far more than there is to take.
        let len = self.area.page;
        // What is moved is gone, so each operation takes from another place.
        let src = self.other.start + page % (self.other.len / len) * len;
        let inputs = inputs(operation.call, start, src, len, operation.mode);
        self.uffd.call(operation.call, &inputs)
    }
}

/// Memory to take from: pages move between mappings of the same access, locked or not.
fn other_for(kind: &Kind, area: &Area) -> Area {
    if kind.is(Trait::Apart) {
        kind.area(1)
    } else {
        Area::anon(1, area.page.max(8 * PAGE) / PAGE)
    }
}

fn ask_kind(log: &mut Transcript, kind: &Kind, mode: u64, state: State, features: u64) {
    let ledger = Ledger::new();
    let at_first = ledger.entry();
    let area = match (kind.make)(0) {
        Ok(area) => area,
        Err(errno) => return log.record("cannot be made", errno_name(errno)),
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
    let other = other_for(kind, &area);
    if area.page <= 2 * MIB {
        other.write();
    } else {
        // To copy so much would take long.
        other.mprotect(libc::PROT_NONE);
    }
    let names = Names::new(&[("area", &area), ("other", &other)]);
    let operands = Operands {
        uffd: Uffd::new(features),
        area,
        other,
        names,
    };
    log.record(
        "register",
        operands
            .uffd
            .register(operands.area.start, operands.area.len, mode),
    );
    log.record("flags", vm_flags(operands.area.start, &operands.names));
    if kind.is(Trait::Thp) {
        log.record("huge", huge_pages(operands.area.start));
    }

    // What is in the file that is mapped there, this program, is of no interest.
    let content = |address| match kind.is(Trait::Foreign) {
        true => String::new(),
        false => peek(address),
    };
    let mut page = 0;
    for operation in OPERATIONS {
        let before = ledger.entry();
        let called = operands.call(operation, page);
        let accounts = ledger.entry() - before;
        let address = operands.area.at(page);
        log.record(
            operation.name,
            format!("{called}; {} {}", pagemap(address), content(address)),
        );
        log.record(format!("{} accounts", operation.name), accounts);
        let called = operands.call(operation, page);
        log.record(
            format!("{} again", operation.name),
            format!("{called}; {}", pagemap(address)),
        );
        page += 1;
        // If there are few pages, they are emptied, so that each operation finds the same.
        if operands.area.pages() < OPERATIONS.len() && state == State::Empty {
            operands.area.madvise(libc::MADV_DONTNEED);
        }
    }

    // Out of the area, into registered anonymous memory.
    operands.other.madvise(libc::MADV_DONTNEED);
    operands
        .uffd
        .register(operands.other.start, operands.other.len, MISSING);
    if operands.area.page == PAGE {
        let called = operands.uffd.call(
            &MOVE,
            &[
                operands.other.start as u64,
                operands.area.at(page) as u64,
                PAGE as u64,
                0,
            ],
        );
        log.record(
            "move out",
            format!(
                "{called}; {} {}",
                pagemap(operands.area.at(page)),
                pagemap(operands.other.start)
            ),
        );
    }

    let called = operands
        .uffd
        .range(&UNREGISTER, operands.area.start, operands.area.len, 0);
    log.record("unregister", called);
    log.record(
        "flags after",
        vm_flags(operands.area.start, &operands.names),
    );
    let map: Vec<String> = (0..operands.area.pages().min(16))
        .map(|page| pagemap(operands.area.at(page)))
        .collect();
    log.record("pages", map.join(" "));
    drop(operands);
    let accounts = ledger.entry() - at_first;
    log.record("accounts at last", accounts.without_own());
}

/// Registered areas beside each other, which mappings of the same kind are joined to or split from.
fn neighbours(log: &mut Transcript, kind: &'static str) {
    for (first, second) in [
        (MISSING, MISSING),
        (MISSING, WP),
        (WP, WP),
        (MISSING, MISSING | WP),
    ] {
        for same in [true, false] {
            let area = kind_of(kind).area(0);
            let names = Names::new(&[("area", &area)]);
            let one = Uffd::new(0);
            let two = Uffd::new(0);
            let other = if same { &one } else { &two };
            let (page, pages) = (area.page, area.pages());
            let question = |text: &str| format!("{first}+{second},same={same},{text}");
            log.record(question("first"), one.register(area.start, page, first));
            log.record(
                question("second"),
                other.register(area.start + page, page, second),
            );
            log.record(
                question("last"),
                other.register(area.at(pages - 1), page, second),
            );
            for index in [0, 1, 2, pages - 1] {
                log.record(
                    question(&format!("flags of {index}")),
                    vm_flags(area.at(index), &names),
                );
            }
            log.record(question("join"), one.register(area.start, 2 * page, first));
            log.record(
                question("unregister over both"),
                one.range(&UNREGISTER, area.start, 2 * page, 0),
            );
            log.record(
                question("unregister all"),
                one.range(&UNREGISTER, area.start, area.len, 0),
            );
            for index in [0, 1, 2, pages - 1] {
                log.record(
                    question(&format!("flags after of {index}")),
                    vm_flags(area.at(index), &names),
                );
            }
            drop((one, two));
            log.record(question("flags closed"), vm_flags(area.start, &names));
        }
    }
}

/// Gives a part of an area a name.
fn give_name(start: usize, len: usize, name: &CStr) -> Answer {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: i32 = 0;
    // SAFETY: The string is valid, and nothing is done to the memory.
    Answer::of(unsafe { libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, start, len, name.as_ptr()) })
}

/// An area whose halves have a name, which decides about what is joined as well.
fn named(log: &mut Transcript, kind: &'static str) {
    for (titles, second) in [("same", c"one"), ("different", c"two")] {
        for part in ["first", "second", "both"] {
            let area = kind_of(kind).area(0);
            let names = Names::new(&[("area", &area)]);
            let range = area.start..area.start + area.len;
            let half = area.len / 2;
            let (start, len) = match part {
                "first" => (area.start, half),
                "second" => (area.start + half, half),
                _ => (area.start, area.len),
            };
            let uffd = Uffd::new(0);
            let mut ask = |what: &str, answer: String| {
                let mappings = names_within(&range, &names);
                log.record(
                    format!("{titles},{part},{what}"),
                    format!("{answer}; {mappings}"),
                );
            };
            let answer = give_name(area.start, half, c"one");
            ask("name of first", answer.to_string());
            let answer = give_name(area.start + half, half, second);
            ask("name of second", answer.to_string());
            let called = uffd.register(start, len, MISSING | WP);
            ask("register", called.to_string());
            let called = uffd.range(&UNREGISTER, start, len, 0);
            ask("unregister", called.to_string());
        }
    }
}

/// A copy of a huge page of the biggest size, of which there is one. If a part of the source were
/// missing, the kernel would copy all of it into a second one first.
fn gigantic(log: &mut Transcript) {
    let area = match (kind_of("hugetlb-gigantic").make)(0) {
        Ok(area) => area,
        Err(errno) => return log.record("cannot be made", errno_name(errno)),
    };
    let source = Area::anon(1, area.len / PAGE);
    // What is only read is a huge page of zeros, over and over.
    source.madvise(libc::MADV_HUGEPAGE);
    let last = area.len - PAGE;
    for (offset, byte) in [(0, 0x33), (last, 0x44)] {
        write_byte(source.start + offset, byte);
    }
    log.record("populate", source.madvise(libc::MADV_POPULATE_READ));
    let uffd = Uffd::new(0);
    log.record("register", uffd.register(area.start, area.len, MISSING));
    for question in ["copy", "copy again"] {
        let called = uffd.copy(area.start, source.start, area.len, 0);
        let look = [0, area.len / 2, last].map(|offset| {
            let address = area.start + offset;
            // Whether it counts as mapped by this process alone depends on who had it before.
            format!("{}{}", pagemap(address).replace('X', ""), peek(address))
        });
        log.record(question, format!("{called}; {}", look.join(" ")));
    }
}

/// A way to put a huge page into the first half of an area.
#[derive(Copy, Clone, PartialEq)]
enum Filling {
    Nothing,
    Zero,
    Written,
    /// Nothing, and huge pages of zeros to take from.
    Zeros,
}

/// A call on a part of an area of two huge pages: the name of the part, where it begins, its length,
/// and the mode.
type OnHugePages = (&'static str, &'static Call, usize, usize, u64);

const ON_HUGE_PAGES: &[OnHugePages] = &[
    ("whole", &COPY, 0, HUGE, 0),
    ("whole", &ZEROPAGE, 0, HUGE, 0),
    ("whole", &POISON, 0, HUGE, 0),
    ("whole", &MOVE, 0, HUGE, 0),
    (
        "whole with holes",
        &MOVE,
        0,
        HUGE,
        MOVE_ALLOW_SRC_HOLES as u64,
    ),
    ("both", &MOVE, 0, 2 * HUGE, 0),
    ("first page", &MOVE, 0, PAGE, 0),
    ("last page", &MOVE, HUGE - PAGE, PAGE, 0),
    ("half", &MOVE, 0, HUGE / 2, 0),
    ("across", &MOVE, HUGE / 2, HUGE, 0),
    ("whole", &WRITEPROTECT, 0, HUGE, 1),
    ("first page", &WRITEPROTECT, 0, PAGE, 1),
    ("half", &WRITEPROTECT, HUGE / 2, HUGE / 2, 1),
    ("across", &WRITEPROTECT, HUGE / 2, HUGE, 1),
    ("one page", &ZEROPAGE, PAGE, PAGE, 0),
    ("one page", &COPY, PAGE, PAGE, 0),
];

/// Two huge pages, if the kernel has transparent ones.
fn two_huge_pages(slot: usize) -> Option<Area> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let area = Area::map(slot, 2 * HUGE, PAGE, RW, flags, None).expect("there is memory");
    area.madvise(libc::MADV_HUGEPAGE).is_ok().then_some(area)
}

/// What the pages of two such areas are.
fn look_at(area: &Area, other: &Area) -> String {
    let places = [
        area.start,
        area.start + PAGE,
        area.start + HUGE - PAGE,
        area.start + HUGE,
        other.start,
        other.start + HUGE - PAGE,
        other.start + HUGE,
    ];
    let places = places.map(|place| format!("{}{}", pagemap(place), peek(place)));
    let huge = [area, other].map(|area| huge_pages(area.start));
    format!("{} huge {}", places.join(" "), huge.join(" and "))
}

/// Operations on a huge page as a whole, and on a part of one.
fn huge(log: &mut Transcript, filling: Filling) {
    for (name, call, from, len, mode) in ON_HUGE_PAGES.iter().copied() {
        let moves = *call == MOVE;
        let whole = matches!(name, "whole" | "whole with holes" | "both");
        let asked = match filling {
            Filling::Nothing => true,
            // Pages are moved to missing ones only.
            Filling::Zero | Filling::Written => !moves || name == "whole",
            // A huge page of zeros is not moved as a whole: Linux 6.18 maps another page then.
            Filling::Zeros => moves && !whole,
        };
        if !asked {
            continue;
        }
        let (Some(area), Some(other)) = (two_huge_pages(0), two_huge_pages(1)) else {
            return log.record("cannot be made", errno_name(libc::EINVAL));
        };
        // The first page of a range is enough to get a huge page.
        for start in [other.start, other.start + HUGE] {
            match filling {
                Filling::Zeros => drop(read_byte(start)),
                _ => write_byte(start, 0x33),
            }
        }
        match filling {
            Filling::Nothing | Filling::Zeros => {}
            Filling::Zero => drop(read_byte(area.start)),
            Filling::Written => write_byte(area.start, 0x44),
        }
        let uffd = Uffd::new(0);
        uffd.register(area.start, area.len, MISSING | WP);
        let question = |text: &str| format!("{},{name},{text}", call.name);
        log.record(question("before"), look_at(&area, &other));
        let (start, src) = (area.start + from, other.start + from);
        let called = uffd.call(call, &inputs(call, start, src, len, mode));
        let look = look_at(&area, &other);
        log.record(question("call"), format!("{called}; {look}"));
        let called = match *call {
            WRITEPROTECT => uffd.range(call, area.start, area.len, 0),
            MOVE => {
                uffd.range(&UNREGISTER, area.start, area.len, 0);
                uffd.register(other.start, other.len, MISSING);
                uffd.call(call, &inputs(call, src, start, len, 0))
            }
            _ => continue,
        };
        let look = look_at(&area, &other);
        log.record(question("back"), format!("{called}; {look}"));
    }
}

/// What PAGEMAP_SCAN finds in an area that is protected in part.
fn scan(log: &mut Transcript, kind: &'static str, features: u64, name: &str) {
    const PAGEMAP_SCAN: u64 = 0xc060_6610;
    const CATEGORIES: u64 = 0xff;
    let area = kind_of(kind).area(0);
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
        let answer = Answer::of(unsafe {
            libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, argument.as_mut_ptr())
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
        log.record(
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
    let mut cases = vec![Case::new("table/hugetlb-gigantic/copy", gigantic)];
    // Modes of registration: a name, the mode, and the features.
    let modes: Vec<(String, u64, u64)> = [
        MISSING,
        WP,
        MINOR,
        MISSING | WP,
        MISSING | MINOR,
        WP | MINOR,
        7,
    ]
    .into_iter()
    .map(|mode| (format!("mode={mode}"), mode, 0))
    // All kinds can be protected then.
    .chain([("wp_async".to_string(), WP, UFFD_FEATURE_WP_ASYNC.into())])
    .collect();
    for kind in KINDS {
        for (mode_name, mode, features) in &modes {
            let (mode, features) = (*mode, *features);
            for (name, state) in [
                ("empty", State::Empty),
                ("read", State::Read),
                ("written", State::Written),
                ("cached", State::Cached),
            ] {
                // What they are before a test touches them.
                let name = match state {
                    State::Empty if kind.is(Trait::Filled) => "as made",
                    State::Read if kind.is(Trait::Swapped) => "read back",
                    State::Written if kind.is(Trait::Swapped) => "written back",
                    _ => name,
                };
                if state == State::Cached && !kind.is(Trait::Cached)
                    || state == State::Written && kind.is(Trait::ReadOnly)
                    || state == State::Read && kind.is(Trait::Unread)
                    || kind.is(Trait::Gigantic)
                        && (state != State::Empty || mode == MISSING | MINOR || mode == 7)
                    || kind.is(Trait::Gigantic) && features != 0
                {
                    continue;
                }
                let kind = *kind;
                cases.push(Case::new(
                    format!("table/{}/{mode_name}/{name}", kind.name),
                    move |log| ask_kind(log, &kind, mode, state, features),
                ));
            }
        }
    }
    for kind in ["hugetlb-memfd", "hugetlb-memfd-private"] {
        cases.push(Case::new(format!("table/{kind}/neighbours"), move |log| {
            neighbours(log, kind)
        }));
    }
    // Files cannot be named.
    for kind in ["anon", "anon-shared", "shmem"] {
        cases.push(Case::new(format!("table/{kind}/named"), move |log| {
            named(log, kind)
        }));
    }
    for (name, filling) in [
        ("nothing", Filling::Nothing),
        ("zero", Filling::Zero),
        ("written", Filling::Written),
        ("zeros", Filling::Zeros),
    ] {
        cases.push(Case::new(format!("table/huge pages/{name}"), move |log| {
            huge(log, filling)
        }));
    }
    for kind in BASIC {
        for (name, state) in [("empty", State::Empty), ("written", State::Written)] {
            let features = UFFD_FEATURE_WP_UNPOPULATED.into();
            cases.push(Case::new(
                format!("table/{kind}/wp_unpopulated/{name}"),
                move |log| ask_kind(log, kind_of(kind), WP, state, features),
            ));
        }
        cases.push(Case::new(format!("table/{kind}/neighbours"), |log| {
            neighbours(log, kind)
        }));
        cases.push(Case::new(format!("table/{kind}/scan"), |log| {
            scan(log, kind, 0, "plain")
        }));
        cases.push(Case::new(format!("table/{kind}/scan async"), |log| {
            scan(log, kind, UFFD_FEATURE_WP_ASYNC.into(), "async")
        }));
    }
    cases
}
