// SPDX-License-Identifier: GPL-2.0

//! An area that is registered, and the threads that fault in it and read about it.

use crate::{
    memory::{Area, Names},
    process::{fork_with, set_priority, sleeping_thread},
    sys::PAGE,
    touch::load,
    uffd::{read_one, Uffd, MISSING},
};
use std::thread::JoinHandle;

/// An area that is registered for missing pages.
pub struct Watched {
    pub uffd: Uffd,
    pub area: Area,
    pub source: Area,
    pub names: Names,
}

impl Watched {
    pub fn new(flags: i32, features: u32, pages: usize) -> Self {
        let area = Area::anon(0, pages);
        let watched = Self {
            uffd: Uffd::with(libc::O_CLOEXEC | flags, features.into()),
            names: Names::new(&[("area", &area)]),
            area,
            source: Area::anon(1, 1),
        };
        let (start, len) = (watched.area.start, watched.area.len);
        watched.uffd.must_register(start, len, MISSING);
        watched
    }

    /// Starts a thread that loads from a page.
    pub fn load(&self, page: usize) -> JoinHandle<String> {
        let (address, names) = (self.area.at(page), self.names.clone());
        std::thread::spawn(move || load(address, &names))
    }

    /// Starts a thread with a priority that waits for a message.
    pub fn reader(&self, priority: i32) -> JoinHandle<String> {
        let (fd, names) = (self.uffd.fd(), self.names.clone());
        sleeping_thread(move || {
            set_priority(priority);
            read_one(fd, &names)
        })
    }

    /// Fills a page.
    pub fn fill(&self, page: usize) -> String {
        let (dst, src) = (self.area.at(page), self.source.start);
        self.uffd.copy(dst, src, PAGE, 0).to_string()
    }

    /// Reads a message, if there is one, and closes the descriptor that comes with it.
    pub fn next(&self) -> String {
        self.uffd.next(&self.names)
    }

    /// Starts a thread that forks, and waits until its event is there.
    pub fn fork(&self) -> JoinHandle<String> {
        let forker = std::thread::spawn(|| fork_with(0, || 0));
        assert_ne!(self.uffd.poll(10_000), 0, "there is no event");
        forker
    }
}
