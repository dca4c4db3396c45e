// SPDX-License-Identifier: GPL-2.0

//! VMAs that change after they were registered: what becomes of their faults. And features
//! together.

use crate::{
    fixture::{ask_setup, Fixture, FEATURES, SETUPS},
    inspect::{huge_pages, pagemap, vm_flags},
    kinds::{kind_of, merge, swap_out, Trait},
    memory::{mlock, mprotect, mseal, munmap, Area, Names, MADV_GUARD_INSTALL, MIB, RW},
    sys::{errno_name, ftruncate, Answer, PAGE},
    touch::{catch_signals, fill, Access, ACCESSES},
    transcript::{Case, Transcript},
    uffd::{Uffd, MINOR, MISSING, UNREGISTER, WP, WRITEPROTECT},
};
use linux_raw_sys::general::*;
use std::os::fd::AsRawFd;

/// Something that happens to an area after it was registered.
struct Change {
    name: &'static str,
    kind: &'static str,
    /// Whether its pages are there before.
    filled: bool,
    /// Whether pages can be write-protected before it: it neither waits for them nor forgets it.
    protected: bool,
    run: fn(&Area) -> Answer,
}

const fn change(name: &'static str, run: fn(&Area) -> Answer) -> Change {
    Change {
        name,
        kind: "anon",
        filled: true,
        protected: true,
        run,
    }
}

fn lock(area: &Area, flags: u32) -> Answer {
    mlock(area.start, area.len, flags)
}

const CHANGES: &[Change] = &[
    change("nothing", |_| Answer(Ok(0))),
    change("swapped out", |area| {
        swap_out(area);
        Answer(Ok(0))
    }),
    Change {
        protected: false,
        ..change("merged", merge)
    },
    Change {
        kind: "anon-thp",
        ..change("of huge pages", |_| Answer(Ok(0)))
    },
    Change {
        protected: false,
        ..change("locked", |area| lock(area, 0))
    },
    Change {
        filled: false,
        ..change("locked on fault", |area| lock(area, libc::MLOCK_ONFAULT))
    },
    change("sealed", |area| mseal(area.start, area.len)),
    Change {
        filled: false,
        ..change("sealed while empty", |area| mseal(area.start, area.len))
    },
    change("read-only", |area| {
        area.mprotect(libc::PROT_READ | libc::PROT_EXEC)
    }),
    change("without access", |area| area.mprotect(libc::PROT_NONE)),
    Change {
        filled: false,
        ..change("guarded", |area| area.madvise(MADV_GUARD_INSTALL))
    },
    change("dropped", |area| area.madvise(libc::MADV_DONTNEED)),
    Change {
        kind: "shmem",
        protected: false,
        ..change("of a file, locked", |area| lock(area, 0))
    },
    Change {
        kind: "shmem",
        ..change("of a file, dropped", |area| {
            area.madvise(libc::MADV_DONTNEED)
        })
    },
    Change {
        kind: "shmem",
        ..change("of a file, truncated", |area| {
            let file = area.file.as_ref().expect("there is a file");
            ftruncate(file, PAGE)
        })
    },
    Change {
        kind: "shmem-private",
        ..change("of a private file, swapped out", |area| {
            swap_out(area);
            Answer(Ok(0))
        })
    },
];

/// Ways to touch memory, none of which needs the page to hold something but `exec`.
const WAYS: &[&str] = &[
    "load",
    "store",
    "exec",
    "store across",
    "read",
    "write",
    "process_vm_writev",
    "vmsplice",
];

fn access(name: &str) -> &'static Access {
    let mut known = ACCESSES.iter();
    known
        .find(|access| access.name == name)
        .expect("it is in the table")
}

/// When pages are write-protected.
#[derive(Copy, Clone, PartialEq)]
enum Protected {
    Before,
    After,
}

/// Each way to touch a page, after a change.
fn after_change(log: &mut Transcript, change: &Change, mode: u64, features: u64, when: Protected) {
    catch_signals();
    let area = match (kind_of(change.kind).make)(0) {
        Ok(area) => area,
        // A PREEMPT_RT kernel has no transparent huge pages.
        Err(errno) => return log.record("cannot be made", errno_name(errno)),
    };
    if change.filled {
        fill(area.start, area.len);
    }
    let fixture = Fixture::of(area, mode, features, 0);
    let (start, len) = (fixture.area.start, fixture.area.len);
    let write_protect = || fixture.uffd.range(&WRITEPROTECT, start, len, 1);
    if when == Protected::Before {
        log.record("write-protect before", write_protect());
    }
    log.record("change", (change.run)(&fixture.area));
    if mode & WP != 0 && when == Protected::After {
        log.record("write-protect after", write_protect());
    }
    log.record("page", pagemap(start));
    if kind_of(change.kind).is(Trait::Thp) {
        log.record("huge pages", huge_pages(start));
    }
    // Two pages for each.
    for (index, name) in WAYS.iter().enumerate() {
        let page = fixture.area.at(2 * index + 1);
        log.record(name, fixture.ask_at(access(name), page));
    }
    // The area is as it was in this.
    let unregistered = fixture.uffd.range(&UNREGISTER, start, len, 0);
    log.record("unregister", unregistered);
    log.record("flags", vm_flags(start, &fixture.names));
    let registered = fixture.uffd.register(start, len, mode);
    log.record("register again", registered);
}

/// A stack that grows because a page beneath it is touched.
fn growth(log: &mut Transcript, mode: u64, features: u64) {
    catch_signals();
    for name in ["load", "store", "read"] {
        // The last one is more than a stack may have.
        for pages in [1, 8, 4096] {
            let area = kind_of("anon-growsdown").area(0);
            let mut fixture = Fixture::of(area, mode, features, 0);
            let start = fixture.area.start;
            fixture.names.add("beneath", start - 32 * MIB, 32 * MIB);
            let question = |text: &str| format!("{name},{pages} pages,{text}");
            let page = start - pages * PAGE;
            let copied = fixture.uffd.copy(page, start, PAGE, 0);
            log.record(question("copy before"), copied);
            log.record(question("answer"), fixture.ask_at(access(name), page));
            log.record(question("flags"), vm_flags(page, &fixture.names));
            let protected = fixture.uffd.range(&WRITEPROTECT, page, PAGE, 1);
            log.record(question("write-protect after"), protected);
            // What has grown is not part of the area.
            munmap(start - 32 * MIB, 32 * MIB);
        }
    }
}

/// Maps the second half of an area again.
fn map_again(area: &Area) -> Answer {
    let half = area.len / 2;
    let (fd, flags) = match &area.file {
        Some(file) => (file.as_raw_fd(), libc::MAP_SHARED | libc::MAP_NORESERVE),
        None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
    };
    let flags = flags | libc::MAP_FIXED_NOREPLACE;
    let offset = if fd < 0 { 0 } else { half as i64 };
    let start = (area.start + half) as _;
    // SAFETY: Nothing is there, or the call fails.
    let address = unsafe { libc::mmap(start, half, RW, flags, fd, offset) };
    Answer::of_address(address)
}

/// Mappings beside a registered one, which could become one with it.
fn neighbours(log: &mut Transcript, kind: &'static str, mode: u64) {
    let area = kind_of(kind).area(0);
    let names = Names::new(&[("area", &area)]);
    let (one, two) = (Uffd::new(0), Uffd::new(0));
    let (start, half) = (area.start, area.len / 2);
    let extents = |log: &mut Transcript, step: &str, answer: &dyn std::fmt::Display| {
        let flags: Vec<String> = [start, start + half - area.page, start + half]
            .iter()
            .chain([&(start + area.len - area.page)])
            .map(|address| vm_flags(*address, &names))
            .collect();
        log.record(step, format!("{answer} {}", flags.join(", ")));
    };
    let protect = |page: usize, protection: i32| mprotect(page, area.page, protection);
    let both = RW;
    extents(log, "register half", &one.register(start, half, mode));
    for (name, page) in [("first", start), ("last", start + half - area.page)] {
        let answer = protect(page, libc::PROT_READ);
        extents(log, &format!("protect the {name} page"), &answer);
        let answer = protect(page, both);
        extents(log, &format!("give it back, {name}"), &answer);
    }
    let answer = munmap(start + half, half);
    extents(log, "unmap the other half", &answer);
    extents(log, "map it again", &map_again(&area));
    let answer = one.register(start + half, half, mode);
    extents(log, "register it", &answer);
    let answer = munmap(start + half, half);
    extents(log, "unmap it", &answer);
    extents(log, "map it once more", &map_again(&area));
    let answer = two.register(start + half, half, mode);
    extents(log, "register it with another", &answer);
    let answer = one.range(&UNREGISTER, start, half, 0);
    extents(log, "unregister the first half", &answer);
    let answer = two.register(start, half, mode);
    extents(log, "register it with the other", &answer);
    drop(two);
    extents(log, "close the other", &"closed");
}

/// Features together.
const TOGETHER: &[(&str, u32)] = &[
    (
        "thread_id+exact_address",
        UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS,
    ),
    (
        "sigbus+exact_address",
        UFFD_FEATURE_SIGBUS | UFFD_FEATURE_EXACT_ADDRESS,
    ),
    (
        "sigbus+wp_unpopulated",
        UFFD_FEATURE_SIGBUS | UFFD_FEATURE_WP_UNPOPULATED,
    ),
    (
        "sigbus+wp_async",
        UFFD_FEATURE_SIGBUS | UFFD_FEATURE_WP_ASYNC,
    ),
    (
        "wp_async+wp_unpopulated",
        UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED,
    ),
    (
        "thread_id+exact_address+wp_unpopulated",
        UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS | UFFD_FEATURE_WP_UNPOPULATED,
    ),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for change in CHANGES {
        use Protected::{After, Before};
        for (mode, name, features, when) in [
            (MISSING, "none", 0, After),
            (WP, "none", 0, After),
            (MISSING | WP, "none", 0, Before),
            (WP, "wp_unpopulated", UFFD_FEATURE_WP_UNPOPULATED, Before),
            (WP, "wp_async", UFFD_FEATURE_WP_ASYNC, After),
        ] {
            if when == Before && !change.protected {
                continue;
            }
            cases.push(Case::new(
                format!("states/{}/mode={mode}/{name}", change.name),
                move |log| after_change(log, change, mode, features.into(), when),
            ));
        }
    }
    for mode in [MISSING, MISSING | WP] {
        cases.push(Case::new(
            format!("states/growth/mode={mode}/none"),
            move |log| growth(log, mode, 0),
        ));
    }
    cases.push(Case::new("states/growth/mode=2/wp_unpopulated", |log| {
        growth(log, WP, UFFD_FEATURE_WP_UNPOPULATED.into())
    }));
    cases.push(Case::new("states/growth/mode=1/sigbus", |log| {
        growth(log, MISSING, UFFD_FEATURE_SIGBUS.into())
    }));
    for (kind, mode) in [
        ("anon", MISSING),
        ("anon", WP),
        ("shmem", MISSING),
        ("shmem", WP),
        ("shmem", MINOR),
        ("hugetlb-memfd", MISSING),
        ("hugetlb-memfd", WP),
        ("hugetlb-memfd", MINOR),
    ] {
        cases.push(Case::new(
            format!("states/neighbours/{kind}/mode={mode}"),
            move |log| neighbours(log, kind, mode),
        ));
    }
    let of_wp = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED;
    for setup in SETUPS {
        for (name, features, user_only) in TOGETHER
            .iter()
            .map(|(name, features)| (*name, *features, false))
            .chain(
                FEATURES[2..]
                    .iter()
                    .map(|(name, features)| (*name, *features, true)),
            )
        {
            if features & of_wp != 0 && setup.mode & WP == 0
                || !matches!(setup.kind, "anon" | "hugetlb-memfd")
            {
                continue;
            }
            cases.push(Case::new(
                format!(
                    "states/together/{}/mode={},populated={}/{name}/user_only={user_only}",
                    setup.kind, setup.mode, setup.populated
                ),
                move |log| ask_setup(log, *setup, features, user_only),
            ));
        }
    }
    cases
}
