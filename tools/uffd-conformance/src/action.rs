// SPDX-License-Identifier: GPL-2.0

//! Runs what changes mappings or processes, and serves the messages about it.

use crate::{
    inspect::{pagemap, vm_flags},
    kinds::kind_of,
    memory::{madvise, mremap, Area, Names},
    poll::first_ready,
    process::Task,
    sys::PAGE,
    uffd::{
        child_of, describe, fault_of, Uffd, ALL_EVENTS, CONTINUE, MINOR, MISSING, WRITEPROTECT,
        ZEROPAGE,
    },
};
use linux_raw_sys::general::*;
use std::{
    os::fd::{AsRawFd, RawFd},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Where things are moved to.
pub const ELSEWHERE: usize = 1 << 31;

/// Where mremap() has moved something to, and how long that is.
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
    pub fn at(&self, page: usize) -> usize {
        self.start + page * self.page
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
    match mremap(place.at(from), old, new, flags, to) {
        Ok(address) => {
            MOVED[0].store(address, Ordering::Relaxed);
            MOVED[1].store(new, Ordering::Relaxed);
            place.names.name(address as u64)
        }
        Err(answer) => answer.to_string(),
    }
}

/// Moves some of the first pages to a place.
pub fn move_elsewhere(place: &Place, from: usize, old: usize, new: usize, flags: i32) -> String {
    let flags = flags | libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    remap(place, from, old, new, flags, place.start + ELSEWHERE)
}

pub fn advise(place: &Place, from: usize, pages: usize, advice: i32) -> String {
    madvise(place.at(from), pages * place.page, advice).to_string()
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

/// Reads the messages of a process and of its children, and resolves their faults.
struct Monitor {
    /// The descriptor of the process, and then those of its children.
    uffds: Vec<Uffd>,
    /// A page to copy, for pages of a size of which there is none of zeros.
    source: Area,
    page: usize,
}

impl Monitor {
    /// Reads a message, resolves a fault, and takes the descriptor of a child.
    fn serve(&mut self, index: usize) -> Option<Seen> {
        let uffd = &self.uffds[index];
        let message = uffd.read().ok()?;
        let mut resolved = String::new();
        if let Some(fault) = fault_of(&message) {
            let page = fault.address & !(self.page - 1);
            let called = match fault.flags {
                flags if flags & UFFD_PAGEFAULT_FLAG_WP != 0 => {
                    uffd.range(&WRITEPROTECT, page, self.page, 0)
                }
                flags if flags & UFFD_PAGEFAULT_FLAG_MINOR != 0 => {
                    uffd.range(&CONTINUE, page, self.page, 0)
                }
                _ if self.page == PAGE => uffd.range(&ZEROPAGE, page, self.page, 0),
                _ => uffd.copy(page, self.source.start, self.page, 0),
            };
            resolved = format!(" resolved {called}");
        }
        self.uffds.extend(child_of(&message));
        Some(Seen {
            child: index != 0,
            message,
            resolved,
        })
    }

    /// Runs an action in a thread, and serves the messages until it has ended. Returns the answer
    /// of the action, and the messages.
    fn watch(&mut self, action: &Action, place: &Place) -> (String, Vec<Seen>) {
        let (run, its) = (action.run, place.clone());
        let task = Task::new(move || run(&its));
        let mut messages = Vec::new();
        loop {
            let fds: Vec<RawFd> = self.uffds.iter().map(Uffd::fd).chain([task.fd()]).collect();
            match first_ready(&fds, 10_000) {
                Some(index) if index < self.uffds.len() => messages.extend(self.serve(index)),
                Some(_) => break,
                None => panic!("{} is stuck after {} messages", action.name, messages.len()),
            }
            assert!(messages.len() < 64, "{}: too many messages", action.name);
        }
        (task.join(), messages)
    }
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
    let area = kind_of(kind).area(0);
    let source = Area::anon(1, area.page / PAGE);
    let mut names = Names::new(&[("area", &area)]);
    names.add("elsewhere", area.start + ELSEWHERE, area.len);
    if part != Part::All {
        area.write();
    }
    let uffd = Uffd::new(features);
    let (start, len) = part.of(&area);
    uffd.must_register(start, len, mode);
    let _alias = prepare(&uffd, &area, &source, mode);
    let place = Place {
        start: area.start,
        len: area.len,
        page: area.page,
        file: area.file.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        names: names.clone(),
    };
    let mut monitor = Monitor {
        uffds: vec![uffd],
        source,
        page: area.page,
    };
    let (answer, messages) = monitor.watch(action, &place);
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
    let called = monitor.uffds[0].copy(area.at(2), monitor.source.start, area.page, 0);
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
    ("all", ALL_EVENTS),
    ("all,thread_id", ALL_EVENTS | UFFD_FEATURE_THREAD_ID),
    ("all,sigbus", ALL_EVENTS | UFFD_FEATURE_SIGBUS),
];
