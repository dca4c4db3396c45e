// SPDX-License-Identifier: GPL-2.0

//! Ranges that cross the borders of page tables, and obstacles in them. A kernel may fill page after
//! page, or as many entries of a page table at once as it can. The answers have to be the same.
//!
//! Pages are written down as counts of those that are alike: the letters of [`pagemap`], an M if
//! mincore() says that the page is there, and what is in it.

use crate::{
    inspect::{page_flags, pagemap, pagemap_of, smaps_of},
    kinds::{choose_folios, kind_of, memfd, new_file, swap_out_pages},
    ledger::Ledger,
    memory::{
        dontneed, fill_with, madvise, mincore, mlock, mprotect, munmap, read_byte, write_byte,
        Area, Names, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, RW,
    },
    process::{fault_counts, sleeping_thread},
    sys::{errno_of, ftruncate, open, write_file, Answer, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{
        inputs, Call, Called, Uffd, COPY, DONTWAKE, MISSING, POISON, WAKE, WP, WRITEPROTECT,
        WRITEPROTECT_WP, ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{ffi::CString, fmt, fs::File, os::unix::fs::FileExt};

/// How many pages a page table maps.
const TABLE: usize = PAGE / 8;

/// How many pages an area has. It begins where a page table does.
const PAGES: usize = 4 * TABLE;

/// The longest range.
const LONGEST: usize = 2 * TABLE + 1;

/// What is written to a page that is there before a call. It differs from all that is copied.
const OTHER: u8 = 0xff;

/// A call that fills pages, and its mode.
struct Fill {
    name: &'static str,
    call: &'static Call,
    mode: u64,
}

const FILLS: &[Fill] = &[
    Fill {
        name: "zeropage",
        call: &ZEROPAGE,
        mode: 0,
    },
    Fill {
        name: "poison",
        call: &POISON,
        mode: 0,
    },
    Fill {
        name: "copy",
        call: &COPY,
        mode: 0,
    },
    Fill {
        name: "copy wp",
        call: &COPY,
        mode: UFFDIO_COPY_MODE_WP as u64,
    },
];

/// The kinds of memory that are filled in different ways.
const KINDS: &[&str] = &["anon", "shmem", "shmem-private"];

/// Anonymous memory that copies may use large folios for: its name, and their sizes in kB.
const LARGE: &[(&str, &[usize])] = &[
    ("anon-64k", &[64]),
    ("anon-2m", &[2048]),
    ("anon-large", &[64, 2048]),
];

fn is_large(kind: &str) -> bool {
    LARGE.iter().any(|(large, _)| *large == kind)
}

/// Makes an area. No huge page comes into it by itself.
fn area_of(kind: &str) -> Area {
    let map = |flags, file| Area::map(0, PAGES * PAGE, PAGE, RW, flags, file);
    let shmem = || Some(memfd(0, PAGES * PAGE).expect("there are memfds"));
    let area = match kind {
        "shmem" => map(libc::MAP_SHARED, shmem()),
        "shmem-private" => map(libc::MAP_PRIVATE, shmem()),
        "zero-private" => {
            let file = open(c"/dev/zero", libc::O_RDONLY).expect("there is /dev/zero");
            map(libc::MAP_PRIVATE, Some(file))
        }
        _ => Ok(Area::anon(0, PAGES)),
    };
    let area = area.expect("there is memory");
    area.madvise(match is_large(kind) {
        true => libc::MADV_HUGEPAGE,
        false => libc::MADV_NOHUGEPAGE,
    });
    area
}

/// What pages are copied from. The last one is for obstacles.
struct Source(Area);

impl Source {
    fn new() -> Self {
        let source = Self(Area::anon(1, LONGEST + 1));
        source.0.madvise(libc::MADV_NOHUGEPAGE);
        (0..LONGEST).for_each(|page| source.restore(page));
        fill_with(source.other(), PAGE, OTHER);
        source
    }

    /// What is in a page.
    fn byte(page: usize) -> u8 {
        (page % 251) as u8 + 1
    }

    /// Makes a page as it was at first.
    fn restore(&self, page: usize) {
        fill_with(self.0.at(page), PAGE, Self::byte(page));
    }

    fn other(&self) -> usize {
        self.0.at(LONGEST)
    }
}

/// What is in a page, of which three bytes are looked at.
#[derive(PartialEq)]
enum Content {
    Absent,
    Copied,
    All(u8),
    Mixed,
}

impl Content {
    fn of(page: usize, expected: Option<u8>) -> Self {
        let [first, middle, last] = [0, PAGE / 2, PAGE - 1].map(|at| read_byte(page + at));
        match first == middle && middle == last {
            true if Some(first) == expected => Self::Copied,
            true => Self::All(first),
            false => Self::Mixed,
        }
    }
}

/// What is to be known of a page besides its entry: whether mincore() says that it is there, and
/// what is in it.
#[derive(PartialEq)]
struct Seen(bool, Content);

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 { "M" } else { "" })?;
        match self.1 {
            Content::Absent => Ok(()),
            Content::Copied => f.write_str(" copied"),
            Content::All(byte) => write!(f, " {byte:#04x}"),
            Content::Mixed => f.write_str(" mixed"),
        }
    }
}

/// An area that is registered, and a range in it.
struct World<'a> {
    uffd: Uffd,
    area: Area,
    source: &'a Source,
    ledger: &'a Ledger,
    /// Where the range begins: the page for which the first one of the source is.
    first: usize,
    /// Pages may be on the swap disk. Whether mincore() finds one depends on luck.
    swaps: bool,
}

impl<'a> World<'a> {
    fn new(area: Area, first: usize, source: &'a Source, ledger: &'a Ledger) -> Self {
        // No call waits for another thread.
        Self::with(UFFD_FEATURE_SIGBUS, area, first, source, ledger)
    }

    fn with(
        features: u32,
        area: Area,
        first: usize,
        source: &'a Source,
        ledger: &'a Ledger,
    ) -> Self {
        let uffd = Uffd::new((features | UFFD_FEATURE_WP_UNPOPULATED).into());
        uffd.must_register(area.start, area.len, MISSING | WP);
        Self {
            uffd,
            area,
            source,
            ledger,
            first,
            swaps: false,
        }
    }

    /// Fills pages from number `page` of the range on.
    fn fill(&self, fill: &Fill, page: usize, pages: usize) -> Called {
        let (to, from) = (self.at(page), self.source.0.start + page * PAGE);
        let inputs = inputs(fill.call, to, from, pages * PAGE, fill.mode);
        self.uffd.call(fill.call, &inputs)
    }

    /// The same, what it took, and what the pages are then.
    fn ask(&self, fill: &Fill, page: usize, pages: usize) -> String {
        let before = self.ledger.entry();
        let called = self.fill(fill, page, pages);
        let taken = self.ledger.entry() - before;
        format!("{called}; {taken}{}; {}", self.blocks(), self.pages())
    }

    /// The address of page number `page` of the range.
    fn at(&self, page: usize) -> usize {
        self.area.at(self.first + page)
    }

    /// The file that is mapped.
    fn file(&self) -> Option<File> {
        let file = self.area.file.as_ref()?.try_clone();
        Some(file.expect("a descriptor can be doubled").into())
    }

    /// Gives the file a size.
    fn truncate(&self, len: usize) -> Answer {
        ftruncate(&self.file().expect("there is a file"), len)
    }

    /// The blocks of the file.
    fn blocks(&self) -> String {
        let blocks = self.area.blocks();
        blocks.map_or(String::new(), |blocks| format!(", {blocks} blocks"))
    }

    /// What all pages of the area are.
    fn pages(&self) -> String {
        let there = mincore(self.area.start, self.area.len);
        pagemap_of(self.area.start, PAGES, |page, present| {
            let there = there.as_ref().is_some_and(|there| there[page]);
            let content = if present {
                let expected = page.checked_sub(self.first).map(Source::byte);
                Content::of(self.area.at(page), expected)
            } else {
                Content::Absent
            };
            Seen(there && (present || !self.swaps), content)
        })
    }

    /// Takes pages of the range out of the page table.
    fn empty(&self, page: usize, pages: usize) {
        madvise(self.at(page), pages * PAGE, libc::MADV_DONTNEED);
    }

    /// Takes pages of the range out of the file. Nothing happens if they are not shared.
    fn remove(&self, page: usize, pages: usize) {
        madvise(self.at(page), pages * PAGE, libc::MADV_REMOVE);
    }
}

/// Asks about several things, and whether all that this process took meanwhile is given back. `ask`
/// returns questions with their answers.
fn accounted<T>(
    log: &mut Transcript,
    things: &[T],
    ask: impl Fn(&T, &Source, &Ledger) -> Vec<(String, String)>,
) {
    let ledger = Ledger::new();
    let source = Source::new();
    // For the first time, this process takes memory for itself, too.
    things.iter().take(1).for_each(|thing| {
        ask(thing, &source, &ledger);
    });
    let before = ledger.entry();
    for thing in things {
        for (question, answer) in ask(thing, &source, &ledger) {
            log.record(question, answer);
        }
    }
    log.record("accounts at last", ledger.entry() - before);
}

/// Ranges that begin and end at borders of page tables, and one page before and after them.
fn ranges(log: &mut Transcript, kind: &'static str, fill: &'static Fill) {
    let mut ranges = Vec::new();
    for first in [TABLE - 1, TABLE, TABLE + 1] {
        for pages in [1, 2, TABLE - 1, TABLE, TABLE + 1, LONGEST] {
            ranges.push((first, pages));
        }
    }
    accounted(log, &ranges, |(first, pages), source, ledger| {
        let (first, pages) = (*first, *pages);
        let world = World::new(area_of(kind), first, source, ledger);
        let filled = world.ask(fill, 0, pages);
        let again = world.fill(fill, 0, pages);
        world.empty(0, pages);
        let emptied = world.pages();
        let anew = world.fill(fill, 0, pages);
        world.empty(0, pages);
        world.remove(0, pages);
        // Whether threads are woken makes no difference to what is filled.
        let mode = fill.mode | DONTWAKE;
        let last = world.ask(&Fill { mode, ..*fill }, 0, pages);
        let question = format!("from {first}, {pages} pages");
        vec![
            (question.clone(), filled),
            (
                format!("{question}, again"),
                format!("{again}; emptied: {emptied}; {anew}; removed: {last}"),
            ),
        ]
    });
}

/// What is in the way of a call.
#[derive(Copy, Clone, PartialEq)]
enum Obstacle {
    Page,
    ZeroPage,
    /// The page is in the file only.
    Cached,
    /// A mark that the page, which is not there, is write-protected.
    Protected,
    Poison,
    Guard,
    Swapped,
    EndOfFile,
    EndOfVma,
    /// The page to copy from is not mapped yet.
    SourceAbsent,
    /// The page to copy from cannot be read.
    SourceRefused,
}
use Obstacle::*;

const OBSTACLES: &[(Obstacle, &str)] = &[
    (Page, "page"),
    (ZeroPage, "zero page"),
    (Cached, "page in the file"),
    (Protected, "write protection"),
    (Poison, "poison"),
    (Guard, "guard"),
    (Swapped, "swapped page"),
    (EndOfFile, "end of file"),
    (EndOfVma, "end of VMA"),
    (SourceAbsent, "source absent"),
    (SourceRefused, "source refused"),
];

impl Obstacle {
    /// Whether it can be there.
    fn is_possible(self, kind: &str, fill: &Fill) -> bool {
        match self {
            // Pages of zeros in files are pages like others, and swapped ones are in no page table.
            ZeroPage | Swapped => kind != "shmem",
            Cached | EndOfFile => kind.starts_with("shmem"),
            SourceAbsent | SourceRefused => *fill.call == COPY,
            _ => true,
        }
    }

    /// Puts it at a page of the range.
    fn make(self, world: &World<'_>, page: usize) {
        let (at, uffd) = (world.at(page), &world.uffd);
        let answer = match self {
            Page | Swapped => uffd.copy(at, world.source.other(), PAGE, 0).answer,
            ZeroPage => uffd.range(&ZEROPAGE, at, PAGE, 0).answer,
            Cached => {
                let file = world.file().expect("there is a file");
                let written = file.write_at(&[OTHER; PAGE], (at - world.area.start) as u64);
                Answer(written.map(|len| len as i64).map_err(errno_of))
            }
            Protected => {
                let mode = WRITEPROTECT_WP.into();
                uffd.range(&WRITEPROTECT, at, PAGE, mode).answer
            }
            Poison => uffd.range(&POISON, at, PAGE, 0).answer,
            Guard => madvise(at, PAGE, MADV_GUARD_INSTALL),
            EndOfFile => world.truncate(at - world.area.start),
            EndOfVma => munmap(at, world.area.start + world.area.len - at),
            SourceAbsent => dontneed(world.source.0.at(page)),
            SourceRefused => mprotect(world.source.0.at(page), PAGE, libc::PROT_NONE),
        };
        assert!(answer.is_ok(), "there is no obstacle: {answer}");
        if self == Swapped {
            swap_out_pages(at, 1);
        }
    }

    /// Takes it away.
    fn unmake(self, world: &World<'_>, page: usize) {
        match self {
            Guard => drop(madvise(world.at(page), PAGE, MADV_GUARD_REMOVE)),
            EndOfFile => drop(world.truncate(world.area.len)),
            SourceAbsent | SourceRefused => {
                mprotect(world.source.0.at(page), PAGE, RW);
                world.source.restore(page);
            }
            _ => {
                world.empty(page, 1);
                world.remove(page, 1);
            }
        }
    }
}

/// An obstacle at a page of a range, which has all pages of a page table but the first, all of the
/// next one, and one page of the third.
fn obstacles(log: &mut Transcript, kind: &'static str, fill: &'static Fill) {
    let pages = 2 * TABLE;
    let mut things = Vec::new();
    let mut places = vec![0, 1, TABLE / 2, TABLE - 2, TABLE - 1, pages - 1];
    if is_large(kind) {
        // More pages of what would be one folio.
        places.extend([TABLE, TABLE + 15, TABLE + TABLE / 2, pages - 2]);
    }
    for (obstacle, name) in OBSTACLES {
        if obstacle.is_possible(kind, fill) {
            let places = places.iter();
            things.extend(places.map(|page| (*obstacle, *name, *page)));
        }
    }
    accounted(log, &things, |(obstacle, name, page), source, ledger| {
        let (obstacle, page) = (*obstacle, *page);
        let mut world = World::new(area_of(kind), 1, source, ledger);
        world.swaps = obstacle == Swapped;
        obstacle.make(&world, page);
        let mut answer = world.ask(fill, 0, pages);
        // As a program would go on.
        answer.push_str(&format!("; again {}", world.fill(fill, 0, pages)));
        if page + 1 < pages {
            let after = world.fill(fill, page + 1, pages - page - 1);
            answer.push_str(&format!("; after it {after}"));
        }
        obstacle.unmake(&world, page);
        let there = world.fill(fill, page, 1);
        answer.push_str(&format!("; without it {there}; {}", world.pages()));
        vec![(format!("{name} at {page}"), answer)]
    });
}

/// A huge page in the second page table.
fn huge_page(log: &mut Transcript, kind: &'static str) {
    let mut things = Vec::new();
    for fill in FILLS {
        for (range, first, pages) in [
            ("into", TABLE - 2, 4),
            ("over", TABLE - 2, TABLE + 4),
            ("inside", TABLE + 1, 2),
            ("out of", 2 * TABLE - 1, 3),
            ("after", 2 * TABLE, 2),
        ] {
            things.push((fill, range, first, pages));
        }
    }
    let rss = match kind {
        "anon" => "AnonHugePages:",
        _ => "ShmemPmdMapped:",
    };
    accounted(
        log,
        &things,
        |(fill, range, first, pages), source, ledger| {
            let area = area_of(kind);
            let question = format!("{},{range}", fill.name);
            let advised = area.madvise(libc::MADV_HUGEPAGE);
            if !advised.is_ok() {
                return vec![(question, format!("not made: {advised}"))];
            }
            let (huge, len) = (area.at(TABLE), TABLE * PAGE);
            fill_with(huge, len, OTHER);
            if kind == "shmem" {
                madvise(huge, len, libc::MADV_COLLAPSE);
            }
            area.madvise(libc::MADV_NOHUGEPAGE);
            let world = World::new(area, *first, source, ledger);
            let before = smaps_of(world.area.start, rss);
            let called = world.ask(fill, 0, *pages);
            let after = smaps_of(world.area.start, rss);
            // One of its pages goes.
            madvise(huge + PAGE, PAGE, libc::MADV_DONTNEED);
            let anew = world.fill(fill, 0, *pages);
            let pages = world.pages();
            vec![(
                question,
                format!("{called}; {before}, {after}; after a page went {anew}; {pages}"),
            )]
        },
    );
}

/// What is in the page table besides what all questions are about: whether pages are written to
/// without a fault, whether they are seen as written, and what they are marked as.
fn marks(log: &mut Transcript, kind: &'static str) {
    let mut things = Vec::new();
    for fill in FILLS {
        for state in ["plain", "not soft-dirty", "locked", "read-only"] {
            things.push((fill, state));
        }
    }
    accounted(log, &things, |(fill, state), source, ledger| {
        let world = World::new(area_of(kind), TABLE - 1, source, ledger);
        let area = &world.area;
        let answer = match *state {
            "not soft-dirty" => write_file("/proc/self/clear_refs", "4"),
            "locked" => mlock(area.start, area.len, libc::MLOCK_ONFAULT),
            "read-only" => area.mprotect(libc::PROT_READ),
            _ => Answer(Ok(0)),
        };
        let called = world.ask(fill, 0, 2);
        let flags = [0, 1].map(|page| page_flags(world.at(page))).join(", ");
        let mut text = format!("{answer}; {called}; {flags}");
        if *state != "read-only" && matches!(fill.name, "zeropage" | "copy") {
            let before = fault_counts()[0];
            (0..2).for_each(|page| write_byte(world.at(page), OTHER));
            let faults = fault_counts()[0] - before;
            text.push_str(&format!("; {faults} faults; {}", world.pages()));
        }
        vec![(format!("{},{state}", fill.name), text)]
    });
}

/// Pages that are copied from the range itself, or from the same pages of the file: then a call may
/// make what it copies next.
fn overlaps(log: &mut Transcript, kind: &'static str) {
    let mut things = Vec::new();
    for alias in [false, true] {
        if alias && !kind.starts_with("shmem") {
            continue;
        }
        for (from, name) in [(0, "one page back"), (1, "itself"), (2, "one page ahead")] {
            for pages in [4, TABLE + 1] {
                things.push((alias, from, name, pages));
            }
        }
    }
    accounted(
        log,
        &things,
        |(alias, from, name, pages), source, ledger| {
            let world = World::new(area_of(kind), TABLE - 2, source, ledger);
            let other = alias.then(|| world.area.alias(2));
            world.uffd.copy(world.at(0), source.0.start, PAGE, 0);
            let offset = (world.first + from) * PAGE;
            let start = other.as_ref().unwrap_or(&world.area).start;
            let (to, len) = (world.at(1), pages * PAGE);
            let called = world.uffd.copy(to, start + offset, len, 0);
            let alias = if *alias { " in the file" } else { "" };
            vec![(
                format!("{name}{alias}, {pages} pages"),
                format!("{called}{}; {}", world.blocks(), world.pages()),
            )]
        },
    );
}

/// A source that does not begin where a page does: each page is copied from two, of which one may be
/// missing.
fn unaligned(log: &mut Transcript, kind: &'static str) {
    const OFFSET: usize = 0x123;
    let mut things = Vec::new();
    for page in [0, 1, TABLE - 1, TABLE, 2 * TABLE] {
        for (obstacle, name) in [(SourceAbsent, "absent"), (SourceRefused, "refused")] {
            things.push((obstacle, name, page));
        }
    }
    accounted(log, &things, |(obstacle, name, page), source, ledger| {
        let world = World::new(area_of(kind), 1, source, ledger);
        obstacle.make(&world, *page);
        let (start, len) = (source.0.start + OFFSET, 2 * TABLE * PAGE);
        let called = world.uffd.copy(world.at(0), start, len, 0);
        // The last byte from the first of the two pages, and the first byte from the second.
        let border = PAGE - OFFSET;
        let pages = pagemap_of(world.area.start, PAGES, |number, present| {
            let is_copied = |half: usize| {
                let byte = read_byte(world.area.at(number) + border - 1 + half);
                byte == Source::byte(number - world.first + half)
            };
            match present.then(|| [0, 1].map(is_copied)) {
                None => "",
                Some([true, true]) => " copied",
                Some([true, false]) => " first part copied",
                Some([false, true]) => " second part copied",
                Some([false, false]) => " not copied",
            }
        });
        obstacle.unmake(&world, *page);
        vec![(format!("{name} at {page}"), format!("{called}; {pages}"))]
    });
}

/// A file system that has room for only a part of the range.
fn full(log: &mut Transcript, _: &'static str, fill: &'static Fill) {
    let rooms = [1, 2, TABLE / 2, TABLE - 1, TABLE, TABLE + 1];
    accounted(log, &rooms, |room, source, ledger| {
        let size = CString::new(format!("{}", room * PAGE)).expect("a number");
        let file = new_file(c"tmpfs", &[(c"size", &size)], PAGES * PAGE);
        let file = Some(file.expect("there is tmpfs"));
        let area = Area::map(0, PAGES * PAGE, PAGE, RW, libc::MAP_SHARED, file);
        let area = area.expect("there are addresses");
        area.madvise(libc::MADV_NOHUGEPAGE);
        let world = World::new(area, 1, source, ledger);
        let called = world.ask(fill, 0, TABLE + 2);
        let more = world.fill(fill, *room, 2);
        // One comes back.
        world.remove(0, 1);
        let one = world.ask(fill, *room, 2);
        vec![(
            format!("room for {room}"),
            format!("{called}; {more}; one is free: {one}"),
        )]
    });
}

/// A thread that sleeps on a page of the range: whether it is woken, and faults again.
fn sleeper(log: &mut Transcript, kind: &'static str, fill: &'static Fill) {
    let things = [
        (0, 0, None),
        (0, 3, None),
        (DONTWAKE, 0, None),
        (DONTWAKE, 3, None),
        (0, 1, Some(2)),
        (0, 3, Some(1)),
        (0, 3, Some(2)),
        (DONTWAKE, 1, Some(2)),
    ];
    catch_signals();
    let (source, ledger) = (Source::new(), Ledger::new());
    for (mode, page, obstacle) in things {
        let world = World::with(0, area_of(kind), TABLE - 2, &source, &ledger);
        if let Some(page) = obstacle {
            Page.make(&world, page);
        }
        let names = Names::new(&[("area", &world.area)]);
        let (at, its) = (world.at(page), names.clone());
        // A thread is counted before it looks at the page table for the last time.
        let thread = sleeping_thread(move || load(at, &its));
        world.uffd.wait_for_sleepers(1);
        // If it faults again, there is another message.
        let message = world.uffd.next(&names);
        let with_mode = Fill {
            mode: fill.mode | mode,
            ..*fill
        };
        let called = world.fill(&with_mode, 0, 4);
        let ended = world.uffd.ends_or_sleeps(&thread);
        let counts = world.uffd.fdinfo();
        let obstacle = obstacle.map_or(String::new(), |page| format!(", obstacle at {page}"));
        let mode = if mode == 0 { "" } else { " without waking" };
        let question = format!("sleeper at {page}{obstacle}{mode}");
        // What is not filled is filled now.
        world.fill(&with_mode, page, 1);
        world.uffd.range(&WAKE, at, PAGE, 0);
        let load = thread.join().expect("no panic");
        let answer = format!("{message}; {called}; ended {ended}; {counts}; at last {load}");
        log.record(question, answer);
    }
}

/// Poison in huge pages of hugetlbfs.
fn poison_hugetlb(log: &mut Transcript, kind: &'static str) {
    let mut things = vec![("nothing", 0)];
    for obstacle in ["page", "write protection", "poison"] {
        for page in [0, 1, 3] {
            things.push((obstacle, page));
        }
    }
    let ask = |thing: &(&str, usize), ledger: &Ledger| {
        let (obstacle, page) = *thing;
        let area = kind_of(kind).area(0);
        let source = Area::anon(2, area.page / PAGE);
        let uffd = Uffd::new(UFFD_FEATURE_WP_UNPOPULATED.into());
        uffd.must_register(area.start, area.len, MISSING | WP);
        let at = area.at(page);
        let answer = match obstacle {
            "page" => uffd.copy(at, source.start, area.page, 0).answer,
            "write protection" => {
                let mode = WRITEPROTECT_WP.into();
                uffd.range(&WRITEPROTECT, at, area.page, mode).answer
            }
            "poison" => uffd.range(&POISON, at, area.page, 0).answer,
            _ => Answer(Ok(0)),
        };
        let pages = || {
            let pages = (0..area.pages()).map(|page| pagemap(area.at(page)));
            pages.collect::<Vec<_>>().join(" ")
        };
        let before = ledger.entry();
        let called = uffd.range(&POISON, area.start, area.len, 0);
        let taken = ledger.entry() - before;
        let first = format!("{called}; {taken}; {}", pages());
        let again = uffd.range(&POISON, area.start, area.len, 0);
        area.madvise(libc::MADV_DONTNEED);
        let emptied = pages();
        let anew = uffd.range(&POISON, area.start, area.len, 0);
        let then = format!("again {again}; emptied: {emptied}; {anew}; {}", pages());
        let question = format!("{obstacle} at {page}");
        vec![(question, format!("{answer}; {first}; {then}"))]
    };
    accounted(log, &things, |thing, _, ledger| ask(thing, ledger));
}

/// A private mapping of /dev/zero: its memory is anonymous, but it has a file, whose size is zero.
fn no_size(log: &mut Transcript) {
    accounted(log, FILLS, |fill, source, ledger| {
        let world = World::new(area_of("zero-private"), TABLE - 1, source, ledger);
        vec![(fill.name.to_string(), world.ask(fill, 0, 3))]
    });
}

/// The same memory, where large folios are allowed.
fn no_size_large(log: &mut Transcript) {
    choose_folios(&[64, 2048]);
    accounted(log, FILLS, |fill, source, ledger| {
        let area = area_of("zero-private");
        area.madvise(libc::MADV_HUGEPAGE);
        let world = World::new(area, TABLE, source, ledger);
        vec![(fill.name.to_string(), world.ask(fill, 0, TABLE))]
    });
    choose_folios(&[]);
}

/// Asks about a kind of memory.
type Ask = fn(&mut Transcript, &'static str);

/// Asks about a call, too.
type AskFill = fn(&mut Transcript, &'static str, &'static Fill);

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("runs/zero-private", no_size),
        Case::new("runs/zero-private-large", no_size_large),
    ];
    let mut of_kind = |kind: &'static str, what: &str, ask: Ask| {
        let name = format!("runs/{kind}/{what}");
        cases.push(Case::new(name, move |log| ask(log, kind)));
    };
    for kind in KINDS {
        of_kind(kind, "marks", marks);
        of_kind(kind, "overlaps", overlaps);
        of_kind(kind, "unaligned", unaligned);
    }
    for kind in ["anon", "shmem"] {
        of_kind(kind, "huge page", huge_page);
    }
    for kind in ["hugetlb", "hugetlb-memfd"] {
        of_kind(kind, "poison", poison_hugetlb);
    }
    let mut of_fill = |kind: &'static str, fill: &'static Fill, what: &str, ask: AskFill| {
        let name = format!("runs/{kind}/{}/{what}", fill.name);
        cases.push(Case::new(name, move |log| ask(log, kind, fill)));
    };
    for fill in FILLS {
        for kind in KINDS {
            of_fill(kind, fill, "ranges", ranges);
            of_fill(kind, fill, "obstacles", obstacles);
            // Threads are woken in the same way if pages are protected.
            if fill.name != "copy wp" {
                of_fill(kind, fill, "sleeper", sleeper);
            }
        }
        // Poison takes no room in a file.
        if *fill.call != POISON {
            of_fill("shmem", fill, "full", full);
        }
    }
    for &(kind, sizes) in LARGE {
        let mut of_large = |what: String, ask: Box<dyn Fn(&mut Transcript)>| {
            let ask = move |log: &mut Transcript| {
                choose_folios(sizes);
                ask(log);
                choose_folios(&[]);
            };
            cases.push(Case::new(format!("runs/{kind}/{what}"), ask));
        };
        for (what, ask) in [
            ("marks", marks as Ask),
            ("overlaps", overlaps),
            ("unaligned", unaligned),
        ] {
            of_large(what.into(), Box::new(move |log| ask(log, kind)));
        }
        for fill in FILLS.iter().filter(|fill| *fill.call == COPY) {
            for (what, ask) in [
                ("ranges", ranges as AskFill),
                ("obstacles", obstacles),
                ("sleeper", sleeper),
            ] {
                let what = format!("{}/{what}", fill.name);
                of_large(what, Box::new(move |log| ask(log, kind, fill)));
            }
        }
    }
    cases
}
