// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/userfaultfd/context.rs`, and the address space of a context.

use super::{
    fault::{Fault, FaultKind, Wakeup},
    message::PageFault,
    supported::VM_UFFD_MISSING,
    waitset::{Fork, WaitSet},
};
use crate::{
    bindings,
    prelude::*,
    rt::{fence, AtomicU32, HiddenMutex, RwLock, RELAXED},
    sync::{aref::ARef, ReadOnceCell},
    task::SleepState,
};
use core::{mem::ManuallyDrop, ops::Range, ptr, sync::atomic::Ordering};

/// The size of a page.
const PAGE: u64 = 4096;

/// The address of page 2, which is in another shard.
const FAR: u64 = 1 << 21;

/// A context, with an address space of a few pages.
pub struct Context {
    waiters: WaitSet,
    changing: AtomicU32,
    /// The fault lock, and if the VMA is registered.
    vma: RwLock<bool>,
    /// Not zero if a page is there.
    pages: [AtomicU32; 5],
    /// What wakers said, and of which pages. It is not seen by loom.
    said: HiddenMutex<Vec<(usize, Wakeup)>>,
}

/// An access to a page.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    /// A write to anonymous memory.
    Write,
    WriteShared,
    WritePrivate,
    /// A read by GUP, which looks for the page itself.
    Gup,
}

impl Access {
    /// Returns true if the access, which is repeated, works after a wake-up.
    fn works_after(self, wakeup: Wakeup) -> bool {
        let access = match self {
            Self::Read => Wakeup::READ,
            Self::Write => Wakeup::WRITE_ANON,
            Self::WriteShared => Wakeup::WRITE_SHARED,
            Self::WritePrivate => Wakeup::WRITE_PRIVATE,
            Self::Gup => return false,
        };
        wakeup.or(access) == wakeup
    }
}

/// How a fault ended.
pub(crate) enum Ended {
    /// The VMA is not registered any more.
    Unregistered,
    /// It is complete: the access is repeated.
    Complete,
    /// It is taken again. The page was there before the thread slept.
    NoWait,
    /// It is taken again.
    Retry,
}

/// The stand-in for an address space.
pub(crate) struct Mm;

impl Context {
    pub(crate) fn new() -> ARef<Self> {
        ARef::new(Self {
            waiters: WaitSet::new().make(),
            changing: AtomicU32::new(0),
            vma: RwLock::new(true),
            pages: core::array::from_fn(|_| AtomicU32::new(0)),
            said: HiddenMutex::default(),
        })
    }

    pub(crate) fn waiters(&self) -> &WaitSet {
        &self.waiters
    }

    pub(crate) fn mm(&self) -> &Mm {
        &Mm
    }

    pub(super) fn descriptors_of(&self, _mm: &Mm) -> u32 {
        0
    }

    pub(super) fn has_file_references(&self, _count: u32) -> bool {
        false
    }

    pub(crate) fn mmap_changing(&self) -> bool {
        self.changing.load(RELAXED) != 0
    }

    /// Returns true if a page is there.
    pub(crate) fn has_page(&self, page: usize) -> bool {
        self.pages[page].load(RELAXED) != 0
    }

    /// Takes a fault in a page, once.
    ///
    /// `state` tells who takes it. Users and the kernel itself have `FAULT_FLAG_DEFAULT`.
    pub(crate) fn fault(&self, page: usize, access: Access, state: SleepState, id: u32) -> Ended {
        let mut flags = bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY
            | bindings::fault_flag_FAULT_FLAG_KILLABLE
            | bindings::fault_flag_FAULT_FLAG_VMA_LOCK;
        if state != SleepState::KILLABLE {
            flags |= bindings::fault_flag_FAULT_FLAG_INTERRUPTIBLE;
        }
        flags |= match access {
            Access::Gup => bindings::fault_flag_FAULT_FLAG_GUP,
            _ if state == SleepState::INTERRUPTIBLE => bindings::fault_flag_FAULT_FLAG_USER,
            _ => 0,
        };
        if !matches!(access, Access::Read | Access::Gup) {
            flags |= bindings::fault_flag_FAULT_FLAG_WRITE;
        }
        let mut vma = bindings::vm_area_struct {
            flags: match access {
                Access::WriteShared => bindings::VM_SHARED,
                _ => 0,
            },
            is_anonymous: matches!(access, Access::Read | Access::Write | Access::Gup),
        };
        // CAST: The address is that of a page.
        let address = Self::address(page) as usize;
        // SAFETY: The context and the VMA outlive the fault.
        let fault = unsafe {
            bindings::vm_fault::begin(&self.vma, &self.pages[page], &mut vma, address, flags)
        };
        let Some(mut vmf) = fault else {
            return Ended::Unregistered;
        };
        // SAFETY: The fault has begun, with the lock held.
        let fault = unsafe { Fault::from_raw(&mut vmf, VM_UFFD_MISSING) };
        let FaultKind::Sleepable(fault) = fault.kind() else {
            unreachable!("the fault may be retried");
        };
        assert!(fault.blocking_state() == state, "the state is another one");
        let message = PageFault {
            flags: 0,
            address: Self::address(page),
            ptid: id,
        };
        let outcome = self.waiters.wait_fault(current!(), fault, message);
        let complete = bindings::vm_fault_reason_VM_FAULT_COMPLETED
            | bindings::vm_fault_reason_VM_FAULT_NOPAGE;
        match outcome.into_raw() {
            raw if raw == complete => Ended::Complete,
            raw => {
                assert_eq!(raw, bindings::vm_fault_reason_VM_FAULT_RETRY);
                if vmf.must_wait {
                    Ended::Retry
                } else {
                    Ended::NoWait
                }
            }
        }
    }

    /// Wakes the threads that wait for pages, and tells what they can do.
    pub(crate) fn wake(&self, pages: Range<usize>, wakeup: Wakeup) {
        let range = Self::address(pages.start)..Self::address(pages.end - 1) + PAGE;
        for page in 0..self.pages.len() {
            if range.contains(&Self::address(page)) {
                self.said.lock().unwrap().push((page, wakeup));
            }
        }
        self.waiters.wake(range, wakeup);
    }

    /// Wakes some of the threads that wait for a page, which is there.
    pub(crate) fn wake_matching(&self, page: usize, matches: impl Fn(&PageFault) -> bool + Copy) {
        let range = Self::address(page)..Self::address(page) + PAGE;
        self.said.lock().unwrap().push((page, Wakeup::WRITE));
        self.waiters.wake_matching(range, Wakeup::WRITE, matches);
    }

    /// Returns true if a waker said that accesses to a page work, or one that they do not, as
    /// `works` tells.
    pub(crate) fn was_told(&self, page: usize, access: Access, works: bool) -> bool {
        let said = self.said.lock().unwrap();
        said.iter()
            .any(|(of, wakeup)| *of == page && access.works_after(*wakeup) == works)
    }

    /// Makes a page present.
    pub(crate) fn fill(&self, page: usize) {
        self.pages[page].store(1, Ordering::Relaxed);
    }

    /// Takes a page away.
    pub(crate) fn clear(&self, page: usize) {
        self.pages[page].store(0, Ordering::Relaxed);
    }

    /// Returns the address of a page. All pages but page 2 share a shard.
    fn address(page: usize) -> u64 {
        match page {
            0 | 1 => page as u64 * PAGE,
            2 => FAR,
            _ => (page - 1) as u64 * PAGE,
        }
    }

    /// Returns the page at an address.
    pub(crate) fn page_at(address: u64) -> usize {
        (0..)
            .find(|page| Self::address(*page) == address)
            .expect("a page")
    }

    /// `UFFDIO_COPY`: makes a page present, and wakes the threads that wait for it.
    pub(crate) fn resolve(&self, page: usize) {
        self.resolve_pages(page..page + 1);
    }

    /// Makes pages present with one call.
    pub(crate) fn resolve_pages(&self, pages: Range<usize>) {
        pages.clone().for_each(|page| self.fill(page));
        self.wake(pages, Wakeup::WRITE);
    }

    /// Makes all pages present with one call.
    pub(crate) fn resolve_all(&self) {
        (0..self.pages.len()).for_each(|page| self.fill(page));
        // The pages after this one have lower addresses.
        self.wake(0..3, Wakeup::WRITE);
    }

    /// Duplicates the process.
    pub(crate) fn fork(context: ARef<Self>) {
        let fork = Fork {
            changing: MmapChanging::new(context),
            child: ContextOwner::new(Self::new()),
        };
        fork.tell();
    }
}

/// The owner of a context.
pub struct ContextOwner(ARef<Context>);

impl ContextOwner {
    pub(crate) fn new(context: ARef<Context>) -> Self {
        Self(context)
    }

    pub(super) fn following(context: ARef<Context>) -> Self {
        Self(context)
    }

    pub(super) fn disarm(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used any more, and not dropped.
        drop(unsafe { ptr::read(&this.0) });
    }

    /// Drops the owner of the context of a child whose event was not read.
    pub(super) fn abandon(self) {
        *self.0.vma.write().unwrap() = false;
        self.disarm();
    }

    pub(crate) fn context(&self) -> &ARef<Context> {
        &self.0
    }
}

impl Drop for ContextOwner {
    fn drop(&mut self) {
        self.0.waiters.set_released();
        *self.0.vma.write().unwrap() = false;
        self.0.waiters.wake_all();
    }
}

/// A mark on a context that its address space is changing.
pub struct MmapChanging {
    context: ARef<Context>,
    is_raised: ReadOnceCell<bool>,
}

impl MmapChanging {
    pub(crate) fn new(context: ARef<Context>) -> Self {
        context.changing.fetch_add(1, Ordering::Relaxed);
        Self {
            context,
            is_raised: ReadOnceCell::new(true),
        }
    }

    pub(super) fn lower(&self) -> bool {
        if !self.is_raised.read_once() {
            return false;
        }
        self.is_raised.write_once(false);
        fence(Ordering::SeqCst);
        let before = self.context.changing.fetch_sub(1, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        assert_ne!(before, 0, "lowered too often");
        before == 1
    }

    pub(crate) fn context(&self) -> &ARef<Context> {
        &self.context
    }
}

impl Drop for MmapChanging {
    fn drop(&mut self) {
        if self.lower() {
            self.context.waiters.tell_out();
        }
    }
}
