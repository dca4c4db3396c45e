// SPDX-License-Identifier: GPL-2.0

//! Unit tests of the kernel code that is pure logic, on the host.
//!
//! The files are those of the kernel. In a kernel their tests are KUnit tests; here the crate
//! `kernel` is a stand-in that has just what they need, and their tests are ordinary ones. Runs of page
//! table entries, folios, and moves are tested here only, with a model of the tables.

#![cfg(test)]
#![allow(dead_code)]

#[path = "../../../fs/userfaultfd/features.rs"]
mod features;
#[path = "../../../fs/userfaultfd/fill.rs"]
mod fill;
#[path = "../../../fs/userfaultfd/fill_huge.rs"]
mod fill_huge;
#[path = "../../../fs/userfaultfd/relocate.rs"]
mod relocate;

// The files of the kernel crate itself expect these in their crate.
#[cfg(rbtree)]
use kernel::bindings;
use kernel::{
    page, prelude, uapi,
    userfaultfd::{abi, context},
};

#[cfg(rbtree)]
#[path = "../../../rust/kernel/userfaultfd/waitset/index.rs"]
mod index;
#[path = "../../../rust/kernel/userfaultfd/message.rs"]
mod message;
#[path = "../../../rust/kernel/userfaultfd/waitset/queue.rs"]
mod queue;
#[path = "../../../rust/kernel/userfaultfd/range.rs"]
mod range;

mod added;
mod cached;
mod folios;
mod huge;
mod huge_moves;
mod moves;
mod space;
mod thp;
mod vacant_runs;
