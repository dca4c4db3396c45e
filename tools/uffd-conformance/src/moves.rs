// SPDX-License-Identifier: GPL-2.0

//! Pages that are moved: ranges that cross the borders of page tables, what is in the way at the
//! destination, and what there is to move. A kernel may move page after page, or several at once.
//! The answers have to be the same.
//!
//! Pages are written down as counts of those that are alike: the letters of [`pagemap_of`], and what
//! is in them.

use crate::{
    inspect::{huge_pages, page_flags, pagemap, pagemap_of, peek, smaps_of},
    kinds::{kind_of, swap_out_pages, Kind, Trait, KINDS},
    ledger::Ledger,
    memory::{
        dontneed, fill_with, madvise, mlock, mprotect, munmap, read_byte, write_byte, Area, Names,
        HUGE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, RW,
    },
    process::{ended, fault_counts, fork, kill_and_wait, pause, pipe, sleeping_thread},
    sys::{errno_name, iovec, write_file, Answer, PAGE},
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{
        inputs, Called, Uffd, DONTWAKE, MISSING, MOVE, MOVE_ALLOW_SRC_HOLES, POISON, UNREGISTER,
        WAKE, WP, WRITEPROTECT, WRITEPROTECT_WP, ZEROPAGE,
    },
};
use io_uring::IoUring;
use linux_raw_sys::general::*;
use std::{fs::File, os::fd::AsRawFd};

/// How many pages a page table maps.
const TABLE: usize = PAGE / 8;

/// How many pages an area has. It begins where a page table does.
const PAGES: usize = 5 * TABLE;

/// What is written to a page that is in the way. It differs from all that is moved.
const OTHER: u8 = 0xff;

const HOLES: u64 = MOVE_ALLOW_SRC_HOLES as u64;
const MODES: [(u64, &str); 2] = [(0, ""), (HOLES, ", holes")];

/// An area to move to and one to move from, both registered, and where a range begins in them.
struct World {
    uffd: Uffd,
    to: Area,
    from: Area,
    first_to: usize,
    first_from: usize,
}

impl World {
    fn new(first_to: usize, first_from: usize) -> Self {
        Self::with(UFFD_FEATURE_SIGBUS, first_to, first_from)
    }

    fn with(features: u32, first_to: usize, first_from: usize) -> Self {
        let [to, from] = [0, 1].map(|slot| Area::anon(slot, PAGES));
        // No huge page comes by itself.
        to.madvise(libc::MADV_NOHUGEPAGE);
        from.madvise(libc::MADV_NOHUGEPAGE);
        let uffd = Uffd::new((features | UFFD_FEATURE_WP_UNPOPULATED).into());
        uffd.must_register(to.start, to.len, MISSING | WP);
        Self {
            uffd,
            to,
            from,
            first_to,
            first_from,
        }
    }

    /// The address of page number `page` of the range.
    fn to(&self, page: usize) -> usize {
        self.to.at(self.first_to + page)
    }

    fn from(&self, page: usize) -> usize {
        self.from.at(self.first_from + page)
    }

    /// What is in a page of the area to move from.
    fn byte(page: usize) -> u8 {
        (page % 251) as u8 + 1
    }

    /// Writes into pages of the range.
    fn write(&self, page: usize, pages: usize) {
        for page in page..page + pages {
            fill_with(self.from(page), PAGE, Self::byte(self.first_from + page));
        }
    }

    /// Has pages of the area to move from be missing, too, or protected.
    fn register_source(&self) {
        let from = &self.from;
        self.uffd.must_register(from.start, from.len, MISSING | WP);
    }

    fn call(&self, page: usize, pages: usize, mode: u64) -> Called {
        let inputs = inputs(&MOVE, self.to(page), self.from(page), pages * PAGE, mode);
        self.uffd.call(&MOVE, &inputs)
    }

    /// What all pages of both areas are.
    fn pages(&self) -> String {
        let [to, from] = [&self.to, &self.from].map(|area| {
            pagemap_of(area.start, PAGES, |page, present| {
                if !present {
                    return String::new();
                }
                let bytes = [0, PAGE / 2, PAGE - 1].map(|at| read_byte(area.at(page) + at));
                let origin = (page + self.first_from).checked_sub(self.first_to);
                match bytes
                    .iter()
                    .all(|byte| *byte == bytes[0])
                    .then_some(bytes[0])
                {
                    None => " mixed".into(),
                    byte if area.start == self.from.start && byte == Some(Self::byte(page)) => {
                        " own".into()
                    }
                    byte if byte == origin.map(Self::byte) => " moved".into(),
                    Some(byte) => format!(" {byte:#04x}"),
                }
            })
        });
        format!("to: {to}; from: {from}")
    }

    /// Moves pages. Returns the answer, what it took, and what the pages are then.
    fn ask(&self, ledger: &Ledger, page: usize, pages: usize, mode: u64) -> String {
        let before = ledger.entry();
        let called = self.call(page, pages, mode);
        format!("{called}; {}; {}", ledger.entry() - before, self.pages())
    }

    fn huge_pages(&self) -> String {
        let [to, from] = [&self.to, &self.from].map(|area| huge_pages(area.start));
        format!("huge {to} and {from}")
    }
}

/// Asks about several things, and whether all that this process took meanwhile is given back.
fn accounted<T>(log: &mut Transcript, things: &[T], ask: impl Fn(&T, &Ledger) -> (String, String)) {
    let ledger = Ledger::new();
    // For the first time, this process takes memory for itself, too.
    things.iter().take(1).for_each(|thing| {
        ask(thing, &ledger);
    });
    let before = ledger.entry();
    for thing in things {
        let (question, answer) = ask(thing, &ledger);
        log.record(question, answer);
    }
    // What this process takes for itself depends on luck.
    let accounts = ledger.entry() - before;
    log.record("accounts at last", accounts.without_own());
}

/// All of some things with all of others.
fn pairs<A: Copy, B: Copy>(some: &[A], others: &[B]) -> Vec<(A, B)> {
    let all = some.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
    all.collect()
}

/// Ranges around the borders of page tables, where both begin at different pages of theirs.
fn ranges(log: &mut Transcript) {
    let places = pairs(&[TABLE - 1, TABLE, TABLE + 1], &[0, 1, TABLE - 1]);
    let lengths = [1, 2, TABLE - 1, TABLE, TABLE + 1, 2 * TABLE, 2 * TABLE + 1];
    let things = pairs(&places, &pairs(&lengths, &[0, HOLES, DONTWAKE]));
    accounted(log, &things, |((first, shift), (pages, mode)), ledger| {
        let world = World::new(first + shift, *first);
        world.write(0, *pages);
        let moved = world.ask(ledger, 0, *pages, *mode);
        let again = world.call(0, *pages, *mode);
        let question = format!("from {first} by {shift}, {pages} pages, mode {mode}");
        (question, format!("{moved}; again {again}"))
    });
}

/// Something at a page to move to or from.
#[derive(Copy, Clone, Debug, PartialEq)]
enum Thing {
    Nothing,
    Page,
    ZeroPage,
    Swapped,
    /// A page that a pipe holds, so that it is in memory, too.
    SwappedHeld,
    /// A page that is in memory again.
    SwappedIn,
    /// A page that is protected, or a mark that it is, which is not there.
    Protected,
    Mark,
    Poison,
    Guard,
    /// A page that a child has, too.
    Shared,
    Pinned,
    /// A page that was not written to since soft-dirty bits were cleared.
    Clean,
    /// A page that can be dropped, and one that was written to then.
    Free,
    FreeWritten,
}
use Thing::*;

const IN_THE_WAY: &[(Thing, &str)] = &[
    (Page, "page"),
    (ZeroPage, "zero page"),
    (Swapped, "swapped page"),
    (Protected, "protected page"),
    (Mark, "write protection"),
    (Poison, "poison"),
    (Guard, "guard"),
];

const TO_MOVE: &[(Thing, &str)] = &[
    (Nothing, "hole"),
    (ZeroPage, "zero page"),
    (Swapped, "swapped page"),
    (SwappedHeld, "swapped page in memory"),
    (SwappedIn, "page from the swap disk"),
    (Protected, "protected page"),
    (Mark, "write protection"),
    (Poison, "poison"),
    (Guard, "guard"),
    (Shared, "shared page"),
    (Pinned, "pinned page"),
    (Free, "free page"),
    (FreeWritten, "free page, written"),
];

/// Has the kernel notice what is written from now on. A page that has moved counts as written to.
fn clear_soft_dirty() -> Answer {
    write_file("/proc/self/clear_refs", "4")
}

/// Pins a page as long as the ring is there.
fn pin(page: usize) -> IoUring {
    let ring = IoUring::new(4).expect("there is io_uring");
    // SAFETY: Only tests use the page.
    let registered = unsafe { ring.submitter().register_buffers(&[iovec(page, PAGE)]) };
    registered.expect("memory can be pinned");
    ring
}

/// The ends of a pipe.
type Pipe = (File, File);

/// Has a pipe hold a page, without a pin.
fn hold(page: usize) -> Pipe {
    let pipe = pipe();
    // SAFETY: Only tests use the page.
    let len = unsafe { libc::vmsplice(pipe.1.as_raw_fd(), &iovec(page, PAGE), 1, 0) };
    assert_eq!(len, PAGE as isize, "a pipe can hold a page");
    pipe
}

/// What a child does that has pages, too.
fn sleep() {
    pause();
}

impl Thing {
    /// Puts it at a page, where nothing is, or a page that can be moved. Returns what holds it.
    fn make(self, uffd: &Uffd, page: usize) -> Option<Pipe> {
        let mut pipe = None;
        let source = Area::anon(3, 1);
        let copied = || {
            fill_with(source.start, PAGE, OTHER);
            dontneed(page);
            uffd.copy(page, source.start, PAGE, 0).answer
        };
        let protected = || {
            uffd.range(&WRITEPROTECT, page, PAGE, WRITEPROTECT_WP.into())
                .answer
        };
        let answer = match self {
            Shared | Pinned => Answer(Ok(0)),
            Page => copied(),
            Swapped | SwappedHeld | SwappedIn => {
                copied();
                pipe = (self == SwappedHeld).then(|| hold(page));
                swap_out_pages(page, 1);
                if self == SwappedIn {
                    read_byte(page);
                }
                Answer(Ok(0))
            }
            Protected => {
                copied();
                protected()
            }
            Clean => {
                copied();
                clear_soft_dirty()
            }
            Free => {
                copied();
                madvise(page, PAGE, libc::MADV_FREE)
            }
            FreeWritten => {
                copied();
                let answer = madvise(page, PAGE, libc::MADV_FREE);
                fill_with(page, PAGE, OTHER);
                answer
            }
            Nothing => dontneed(page),
            ZeroPage => {
                dontneed(page);
                uffd.range(&ZEROPAGE, page, PAGE, 0).answer
            }
            Mark => {
                dontneed(page);
                protected()
            }
            Poison => {
                dontneed(page);
                uffd.range(&POISON, page, PAGE, 0).answer
            }
            Guard => madvise(page, PAGE, MADV_GUARD_INSTALL),
        };
        assert!(answer.is_ok(), "cannot be made: {answer}");
        pipe
    }

    /// Takes it away.
    fn unmake(self, page: usize) {
        match self {
            Guard => drop(madvise(page, PAGE, MADV_GUARD_REMOVE)),
            _ => drop(dontneed(page)),
        }
    }
}

/// A range of two pages of a page table, all of the next one, and two pages of the third, and
/// numbers of its pages.
const FIRST: usize = TABLE - 2;
const RANGE: usize = TABLE + 4;
const PLACES: [usize; 6] = [0, 1, 2, TABLE / 2, TABLE + 1, TABLE + 3];
const SHIFTS: [usize; 2] = [0, 1];

/// A thing in the way.
fn in_the_way(log: &mut Transcript) {
    let things = pairs(IN_THE_WAY, &pairs(&PLACES, &SHIFTS));
    accounted(log, &things, |((thing, name), (page, shift)), ledger| {
        let world = World::new(FIRST + shift, FIRST);
        world.write(0, RANGE);
        thing.make(&world.uffd, world.to(*page));
        let mut answer = world.ask(ledger, 0, RANGE, 0);
        // As a program would go on.
        answer += &format!("; again {}", world.call(*page, RANGE - page, 0));
        if page + 1 < RANGE {
            answer += &format!("; after it {}", world.call(page + 1, RANGE - page - 1, 0));
        }
        thing.unmake(world.to(*page));
        answer += &format!(
            "; without it {}; {}",
            world.call(*page, 1, 0),
            world.pages()
        );
        (format!("{name} at {page}, by {shift}"), answer)
    });
}

/// A thing to move.
fn to_move(log: &mut Transcript) {
    let things = pairs(TO_MOVE, &pairs(&pairs(&PLACES, &SHIFTS), &MODES));
    let ask = |((thing, name), ((page, shift), (mode, text))): &_, ledger: &Ledger| {
        let (thing, page): (Thing, usize) = (*thing, *page);
        let world = World::new(FIRST + shift, FIRST);
        world.register_source();
        let source = Area::anon(2, 1);
        (0..RANGE).for_each(|page| {
            fill_with(source.start, PAGE, World::byte(FIRST + page));
            world.uffd.copy(world.from(page), source.start, PAGE, 0);
        });
        let pipe = thing.make(&world.uffd, world.from(page));
        let ring = (thing == Pinned).then(|| pin(world.from(page)));
        let child = (thing == Shared).then(|| {
            let child = fork(sleep);
            // All others are of this process alone.
            (0..RANGE).filter(|other| *other != page).for_each(|other| {
                write_byte(world.from(other), World::byte(FIRST + other));
            });
            child
        });
        clear_soft_dirty();
        let mut answer = world.ask(ledger, 0, RANGE, *mode);
        answer += &format!("; again {}", world.call(page, RANGE - page, *mode));
        if page + 1 < RANGE {
            answer += &format!(
                "; after it {}",
                world.call(page + 1, RANGE - page - 1, *mode)
            );
        }
        drop(pipe);
        if let Some(ring) = ring {
            let unpinned = ring.submitter().unregister_buffers();
            unpinned.expect("memory can be unpinned");
        }
        if let Some(child) = child {
            kill_and_wait(child);
            answer += &format!("; without the child {}", world.call(page, 1, *mode));
            write_byte(world.from(page), 0x11);
        }
        answer += &format!(
            "; at last {}; {}",
            world.call(page, 1, *mode),
            world.pages()
        );
        (format!("{name} at {page}, by {shift}{text}"), answer)
    };
    accounted(log, &things, ask);
}

/// A huge page, or what is left of one, in the second page table of an area.
#[derive(Copy, Clone, PartialEq)]
enum Huge {
    Whole,
    Zero,
    /// It is mapped by a page table.
    Split,
    /// Of a huge page, one page is no longer mapped, the first or another one.
    WithoutFirst,
    WithoutOther,
    /// A child has it, too.
    Shared,
    /// A child had it when this process wrote to some of its pages, the first or another one. What
    /// is written to later is of this process alone again.
    SharedFirst,
    SharedOther,
    Pinned,
    Swapped,
    /// Folios of 64 KiB.
    Small,
    /// Nothing at all, but the page table before it.
    Nothing,
}

const HUGES: &[(Huge, &str)] = &[
    (Huge::Whole, "huge page"),
    (Huge::Zero, "huge zero page"),
    (Huge::Split, "split huge page"),
    (Huge::WithoutFirst, "huge page without its first"),
    (Huge::WithoutOther, "huge page without another"),
    (Huge::Shared, "shared huge page"),
    (Huge::SharedFirst, "huge page with a copy of its first"),
    (Huge::SharedOther, "huge page with a copy of another"),
    (Huge::Pinned, "pinned huge page"),
    (Huge::Swapped, "swapped huge page"),
    (Huge::Small, "folios of 64 KiB"),
    (Huge::Nothing, "no page table"),
];

/// What had to be made for a huge page, and ends with it.
#[derive(Default)]
struct Held(Option<libc::pid_t>, Option<IoUring>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.into_iter().for_each(kill_and_wait);
        if let Some(ring) = &self.1 {
            let _ = ring.submitter().unregister_buffers();
        }
    }
}

impl Huge {
    /// Makes it at an address, or says why it cannot be made.
    fn make(self, start: usize, byte: &dyn Fn(usize) -> u8) -> Result<Held, String> {
        const SIZES: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-";
        let set = |size: &str, value| write_file(&format!("{SIZES}{size}kB/enabled"), value);
        let mut held = Held::default();
        let write = |page| fill_with(start + page * PAGE, PAGE, byte(TABLE + page));
        if self == Huge::Nothing {
            madvise(start, HUGE, libc::MADV_DONTNEED);
            return Ok(held);
        }
        let (small, large) = match self {
            Huge::Small => ("madvise", "never"),
            _ => ("never", "inherit"),
        };
        let advised = madvise(start, HUGE, libc::MADV_HUGEPAGE);
        let answers = [set("64", small), set("2048", large), advised];
        if let Some(answer) = answers.iter().find(|answer| !answer.is_ok()) {
            return Err(answer.to_string());
        }
        match self {
            Huge::Zero => drop(read_byte(start)),
            _ => (0..TABLE).for_each(&write),
        }
        // Nothing makes a huge page of these from now on.
        madvise(start, HUGE, libc::MADV_NOHUGEPAGE);
        set("64", "never");
        set("2048", "inherit");
        if !page_flags(start).contains("thp") {
            return Err(format!("no huge page: {}", page_flags(start)));
        }
        match self {
            Huge::Split => {
                mprotect(start, PAGE, libc::PROT_READ);
                mprotect(start, PAGE, RW);
            }
            Huge::WithoutFirst => drop(dontneed(start)),
            Huge::WithoutOther => drop(dontneed(start + HUGE / 2)),
            Huge::Shared => held.0 = Some(fork(sleep)),
            Huge::SharedFirst | Huge::SharedOther => {
                let copied = if self == Huge::SharedFirst { 0 } else { 3 };
                let child = fork(sleep);
                write(copied);
                kill_and_wait(child);
                write(3 - copied);
            }
            Huge::Pinned => held.1 = Some(pin(start + 3 * PAGE)),
            Huge::Swapped => swap_out_pages(start, TABLE),
            _ => {}
        }
        Ok(held)
    }
}

/// Parts of the second page table: where a range begins, and its pages.
const PARTS: &[(&str, usize, usize)] = &[
    ("into", TABLE - 2, 4),
    ("over", TABLE - 2, TABLE + 4),
    ("whole", TABLE, TABLE),
    ("first", TABLE, 1),
    ("third", TABLE + 3, 1),
    ("middle", TABLE + TABLE / 2 - 8, 24),
    ("out of", 2 * TABLE - 1, 3),
    ("all but the first", TABLE + 1, TABLE - 1),
];

/// A huge page to move, or in the way.
fn huge(log: &mut Transcript, huge: Huge, in_the_way: bool) {
    let things = pairs(PARTS, &pairs(&[0, 1, TABLE - 1], &MODES));
    accounted(
        log,
        &things,
        |((part, first, pages), (shift, (mode, text))), ledger| {
            let world = World::new(first + shift, *first);
            let question = format!("{part}, by {shift}{text}");
            let range = *first..first + pages;
            let beside = range.filter(|page| in_the_way || !(TABLE..2 * TABLE).contains(page));
            beside.for_each(|page| world.write(page - first, 1));
            let area = if in_the_way { &world.to } else { &world.from };
            // A huge page that is missing does not come by itself.
            let (uffd, to) = (&world.uffd, &world.to);
            uffd.range(&UNREGISTER, to.start, to.len, 0);
            let byte = |page| if in_the_way { OTHER } else { World::byte(page) };
            let held = huge.make(area.at(TABLE), &byte);
            uffd.must_register(to.start, to.len, MISSING | WP);
            let held = match held {
                Ok(held) => held,
                Err(reason) => return (question, format!("not made: {reason}")),
            };
            clear_soft_dirty();
            let before = world.huge_pages();
            let moved = world.ask(ledger, 0, *pages, *mode);
            let after = world.huge_pages();
            drop(held);
            let mut again = world.ask(ledger, 0, *pages, *mode);
            if after.starts_with("huge 2048") && !in_the_way && huge != Huge::Zero {
                // The kernel finds where it is mapped now.
                swap_out_pages(world.to.at(TABLE), TABLE);
                again += &format!("; swapped {}", world.pages());
            }
            (
                question,
                format!("{before}; {moved}; {after}; again {again}"),
            )
        },
    );
}

/// Ranges of one area that overlap, or follow one another.
fn overlaps(log: &mut Transcript) {
    let distances = [-2, -1, 0, 1, 2, TABLE as isize, 1 - TABLE as isize];
    let lengths = [1, 2, 4, TABLE + 1];
    let things = pairs(&distances, &pairs(&lengths, &MODES));
    accounted(log, &things, |(distance, (pages, (mode, text))), ledger| {
        let mut world = World::new(0, 2 * TABLE - 2);
        world.write(0, *pages);
        // The source is registered, too, so that nothing comes into it.
        world.register_source();
        world.first_to = world.first_from.wrapping_add_signed(*distance);
        let before = ledger.entry();
        let (to, from, len) = (world.from.at(world.first_to), world.from(0), pages * PAGE);
        let called = world.uffd.call(&MOVE, &inputs(&MOVE, to, from, len, *mode));
        let taken = ledger.entry() - before;
        let question = format!("{pages} pages by {distance}{text}");
        (question, format!("{called}; {taken}; {}", world.pages()))
    });
}

/// What is registered, and with what. The range is in one VMA or in several.
fn vmas(log: &mut Transcript) {
    let names = [
        "source not registered",
        "not registered",
        "with another descriptor",
        "source with another descriptor",
        "protection only",
        "a part",
        "the last page not",
        "source in two VMAs",
        "destination in two VMAs",
        "source not mapped",
        "a page of the source not mapped",
        "the last page of the source not mapped",
        "destination not mapped",
        "source not forked",
        "source read-only",
        "both read-only",
        "source locked",
        "both locked",
        "destination executable",
    ];
    let things = pairs(&names, &pairs(&[3, TABLE + 2], &MODES));
    accounted(log, &things, |(name, (pages, (mode, text))), ledger| {
        let world = World::new(TABLE - 1, TABLE - 1);
        world.write(0, *pages);
        let (to, from, uffd) = (&world.to, &world.from, &world.uffd);
        let (last, other) = (pages - 1, Uffd::new(0));
        let not = |page, pages| uffd.range(&UNREGISTER, world.to(page), pages * PAGE, 0);
        let both = [to, from];
        let locked = |area: &Area| mlock(area.start, area.len, libc::MLOCK_ONFAULT);
        match *name {
            "not registered" => drop(not(0, *pages)),
            "with another descriptor" => {
                not(0, *pages);
                other.must_register(world.to(0), pages * PAGE, MISSING);
            }
            "source with another descriptor" => other.must_register(from.start, from.len, MISSING),
            "protection only" => {
                not(0, *pages);
                uffd.must_register(world.to(0), pages * PAGE, WP);
            }
            "a part" => drop(not(1, 1)),
            "the last page not" => drop(not(last, 1)),
            "source in two VMAs" => drop(madvise(world.from(1), PAGE, libc::MADV_DONTFORK)),
            "destination in two VMAs" => drop(madvise(world.to(1), PAGE, libc::MADV_DONTFORK)),
            "source not mapped" => drop(munmap(world.from(0), pages * PAGE)),
            "a page of the source not mapped" => drop(munmap(world.from(1), PAGE)),
            "the last page of the source not mapped" => drop(munmap(world.from(last), PAGE)),
            "destination not mapped" => drop(munmap(world.to(0), pages * PAGE)),
            "source not forked" => drop(from.madvise(libc::MADV_DONTFORK)),
            "source read-only" => drop(from.mprotect(libc::PROT_READ)),
            "both read-only" => drop(both.map(|area| area.mprotect(libc::PROT_READ))),
            "source locked" => drop(locked(from)),
            "both locked" => drop(both.map(locked)),
            "destination executable" => drop(to.mprotect(RW | libc::PROT_EXEC)),
            _ => {}
        }
        let question = format!("{name}, {pages} pages{text}");
        (question, world.ask(ledger, 0, *pages, *mode))
    });
}

/// Moves between memory of each kind and anonymous memory, and within a kind.
fn kinds(log: &mut Transcript) {
    let ask = |log: &mut Transcript, slot, from: &Kind, to: &Kind| {
        let question = format!("{} to {}", from.name, to.name);
        let (to_area, from_area) = match ((to.make)(slot), (from.make)(slot + 1)) {
            (Ok(to), Ok(from)) => (to, from),
            (Err(errno), _) | (_, Err(errno)) => {
                return log.record(question, format!("not made: {}", errno_name(errno)));
            }
        };
        if !from.is(Trait::ReadOnly) && !from.is(Trait::Filled) {
            from_area.write();
        }
        let uffd = Uffd::new(UFFD_FEATURE_SIGBUS.into());
        let registered = uffd.register(to_area.start, to_area.len, MISSING).answer;
        let len = to_area.page.max(from_area.page);
        let (start, source) = (to_area.start, from_area.start);
        let called = uffd.call(&MOVE, &inputs(&MOVE, start, source, len, 0));
        let pages = match to.is(Trait::Filled) {
            true => String::new(),
            false => format!("; {}; {}", pagemap(start), pagemap(source)),
        };
        log.record(question, format!("{registered}; {called}{pages}"));
    };
    // There is one gigantic page, and memory of the kernel is where it is.
    let asked = |kind: &&Kind| !kind.is(Trait::Gigantic) && !kind.name.starts_with('v');
    for kind in KINDS.iter().filter(asked) {
        // Some memory stays as long as its process.
        let ended = log.in_process(|log| {
            ask(log, 0, kind, kind);
            if kind.name != "anon" {
                ask(log, 2, kind, kind_of("anon"));
                ask(log, 4, kind_of("anon"), kind);
            }
        });
        log.record(format!("{}, process", kind.name), ended);
    }
}

/// What the kernel knows of pages that have moved: it can find, swap out and copy them when what
/// they came from is gone, and keeps what was written to them.
fn afterwards(log: &mut Transcript) {
    let things = [
        Page,
        ZeroPage,
        Swapped,
        SwappedHeld,
        SwappedIn,
        Clean,
        Free,
        FreeWritten,
        Nothing,
    ];
    let things = pairs(
        &things,
        &pairs(&["look", "swap", "fork", "write"], &[false, true]),
    );
    accounted(log, &things, |(thing, (what, twice)), ledger| {
        let world = World::new(TABLE - 1, 7);
        world.write(0, 2);
        world.register_source();
        let pipes = [0, 1].map(|page| thing.make(&world.uffd, world.from(page)));
        let source = smaps_of(world.from.start, "Private_Dirty:");
        let mut answer = format!("{source}; {}", world.ask(ledger, 0, 2, HOLES));
        let (mut at, len) = (world.to(0), 2 * PAGE);
        if *twice {
            at = world.to.at(3 * TABLE);
            let called = world
                .uffd
                .call(&MOVE, &inputs(&MOVE, at, world.to(0), len, HOLES));
            answer += &format!("; {called}");
        }
        munmap(world.from.start, world.from.len);
        let flags = || [0, 1].map(|page| page_flags(at + page * PAGE)).join(", ");
        let there = || [0, 1].map(|page| pagemap(at + page * PAGE)).join(", ");
        let bytes = || [0, 1].map(|page| peek(at + page * PAGE)).join(", ");
        answer += &match *what {
            "swap" if !matches!(*thing, ZeroPage | Free | Nothing) => {
                let read = || [0, 1].map(|page| read_byte(at + page * PAGE));
                let first = read();
                drop(pipes);
                swap_out_pages(at, 2);
                let swapped = there();
                format!("; {first:02x?}; {swapped}; {:02x?}; {}", read(), there())
            }
            "fork" => {
                let child = fork(|| (0..2).for_each(|page| write_byte(at + page * PAGE, 1)));
                format!("; child {}; {}", ended(child), there())
            }
            "write" if *thing != Nothing => {
                let before = fault_counts()[0];
                (0..2).for_each(|page| write_byte(at + page * PAGE, 2));
                let faults = fault_counts()[0] - before;
                format!("; {faults} faults; {}; {}", there(), flags())
            }
            _ => format!("; {}", flags()),
        };
        answer += &format!("; {}", bytes());
        if *what != "swap" {
            answer += &format!("; {}", smaps_of(world.to.start, "Private_Dirty:"));
        }
        let twice = if *twice { ", twice" } else { "" };
        (format!("{thing:?}, {what}{twice}"), answer)
    });
}

/// A thread that sleeps on a page of the range: whether it is woken.
fn sleeper(log: &mut Transcript) {
    catch_signals();
    let ledger = Ledger::new();
    let things = pairs(
        &[0, 3],
        &pairs(&[0, DONTWAKE, HOLES], &[None, Some(1), Some(3)]),
    );
    for (page, (mode, hole)) in things {
        let world = World::with(0, TABLE - 2, 5);
        (0..4)
            .filter(|page| Some(*page) != hole)
            .for_each(|page| world.write(page, 1));
        let names = Names::new(&[("to", &world.to)]);
        let (at, its) = (world.to(page), names.clone());
        let thread = sleeping_thread(move || load(at, &its));
        world.uffd.wait_for_sleepers(1);
        let message = world.uffd.next(&names);
        let called = world.ask(&ledger, 0, 4, mode);
        let ended = world.uffd.ends_or_sleeps(&thread);
        let counts = world.uffd.fdinfo();
        // What did not move is filled now.
        world.uffd.range(&ZEROPAGE, at, PAGE, 0);
        world.uffd.range(&WAKE, at, PAGE, 0);
        let load = thread.join().expect("no panic");
        let answer = format!("{message}; {called}; ended {ended}; {counts}; at last {load}");
        log.record(
            format!("sleeper at {page}, mode {mode}, hole {hole:?}"),
            answer,
        );
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("moves/ranges", ranges),
        Case::new("moves/in the way", in_the_way),
        Case::new("moves/to move", to_move),
        Case::new("moves/overlaps", overlaps),
        Case::new("moves/vmas", vmas),
        Case::new("moves/kinds", kinds),
        Case::new("moves/afterwards", afterwards),
        Case::new("moves/sleeper", sleeper),
    ];
    for (what, name) in HUGES {
        let case = format!("moves/{name}");
        cases.push(Case::new(case, move |log| huge(log, *what, false)));
        if matches!(
            what,
            Huge::Whole | Huge::Zero | Huge::WithoutFirst | Huge::Swapped
        ) {
            let case = format!("moves/{name} in the way");
            cases.push(Case::new(case, move |log| huge(log, *what, true)));
        }
    }
    cases
}
