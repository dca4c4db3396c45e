// SPDX-License-Identifier: GPL-2.0

//! What the programs that run in guests share: mappings, and child processes.
//!
//! There is no userfaultfd here, because each program needs another wrapper of it: the conformance
//! suite needs raw errnos and raw arguments, the benchmark needs ioctls with nothing around them,
//! and the programs use the public crate `userfaultfd` because real programs do.

mod child;
mod mmap;

pub use child::{end_with, first_ready, Child};
pub use mmap::{memfd, Mmap, RW};

/// The size of a page, in bytes.
pub const PAGE: usize = 4096;
