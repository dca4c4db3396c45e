// SPDX-License-Identifier: GPL-2.0

//! An area that is registered, and threads that touch it.

use crate::{
    book::Book,
    memory::{kind_of, pagemap, Area, Names},
    process::{drop_ptrace, eventfd},
    sys::{Answer, PAGE},
    touch::{catch_signals, fill, Access, ACCESSES},
    uffd::{describe, touch_by_this_thread, Uffd, CONTINUE, MINOR, MISSING, WP, WRITEPROTECT},
};
use linux_raw_sys::general::*;
use std::os::fd::AsRawFd;

/// What the faults are about: an area that is registered, and how it is made ready.
pub struct Scene {
    pub uffd: Uffd,
    pub area: Area,
    pub source: Area,
    pub names: Names,
    pub mode: u64,
    /// Another mapping of the same file, by which pages get there.
    alias: Option<Area>,
}

impl Scene {
    pub fn new(kind: &'static str, mode: u64, features: u64, flags: i32) -> Self {
        Self::of(Area::basic(kind_of(kind), 0), mode, features, flags)
    }

    /// Registers an area, which can be executed after this.
    pub fn of(area: Area, mode: u64, features: u64, flags: i32) -> Self {
        // SAFETY: The area is memory of the tests.
        unsafe {
            let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
            libc::mprotect(area.pointer(), area.len, all);
        }
        let alias = (mode & MINOR != 0).then(|| area.alias(2));
        let source = Area::anon(1, area.page / PAGE);
        let names = Names::new(&[("area", &area)]);
        let scene = Self {
            uffd: Uffd::with(libc::O_CLOEXEC | libc::O_NONBLOCK | flags, features),
            area,
            source,
            names,
            mode,
            alias,
        };
        fill(scene.source.start, scene.source.len);
        let called = scene.uffd.register(scene.area.start, scene.area.len, mode);
        assert!(called.answer.is_ok(), "cannot register: {called}");
        scene
    }

    /// Puts the area into the state in which its first pages fault as the mode says.
    pub fn reset(&self, populated: bool) {
        let (start, len) = (self.area.start, 4 * self.area.page.min(self.area.len / 4));
        self.uffd.range(&WRITEPROTECT, start, self.area.len, 0);
        self.area.madvise(libc::MADV_DONTNEED);
        if let (Some(file), None) = (&self.area.file, &self.alias) {
            // SAFETY: No pointers are involved.
            let answer = Answer::of(unsafe {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                libc::fallocate(file.as_raw_fd(), mode, 0, self.area.len as i64)
            });
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

    /// Resolves what a message is about.
    fn resolve(&self, message: &uffd_msg) {
        // SAFETY: The event is a fault, or the address is nonsense that an ioctl refuses.
        let (flags, address) = unsafe {
            (
                message.arg.pagefault.flags as u32,
                message.arg.pagefault.address as usize,
            )
        };
        let page = address & !(self.area.page - 1);
        if flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 {
            self.uffd.range(&CONTINUE, page, self.area.page, 0);
        } else if flags & UFFD_PAGEFAULT_FLAG_WP != 0 {
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
        let done = eventfd();
        let (done_fd, run, names) = (done.as_raw_fd(), access.run, self.names.clone());
        let thread = std::thread::spawn(move || {
            touch_by_this_thread();
            let answer = run(address, &names);
            let one = 1u64.to_ne_bytes();
            // SAFETY: The descriptor is open until this thread is joined.
            unsafe { libc::write(done_fd, one.as_ptr().cast(), 8) };
            answer
        });
        let mut text = String::new();
        for _ in 0..16 {
            match first_ready(self.uffd.fd(), done_fd) {
                Ready::Message => match self.uffd.read() {
                    Ok(message) => {
                        text.push_str(&format!("{}, ", describe(&message, &self.names)));
                        self.resolve(&message);
                    }
                    Err(answer) => text.push_str(&format!("read {answer}, ")),
                },
                Ready::Done => {
                    let answer = thread.join().expect("the thread does not panic");
                    return format!(
                        "{text}{answer}; {} {}",
                        pagemap(page - self.area.page),
                        pagemap(page)
                    );
                }
                Ready::Nothing => break,
            }
        }
        panic!("{} is stuck after {text}", access.name);
    }
}

impl Scene {
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

/// What happened first.
enum Ready {
    Message,
    Done,
    Nothing,
}

fn first_ready(uffd: i32, done: i32) -> Ready {
    let mut fds = [uffd, done].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: There are two entries.
    unsafe { libc::poll(fds.as_mut_ptr(), 2, 10_000) };
    match fds.map(|fd| fd.revents) {
        [0, 0] => Ready::Nothing,
        [0, _] => Ready::Done,
        _ => Ready::Message,
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

pub fn ask_setup(book: &mut Book, setup: Setup, features: u32, user_only: bool) {
    catch_signals();
    let flags = if user_only {
        drop_ptrace();
        UFFD_USER_MODE_ONLY as i32
    } else {
        0
    };
    let scene = Scene::new(setup.kind, setup.mode, features.into(), flags);
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
        scene.reset(setup.populated);
        book.ask(access.name, scene.ask(access));
    }
}
