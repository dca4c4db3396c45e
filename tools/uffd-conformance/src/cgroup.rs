// SPDX-License-Identifier: GPL-2.0

//! Cgroups with limits.

use crate::{
    process::clone,
    sys::{write_file, Answer, PAGE},
};
use std::io::Write;

const CGROUPS: &str = "/sys/fs/cgroup";

/// A cgroup, which is removed when this is dropped.
pub struct Cgroup(String);

impl Cgroup {
    /// One with limits, each of which has the name of its file and a value.
    pub fn new(controller: &str, limits: &[(&str, &str)]) -> Self {
        let enabled = write_file(
            &format!("{CGROUPS}/cgroup.subtree_control"),
            &format!("+{controller}"),
        );
        assert!(enabled.is_ok(), "no cgroups with {controller}: {enabled}");
        let path = format!("{CGROUPS}/uffd-conformance");
        std::fs::create_dir(&path).expect("a cgroup can be made");
        for (name, value) in limits {
            let answer = write_file(&format!("{path}/{name}"), value);
            assert!(answer.is_ok(), "cannot set {name}: {answer}");
        }
        Self(path)
    }

    /// One with a limit on memory.
    pub fn of_memory(max: &str, swap: &str) -> Self {
        Self::new("memory", &[("memory.max", max), ("memory.swap.max", swap)])
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.0)
    }

    fn set(&self, name: &str, value: &str) {
        let answer = write_file(&self.file(name), value);
        assert!(answer.is_ok(), "cannot set {name}: {answer}");
    }

    /// What is charged to it, in pages.
    pub fn charged(&self) -> usize {
        // A processor keeps room for later. It gives that back if there is too much.
        self.set("memory.high", "0");
        self.set("memory.high", "max");
        let text = std::fs::read_to_string(self.file("memory.current"));
        let text = text.expect("it is accounted for");
        text.trim().parse::<usize>().expect("it is a number") / PAGE
    }

    /// Makes a call while the cgroup has room for so many pages and no more.
    pub fn with_room<T>(&self, pages: usize, call: impl FnOnce() -> T) -> T {
        let max = (self.charged() + pages) * PAGE;
        self.set("memory.max", &max.to_string());
        let result = call();
        self.set("memory.max", "max");
        result
    }

    /// Moves this process into it.
    pub fn enter(&self) {
        let answer = write_file(&self.file("cgroup.procs"), "0");
        assert!(answer.is_ok(), "cannot enter: {answer}");
    }

    /// Moves this process into it, and forks. The limit on memory is gone after that.
    pub fn fork_within(&self) -> Answer {
        let max = std::fs::File::options()
            .write(true)
            .open(self.file("memory.max"))
            .expect("there is a limit");
        self.enter();
        // Until the limit is gone nothing is touched that needs memory. A fork that should have
        // failed is seen by its answer.
        let answer = clone(0, || 0);
        let written = (&max).write(b"max");
        assert_eq!(written.expect("the limit can be set"), 3);
        answer
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The memory of processes that were killed may not be free yet.
        for _ in 0..1000 {
            if std::fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        panic!("the cgroup cannot be removed");
    }
}
