// SPDX-License-Identifier: GPL-2.0

//! The thread that waits for its event to be read, and the reader that claims the event.

use super::{
    inbox::{EventNode, EventState, Inbox},
    queue::Links,
    WaitSet, MESSAGE, WAKE_BATCH,
};
use crate::{
    prelude::*,
    sync::{aref::ARef, poll_queue::events, SpinLockGuard},
    task::{flags, SleepState},
    time::msecs_to_jiffies,
    userfaultfd::{
        message::Message,
        trace::{self, Since, Why},
        Context, ContextOwner, MmapChanging,
    },
};
use core::{cell::UnsafeCell, ptr::NonNull};

/// The time after which a thread that waits for a fork event checks if a reader is left.
const RECHECK_MS: u32 = 100;

/// An event that waits to be read.
///
/// It keeps pages from being filled: see [`MmapChanging`].
pub struct Event {
    changing: MmapChanging,
    kind: Kind,
}

/// What happened.
enum Kind {
    /// The process was duplicated. The context is that of the child, which becomes a descriptor of
    /// the process that reads the event.
    Fork(ARef<Context>),
    /// The mappings changed.
    Changed(Message),
    /// Pages will be removed once the message has been read.
    Removing(Message),
}

const _: () = {
    const fn is_sync<T: Sync>() {}
    // Readers access the event of another thread.
    is_sync::<Event>();
};

/// How the wait for an event to be read ended.
#[derive(PartialEq, Eq)]
enum Outcome {
    /// A reader has the event.
    Read,
    /// No thread will read it.
    Abandoned,
}

impl Event {
    /// Tells the monitor that mappings changed, and waits until a reader knows. Then pages can be
    /// filled again. Sleeps; no lock may be held.
    #[doc(alias = "userfaultfd_event_wait_completion")]
    pub fn changed(changing: MmapChanging, message: Message) {
        let kind = Kind::Changed(message);
        Self { changing, kind }.tell();
    }

    /// Tells the monitor that pages are going to be removed, and waits until a reader knows. No
    /// pages can be filled until the caller drops the mark, because they would be removed as well.
    /// Sleeps; no lock may be held.
    #[doc(alias = "userfaultfd_event_wait_completion")]
    pub fn removing(changing: MmapChanging, message: Message) -> MmapChanging {
        let kind = Kind::Removing(message);
        let event = Self { changing, kind };
        event.tell();
        event.changing
    }

    /// Waits until a reader has the event.
    fn tell(&self) -> Outcome {
        // Nothing would interrupt the wait of a task on its way out. Such a task gets here if the
        // kernel unmaps its shadow stack.
        if current!().flags() & flags::EXITING != 0 {
            return Outcome::Abandoned;
        }
        let set = self.changing.context().waiters();
        let since = trace::event(set, self.message());
        let outcome = set.wait_event(self, since);
        let why = match outcome {
            Outcome::Read => Why::Read,
            Outcome::Abandoned => Why::Abandoned,
        };
        trace::event_end(set, self.message(), why, since);
        outcome
    }

    /// Returns the message that readers get, or `None` for a fork.
    #[inline]
    pub(super) fn message(&self) -> Option<&Message> {
        match &self.kind {
            Kind::Fork(_) => None,
            Kind::Changed(message) | Kind::Removing(message) => Some(message),
        }
    }

    /// Returns the context of the child of a fork.
    fn child(&self) -> Option<&ARef<Context>> {
        match &self.kind {
            Kind::Fork(child) => Some(child),
            Kind::Changed(_) | Kind::Removing(_) => None,
        }
    }

    /// Notes that a reader has the event. Called once, with the inbox locked.
    ///
    /// Returns true if the mappings do not change any more.
    fn delivered(&self) -> bool {
        match self.kind {
            Kind::Fork(_) | Kind::Changed(_) => self.changing.lower(),
            Kind::Removing(_) => false,
        }
    }
}

/// The two sides of a fork: the mark on the context of the parent, and the context of the child.
pub struct Fork {
    pub(in super::super) changing: MmapChanging,
    pub(in super::super) child: ContextOwner,
}

impl Fork {
    /// Tells the monitor about the fork, and waits until a reader has the descriptor of the child.
    /// If there is none, the VMAs of the child are taken off its context. Sleeps; no lock may be
    /// held.
    #[doc(alias = "dup_fctx")]
    pub fn tell(self) {
        let Self { changing, child } = self;
        let event = Event {
            changing,
            kind: Kind::Fork(child.context().clone()),
        };
        match event.tell() {
            // The reader owns the context, see `ForkClaim::deliver`.
            Outcome::Read => child.disarm(),
            Outcome::Abandoned => child.abandon(),
        }
    }
}

/// A fork event that one reader is going to deliver. Other readers do not see it meanwhile.
///
/// If the reader drops this without having delivered the event, it is offered again.
pub struct ForkClaim<'a> {
    set: &'a WaitSet,
    seq: u64,
}

impl WaitSet {
    /// Adds an event to the inbox, and sleeps until it was read, a fatal signal arrives, the
    /// descriptor is closed, or no thread is left that could read it.
    ///
    /// The last is the case if all references to the descriptor are those of processes that cannot
    /// run before their events end: the children of forks. Nothing tells the thread when this
    /// becomes true, and it is rare. So the thread rechecks periodically once a descriptor was
    /// closed.
    fn wait_event(&self, event: &Event, since: Since) -> Outcome {
        let task = current!();
        let node = UnsafeCell::new(EventNode {
            links: Links::new(),
            state: EventState::Unread,
            seq: 0,
            holders: 0,
            task: NonNull::from(&**task),
            event: NonNull::from(event),
            since,
        });
        let ptr = node.get();

        let mut inbox = self.inbox.lock();
        if self.is_released() || task.fatal_signal_pending() {
            return Outcome::Abandoned;
        }
        // SAFETY: The node is in no queue. It stays in its place until it left the queue, which is
        // before the loop below ends; its fields are accessed with the lock held.
        unsafe { inbox.add_event(ptr) };
        self.readable.write_once(MESSAGE);
        let mut reader = inbox.take_reader();

        let child = event.child();
        let mut rechecks = child.is_some() && self.was_closed.read_once();
        let mut is_new = true;
        let mut is_counted = false;
        let mut holders = 0;
        loop {
            // A thread that wakes this one takes the lock first.
            task.set_state(SleepState::KILLABLE);
            drop(inbox);
            if core::mem::take(&mut is_new) {
                if let Some(reader) = reader.take() {
                    reader.wake(false);
                }
                self.pollers.wake(events::IN);
            }
            // The task state is running when either of these returns.
            let mut added = 0;
            if !rechecks {
                task.schedule();
            } else if task.schedule_timeout(msecs_to_jiffies(RECHECK_MS)) == 0 && !is_counted {
                // The child does not run, so its descriptors stay the same.
                is_counted = true;
                let context = event.changing.context();
                holders = child.map_or(0, |child| context.descriptors_of(child.mm()));
                added = holders;
            }

            inbox = self.inbox.lock();
            // SAFETY: The lock is held.
            match unsafe { (*ptr).state } {
                EventState::Read => return Outcome::Read,
                EventState::Abandoned => return Outcome::Abandoned,
                EventState::Unread | EventState::Claimed => (),
            }
            // If the child has no copy of the descriptor, it does not keep the file open.
            rechecks =
                child.is_some() && self.was_closed.read_once() && !(is_counted && holders == 0);
            // SAFETY: The lock is held.
            unsafe { (*ptr).holders = holders };
            inbox.holders = inbox.holders.wrapping_add(added);
            let has_no_reader =
                holders != 0 && event.changing.context().has_file_references(inbox.holders);
            if has_no_reader || task.fatal_signal_pending() {
                // SAFETY: The event was not taken out, so it is in the inbox.
                unsafe { inbox.remove_event(ptr) };
                self.publish(&inbox);
                return Outcome::Abandoned;
            }
        }
    }

    /// Notes that a descriptor of the file is being closed. From the first time on, threads whose
    /// events hold up processes check periodically if a reader is left: see
    /// `wait_event`. Before that a process that runs has a descriptor.
    pub fn note_close(&self) {
        if self.was_closed.read_once() {
            return;
        }
        let inbox = self.inbox.lock();
        self.was_closed.write_once(true);
        inbox.for_each_event(|node| {
            // SAFETY: The event and the thread of a node that is in the inbox stay while it is
            // locked.
            unsafe {
                if node.event.as_ref().child().is_some() {
                    node.task.as_ref().wake_up();
                }
            }
        });
    }

    /// Removes up to [`WAKE_BATCH`] events from the inbox and wakes the threads that wait for them.
    /// Returns true if there are more.
    pub(super) fn abandon_events(&self) -> bool {
        let mut inbox = self.inbox.lock();
        for _ in 0..WAKE_BATCH {
            let Some(node) = inbox.first_event() else {
                break;
            };
            // SAFETY: The node is in the inbox.
            unsafe { inbox.end_event(node, EventState::Abandoned) };
        }
        self.publish(&inbox);
        inbox.first_event().is_some()
    }

    /// Removes an event that a reader has, lets the thread that waits for it go on, and tells
    /// pollers what changed.
    ///
    /// # Safety
    ///
    /// `node` must be in `inbox`, which must be that of this set.
    #[doc(alias = "userfaultfd_event_complete")]
    pub(super) unsafe fn end_delivered(
        &self,
        mut inbox: SpinLockGuard<'_, Inbox>,
        node: NonNull<EventNode>,
    ) {
        // SAFETY: The node is in the inbox by the safety requirements, so the thread of the event
        // waits.
        let (event, task, since) = unsafe {
            let node = node.as_ref();
            (node.event.as_ref(), node.task.as_ref(), node.since)
        };
        trace::read(self, event.message(), task, since);
        inbox.count_read();
        let mut news = if event.delivered() { self.out() } else { 0 };
        // SAFETY: The node is in the inbox by the safety requirements.
        unsafe { inbox.end_event(node, EventState::Read) };
        self.publish(&inbox);
        // A poller may read one event each time that it is told that there is something to read.
        if inbox.is_readable() {
            news |= events::IN;
        }
        drop(inbox);
        if news != 0 {
            self.pollers.wake(news);
        }
    }

    /// Claims the next event for this reader, if it is about a fork, and returns the context of the
    /// child with it.
    ///
    /// The reader makes a descriptor and then delivers the event.
    pub fn claim_fork(&self) -> Option<ForkClaim<'_>> {
        let mut inbox = self.inbox.lock();
        // SAFETY: The node is in the inbox, so it is valid and the thread of the event waits.
        unsafe { (*inbox.first_event()?.as_ptr()).event.as_ref() }.child()?;
        let seq = inbox.claim_first_event()?;
        self.publish(&inbox);
        // The wake-up for another message may have been this thread's.
        let is_readable = inbox.is_readable();
        let reader = is_readable.then(|| inbox.take_reader()).flatten();
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake(false);
        }
        Some(ForkClaim { set: self, seq })
    }
}

impl ForkClaim<'_> {
    /// Calls `deliver` with the inbox locked: it must not sleep, nor use the wait set. If it
    /// returns true, the event leaves the inbox, and the thread that forks goes on.
    ///
    /// Returns the owner of the child's context if the event was delivered, otherwise the claim; or
    /// `None` if the thread that forks does not wait any more. A thread that is about to die
    /// delivers nothing.
    pub fn deliver(self, deliver: impl FnOnce() -> bool) -> Option<Result<ContextOwner, Self>> {
        let inbox = self.set.inbox.lock();
        let node = inbox.claimed_event(self.seq)?;
        if current!().fatal_signal_pending() || !deliver() {
            drop(inbox);
            return Some(Err(self));
        }
        // SAFETY: The node is in the inbox, so it is valid and the thread of the event waits.
        let child = unsafe { (*node.as_ptr()).event.as_ref() }.child()?.clone();
        // SAFETY: The node is in the inbox of this set.
        unsafe { self.set.end_delivered(inbox, node) };
        // There is nothing left to offer.
        core::mem::forget(self);
        Some(Ok(ContextOwner::following(child)))
    }

    /// Offers the event again, behind the other events, because it cannot be delivered now and
    /// should not stand in their way.
    pub fn defer(self) {
        let inbox = self.set.inbox.lock();
        if let Some(node) = inbox.claimed_event(self.seq) {
            self.offer_again(inbox, node, true);
        }
        core::mem::forget(self);
    }

    /// Offers the event again: in its place, or behind the other events. `node` is that of the
    /// claim.
    fn offer_again(
        &self,
        mut inbox: SpinLockGuard<'_, Inbox>,
        node: NonNull<EventNode>,
        behind: bool,
    ) {
        // SAFETY: The event is claimed, so its node is in that queue.
        unsafe { inbox.offer_event(node, behind) };
        self.set.publish(&inbox);
        // A reader that returns without a message passes its wake-up on.
        let reader = inbox.take_reader();
        let missed = self.set.missed.read_once();
        if !inbox.has_claims() {
            self.set.missed.write_once(false);
        }
        drop(inbox);
        if let Some(reader) = reader {
            reader.wake(false);
        }
        if missed {
            self.set.pollers.wake(events::IN);
        }
    }
}

impl Drop for ForkClaim<'_> {
    fn drop(&mut self) {
        let inbox = self.set.inbox.lock();
        if let Some(node) = inbox.claimed_event(self.seq) {
            self.offer_again(inbox, node, false);
        }
    }
}
