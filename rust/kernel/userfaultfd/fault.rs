// SPDX-License-Identifier: GPL-2.0

//! Page faults, and the lock that is held during one.

use super::{header::Context, vma::Vma};
use crate::{
    bindings,
    mm::virt::{vm_flags_t, VmaRef},
    task::SleepState,
    types::NotThreadSafe,
    warn_on_once,
};
use core::{marker::PhantomData, ops::Deref};

/// Why a fault is reported: one of `VM_UFFD_MISSING`, `VM_UFFD_WP` and `VM_UFFD_MINOR`.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct Reason(vm_flags_t);

impl Reason {
    /// Whether a write met a write-protected page.
    #[inline]
    pub fn is_write_protect(self) -> bool {
        self.0 & super::limits::VM_UFFD_WP != 0
    }

    /// Whether the page exists but is not mapped.
    #[inline]
    pub fn is_minor(self) -> bool {
        self.0 & super::limits::VM_UFFD_MINOR != 0
    }

    /// Whether it is just one of the reasons that there are.
    pub fn is_valid(self) -> bool {
        self.0 & !super::limits::VM_UFFD_FLAGS == 0 && self.0.is_power_of_two()
    }
}

/// A page fault in an area, with the fault lock held: the mmap lock or that of the area, for
/// reading.
///
/// A value of this type is turned into a [`FaultOutcome`], with the lock held or dropped as the
/// outcome demands. Whoever handles a fault has to return the outcome of just this one: `'a` stands
/// for it, and for no other.
///
/// # Invariants
///
/// `vmf` is valid, and the fault lock is held.
pub struct Fault<'a, T> {
    vmf: &'a mut bindings::vm_fault,
    reason: Reason,
    _context: PhantomData<&'a T>,
    _brand: Brand<'a>,
    // The lock is that of this thread.
    _nts: NotThreadSafe,
}

/// Ties a value to one fault: the lifetime can be neither longer nor shorter.
type Brand<'a> = PhantomData<fn(&'a ()) -> &'a ()>;

/// What a fault allows for, as [`Fault::kind`] finds out.
pub enum Kind<'a, T> {
    /// It must not be answered by a retry.
    Final(Fault<'a, T>),
    /// It must not block, and may be taken again.
    Nowait(NowaitFault<'a, T>),
    /// It may sleep, and be taken again.
    Sleepable(SleepableFault<'a, T>),
}

/// A fault that must not block, and may be taken again.
pub struct NowaitFault<'a, T> {
    _fault: Fault<'a, T>,
}

/// A fault that may sleep, with the lock dropped, and be taken again.
pub struct SleepableFault<'a, T>(Fault<'a, T>);

/// A fault whose lock was dropped. The area may be gone.
pub struct UnlockedFault<'a> {
    _brand: Brand<'a>,
    _nts: NotThreadSafe,
}

/// What `handle_userfault()` returns to mm about a fault.
pub struct FaultOutcome<'a> {
    raw: bindings::vm_fault_t,
    _brand: Brand<'a>,
}

impl<'a> FaultOutcome<'a> {
    #[inline]
    fn new(raw: bindings::vm_fault_reason) -> Self {
        Self {
            raw,
            _brand: PhantomData,
        }
    }

    #[inline]
    pub(super) fn into_raw(self) -> bindings::vm_fault_t {
        self.raw
    }
}

impl<'a> UnlockedFault<'a> {
    #[inline]
    fn new() -> Self {
        Self {
            _brand: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// The fault is to be taken again.
    #[inline]
    pub fn retry(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_RETRY)
    }
}

impl<'a, T: Context> Fault<'a, T> {
    /// Wraps a fault that mm reports.
    ///
    /// # Safety
    ///
    /// `vmf` must be a fault that is being handled, with the fault lock held as this function is
    /// called. Contexts of its area must be those of `T`.
    #[inline]
    pub(super) unsafe fn from_raw(vmf: &'a mut bindings::vm_fault, reason: vm_flags_t) -> Self {
        if cfg!(any(CONFIG_DEBUG_VM, CONFIG_LOCKDEP)) {
            // SAFETY: The fault is valid. This checks that the lock is held.
            unsafe { bindings::uffd_shim_assert_fault_locked(vmf) };
        }
        // INVARIANT: By the safety requirements.
        Self {
            vmf,
            reason: Reason(reason),
            _context: PhantomData,
            _brand: PhantomData,
            _nts: NotThreadSafe,
        }
    }

    /// Returns the area that the fault is in.
    #[inline]
    pub fn vma(&self) -> Vma<'_, T> {
        // SAFETY: By the type invariants the fault lock is held, which keeps the area valid; and
        // it is not dropped while the result borrows from us.
        unsafe { Vma::from_ref(VmaRef::from_raw(self.vmf.__bindgen_anon_1.vma)) }
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

    /// Returns why the fault is reported.
    #[inline]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    #[inline]
    fn has(&self, flag: bindings::fault_flag) -> bool {
        self.vmf.flags & flag != 0
    }

    /// Whether it is a write.
    #[inline]
    pub fn is_write(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_WRITE)
    }

    /// Whether it was taken in user mode, and not by the kernel on behalf of the process.
    #[inline]
    pub fn is_user(&self) -> bool {
        self.has(bindings::fault_flag_FAULT_FLAG_USER)
    }

    /// Finds out what may be done about it.
    #[inline]
    pub fn kind(self) -> Kind<'a, T> {
        if !self.has(bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY) {
            if cfg!(CONFIG_DEBUG_VM) {
                warn_on_once!(self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT));
            }
            Kind::Final(self)
        } else if self.has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT) {
            Kind::Nowait(NowaitFault { _fault: self })
        } else {
            Kind::Sleepable(SleepableFault(self))
        }
    }

    /// Refuses the fault: the access fails. The lock stays held.
    #[inline]
    pub fn sigbus(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_SIGBUS)
    }
}

impl<'a, T: Context> NowaitFault<'a, T> {
    /// Asks for the fault to be taken again. The lock stays held, as it does for a fault that must
    /// not block.
    #[inline]
    pub fn retry(self) -> FaultOutcome<'a> {
        FaultOutcome::new(bindings::vm_fault_reason_VM_FAULT_RETRY)
    }
}

impl<'a, T> Deref for SleepableFault<'a, T> {
    type Target = Fault<'a, T>;

    #[inline]
    fn deref(&self) -> &Fault<'a, T> {
        &self.0
    }
}

impl<'a, T: Context> SleepableFault<'a, T> {
    /// Returns the task state to sleep in.
    ///
    /// A fault of the kernel itself is taken again for any signal but a fatal one, until the page
    /// is there: that would be a busy wait. So only faults of user mode, and those for a caller of
    /// GUP that returns for a signal, are interruptible. The others sleep as long as these, so they
    /// do not count as load either.
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
        // SAFETY: By the type invariants the lock is held, and this value is gone afterwards.
        unsafe { bindings::uffd_shim_release_fault_lock(self.0.vmf) };
        UnlockedFault::new()
    }

    /// Takes what the thread must not sleep in any more once it has set its task state: the lock of
    /// a hugetlb area, without which its page tables cannot be looked at. May sleep.
    #[inline]
    pub fn lock_page_tables(self) -> WalkableFault<'a, T> {
        if self.vma().is_hugetlb() {
            // SAFETY: The area is valid by the type invariants.
            unsafe { bindings::uffd_shim_hugetlb_lock_read(self.vma().as_ptr()) };
        }
        // INVARIANT: For hugetlb the lock of the area was taken.
        WalkableFault(self.0)
    }
}

/// A fault whose page tables can be looked at.
///
/// # Invariants
///
/// In a hugetlb area the lock of that is held for reading, besides the fault lock.
#[must_use = "locks are held"]
pub struct WalkableFault<'a, T>(Fault<'a, T>);

impl<'a, T: Context> WalkableFault<'a, T> {
    /// Finds out whether the fault is still to be handled, by a look at the page tables, and drops
    /// the locks. Does not sleep.
    #[inline]
    pub fn must_wait_unlock(self) -> (bool, UnlockedFault<'a>) {
        let Fault { vmf, reason, .. } = self.0;
        // SAFETY: By the type invariants the fault is valid and the locks are held; this value is
        // gone afterwards.
        let must_wait = unsafe { bindings::uffd_shim_must_wait_unlock(vmf, reason.0) };
        (must_wait, UnlockedFault::new())
    }
}
