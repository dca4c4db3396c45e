// SPDX-License-Identifier: GPL-2.0

//! Events: forks, moves and removals of memory, for a monitor that manages another process.
//!
//! The thread that causes an event waits until a reader has it. No pages can be filled meanwhile,
//! because the monitor does not know the layout of the address space until it has read the event. A
//! fork, a move and an unmapping are done when they are reported, so pages can be filled again as
//! soon as a reader has the message. A removal of pages is reported before it is done, so none can
//! be filled until it is over, because they would be removed as well. `MADV_REMOVE` is an
//! exception: there they can be filled earlier.

use core::ops::Range;
use kernel::{
    prelude::*,
    sync::aref::ARef,
    uapi,
    userfaultfd::{
        event_list::{EventList, PendingUnmap},
        message::Message,
        vma::{Vma, VmaMut},
        waitset::Event,
        MmapChanging,
    },
};

/// Marks the context of a VMA as changing if its monitor asked for the events of `feature`.
fn mark_changing(vma: &Vma<'_>, feature: u32) -> Option<MmapChanging> {
    let context = vma.context().filter(|context| context.has(feature))?;
    Some(MmapChanging::new(ARef::from(context)))
}

/// Prepares a VMA that was moved: it stays registered only if the monitor asked for moves.
pub(crate) fn remap(mut vma: VmaMut<'_>) -> Option<MmapChanging> {
    let changing = mark_changing(&vma, uapi::UFFD_FEATURE_EVENT_REMAP);
    if changing.is_none() && vma.context().is_some() {
        vma.reset();
    }
    changing
}

/// Tells the monitor about a move of `len` bytes.
pub(crate) fn remap_complete(changing: MmapChanging, from: usize, to: usize, len: usize) {
    let message = Message::Remap {
        from: from as u64,
        to: to as u64,
        len: len as u64,
    };
    Event::changed(changing, message);
}

/// Prepares a removal of pages.
pub(crate) fn remove(vma: Vma<'_>) -> Option<MmapChanging> {
    mark_changing(&vma, uapi::UFFD_FEATURE_EVENT_REMOVE)
}

/// Tells the monitor about pages that are going to be removed.
pub(crate) fn removing(changing: MmapChanging, range: Range<usize>) -> MmapChanging {
    let message = Message::Remove {
        start: range.start as u64,
        end: range.end as u64,
    };
    Event::removing(changing, message)
}

/// Notes that a range is going to be unmapped, if the monitor asked for that. A range that spans
/// several VMAs of a context is noted once.
///
/// # Errors
///
/// `ENOMEM`
pub(crate) fn unmap(
    vma: Vma<'_>,
    range: Range<usize>,
    unmaps: &mut EventList<'_, PendingUnmap>,
) -> Result {
    let Some(context) = vma.context() else {
        return Ok(());
    };
    let is_known = unmaps
        .iter()
        .any(|unmap| core::ptr::eq(&**unmap.changing.context(), context) && unmap.range == range);
    if is_known {
        return Ok(());
    }
    match mark_changing(&vma, uapi::UFFD_FEATURE_EVENT_UNMAP) {
        Some(changing) => unmaps.push(PendingUnmap { changing, range }),
        None => Ok(()),
    }
}

/// Tells the monitor about a range that was unmapped.
pub(crate) fn unmap_complete(unmap: PendingUnmap) {
    let message = Message::Unmap {
        start: unmap.range.start as u64,
        end: unmap.range.end as u64,
    };
    Event::changed(unmap.changing, message);
}
