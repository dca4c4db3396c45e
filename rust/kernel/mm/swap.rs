// SPDX-License-Identifier: GPL-2.0

//! Swap.
//!
//! This is for code that is built into the kernel: the C functions are not exported.
//!
//! C header: [`include/linux/swap.h`](srctree/include/linux/swap.h)

use super::folio::Folio;
use crate::{bindings, sync::aref::ARef};
use core::ptr::NonNull;

/// A page that is swapped out, and the device that has it, which is not taken out of use meanwhile.
///
/// # Invariants
///
/// `si` is the device of `entry`, and has a reference for this.
pub struct SwapSlot {
    entry: bindings::swp_entry_t,
    si: NonNull<bindings::swap_info_struct>,
}

impl SwapSlot {
    /// Takes a reference to the device of an entry. Returns `None` if it is being taken out of use.
    #[doc(alias = "get_swap_device")]
    pub(super) fn new(entry: bindings::swp_entry_t) -> Option<Self> {
        // SAFETY: The function checks the entry, and takes a reference.
        let si = unsafe { bindings::rust_get_swap_device(entry) };
        // INVARIANT: It was taken.
        NonNull::new(si).map(|si| Self { entry, si })
    }

    /// Returns the folio that the swap cache has for the page, if it has one.
    #[doc(alias = "swap_cache_get_folio")]
    pub fn cached_folio(&self) -> Option<ARef<Folio>> {
        // SAFETY: By the type invariants the device is in use.
        let folio = unsafe { bindings::rust_swap_cache_get_folio(self.entry) };
        // SAFETY: The function has taken the reference.
        NonNull::new(folio).map(|folio| unsafe { ARef::from_raw(folio.cast()) })
    }

    pub(super) fn entry(&self) -> bindings::swp_entry_t {
        self.entry
    }

    pub(super) fn device(&self) -> *mut bindings::swap_info_struct {
        self.si.as_ptr()
    }
}

impl Drop for SwapSlot {
    fn drop(&mut self) {
        // SAFETY: By the type invariants there is a reference for this.
        unsafe { bindings::rust_put_swap_device(self.si.as_ptr()) };
    }
}
