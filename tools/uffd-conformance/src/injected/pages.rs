// SPDX-License-Identifier: GPL-2.0

//! The ioctls that fill, protect and move pages.

use super::{Failing, Question};
use crate::{
    inspect::{page_flags, pagemap_of},
    kinds::{kind_of, memfd, swap_out_pages},
    ledger::Ledger,
    memory::{dontneed, fill_with, madvise, read_bytes, Area, HUGE, RW},
    sys::PAGE,
    uffd::{
        inputs, Call, Called, Uffd, CONTINUE, CONTINUE_WP, COPY, MINOR, MISSING, MOVE,
        MOVE_ALLOW_SRC_HOLES, POISON, WP, WRITEPROTECT, WRITEPROTECT_WP, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;

/// How many pages a page table maps.
const TABLE: usize = PAGE / 8;

/// Where the range of a call begins: two of its pages are of another page table.
const FIRST: usize = TABLE - 2;

/// How many pages the range has.
const PAGES: usize = 4;
const HUGE_PAGES: usize = 2;

/// Kinds of memory that are filled in different ways.
const KINDS: [&str; 6] = [
    "anon",
    "shmem",
    "shmem-private",
    "hugetlb",
    "hugetlb-memfd",
    "hugetlb-memfd-private",
];

/// How things are before a call.
#[derive(Copy, Clone, PartialEq)]
enum State {
    /// There is no page, and what is copied is mapped.
    Empty,
    /// What is copied is not mapped: the kernel drops its locks, copies, and begins again.
    Unmapped,
    /// The same, and it has to be read from the swap disk.
    SwappedOut,
    /// There are pages.
    Filled,
    /// They are protected.
    Protected,
}
use State::*;

/// What a call does, and to what.
#[derive(Copy, Clone)]
struct Operation {
    kind: &'static str,
    call: &'static Call,
    mode: u64,
    state: State,
}

/// An area that is registered, a range in it, and what is copied to that.
struct World {
    uffd: Uffd,
    area: Area,
    source: Area,
    /// Another mapping of the same file.
    alias: Option<Area>,
    first: usize,
    pages: usize,
}

/// Makes an area. No huge page comes into it by itself.
fn area_of(kind: &str, slot: usize) -> Area {
    if kind.starts_with("hugetlb") {
        return kind_of(kind).area(slot);
    }
    let len = 2 * TABLE * PAGE;
    let map = |flags| {
        let file = memfd(0, len).expect("there are memfds");
        Area::map(slot, len, PAGE, RW, flags, Some(file)).expect("there is memory")
    };
    let area = match kind {
        "shmem" => map(libc::MAP_SHARED),
        "shmem-private" => map(libc::MAP_PRIVATE),
        _ => Area::anon(slot, 2 * TABLE),
    };
    area.madvise(libc::MADV_NOHUGEPAGE);
    area
}

/// What is in a page of the source: all its bytes are the same.
fn byte(page: usize) -> u8 {
    0x41 + page as u8
}

/// What is in a page that is present. Every byte is looked at in some of the pages that follow one
/// another, because huge pages have very many.
fn content(page: usize) -> String {
    let mut bytes = [0; PAGE];
    let len = match page / PAGE % 16 {
        0 | 1 | 14 | 15 => PAGE,
        _ => 16,
    };
    let bytes = &mut bytes[..len];
    read_bytes(page, bytes);
    match bytes.iter().all(|byte| *byte == bytes[0]) {
        true => format!(" {:#04x}", bytes[0]),
        false => " mixed".into(),
    }
}

/// What the pages of an area are.
fn pages_of(area: &Area) -> String {
    pagemap_of(area.start, area.len / PAGE, |page, present| {
        if present {
            content(area.start + page * PAGE)
        } else {
            String::new()
        }
    })
}

impl World {
    fn new(operation: Operation) -> Self {
        let kind = operation.kind;
        let area = area_of(kind, 0);
        let (first, pages) = match area.page {
            PAGE => (FIRST, PAGES),
            // It is copied in very many parts.
            _ if operation.call == &COPY => (0, 1),
            _ => (0, HUGE_PAGES),
        };
        let source = Area::anon(1, pages * area.page / PAGE);
        source.madvise(match area.page {
            PAGE => libc::MADV_NOHUGEPAGE,
            _ => libc::MADV_HUGEPAGE,
        });
        let alias = (operation.call == &CONTINUE).then(|| area.alias(2));
        let mode = if alias.is_some() {
            MISSING | MINOR | WP
        } else {
            MISSING | WP
        };
        let uffd = Uffd::new(UFFD_FEATURE_WP_UNPOPULATED.into());
        uffd.must_register(area.start, area.len, mode);
        let world = Self {
            uffd,
            area,
            source,
            alias,
            first,
            pages,
        };
        world.prepare(operation);
        world
    }

    fn start(&self) -> usize {
        self.area.at(self.first)
    }

    fn len(&self) -> usize {
        self.pages * self.area.page
    }

    fn prepare(&self, operation: Operation) {
        let page = self.area.page;
        for number in 0..self.pages {
            fill_with(self.source.start + number * page, page, byte(number));
            if let Some(alias) = &self.alias {
                fill_with(alias.at(self.first + number), page, byte(number));
            }
        }
        match operation.state {
            Empty => {}
            Unmapped => drop(madvise(
                self.source.start,
                self.source.len,
                libc::MADV_DONTNEED,
            )),
            SwappedOut => swap_out_pages(self.source.start, self.source.pages()),
            Filled | Protected => {
                let (start, len) = (self.start(), self.len());
                let copied = self.uffd.copy(start, self.source.start, len, 0);
                assert!(copied.answer.is_ok(), "cannot be filled: {copied}");
                if operation.state == Protected {
                    let wp = WRITEPROTECT_WP.into();
                    let called = self.uffd.range(&WRITEPROTECT, start, len, wp);
                    assert!(called.answer.is_ok(), "cannot be protected: {called}");
                }
            }
        }
    }

    /// Makes the call, from a page of the range on.
    fn call(&self, operation: Operation, done: usize, failing: Option<&Failing>) -> Called {
        let (start, from) = (self.start() + done, self.source.start + done);
        let inputs = inputs(
            operation.call,
            start,
            from,
            self.len() - done,
            operation.mode,
        );
        call_once(&self.uffd, operation.call, &inputs, failing)
    }

    fn state(&self) -> String {
        let pages = pages_of(&self.area);
        match self.area.blocks() {
            Some(blocks) => format!("{pages}; {blocks} blocks"),
            None => pages,
        }
    }
}

/// Makes a call, which may be made to fail.
fn call_once(uffd: &Uffd, call: &Call, inputs: &[u64], failing: Option<&Failing>) -> Called {
    match failing {
        Some(failing) => uffd.call_within(call, inputs, |ioctl| failing.run(ioctl)),
        None => uffd.call(call, inputs),
    }
}

/// How many bytes a call has done, of a number of bytes.
fn done(called: &Called, len: usize) -> usize {
    match called.answer.is_ok() {
        true => len,
        false if called.did_something() => called.last as usize,
        false => 0,
    }
}

/// Has a call fail, and makes it again for what is left, as a program would go on.
fn attempt(operation: Operation, failing: &Failing, ledger: &Ledger) -> String {
    let world = World::new(operation);
    let before = ledger.entry();
    let called = world.call(operation, 0, Some(failing));
    let taken = ledger.entry() - before;
    let mut text = format!("{called}; {taken}; {}", world.state());
    let done = done(&called, world.len());
    if done < world.len() {
        let again = world.call(operation, done, None);
        text += &format!("; again {again}; {}", world.state());
    }
    text
}

/// What there is to move.
#[derive(Copy, Clone, PartialEq)]
enum Moved {
    Pages,
    /// The second page is missing.
    Holes,
    ZeroPages,
    Swapped,
    /// Pages that are in memory again, and still on the swap disk.
    SwappedIn,
    /// A huge page, to where one can be.
    Huge,
    /// A part of one, which has to be split.
    PartOfHuge,
    /// All of one, to where none can be.
    HugeAside,
    HugeZero,
}

const MOVED: &[(Moved, &str)] = &[
    (Moved::Pages, "pages"),
    (Moved::Holes, "pages and a hole"),
    (Moved::ZeroPages, "zero pages"),
    (Moved::Swapped, "swapped pages"),
    (Moved::SwappedIn, "pages from the swap disk"),
    (Moved::Huge, "a huge page"),
    (Moved::PartOfHuge, "a part of a huge page"),
    (Moved::HugeAside, "a huge page that does not fit"),
    (Moved::HugeZero, "a huge page of zeros"),
];

impl Moved {
    /// Makes it. Returns the number of its first page, where that goes to, and the number of pages.
    fn make(self, uffd: &Uffd, from: &Area) -> (usize, usize, usize) {
        let huge = matches!(
            self,
            Self::Huge | Self::PartOfHuge | Self::HugeAside | Self::HugeZero
        );
        let range = || from.at(FIRST)..from.at(FIRST) + PAGES * PAGE;
        if huge {
            let advised = from.madvise(libc::MADV_HUGEPAGE);
            assert!(advised.is_ok(), "there are no huge pages: {advised}");
            match self {
                Self::HugeZero => drop(content(from.start)),
                _ => fill_with(from.start, HUGE, byte(0)),
            }
            let flags = page_flags(from.start);
            assert!(flags.contains("thp"), "there is no huge page: {flags}");
        } else if self == Self::ZeroPages {
            uffd.must_register(from.start, from.len, MISSING);
            let called = uffd.range(&ZEROPAGE, from.at(FIRST), PAGES * PAGE, 0);
            assert!(called.answer.is_ok(), "there are no zero pages: {called}");
        } else {
            for page in 0..PAGES {
                fill_with(from.at(FIRST + page), PAGE, byte(page));
            }
        }
        match self {
            Self::Holes => drop(dontneed(from.at(FIRST + 1))),
            Self::Swapped | Self::SwappedIn => {
                swap_out_pages(from.at(FIRST), PAGES);
                if self == Self::SwappedIn {
                    range().step_by(PAGE).for_each(|page| drop(content(page)));
                }
            }
            _ => {}
        }
        match self {
            Self::Huge | Self::HugeZero => (0, 0, TABLE),
            Self::PartOfHuge => (TABLE - PAGES, TABLE - PAGES, PAGES),
            Self::HugeAside => (0, 2, TABLE),
            _ => (FIRST, FIRST, PAGES),
        }
    }
}

/// Has a move fail.
fn attempt_move(moved: Moved, mode: u64, failing: &Failing, ledger: &Ledger) -> String {
    let [to, from] = [0, 1].map(|slot| Area::anon(slot, 3 * TABLE));
    to.madvise(libc::MADV_NOHUGEPAGE);
    from.madvise(libc::MADV_NOHUGEPAGE);
    let uffd = Uffd::new(0);
    let (first_from, first_to, pages) = moved.make(&uffd, &from);
    uffd.must_register(to.start, to.len, MISSING);
    let len = pages * PAGE;
    let state = || format!("to: {}; from: {}", pages_of(&to), pages_of(&from));
    let call = |done: usize, failing| {
        let (to, from) = (to.at(first_to) + done, from.at(first_from) + done);
        call_once(
            &uffd,
            &MOVE,
            &inputs(&MOVE, to, from, len - done, mode),
            failing,
        )
    };
    let before = ledger.entry();
    let called = call(0, Some(failing));
    let taken = ledger.entry() - before;
    let mut text = format!("{called}; {taken}; {}", state());
    let done = done(&called, len);
    if done < len {
        text += &format!("; again {}; {}", call(done, None), state());
    }
    text
}

/// The operations on a kind of memory.
fn operations(kind: &'static str) -> Vec<(String, Operation)> {
    let shared = matches!(kind, "shmem" | "hugetlb-memfd");
    let huge = kind.starts_with("hugetlb");
    let wp = u64::from(WRITEPROTECT_WP);
    let mut operations = Vec::new();
    let mut add = |call, mode, state, text| {
        let operation = Operation {
            kind,
            call,
            mode,
            state,
        };
        operations.push((format!("{kind}/{}{text}", operation.call.name), operation));
    };
    add(&COPY, 0, Empty, "");
    if kind != "hugetlb-memfd-private" {
        add(&COPY, 0, Unmapped, ", source not mapped");
    }
    if kind == "anon" {
        add(&COPY, 0, SwappedOut, ", source swapped out");
    }
    if !huge {
        add(&COPY, UFFDIO_COPY_MODE_WP.into(), Empty, ", protected");
        add(&ZEROPAGE, 0, Empty, "");
    }
    if shared {
        add(&CONTINUE, 0, Empty, "");
        add(&CONTINUE, CONTINUE_WP.into(), Empty, ", protected");
    }
    add(&POISON, 0, Empty, "");
    add(&WRITEPROTECT, wp, Filled, ", pages");
    add(&WRITEPROTECT, wp, Empty, ", no pages");
    add(&WRITEPROTECT, 0, Protected, ", lifted");
    operations
}

pub fn questions() -> Vec<Question> {
    let operations = KINDS.iter().copied().flat_map(operations);
    let mut questions: Vec<Question> = operations
        .map(|(name, operation)| {
            Question::new(name, move |failing, ledger| {
                attempt(operation, failing, ledger)
            })
        })
        .collect();
    for (moved, name) in MOVED.iter().copied() {
        let mode = match moved {
            Moved::Holes => MOVE_ALLOW_SRC_HOLES.into(),
            _ => 0,
        };
        questions.push(Question::new(
            format!("move/{name}"),
            move |failing, ledger| attempt_move(moved, mode, failing, ledger),
        ));
    }
    let huge = "anon/writeprotect, a part of a huge page";
    questions.push(Question::new(huge, attempt_protect_huge));
    questions
}

/// Has the protection of a part of a huge page fail, which has to be split.
fn attempt_protect_huge(failing: &Failing, ledger: &Ledger) -> String {
    let area = Area::anon(0, 2 * TABLE);
    Moved::Huge.make(&Uffd::new(0), &area);
    let uffd = Uffd::new(0);
    uffd.must_register(area.start, area.len, WP);
    let (start, len) = (area.at(TABLE / 2), PAGES * PAGE);
    let inputs = inputs(&WRITEPROTECT, start, 0, len, WRITEPROTECT_WP.into());
    let before = ledger.entry();
    let called = call_once(&uffd, &WRITEPROTECT, &inputs, Some(failing));
    let taken = ledger.entry() - before;
    let again = uffd.call(&WRITEPROTECT, &inputs);
    format!("{called}; {taken}; again {again}; {}", pages_of(&area))
}
