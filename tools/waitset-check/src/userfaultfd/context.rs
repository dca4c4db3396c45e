// SPDX-License-Identifier: GPL-2.0

//! As in `rust/kernel/userfaultfd/context.rs`, and the address space of a context.

use super::{
    fault::SleepableFault,
    message::PageFault,
    waitset::{Fork, WaitSet},
};
use crate::{
    prelude::*,
    rt::{fence, AtomicU32, RwLock, RELAXED},
    sync::{aref::ARef, ReadOnceCell},
    task::SleepState,
};
use core::{mem::ManuallyDrop, ops::Range, ptr, sync::atomic::Ordering};

/// The size of a page.
const PAGE: u64 = 4096;

/// The address of the last page, which is in another shard.
const FAR: u64 = 1 << 21;

/// A context, with an address space of a few pages.
pub struct Context {
    waiters: WaitSet,
    changing: AtomicU32,
    /// The fault lock, and if the VMA is registered.
    vma: RwLock<bool>,
    /// Not zero if a page is there.
    pages: [AtomicU32; 3],
}

/// The stand-in for an address space.
pub(crate) struct Mm;

impl Context {
    pub(crate) fn new() -> ARef<Self> {
        ARef::new(Self {
            waiters: WaitSet::new().make(),
            changing: AtomicU32::new(0),
            vma: RwLock::new(true),
            pages: [AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)],
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

    /// Takes a fault in a page, once. Returns false if the VMA is not registered any more.
    pub(crate) fn fault(&self, page: usize, state: SleepState, id: u32) -> bool {
        let lock = self.vma.read().unwrap();
        if !*lock {
            return false;
        }
        let fault = SleepableFault::new(lock, &self.pages[page], state);
        let message = PageFault {
            flags: 0,
            address: Self::address(page),
            ptid: id,
        };
        self.waiters.wait_fault(current!(), fault, message);
        true
    }

    /// Makes a page present.
    pub(crate) fn fill(&self, page: usize) {
        self.pages[page].store(1, Ordering::Relaxed);
    }

    /// Takes a page away.
    pub(crate) fn clear(&self, page: usize) {
        self.pages[page].store(0, Ordering::Relaxed);
    }

    /// Returns the address of a page. The first two pages share a shard.
    fn address(page: usize) -> u64 {
        match page {
            0 | 1 => page as u64 * PAGE,
            _ => FAR,
        }
    }

    /// Returns the page at an address.
    pub(crate) fn page_at(address: u64) -> usize {
        match address {
            FAR => 2,
            // CAST: There are few pages.
            _ => (address / PAGE) as usize,
        }
    }

    /// Returns the addresses of a page.
    pub(crate) fn addresses(page: usize) -> Range<u64> {
        Self::address(page)..Self::address(page) + PAGE
    }

    /// `UFFDIO_COPY`: makes a page present, and wakes the threads that wait for it.
    pub(crate) fn resolve(&self, page: usize) {
        self.fill(page);
        self.waiters.wake(Self::addresses(page));
    }

    /// Makes all pages present with one call.
    pub(crate) fn resolve_all(&self) {
        (0..self.pages.len()).for_each(|page| self.fill(page));
        self.waiters.wake(0..FAR + PAGE);
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
