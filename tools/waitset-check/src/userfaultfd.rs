// SPDX-License-Identifier: GPL-2.0

//! The wait set, and stand-ins for its neighbours.

pub(crate) mod fault;
pub(crate) mod message;
pub(crate) mod waitset;

mod context;

pub(crate) use context::{Context, ContextOwner, MmapChanging};
pub(crate) use fault::FaultOutcome;
