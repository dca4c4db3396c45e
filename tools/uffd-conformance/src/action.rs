// SPDX-License-Identifier: GPL-2.0

//! Runs what changes mappings or processes, and serves the messages about it.

use crate::{
    memory::{kind_of, pagemap, vm_flags, Area, Names},
    process::eventfd,
    sys::{outcome, Answer, PAGE},
    uffd::{describe, Uffd, CONTINUE, MINOR, MISSING, WRITEPROTECT, ZEROPAGE},
};
use linux_raw_sys::general::*;
use std::{
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Where things are moved to.
pub const ELSEWHERE: usize = 1 << 31;

/// Where mremap() has moved something to, which may be anywhere, and how long that is.
static MOVED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// What an action is about.
#[derive(Clone)]
pub struct Place {
    pub start: usize,
    pub len: usize,
    pub page: usize,
    pub file: RawFd,
    pub names: Names,
}

impl Place {
    pub fn at(&self, page: usize) -> *mut libc::c_void {
        (self.start + page * self.page) as _
    }

    pub fn last(&self) -> usize {
        self.len / self.page - 1
    }
}

/// Something that changes mappings or processes.
pub struct Action {
    pub name: &'static str,
    run: fn(&Place) -> String,
}

pub const fn action(name: &'static str, run: fn(&Place) -> String) -> Action {
    Action { name, run }
}

/// mremap(), whose result is an address.
pub fn remap(place: &Place, from: usize, old: usize, new: usize, flags: i32, to: usize) -> String {
    let (old, new) = (old * place.page, new * place.page);
    // SAFETY: All ranges are memory of the tests, or not mapped.
    let address = unsafe { libc::mremap(place.at(from), old, new, flags, to) };
    if address == libc::MAP_FAILED {
        return Answer::of_address(address).to_string();
    }
    MOVED[0].store(address as usize, Ordering::Relaxed);
    MOVED[1].store(new, Ordering::Relaxed);
    place.names.name(address as u64)
}

pub fn advise(place: &Place, from: usize, pages: usize, advice: i32) -> String {
    // SAFETY: The range is memory of the tests, or not mapped.
    outcome(unsafe { libc::madvise(place.at(from), pages * place.page, advice) })
}

/// A message, and what was done about it.
struct Seen {
    /// Whether it is of a child.
    child: bool,
    message: uffd_msg,
    resolved: String,
}

impl Seen {
    fn text(&self, names: &Names) -> String {
        let who = if self.child { "child: " } else { "" };
        format!("{who}{}{}", describe(&self.message, names), self.resolved)
    }
}

/// What messages are resolved with.
struct Scene {
    source: Area,
    page: usize,
}

/// Reads what there is, resolves faults, and takes the descriptors of children.
fn serve(uffds: &mut Vec<Uffd>, index: usize, scene: &Scene) -> Option<Seen> {
    let message = uffds[index].read().ok()?;
    let mut resolved = String::new();
    // SAFETY: The event says which part of the union counts.
    unsafe {
        match u32::from(message.event) {
            UFFD_EVENT_FORK => {
                uffds.push(Uffd(OwnedFd::from_raw_fd(message.arg.fork.ufd as RawFd)));
            }
            UFFD_EVENT_PAGEFAULT => {
                let page = message.arg.pagefault.address as usize & !(scene.page - 1);
                let flags = message.arg.pagefault.flags as u32;
                let called = if flags & UFFD_PAGEFAULT_FLAG_WP != 0 {
                    uffds[index].range(&WRITEPROTECT, page, scene.page, 0)
                } else if flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 {
                    uffds[index].range(&CONTINUE, page, scene.page, 0)
                } else if scene.page == PAGE {
                    uffds[index].range(&ZEROPAGE, page, scene.page, 0)
                } else {
                    uffds[index].copy(page, scene.source.start, scene.page, 0)
                };
                resolved = format!(" resolved {called}");
            }
            _ => {}
        }
    }
    Some(Seen {
        child: index != 0,
        message,
        resolved,
    })
}

/// Runs an action in a thread, and serves the messages until it has ended. Returns what it told,
/// and the messages.
fn run_and_serve(
    action: &Action,
    place: &Place,
    uffds: &mut Vec<Uffd>,
    scene: &Scene,
) -> (String, Vec<Seen>) {
    let done = eventfd();
    let (done_fd, run, its) = (done.as_raw_fd(), action.run, place.clone());
    let thread = std::thread::spawn(move || {
        let answer = run(&its);
        let one = 1u64.to_ne_bytes();
        // SAFETY: The descriptor is open until this thread is joined.
        unsafe { libc::write(done_fd, one.as_ptr().cast(), 8) };
        answer
    });
    let mut messages = Vec::new();
    loop {
        let mut fds: Vec<libc::pollfd> = uffds
            .iter()
            .map(Uffd::fd)
            .chain([done_fd])
            .map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            })
            .collect();
        // SAFETY: The array is as long as is said.
        let count = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as u64, 10_000) };
        assert_ne!(
            count,
            0,
            "{} is stuck after {} messages",
            action.name,
            messages.len()
        );
        let ready = (0..uffds.len()).find(|index| fds[*index].revents != 0);
        match ready {
            Some(index) => messages.extend(serve(uffds, index, scene)),
            None => break,
        }
        assert!(messages.len() < 64, "{}: too many messages", action.name);
    }
    (thread.join().expect("no panic"), messages)
}

/// Which part of an area is registered.
#[derive(Copy, Clone, PartialEq)]
pub enum Part {
    All,
    First,
    Second,
}

impl Part {
    fn of(self, area: &Area) -> (usize, usize) {
        let half = area.len / 2;
        match self {
            Self::All => (area.start, area.len),
            Self::First => (area.start, half),
            Self::Second => (area.start + half, half),
        }
    }
}

/// Has the first pages of an area be as the mode wants them. Returns the mapping by which minor
/// faults have something to find.
fn prepare(uffd: &Uffd, area: &Area, source: &Area, mode: u64) -> Option<Area> {
    let first = 2 * area.page;
    if mode & MISSING != 0 {
        uffd.copy(area.start, source.start, area.page, 0);
        uffd.copy(area.at(1), source.start, area.page, 0);
    } else if mode & MINOR != 0 {
        let alias = area.alias(2);
        alias.write();
        uffd.range(&CONTINUE, area.start, first, 0);
        return Some(alias);
    } else {
        area.write();
        uffd.range(&WRITEPROTECT, area.start, first, 1);
    }
    None
}

/// Runs an action on an area that is registered, and says what came of it.
pub fn ask_action(action: &Action, kind: &'static str, mode: u64, features: u64) -> String {
    ask_action_on(Part::All, action, kind, mode, features)
}

pub fn ask_action_on(
    part: Part,
    action: &Action,
    kind: &'static str,
    mode: u64,
    features: u64,
) -> String {
    let area = Area::basic(kind_of(kind), 0);
    let source = Area::anon(1, area.page / PAGE);
    let mut names = Names::new(&[("area", &area)]);
    names.add("elsewhere", area.start + ELSEWHERE, area.len);
    if part != Part::All {
        area.write();
    }
    let mut uffds = vec![Uffd::new(features)];
    let (start, len) = part.of(&area);
    let called = uffds[0].register(start, len, mode);
    assert!(called.answer.is_ok(), "cannot register: {called}");
    let _alias = prepare(&uffds[0], &area, &source, mode);
    let place = Place {
        start: area.start,
        len: area.len,
        page: area.page,
        file: area.file.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        names: names.clone(),
    };
    let scene = Scene {
        source,
        page: area.page,
    };
    let (answer, messages) = run_and_serve(action, &place, &mut uffds, &scene);
    let [moved, moved_len] = [0, 1].map(|index| MOVED[index].load(Ordering::Relaxed));
    if names.name(moved as u64) == "somewhere" {
        names.add("moved", moved, moved_len);
    }
    let messages: Vec<String> = messages.iter().map(|seen| seen.text(&names)).collect();
    let flags: Vec<String> = [area.start, area.at(1), area.at(area.pages() - 1)]
        .iter()
        .chain([&(area.start + ELSEWHERE)])
        .map(|address| vm_flags(*address, &place.names))
        .collect();
    let pages: Vec<String> = (0..4)
        .map(|page| area.start + page * area.page)
        .chain([area.start + ELSEWHERE])
        .map(pagemap)
        .collect();
    // After it, pages can be filled again, unless they are gone.
    let called = uffds[0].copy(area.at(2), scene.source.start, area.page, 0);
    format!(
        "{answer} [{}] flags {} pages {} copy {called}",
        messages.join(", "),
        flags.join(", "),
        pages.join(" ")
    )
}

pub const FEATURES: &[(&str, u32)] = &[
    ("none", 0),
    ("fork", UFFD_FEATURE_EVENT_FORK),
    ("remap", UFFD_FEATURE_EVENT_REMAP),
    ("remove", UFFD_FEATURE_EVENT_REMOVE),
    ("unmap", UFFD_FEATURE_EVENT_UNMAP),
    (
        "all",
        UFFD_FEATURE_EVENT_FORK
            | UFFD_FEATURE_EVENT_REMAP
            | UFFD_FEATURE_EVENT_REMOVE
            | UFFD_FEATURE_EVENT_UNMAP,
    ),
    (
        "all,thread_id",
        UFFD_FEATURE_EVENT_FORK
            | UFFD_FEATURE_EVENT_REMAP
            | UFFD_FEATURE_EVENT_REMOVE
            | UFFD_FEATURE_EVENT_UNMAP
            | UFFD_FEATURE_THREAD_ID,
    ),
    (
        "all,sigbus",
        UFFD_FEATURE_EVENT_FORK
            | UFFD_FEATURE_EVENT_REMAP
            | UFFD_FEATURE_EVENT_REMOVE
            | UFFD_FEATURE_EVENT_UNMAP
            | UFFD_FEATURE_SIGBUS,
    ),
];
