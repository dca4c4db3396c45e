// SPDX-License-Identifier: GPL-2.0

//! Where anonymous folios are mapped.
//!
//! To change that, a thread locks the folio and then its `anon_vma`, because `folio_referenced()`
//! locks the latter only. Both are locked before a page table is, or tried with the page table
//! locked: [`LockedFolio::try_lock_rmap`].
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/rmap.h`](srctree/include/linux/rmap.h)

use super::folio::LockedFolio;
use crate::{bindings, task::Sleepable};
use core::{mem::ManuallyDrop, ptr::NonNull};

impl LockedFolio {
    /// Locks the `anon_vma` of the folio for writing if no other thread has. If a page table is
    /// locked, it has to map the folio: otherwise the `anon_vma` may be freed by this, which
    /// sleeps.
    ///
    /// # Errors
    ///
    /// What the caller can wait with, or the folio.
    #[doc(alias = "folio_get_anon_vma")]
    #[doc(alias = "anon_vma_trylock_write")]
    #[inline(always)]
    pub fn try_lock_rmap(self) -> Result<RmapLock, NoRmap> {
        let mut is_locked = false;
        // SAFETY: By the type invariants the folio is locked.
        let anon_vma = unsafe { bindings::rust_anon_vma_trylock(self.as_raw(), &mut is_locked) };
        let Some(anon_vma) = NonNull::new(anon_vma) else {
            return Err(NoRmap::Unmapped(self));
        };
        if !is_locked {
            // INVARIANT: The reference was taken.
            return Err(NoRmap::Locked(UnlockedRmap {
                anon_vma: AnonVma(anon_vma),
                folio: self,
            }));
        }
        // INVARIANT: It was locked, has a reference, and is that of the folio, because the folio is
        // locked.
        Ok(RmapLock {
            anon_vma,
            folio: self,
        })
    }
}

/// Why an `anon_vma` was not locked.
pub enum NoRmap {
    /// Another thread has locked it.
    Locked(UnlockedRmap),
    /// The folio is not mapped.
    Unmapped(LockedFolio),
}

/// A reference to an `anon_vma`.
///
/// # Invariants
///
/// It is owned.
struct AnonVma(NonNull<bindings::anon_vma>);

impl Drop for AnonVma {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is owned.
        unsafe { bindings::rust_put_anon_vma(self.0.as_ptr()) };
    }
}

/// A folio that is locked, and its `anon_vma`. To drop it may sleep, so that no page table may be
/// locked then.
pub struct UnlockedRmap {
    anon_vma: AnonVma,
    folio: LockedFolio,
}

impl UnlockedRmap {
    /// Locks the `anon_vma` for writing.
    #[doc(alias = "anon_vma_lock_write")]
    pub fn lock(self, _sleep: &mut Sleepable) -> RmapLock {
        let Self { anon_vma, folio } = self;
        let anon_vma = ManuallyDrop::new(anon_vma).0;
        // SAFETY: It has a reference. The caller may sleep.
        unsafe { bindings::rust_anon_vma_lock_write(anon_vma.as_ptr()) };
        // INVARIANT: It was locked, and is that of the folio, because the folio was locked all the
        // time.
        RmapLock { anon_vma, folio }
    }
}

/// An anonymous folio, which can be mapped at another place. To drop it may sleep, so that no page
/// table may be locked then.
///
/// # Invariants
///
/// `anon_vma` is that of the folio, has a reference, and the thread has locked it for writing.
pub struct RmapLock {
    anon_vma: NonNull<bindings::anon_vma>,
    folio: LockedFolio,
}

impl RmapLock {
    /// Returns the folio.
    #[inline(always)]
    pub fn folio(&self) -> &LockedFolio {
        &self.folio
    }

    #[inline(always)]
    pub(super) fn anon_vma(&self) -> *mut bindings::anon_vma {
        self.anon_vma.as_ptr()
    }
}

impl Drop for RmapLock {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants there is a reference, and the thread has locked it.
        unsafe { bindings::rust_anon_vma_unlock_put(self.anon_vma.as_ptr()) };
    }
}
