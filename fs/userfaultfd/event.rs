// SPDX-License-Identifier: GPL-2.0

//! Events: forks, moves and removals of memory, for a monitor that manages another process.
//!
//! The thread that causes an event waits until it was read. Meanwhile no pages can be filled,
//! because the monitor does not know the layout of the address space until it has read the event.
//! A fork, a move and an unmapping are done when they are reported, so pages can be filled again as
//! soon as a reader has the message. A removal of pages is reported before it is done: pages that
//! were filled before it is over would be removed again, so none can be.

use crate::{context::Context, fault, message::Message};
use core::ops::Range;
use kernel::{
    alloc::kmem_cache::StaticKmemCache,
    built_in, c_str, declare_userfaultfd,
    fs::anon_inode::HasBoundFile,
    prelude::*,
    sync::aref::ARef,
    task, uapi,
    userfaultfd::{
        header,
        pending::{Entry, Note, Pending},
        vma::{self, Vma, VmaMut},
        waitset::{self, EventOutcome},
        Fault, FaultOutcome, MmapChanging, Operations,
    },
};

/// An event that waits to be read.
pub(crate) struct Event {
    /// Keeps pages from being filled.
    changing: MmapChanging<Context>,
    kind: EventKind,
}

/// What happened.
pub(crate) enum EventKind {
    /// The process was duplicated. The context manages the new one, and becomes a descriptor of
    /// whoever reads this.
    Fork(ARef<Context>),
    /// The mappings changed. The message is read as it is.
    Changed(Message),
    /// Pages are going to be removed when the message was read.
    Removing(Message),
}

impl Event {
    /// Returns what happened.
    pub(crate) fn kind(&self) -> &EventKind {
        &self.kind
    }

    /// Tells the monitor and waits until it knows.
    fn tell(&self) -> EventOutcome {
        // Nothing would interrupt the wait of a task on its way out. One gets here when the kernel
        // unmaps its shadow stack.
        if current!().flags() & task::flags::EXITING != 0 {
            return EventOutcome::Abandoned;
        }
        self.changing.context().waiters().wait_event(self)
    }
}

impl waitset::Event for Event {
    fn delivered(&self) -> bool {
        match self.kind {
            EventKind::Fork(_) | EventKind::Changed(_) => self.changing.lower(),
            EventKind::Removing(_) => false,
        }
    }

    fn holds_up(&self) -> bool {
        matches!(self.kind, EventKind::Fork(_))
    }

    fn holders(&self) -> u32 {
        match &self.kind {
            EventKind::Fork(child) => {
                header::descriptors_of(child.mm(), self.changing.context().bound_file())
            }
            _ => 0,
        }
    }

    fn are_all(&self, references: u32) -> bool {
        self.changing
            .context()
            .bound_file()
            .has_references(references)
    }
}

/// A context whose address space is being duplicated.
pub(crate) struct Fork {
    /// Of the original.
    changing: MmapChanging<Context>,
    /// The context of the duplicate. Areas of the new process are registered with it already.
    child: ARef<Context>,
}

/// A range that is being unmapped.
pub(crate) struct Unmap {
    changing: MmapChanging<Context>,
    range: Range<usize>,
}

/// Where notes about forks, and about ranges that are unmapped, come from.
pub(crate) static FORKS: StaticKmemCache<Entry<Fork>> =
    StaticKmemCache::new(c_str!("userfaultfd_fork"), built_in!());
pub(crate) static UNMAPS: StaticKmemCache<Entry<Unmap>> =
    StaticKmemCache::new(c_str!("userfaultfd_unmap"), built_in!());

// SAFETY: It is one cache.
unsafe impl Note for Fork {
    #[inline]
    fn cache() -> &'static StaticKmemCache<Entry<Self>> {
        &FORKS
    }
}

// SAFETY: It is one cache.
unsafe impl Note for Unmap {
    #[inline]
    fn cache() -> &'static StaticKmemCache<Entry<Self>> {
        &UNMAPS
    }
}

/// Returns the context of an area if it wants to know about `feature`, with its pages kept from
/// being filled from now on.
fn interested(vma: &Vma<'_, Context>, feature: u32) -> Option<MmapChanging<Context>> {
    let context = vma.context().filter(|context| context.has(feature))?;
    Some(MmapChanging::new(ARef::from(context)))
}

impl Operations for Context {
    type Fork = Fork;
    type Unmap = Unmap;

    #[inline]
    fn handle_fault<'a>(fault: Fault<'a, Self>) -> FaultOutcome<'a> {
        fault::handle(fault)
    }

    fn is_wp_async(&self) -> bool {
        self.has(uapi::UFFD_FEATURE_WP_ASYNC)
    }

    fn is_wp_unpopulated(&self) -> bool {
        self.has(uapi::UFFD_FEATURE_WP_UNPOPULATED)
    }

    fn fork(mut vma: VmaMut<'_, Self>, forks: &mut Pending<'_, Fork>) -> Result {
        let Some(original) = vma.context() else {
            return Ok(());
        };
        if !original.has(uapi::UFFD_FEATURE_EVENT_FORK) {
            vma.reset();
            return Ok(());
        }

        // One duplicate for all the areas of a context. Its areas are taken off it when it is
        // released or abandoned; if the fork fails, they go away before they are looked at.
        let known = forks
            .iter()
            .find(|fork| core::ptr::eq(&**fork.changing.context(), original));
        if let Some(fork) = known {
            // SAFETY: As said above, the area does not outlive the registration.
            unsafe { vma.set_context(&fork.child) };
            return Ok(());
        }
        let child = Context::new(vma.mm(), original.flags(), original.header().features())?;
        forks.push(Fork {
            changing: MmapChanging::new(ARef::from(original)),
            child: child.clone(),
        })?;
        // SAFETY: As said above, the area does not outlive the registration.
        unsafe { vma.set_context(&child) };
        Ok(())
    }

    fn fork_complete(fork: Fork) {
        let Fork { changing, child } = fork;

        let event = Event {
            changing,
            kind: EventKind::Fork(child.clone()),
        };
        if event.tell() == EventOutcome::Abandoned {
            // Nobody manages the new process. Its areas must not outlive the context.
            vma::release_new(&*child);
        }
    }

    fn fork_fail(fork: Fork) {
        // The areas of the new process go with it, so all there is to do is to drop the context
        // and let pages of the original be filled again.
        drop(fork);
    }

    fn remap(mut vma: VmaMut<'_, Self>) -> Option<MmapChanging<Self>> {
        let changing = interested(&vma, uapi::UFFD_FEATURE_EVENT_REMAP);
        if changing.is_none() && vma.context().is_some() {
            vma.reset();
        }
        changing
    }

    fn remap_complete(changing: MmapChanging<Self>, from: usize, to: usize, len: usize) {
        let kind = EventKind::Changed(Message::Remap {
            from: from as u64,
            to: to as u64,
            len: len as u64,
        });
        Event { changing, kind }.tell();
    }

    fn remove(vma: Vma<'_, Self>) -> Option<MmapChanging<Self>> {
        interested(&vma, uapi::UFFD_FEATURE_EVENT_REMOVE)
    }

    fn removing(changing: MmapChanging<Self>, range: Range<usize>) -> MmapChanging<Self> {
        let kind = EventKind::Removing(Message::Remove {
            start: range.start as u64,
            end: range.end as u64,
        });
        let event = Event { changing, kind };
        event.tell();
        event.changing
    }

    fn unmap(vma: Vma<'_, Self>, range: Range<usize>, unmaps: &mut Pending<'_, Unmap>) -> Result {
        let Some(context) = vma.context() else {
            return Ok(());
        };
        // A range that spans several areas of a context is told about once.
        let known = unmaps.iter().any(|unmap| {
            core::ptr::eq(&**unmap.changing.context(), context) && unmap.range == range
        });
        if known {
            return Ok(());
        }
        match interested(&vma, uapi::UFFD_FEATURE_EVENT_UNMAP) {
            Some(changing) => unmaps.push(Unmap { changing, range }),
            None => Ok(()),
        }
    }

    fn unmap_complete(unmap: Unmap) {
        let Unmap { changing, range } = unmap;

        let kind = EventKind::Changed(Message::Unmap {
            start: range.start as u64,
            end: range.end as u64,
        });
        Event { changing, kind }.tell();
    }

    fn create(flags: u32) -> Result<u32> {
        crate::access::create_checked(flags)
    }
}

declare_userfaultfd!(Context);
