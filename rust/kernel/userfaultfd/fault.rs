// SPDX-License-Identifier: GPL-2.0

//! Page faults, and the lock that is held during one.

use super::{
    supported::{VM_UFFD_FLAGS, VM_UFFD_MINOR, VM_UFFD_WP},
    vma::Vma,
};
use crate::{
    bindings,
    mm::virt::{flags, vm_flags_t, VmaRef},
    task::SleepState,
    types::NotThreadSafe,
    warn_on_once,
};
use core::{marker::PhantomData, num::NonZeroU8, ops::Deref};

/// The reason for which a fault is reported: one of `VM_UFFD_MISSING`, `VM_UFFD_WP` and
/// `VM_UFFD_MINOR`.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Reason(vm_flags_t);

impl Reason {
    /// Returns true for a write to a write-protected page.
    #[inline]
    pub fn is_write_protect(self) -> bool {
        self.0 & VM_UFFD_WP != 0
    }

    /// Returns true if the page exists but is not mapped.
    #[inline]
    pub fn is_minor(self) -> bool {
        self.0 & VM_UFFD_MINOR != 0
    }

    /// Returns true if it is just one of the three.
    pub fn is_valid(self) -> bool {
        self.0 & !VM_UFFD_FLAGS == 0 && self.0.is_power_of_two()
    }
}

/// A page fault in a VMA, with the fault lock held: the mmap lock or the VMA lock, for reading.
///
/// A value of this type is turned into a [`FaultOutcome`], with the lock held or dropped as the
/// outcome demands. The handler has to return the outcome of the fault that it was called for,
/// because `'a` stands for this fault only.
///
/// # Invariants
///
/// `vmf` is valid, and the fault lock is held.
pub struct Fault<'a> {
    vmf: &'a mut bindings::vm_fault,
    reason: Reason,
    // The lock is that of this thread.
    _nts: NotThreadSafe,
}

/// What a fault allows, as [`Fault::kind`] finds out.
pub enum FaultKind<'a> {
    /// It may be neither retried nor slept in, because `FAULT_FLAG_ALLOW_RETRY` is not set.
    NoRetry(Fault<'a>),
    /// It may be retried but not slept in: `FAULT_FLAG_RETRY_NOWAIT`.
    Nowait(NowaitFault<'a>),
    /// It may be slept in and retried.
    Sleepable(SleepableFault<'a>),
}

/// A fault that must not block, and may be retried.
pub struct NowaitFault<'a> {
    _fault: Fault<'a>,
}

/// A fault that may be slept in, with the lock dropped, and retried.
pub struct SleepableFault<'a>(Fault<'a>);

/// A fault whose lock was dropped. The VMA may be gone.
pub struct UnlockedFault<'a> {
    /// Those of which a waker has to know one so that the access works, or `None` if it has to be
    /// found out by the fault.
    access: Option<Wakeup>,
    /// What the fault counts as, if it is complete.
    accounting: bindings::vm_fault_reason,
    _fault: PhantomData<&'a mut bindings::vm_fault>,
    _nts: NotThreadSafe,
}

/// What a waker knows about the page that a thread waits for: which accesses work now.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Wakeup(NonZeroU8);

impl Wakeup {
    /// Nothing is known: the fault is taken again.
    pub const LOOK_AGAIN: Self = Self::bit(0);
    /// There is a page that can be read.
    pub const READ: Self = Self::bit(1);
    /// There is a page that can be written to, in anonymous memory.
    pub const WRITE_ANON: Self = Self::bit(2);
    /// There is a page that can be written to, in a shared mapping.
    pub const WRITE_SHARED: Self = Self::bit(3);
    /// There is a page that can be written to, in a private mapping of a file.
    pub const WRITE_PRIVATE: Self = Self::bit(4);
    /// The write protection of the page was lifted.
    pub const UNPROTECTED: Self = Self::bit(5);
    /// There is a page that can be read and written to.
    pub const WRITE: Self = Self::READ
        .or(Self::WRITE_ANON)
        .or(Self::WRITE_SHARED)
        .or(Self::WRITE_PRIVATE);

    const fn bit(number: u32) -> Self {
        Self(match NonZeroU8::new(1 << number) {
            Some(bit) => bit,
            None => panic!("there is no such bit"),
        })
    }

    /// Returns what both know.
    pub const fn or(self, other: Self) -> Self {
        match NonZeroU8::new(self.into_raw() | other.into_raw()) {
            Some(bits) => Self(bits),
            None => self,
        }
    }

    /// Returns it as a number that is not zero.
    #[inline(always)]
    pub(super) const fn into_raw(self) -> u8 {
        self.0.get()
    }

    /// Returns that of a number, or `None` for zero, which says that no waker has come yet.
    #[inline(always)]
    pub(super) fn from_raw(raw: u8) -> Option<Self> {
        NonZeroU8::new(raw).map(Self)
    }

    /// Returns what it has in common with another one.
    #[inline(always)]
    fn and(self, other: Self) -> Option<Self> {
        Self::from_raw(self.into_raw() & other.into_raw())
    }

    /// Returns true if a waker that says this has put in place what an access needs, as far as that
    /// is known without the fault: see [`UnlockedFault::access`].
    pub(super) fn resolves(self, access: Option<Self>) -> bool {
        match access {
            Some(access) => self.and(access).is_some(),
            None => self != Self::LOOK_AGAIN,
        }
    }
}

/// What `handle_userfault()` returns to mm about a fault.
#[must_use]
pub struct FaultOutcome<'a> {
    raw: bindings::vm_fault_t,
    _fault: PhantomData<&'a mut bindings::vm_fault>,
}

impl FaultOutcome<'_> {
    #[inline]
    fn new(raw: bindings::vm_fault_reason) -> Self {
        Self {
            raw,
            _fault: PhantomData,
        }
    }

    #[inline]
    pub(super) fn into_raw(self) -> bindings::vm_fault_t {
        self.raw
    }
}

impl<'a> UnlockedFault<'a> {
    /// The fault is to be taken again.
    #[inline]
    pub fn retry(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_RETRY)
    }

    /// Returns those of which a waker has to know one so that the access works, or `None` if it has
    /// to be found out by the fault.
    #[inline]
    pub(super) fn access(&self) -> Option<Wakeup> {
        self.access
    }

    /// Ends the fault after a sleep, or without one if no waker has come.
    ///
    /// If the waker has put in place what the access needs, the fault is complete: the thread
    /// repeats the access, and takes neither the fault nor the mmap lock again. If the page is gone
    /// by then, the access faults anew, as if it was the first one.
    #[inline]
    pub(super) fn end(self, wakeup: Option<Wakeup>) -> FaultOutcome<'a> {
        let known = |wakeup: Wakeup| wakeup.and(self.access?);
        if wakeup.and_then(known).is_none() {
            return self.retry();
        }
        // Some callers know NOPAGE only, and would look for a page in the fault otherwise.
        FaultOutcome::new(
            bindings::vm_fault_reason_VM_FAULT_COMPLETED
                | bindings::vm_fault_reason_VM_FAULT_NOPAGE
                | self.accounting,
        )
    }
}

impl<'a> Fault<'a> {
    /// Wraps a fault that mm reports.
    ///
    /// # Safety
    ///
    /// `vmf` must be a fault that is being handled, and the fault lock must be held.
    #[inline]
    pub(super) unsafe fn from_raw(vmf: &'a mut bindings::vm_fault, reason: vm_flags_t) -> Self {
        if cfg!(any(CONFIG_DEBUG_VM, CONFIG_LOCKDEP)) {
            // SAFETY: The fault is valid. This checks that the lock is held.
            unsafe { bindings::uffd_shim_assert_fault_locked(vmf) };
        }
        // INVARIANT: The fault is valid and the lock is held by the safety requirements.
        Self {
            vmf,
            reason: Reason(reason),
            _nts: NotThreadSafe,
        }
    }

    /// Returns the VMA that the fault is in.
    #[inline]
    pub fn vma(&self) -> Vma<'_> {
        // SAFETY: By the type invariants the fault lock is held, which keeps the VMA valid; it is
        // not dropped while the result borrows from the fault.
        Vma::from_ref(unsafe { VmaRef::from_raw(self.vmf.__bindgen_anon_1.vma) })
    }

    /// Returns the address of the page, in bytes. For hugetlb that of the huge page.
    #[inline]
    pub fn address(&self) -> usize {
        self.vmf.__bindgen_anon_1.address
    }

    /// Returns the address that was accessed, in bytes.
    #[inline]
    pub fn real_address(&self) -> usize {
        self.vmf.__bindgen_anon_1.real_address
    }

    /// Returns the reason for which the fault is reported.
    #[inline]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    #[inline]
    fn has(&self, flag: bindings::fault_flag) -> bool {
        self.vmf.flags & flag != 0
    }

    /// Returns true for a write.
    #[inline]
    pub fn is_write(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_WRITE)
    }

    /// Returns true if the fault was taken in user mode, and not by the kernel on behalf of the
    /// process.
    #[inline]
    pub fn is_user(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_USER)
    }

    /// Returns the fault with what it allows.
    #[inline]
    pub fn kind(self) -> FaultKind<'a> {
        if !self.has(bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY) {
            if cfg!(CONFIG_DEBUG_VM) {
                warn_on_once!(self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT));
            }
            FaultKind::NoRetry(self)
        } else if self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT) {
            FaultKind::Nowait(NowaitFault { _fault: self })
        } else {
            FaultKind::Sleepable(SleepableFault(self))
        }
    }

    /// Refuses the fault: the access fails. The lock stays held.
    #[inline]
    pub fn sigbus(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_SIGBUS)
    }

    /// Returns what has to be known of the fault when its lock was dropped.
    #[inline(always)]
    fn unlocked(&self) -> UnlockedFault<'a> {
        let is_anonymous = self.vma().is_anonymous();
        // Only the architectures repeat an access, and of them UML does not do so for the kernel.
        // GUP and fixup_user_fault() look for the page themselves and do not count a fault that is
        // retried; khugepaged knows RETRY only.
        let repeats = !cfg!(CONFIG_UML)
            && self.has(bindings::fault_flag_FAULT_FLAG_INTERRUPTIBLE)
            && !self.has(bindings::fault_flag_FAULT_FLAG_GUP);
        let access = if !repeats {
            None
        } else if self.reason.is_write_protect() {
            // Most pages of files are not writable without another fault, which tells the file that
            // they are dirty.
            is_anonymous.then_some(Wakeup::UNPROTECTED)
        } else {
            Some(if !self.is_write() {
                Wakeup::READ
            } else if is_anonymous {
                Wakeup::WRITE_ANON
            } else if self.vma().flags() & flags::SHARED != 0 {
                Wakeup::WRITE_SHARED
            } else {
                Wakeup::WRITE_PRIVATE
            })
        };
        // If the fault is taken again, a fault with the mmap lock counts as a major one, because it
        // was tried before, and one with the VMA lock does not. It counts as the same without that.
        let accounting = if self.has(bindings::fault_flag_FAULT_FLAG_VMA_LOCK) {
            0
        } else {
            bindings::vm_fault_reason_VM_FAULT_MAJOR
        };
        UnlockedFault {
            access,
            accounting,
            _fault: PhantomData,
            _nts: NotThreadSafe,
        }
    }
}

impl<'a> NowaitFault<'a> {
    /// The fault is to be taken again. The lock stays held, because the fault must not block.
    #[inline]
    pub fn retry(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_RETRY)
    }
}

impl<'a> Deref for SleepableFault<'a> {
    type Target = Fault<'a>;

    #[inline]
    fn deref(&self) -> &Fault<'a> {
        &self.0
    }
}

impl<'a> SleepableFault<'a> {
    /// Returns the task state to sleep in: `userfaultfd_get_blocking_state()`.
    ///
    /// If a signal that is not fatal ended the sleep of the kernel itself, the architecture would
    /// take the fault again at once, in a busy wait until the page is there. So only faults of user
    /// mode, and those for a caller of GUP that returns for a signal, are interruptible. The others
    /// do not count as load either, because they depend on user space in the same way.
    #[inline]
    pub fn blocking_state(&self) -> SleepState {
        let returns =
            self.has(bindings::fault_flag_FAULT_FLAG_USER | bindings::fault_flag_FAULT_FLAG_GUP);
        if self.has(bindings::fault_flag_FAULT_FLAG_INTERRUPTIBLE) {
            if returns {
                SleepState::INTERRUPTIBLE
            } else {
                SleepState::KILLABLE_NOLOAD
            }
        } else if self.has(bindings::fault_flag_FAULT_FLAG_KILLABLE) {
            SleepState::KILLABLE
        } else {
            SleepState::UNINTERRUPTIBLE
        }
    }

    /// Refuses the fault, as [`Fault::sigbus`] does.
    #[inline]
    pub fn sigbus(self) -> FaultOutcome<'a> {
        self.0.sigbus()
    }

    /// Drops the fault lock.
    #[inline]
    pub fn unlock(self) -> UnlockedFault<'a> {
        let unlocked = self.0.unlocked();
        // SAFETY: By the type invariants the lock is held, and this value is gone afterwards.
        unsafe { bindings::uffd_shim_release_fault_lock(self.0.vmf) };
        unlocked
    }

    /// Takes the hugetlb VMA lock, which protects the page tables of a hugetlb VMA. It may sleep,
    /// so it is taken before the task state is set.
    #[inline]
    pub fn lock_page_tables(self) -> WalkableFault<'a> {
        if self.vma().is_hugetlb() {
            // SAFETY: By the type invariants the fault lock is held, which keeps the VMA valid.
            unsafe { bindings::uffd_shim_hugetlb_lock_read(self.vma().as_ptr()) };
        }
        // INVARIANT: For hugetlb the VMA lock was taken.
        WalkableFault(self.0)
    }
}

/// A fault whose page tables can be looked at.
///
/// # Invariants
///
/// For a hugetlb VMA the hugetlb VMA lock is held for reading, besides the fault lock.
#[must_use = "locks are held"]
pub struct WalkableFault<'a>(Fault<'a>);

impl<'a> WalkableFault<'a> {
    /// Returns true if the fault is still pending according to the page tables, and drops the
    /// locks. Does not sleep.
    #[inline]
    pub fn must_wait_unlock(self) -> (bool, UnlockedFault<'a>) {
        let unlocked = self.0.unlocked();
        let Fault { vmf, reason, .. } = self.0;
        // SAFETY: By the type invariants the fault is valid and the locks are held; this value is
        // gone afterwards.
        let must_wait = unsafe { bindings::uffd_shim_must_wait_unlock(vmf, reason.0) };
        (must_wait, unlocked)
    }
}
