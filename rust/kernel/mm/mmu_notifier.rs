// SPDX-License-Identifier: GPL-2.0

//! Telling those that have page tables of their own, such as virtual machines, of changes.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use super::{virt::VmaRef, MmWithUser};
use crate::{bindings, task::Sleepable, types::Opaque};
use core::{marker::PhantomData, ops::Range};

/// Pages of a range may be taken out of the page tables. They are in no secondary page table before
/// this exists, and are not put there while it does.
///
/// # Invariants
///
/// If there is a range, it was told to the notifiers of the mm, and its end was not. If there is
/// none, the mm had no notifiers: they are added with all VMAs locked for writing, of which one is
/// locked for reading.
pub struct InvalidateRange<'v> {
    range: Option<Opaque<bindings::mmu_notifier_range>>,
    _vma: PhantomData<&'v VmaRef>,
}

impl<'v> InvalidateRange<'v> {
    /// Tells the notifiers of the mm of a VMA that pages of a range of addresses, in bytes, may go.
    #[doc(alias = "mmu_notifier_invalidate_range_start")]
    #[inline(always)]
    pub fn clear(vma: &'v VmaRef, pages: Range<usize>, _sleep: &mut Sleepable) -> Self {
        let mm = vma.mm();
        let range = has_notifiers(mm).then(|| {
            let range = Opaque::uninit();
            let Range { start, end } = pages;
            // SAFETY: The range may be written to, and the mm has users. The caller may sleep.
            unsafe { bindings::rust_mmu_notifier_start(range.get(), mm.as_raw(), start, end) };
            range
        });
        // INVARIANT: They were told, or there are none.
        Self {
            range,
            _vma: PhantomData,
        }
    }
}

impl Drop for InvalidateRange<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(range) = &self.range {
            // SAFETY: By the type invariants the notifiers were told of the beginning.
            unsafe { bindings::rust_mmu_notifier_end(range.get()) };
        }
    }
}

/// Returns true if an mm has notifiers. A VMA of it is locked.
#[doc(alias = "mm_has_notifiers")]
#[inline(always)]
fn has_notifiers(mm: &MmWithUser) -> bool {
    #[cfg(CONFIG_MMU_NOTIFIER)]
    // SAFETY: The mm is valid, and this does not change while a VMA is locked.
    return unsafe {
        !(*mm.as_raw())
            .__bindgen_anon_1
            .notifier_subscriptions
            .is_null()
    };
    #[cfg(not(CONFIG_MMU_NOTIFIER))]
    {
        let _ = mm;
        false
    }
}
