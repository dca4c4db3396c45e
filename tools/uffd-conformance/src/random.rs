// SPDX-License-Identifier: GPL-2.0

//! Sequences of calls made at random from a seed: what the other chapters do not think of.

use crate::{
    inspect::{pagemap, peek, vm_flags},
    kinds::{kind_of, Kind, Trait},
    memory::{
        madvise, move_to, mprotect, munmap, read_into, write_byte, write_from, write_process, Area,
        Names, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MIB,
    },
    poll::poll_fd,
    process::{fork_with, pipe, this_process},
    sys::{errno_name, read_process, PAGE},
    touch::{catch_signals, load, store},
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, fault_of, inputs, Call, Fault, Uffd, CONTINUE, COPY, FEATURES, MINOR,
        MISSING, MOVE, RANGE_CALLS, REGISTER, UNREGISTER, WAKE, WRITEPROTECT, ZEROPAGE,
    },
};
use fastrand::Rng;
use linux_raw_sys::general::*;
use std::{
    io::Write,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::{
        atomic::{AtomicBool, Ordering},
        Arc, Mutex,
    },
};

const SEQUENCES: u64 = 120;
const STEPS: usize = 30;

/// The features that a sequence may have: what is resolved by hand, or changes what calls do.
const ALLOWED: u64 = (UFFD_FEATURE_EVENT_FORK
    | UFFD_FEATURE_EVENT_REMAP
    | UFFD_FEATURE_EVENT_REMOVE
    | UFFD_FEATURE_EVENT_UNMAP
    | UFFD_FEATURE_WP_UNPOPULATED
    | UFFD_FEATURE_WP_ASYNC
    | UFFD_FEATURE_SIGBUS
    | UFFD_FEATURE_EXACT_ADDRESS) as u64;

/// How often a fault of one access is resolved before its page is given up.
const PATIENCE: usize = 3;

/// The page that faults are resolved with, and the range whose pages have another size.
struct Resolver {
    fill: Area,
    huge: Option<(usize, usize, usize)>,
}

impl Resolver {
    fn new(area: &Area) -> Self {
        let fill = Area::anon(3, area.page / PAGE);
        fill.write();
        let huge = (area.page != PAGE).then_some((area.start, area.len, area.page));
        Self { fill, huge }
    }

    /// Resolves a fault in a way that depends on its message alone.
    fn resolve(&self, uffd: &Uffd, fault: &Fault, tries: usize) -> String {
        let address = fault.address;
        let size = match self.huge {
            Some((start, len, size)) if (start..start + len).contains(&address) => size,
            _ => PAGE,
        };
        let page = address & !(size - 1);
        if tries >= PATIENCE {
            // The area may have been moved, with its huge pages.
            for size in [PAGE, 2 * MIB] {
                let page = address & !(size - 1);
                uffd.range(&UNREGISTER, page, size, 0);
                uffd.range(&WAKE, page, size, 0);
            }
            return "given up".into();
        }
        let called = if fault.flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 {
            uffd.range(&CONTINUE, page, size, 0)
        } else if fault.flags & UFFD_PAGEFAULT_FLAG_WP != 0 {
            uffd.range(&WRITEPROTECT, page, size, 0)
        } else if size == PAGE && page / PAGE % 2 == 1 {
            uffd.range(&ZEROPAGE, page, size, 0)
        } else {
            uffd.copy(page, self.fill.start, size, 0)
        };
        if !called.answer.is_ok() {
            uffd.range(&WAKE, page, size, 0);
        }
        called.to_string()
    }
}

/// Reads messages until it is stopped, so that the threads that cause them do not wait for long.
struct Drain {
    seen: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Drain {
    fn new(fd: RawFd, names: Names, resolver: Resolver) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (its_seen, its_stop) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !its_stop.load(Ordering::Relaxed) {
                if poll_fd(fd, libc::POLLIN, 2) & libc::POLLIN == 0 {
                    continue;
                }
                // The thread that caused the event goes on once it was read, and then waits for the
                // lock.
                let mut seen = its_seen.lock().expect("no panic");
                // SAFETY: The descriptor is open until this thread is joined, and is not closed
                // here.
                let uffd = std::mem::ManuallyDrop::new(Uffd(unsafe { OwnedFd::from_raw_fd(fd) }));
                while let Ok(message) = uffd.read() {
                    seen.push(describe(&message, &names));
                    drop(child_of(&message));
                    if let Some(fault) = fault_of(&message) {
                        // With each message of a fault there is what was done.
                        let done = resolver.resolve(&uffd, &fault, seen.len() / 2);
                        seen.push(done);
                    }
                }
            }
        });
        Self { seen, stop, thread }
    }

    fn take(&self) -> String {
        self.seen
            .lock()
            .expect("no panic")
            .drain(..)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic");
    }
}

/// A range in or around an area, mostly aligned.
fn range(rng: &mut Rng, area: &Area) -> (usize, usize) {
    let pages = area.pages();
    let from = rng.usize(0..=pages);
    let count = if rng.u8(0..10) == 0 {
        rng.usize(0..=pages + 1)
    } else {
        rng.usize(1..=4)
    };
    let mut start = area.start + from * area.page;
    let mut len = count * area.page;
    match rng.u8(0..30) {
        0 => start += rng.usize(1..PAGE),
        1 => len += rng.usize(1..PAGE),
        2 => start = start.wrapping_sub(area.page),
        _ => {}
    }
    (start, len)
}

/// A mode: mostly one that is known.
fn mode(rng: &mut Rng) -> u64 {
    match rng.u8(0..20) {
        0 => 1 << rng.u8(0..64),
        1..=9 => 0,
        _ => rng.u64(0..4),
    }
}

/// Touches memory by an instruction, or has the kernel do it.
fn touch(way: usize, address: usize, names: &Names) -> String {
    let mut bytes = [7u8; 8];
    let len = bytes.len();
    let this = this_process();
    let (reader, mut writer) = pipe();
    let answer = match way {
        0 => return load(address, names),
        1 => return store(address, names),
        2 => read_process(this, address, &mut bytes),
        3 => write_process(this, address, &bytes),
        4 => write_from(writer.as_raw_fd(), address, len),
        _ => {
            writer.write_all(&bytes).expect("there is room");
            read_into(reader.as_raw_fd(), address, len)
        }
    };
    answer.to_string()
}

/// What the steps of a sequence are about.
///
/// The descriptor goes first: nothing reads the events of what goes after it.
struct World {
    uffd: Uffd,
    area: Area,
    kind: &'static Kind,
    second: Area,
    second_kind: &'static Kind,
    /// Where pages are copied and moved from.
    source: Area,
    names: Names,
    features: u64,
}

/// The kinds of a sequence. Huge pages take long to fill, so the last ones come less often.
const KINDS: [&str; 7] = [
    "anon",
    "anon",
    "shmem",
    "shmem-private",
    "anon-shared",
    "anon-thp",
    "hugetlb-memfd",
];

const OFTEN: usize = 5;

impl World {
    /// Draws one. Not every kernel has every kind of memory.
    fn draw(rng: &mut Rng) -> Result<Self, i32> {
        let count = if rng.bool() { OFTEN } else { KINDS.len() };
        let kind = kind_of(KINDS[rng.usize(0..count)]);
        let area = (kind.make)(0)?;
        let second_kind = kind_of(KINDS[rng.usize(0..OFTEN)]);
        let second = second_kind.area(1);
        let source = Area::anon(2, area.page.max(PAGE) / PAGE * area.pages());
        source.write();
        let features = FEATURES
            .iter()
            .map(|(bit, _)| *bit)
            .filter(|bit| bit & ALLOWED != 0 && rng.u8(0..4) == 0)
            .fold(0, |all, bit| all | bit);
        Ok(Self {
            names: Names::new(&[("area", &area), ("second", &second), ("source", &source)]),
            area,
            kind,
            second,
            second_kind,
            source,
            features,
            uffd: Uffd::new(features),
        })
    }

    /// Draws a mode of registration that the area can have, and registers the area.
    fn begin(&self, rng: &mut Rng) -> String {
        let mut mode = rng.u64(1..8);
        if !self.kind.is(Trait::Cached) {
            mode &= !MINOR;
        }
        mode = if mode == 0 { MISSING } else { mode };
        if self.area.file.is_some() {
            // Some pages are in the file only.
            let alias = self.area.alias(4);
            let step = if mode & MINOR != 0 { 1 } else { 3 };
            for page in (0..self.area.pages()).step_by(step) {
                write_byte(alias.at(page), 0x66);
            }
        }
        let called = self.uffd.register(self.area.start, self.area.len, mode);
        format!("register({mode}) {called}")
    }

    /// A range as it is written down.
    fn place(&self, start: usize, len: usize) -> String {
        format!("{},{len:#x}", self.names.name(start as u64))
    }
}

/// A step of a sequence.
enum Step {
    Call {
        call: &'static Call,
        start: usize,
        len: usize,
        mode: u64,
        inputs: Vec<u64>,
    },
    Advise(usize, usize, i32),
    Protect(usize, usize, i32),
    Unmap(usize, usize),
    Move(usize, usize, usize),
    Fork,
    Touch(usize, usize),
    Look(usize, usize),
}

impl Step {
    /// Draws the step of a number. What is drawn does not depend on the kernel.
    fn draw(rng: &mut Rng, world: &World, step: usize) -> Self {
        let (area, kind) = match rng.u8(0..4) {
            0 => (&world.second, world.second_kind),
            _ => (&world.area, world.kind),
        };
        let (start, len) = range(rng, area);
        match rng.u8(0..20) {
            0..=8 => Self::draw_call(rng, world, kind, start, len),
            9 => {
                const ADVICE: [i32; 6] = [
                    libc::MADV_DONTNEED,
                    libc::MADV_FREE,
                    libc::MADV_REMOVE,
                    libc::MADV_COLD,
                    MADV_GUARD_INSTALL,
                    MADV_GUARD_REMOVE,
                ];
                Self::Advise(start, len, ADVICE[rng.usize(0..6)])
            }
            10 => Self::Protect(start, len, [1, 3, 0][rng.usize(0..3)]),
            11 if rng.bool() => Self::Unmap(start, len),
            12 if rng.bool() => {
                let to = world.area.start + (1 << 31) + step * (64 << 20);
                Self::Move(start, len, to)
            }
            13 if rng.bool() => Self::Fork,
            14..=17 => Self::Touch(rng.usize(0..6), (start & !(PAGE - 1)) + 0x10),
            _ => Self::Look(start, len),
        }
    }

    fn draw_call(rng: &mut Rng, world: &World, kind: &Kind, start: usize, len: usize) -> Self {
        let mut call = RANGE_CALLS[rng.usize(0..RANGE_CALLS.len())];
        if *call == MOVE && !kind.is(Trait::Movable) && rng.u8(0..8) != 0 {
            call = &COPY;
        }
        if *call == CONTINUE && !kind.is(Trait::Aliased) && rng.u8(0..8) != 0 {
            call = &WRITEPROTECT;
        }
        let mode = match *call {
            REGISTER => rng.u64(1..8) & if kind.is(Trait::Cached) { 7 } else { 3 },
            _ => mode(rng),
        };
        let (mut source, mut part) = (0, len);
        if matches!(*call, COPY | MOVE) {
            source = world.source.start + rng.usize(0..4) * PAGE;
        } else if *call == UNREGISTER && rng.u8(0..4) != 0 {
            // Otherwise most of a sequence would be about memory that is not registered.
            part = PAGE;
        }
        Self::Call {
            call,
            start,
            len,
            mode,
            inputs: inputs(call, start, source, part, mode),
        }
    }

    fn question(&self, world: &World) -> String {
        match self {
            Self::Call {
                call,
                start,
                len,
                mode,
                ..
            } => format!("{}({},{mode:#x})", call.name, world.place(*start, *len)),
            Self::Advise(start, len, advice) => {
                format!("madvise({},{advice})", world.place(*start, *len))
            }
            Self::Protect(start, len, protection) => {
                format!("mprotect({},{protection})", world.place(*start, *len))
            }
            Self::Unmap(start, len) => format!("munmap({})", world.place(*start, *len)),
            Self::Move(start, len, _) => format!("mremap({})", world.place(*start, *len)),
            Self::Fork => "fork".into(),
            Self::Touch(way, address) => {
                format!("touch({way},{})", world.names.name(*address as u64))
            }
            Self::Look(start, len) => format!("look({})", world.place(*start, *len)),
        }
    }

    fn run(&self, world: &World) -> String {
        match self {
            Self::Call { call, inputs, .. } => {
                if **call == MOVE {
                    // What was moved away before, or is shared with a child.
                    world.source.write();
                }
                world.uffd.call(call, inputs).to_string()
            }
            Self::Advise(start, len, advice) => madvise(*start, *len, *advice).to_string(),
            Self::Protect(start, len, protection) => {
                mprotect(*start, *len, *protection).to_string()
            }
            Self::Unmap(start, len) => munmap(*start, *len).to_string(),
            Self::Move(start, len, to) => move_to(*start, *len, *to).to_string(),
            Self::Fork => fork_with(0, || 0),
            Self::Touch(way, address) => touch(*way, *address, &world.names),
            Self::Look(start, _) => {
                let page = start & !(PAGE - 1);
                format!("{} {}", vm_flags(page, &world.names), pagemap(page))
            }
        }
    }
}

fn sequence(log: &mut Transcript, seed: u64) {
    catch_signals();
    let mut rng = Rng::with_seed(seed);
    let world = match World::draw(&mut rng) {
        Ok(world) => world,
        Err(errno) => return log.record("cannot be made", errno_name(errno)),
    };
    let resolver = Resolver::new(&world.area);
    let drain = Drain::new(world.uffd.fd(), world.names.clone(), resolver);
    let registered = world.begin(&mut rng);
    let (name, features) = (world.kind.name, world.features);
    log.record(
        "begin",
        format!("{name} features {features:#x} {registered}"),
    );
    for number in 0..STEPS {
        let step = Step::draw(&mut rng, &world, number);
        let answer = step.run(&world);
        let events = drain.take();
        log.record(
            format!("step {number}: {}", step.question(&world)),
            format!("{answer} [{events}]"),
        );
    }
    for (name, area) in [("area", &world.area), ("second", &world.second)] {
        let map: Vec<String> = (0..area.pages().min(32))
            .map(|page| format!("{}{}", pagemap(area.at(page)), peek(area.at(page))))
            .collect();
        log.record(format!("pages of {name}"), map.join(" "));
    }
    log.record("fdinfo", world.uffd.fdinfo());
    drain.end();
}

pub fn cases(seed: u64) -> Vec<Case> {
    (0..SEQUENCES)
        .map(|index| {
            Case::new(format!("random/{seed}-{index}"), move |log| {
                sequence(log, seed.wrapping_mul(1_000_003).wrapping_add(index))
            })
        })
        .collect()
}
