// SPDX-License-Identifier: GPL-2.0

//! Sequences of calls made at random from a seed: what nobody thought of asking.

use crate::{
    inspect::{pagemap, peek, vm_flags},
    kinds::kind_of,
    memory::{
        madvise, move_to, mprotect, munmap, read_into, write_byte, write_from, write_process, Area,
        Names, MIB,
    },
    poll::poll_fd,
    process::{fork_with, pipe, this_process},
    sys::{errno_name, read_process, PAGE},
    touch::{catch_signals, load, store},
    transcript::{Case, Transcript},
    uffd::{
        child_of, describe, fault_of, Fault, Uffd, CONTINUE, COPY, FEATURES, MINOR, MISSING, MOVE,
        RANGE_CALLS, REGISTER, UNREGISTER, WAKE, WRITEPROTECT, ZEROPAGE,
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

/// The kinds of which pages can be in the file only.
const SHARED: [&str; 3] = ["shmem", "anon-shared", "hugetlb-memfd"];

/// How often a fault of one access is resolved before its page is given up.
const PATIENCE: usize = 3;

/// The page that faults are resolved with, and where pages have another size than the usual one.
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

/// Reads messages until told to stop, so that those who cause them do not wait for long.
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
                // Whoever caused the event goes on once it was read, and then waits for the lock.
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

fn sequence(log: &mut Transcript, seed: u64) {
    catch_signals();
    let mut rng = Rng::with_seed(seed);
    let kinds = [
        "anon",
        "anon",
        "shmem",
        "shmem-private",
        "anon-shared",
        "anon-thp",
        "hugetlb-memfd",
    ];
    // Huge pages take long to fill, so they come less often.
    let count = if rng.bool() { 5 } else { kinds.len() };
    let kind = kinds[rng.usize(0..count)];
    let area = match (kind_of(kind).make)(0) {
        Ok(area) => area,
        // Not every kernel has every kind.
        Err(errno) => return log.record("cannot be made", errno_name(errno)),
    };
    let second_kind = kinds[rng.usize(0..5)];
    let second = kind_of(second_kind).area(1);
    let source = Area::anon(2, area.page.max(PAGE) / PAGE * area.pages());
    source.write();
    let names = Names::new(&[("area", &area), ("second", &second), ("source", &source)]);
    let features = FEATURES
        .iter()
        .map(|(bit, _)| *bit)
        .filter(|bit| bit & ALLOWED != 0 && rng.u8(0..4) == 0)
        .fold(0, |all, bit| all | bit);
    let uffd = Uffd::new(features);
    let drain = Drain::new(uffd.fd(), names.clone(), Resolver::new(&area));
    let mut first = rng.u64(1..8);
    if !SHARED.contains(&kind) {
        first &= !MINOR;
    }
    first = if first == 0 { MISSING } else { first };
    if area.file.is_some() {
        // Some pages are in the file only.
        let alias = area.alias(4);
        let step = if first & MINOR != 0 { 1 } else { 3 };
        for page in (0..area.pages()).step_by(step) {
            write_byte(alias.at(page), 0x66);
        }
    }
    log.record(
        "begin",
        format!(
            "{kind} features {features:#x} register({first}) {}",
            uffd.register(area.start, area.len, first)
        ),
    );
    for step in 0..STEPS {
        let (target, target_kind) = if rng.u8(0..4) == 0 {
            (&second, second_kind)
        } else {
            (&area, kind)
        };
        let (start, len) = range(&mut rng, target);
        let place = format!("{},{len:#x}", names.name(start as u64));
        let (question, answer) = match rng.u8(0..20) {
            0..=8 => {
                let mut call = RANGE_CALLS[rng.usize(0..RANGE_CALLS.len())];
                let movable = matches!(target_kind, "anon" | "anon-thp");
                if *call == MOVE && !movable && rng.u8(0..8) != 0 {
                    call = &COPY;
                }
                let shared = SHARED.contains(&target_kind);
                let cached = shared && target.file.is_some();
                if *call == CONTINUE && !cached && rng.u8(0..8) != 0 {
                    call = &WRITEPROTECT;
                }
                let mode = if *call == REGISTER {
                    rng.u64(1..8) & if shared { 7 } else { 3 }
                } else {
                    mode(&mut rng)
                };
                if *call == MOVE {
                    // What was moved away before, or is shared with a child.
                    source.write();
                }
                let called = if call.fields.len() == 5 {
                    let from = source.start + rng.usize(0..4) * PAGE;
                    uffd.call(call, &[start as u64, from as u64, len as u64, mode])
                } else if *call == UNREGISTER && rng.u8(0..4) != 0 {
                    // Otherwise most of a sequence would be about memory that is not registered.
                    uffd.range(call, start, PAGE, mode)
                } else {
                    uffd.range(call, start, len, mode)
                };
                (
                    format!("{}({place},{mode:#x})", call.name),
                    called.to_string(),
                )
            }
            9 => {
                let advice = [
                    libc::MADV_DONTNEED,
                    libc::MADV_FREE,
                    libc::MADV_REMOVE,
                    libc::MADV_COLD,
                    102,
                    103,
                ][rng.usize(0..6)];
                let answer = madvise(start, len, advice);
                (format!("madvise({place},{advice})"), answer.to_string())
            }
            10 => {
                let protection = [1, 3, 0][rng.usize(0..3)];
                let answer = mprotect(start, len, protection);
                (
                    format!("mprotect({place},{protection})"),
                    answer.to_string(),
                )
            }
            11 if rng.bool() => {
                let answer = munmap(start, len);
                (format!("munmap({place})"), answer.to_string())
            }
            12 if rng.bool() => {
                let to = area.start + (1 << 31) + step * (64 << 20);
                let answer = move_to(start, len, to);
                (format!("mremap({place})"), answer.to_string())
            }
            13 if rng.bool() => ("fork".into(), fork_with(0, || 0)),
            14..=17 => {
                let way = rng.usize(0..6);
                let address = (start & !(PAGE - 1)) + 0x10;
                (
                    format!("touch({way},{})", names.name(address as u64)),
                    touch(way, address, &names),
                )
            }
            _ => {
                let page = start & !(PAGE - 1);
                (
                    format!("look({place})"),
                    format!("{} {}", vm_flags(page, &names), pagemap(page)),
                )
            }
        };
        let events = drain.take();
        log.record(
            format!("step {step}: {question}"),
            format!("{answer} [{events}]"),
        );
    }
    for (name, area) in [("area", &area), ("second", &second)] {
        let map: Vec<String> = (0..area.pages().min(32))
            .map(|page| format!("{}{}", pagemap(area.at(page)), peek(area.at(page))))
            .collect();
        log.record(format!("pages of {name}"), map.join(" "));
    }
    log.record("fdinfo", uffd.fdinfo());
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
