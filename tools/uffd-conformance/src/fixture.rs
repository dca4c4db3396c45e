// SPDX-License-Identifier: GPL-2.0

//! An area that is registered, and threads that touch it.

use crate::{
    inspect::pagemap,
    kinds::kind_of,
    memory::{Area, Names, RW},
    poll::first_ready,
    process::{drop_ptrace, Task},
    sys::{punch_hole, Answer, PAGE},
    touch::{catch_signals, fill, Access, ACCESSES},
    transcript::Transcript,
    uffd::{
        describe, fault_of, touch_by_this_thread, Uffd, CONTINUE, MINOR, MISSING, WP, WRITEPROTECT,
    },
};
use linux_raw_sys::general::*;
use std::os::fd::AsRawFd;

/// What the faults are about: an area that is registered, and how it is made ready.
pub struct Fixture {
    pub uffd: Uffd,
    pub area: Area,
    pub source: Area,
    pub names: Names,
    pub mode: u64,
    /// Another mapping of the same file, by which pages get there.
    alias: Option<Area>,
}

impl Fixture {
    pub fn new(kind: &'static str, mode: u64, features: u64, flags: i32) -> Self {
        Self::of(kind_of(kind).area(0), mode, features, flags)
    }

    /// Registers an area, which can be executed after this.
    pub fn of(area: Area, mode: u64, features: u64, flags: i32) -> Self {
        area.mprotect(RW | libc::PROT_EXEC);
        let alias = (mode & MINOR != 0).then(|| area.alias(2));
        let source = Area::anon(1, area.page / PAGE);
        let names = Names::new(&[("area", &area)]);
        let fixture = Self {
            uffd: Uffd::with(libc::O_CLOEXEC | libc::O_NONBLOCK | flags, features),
            area,
            source,
            names,
            mode,
            alias,
        };
        fill(fixture.source.start, fixture.source.len);
        fixture
            .uffd
            .must_register(fixture.area.start, fixture.area.len, mode);
        fixture
    }

    /// Puts the area into the state in which its first pages fault as the mode says.
    pub fn reset(&self, populated: bool) {
        let (start, len) = (self.area.start, 4 * self.area.page.min(self.area.len / 4));
        self.uffd.range(&WRITEPROTECT, start, self.area.len, 0);
        self.area.madvise(libc::MADV_DONTNEED);
        if let (Some(file), None) = (&self.area.file, &self.alias) {
            let answer = punch_hole(file.as_raw_fd(), self.area.len);
            assert_eq!(answer, Answer(Ok(0)), "the file cannot be emptied");
        }
        if let Some(alias) = &self.alias {
            // What was written before is of no interest.
            alias.madvise(libc::MADV_REMOVE);
            fill(alias.start, len);
            alias.madvise(libc::MADV_DONTNEED);
        } else if populated {
            for page in 0..4 {
                self.uffd
                    .copy(self.area.at(page), self.source.start, self.area.page, 0);
            }
            fill_if_absent(&self.area);
        }
        if self.mode & WP != 0 {
            self.uffd.range(&WRITEPROTECT, start, self.area.len, 1);
        }
    }

    /// Resolves the fault that a message is about.
    fn resolve(&self, message: &uffd_msg) {
        let Some(fault) = fault_of(message) else {
            return;
        };
        let page = fault.address & !(self.area.page - 1);
        if fault.flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 {
            self.uffd.range(&CONTINUE, page, self.area.page, 0);
        } else if fault.flags & UFFD_PAGEFAULT_FLAG_WP != 0 {
            self.uffd.range(&WRITEPROTECT, page, self.area.page, 0);
        } else {
            self.uffd.copy(page, self.source.start, self.area.page, 0);
        }
    }

    /// Has a thread touch the area, and writes down the messages and how it ended.
    pub fn ask(&self, access: &Access) -> String {
        // Between two pages, so that those which go across touch both.
        self.ask_at(access, self.area.start + self.area.page)
    }

    /// The same at the beginning of a page.
    pub fn ask_at(&self, access: &Access, page: usize) -> String {
        let address = page.wrapping_add_signed(access.offset);
        let (run, names) = (access.run, self.names.clone());
        let task = Task::new(move || {
            touch_by_this_thread();
            run(address, &names)
        });
        let mut text = String::new();
        for _ in 0..16 {
            match first_ready(&[self.uffd.fd(), task.fd()], 10_000) {
                Some(0) => match self.uffd.read() {
                    Ok(message) => {
                        text.push_str(&format!("{}, ", describe(&message, &self.names)));
                        self.resolve(&message);
                    }
                    Err(answer) => text.push_str(&format!("read {answer}, ")),
                },
                Some(_) => {
                    let answer = task.join();
                    return format!(
                        "{text}{answer}; {} {}",
                        pagemap(page - self.area.page),
                        pagemap(page)
                    );
                }
                None => break,
            }
        }
        panic!("{} is stuck after {text}", access.name);
    }

    /// Resolves whatever comes until a thread has ended.
    pub fn resolve_all<T>(&self, thread: &std::thread::JoinHandle<T>) {
        while !thread.is_finished() {
            self.uffd.poll(5);
            if let Ok(message) = self.uffd.read() {
                self.resolve(&message);
            }
        }
    }
}

/// Writes the first pages of an area that is not registered for missing pages.
fn fill_if_absent(area: &Area) {
    for page in 0..4.min(area.pages()) {
        if !pagemap(area.at(page)).contains('P') {
            fill(area.at(page), PAGE);
        }
    }
}

/// Whether what the mode asks for is there at the beginning.
#[derive(Copy, Clone)]
pub struct Setup {
    pub kind: &'static str,
    pub mode: u64,
    pub populated: bool,
}

pub const fn setup(kind: &'static str, mode: u64, populated: bool) -> Setup {
    Setup {
        kind,
        mode,
        populated,
    }
}

pub const SETUPS: &[Setup] = &[
    setup("anon", MISSING, false),
    setup("anon", WP, true),
    setup("anon", WP, false),
    setup("anon", MISSING | WP, false),
    setup("shmem", MISSING, false),
    setup("shmem", WP, true),
    setup("shmem", WP, false),
    setup("shmem", MINOR, true),
    setup("shmem", MISSING | MINOR, true),
    setup("shmem-private", MISSING, false),
    setup("shmem-private", WP, true),
    setup("hugetlb", MISSING, false),
    setup("hugetlb", WP, true),
    setup("hugetlb-memfd", MINOR, true),
    setup("hugetlb-memfd", MISSING | WP, false),
];

pub const FEATURES: &[(&str, u32)] = &[
    ("none", 0),
    ("sigbus", UFFD_FEATURE_SIGBUS),
    ("thread_id", UFFD_FEATURE_THREAD_ID),
    ("exact_address", UFFD_FEATURE_EXACT_ADDRESS),
    ("wp_unpopulated", UFFD_FEATURE_WP_UNPOPULATED),
    ("wp_async", UFFD_FEATURE_WP_ASYNC),
];

/// With the features that have little to do with how memory is touched, these are enough.
pub const FEW: usize = 9;

pub fn ask_setup(log: &mut Transcript, setup: Setup, features: u32, user_only: bool) {
    catch_signals();
    let flags = if user_only {
        drop_ptrace();
        UFFD_USER_MODE_ONLY as i32
    } else {
        0
    };
    let fixture = Fixture::new(setup.kind, setup.mode, features.into(), flags);
    let few = match features {
        0 => false,
        UFFD_FEATURE_SIGBUS => setup.kind != "anon" || user_only,
        UFFD_FEATURE_THREAD_ID
        | UFFD_FEATURE_EXACT_ADDRESS
        | UFFD_FEATURE_WP_UNPOPULATED
        | UFFD_FEATURE_WP_ASYNC => !matches!(setup.kind, "anon" | "shmem") || user_only,
        _ => true,
    };
    for access in &ACCESSES[..if few { FEW } else { ACCESSES.len() }] {
        fixture.reset(setup.populated);
        log.record(access.name, fixture.ask(access));
    }
}
