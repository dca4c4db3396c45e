// SPDX-License-Identifier: GPL-2.0

//! Threads, locks and atomics: those of loom, or real ones.

#[cfg(feature = "loom")]
mod loom;
#[cfg(not(feature = "loom"))]
mod real;

#[cfg(feature = "loom")]
pub(crate) use self::loom::*;
#[cfg(not(feature = "loom"))]
pub(crate) use self::real::*;
