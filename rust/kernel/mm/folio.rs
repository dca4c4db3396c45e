// SPDX-License-Identifier: GPL-2.0

//! Folios: new ones that are to be mapped, and those that exist.
//!
//! Each state of a new one is a type of its own, so that no page is mapped that is not filled, or
//! not charged: [`NewFolio`], [`FilledFolio`], and [`ChargedFolios`], which [`PteVma::map_folios`]
//! maps. Until then no other thread knows the folio, and dropping it frees it.
//!
//! Others are a [`Folio`], with references. A [`LockedFolio`] has one, and the lock.
//!
//! This is for code that is built into the kernel: the C functions are not exported.

use super::locked::{Private, PteVma, Shared};
use crate::{
    bindings,
    error::{
        code::{EFAULT, EINVAL, ENOMEM},
        to_result, Result,
    },
    sync::aref::{ARef, AlwaysRefCounted},
    task::Sleepable,
    types::{NotThreadSafe, Opaque},
};
use core::{
    ffi::c_void,
    marker::PhantomData,
    mem::{ManuallyDrop, MaybeUninit},
    ops::Deref,
    ptr::NonNull,
    slice,
};

/// A reference to a folio that no other thread knows.
///
/// # Invariants
///
/// It is the only reference to the folio. `S` is [`OnePage`] for a folio of one page,
/// [`Large`](super::thp::Large) for a larger one, which is charged, or
/// [`Huge`](super::locked::Huge) for one of hugetlb, of any size.
struct Owned<S>(NonNull<bindings::folio>, PhantomData<S>);

impl<S> Drop for Owned<S> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants this is the only reference.
        unsafe { bindings::rust_folio_put(self.0.as_ptr()) };
    }
}

/// A folio whose contents were not set.
pub struct NewFolio<S>(Owned<S>);

/// A folio whose contents were set.
pub struct FilledFolio<S>(Owned<S>);

impl PteVma<'_, Private> {
    /// Allocates a folio for the page at an address, in bytes, by the memory policy there. Returns
    /// `None` if there is no memory.
    #[doc(alias = "vma_alloc_folio")]
    #[inline(always)]
    pub fn alloc_folio(self, address: usize, _sleep: &mut Sleepable) -> Option<NewFolio<Private>> {
        // SAFETY: The VMA is locked, and the caller may sleep. The address chooses a memory policy,
        // and is not used for anything else.
        let folio = unsafe { bindings::rust_vma_alloc_folio(self.vma().as_ptr(), address) };
        // INVARIANT: It is new.
        NonNull::new(folio).map(|folio| NewFolio(Owned(folio, PhantomData)))
    }
}

/// Memory of which a folio is one page.
pub trait OnePage {}

impl OnePage for Private {}

impl OnePage for Shared {}

impl<S: OnePage> NewFolio<S> {
    /// Copies a page from an address in user space, in bytes. Takes no page faults. Gives the folio
    /// back if not all could be copied so.
    #[inline(always)]
    pub fn copy_from_user_nofault(self, src: usize) -> Result<FilledFolio<S>, Self> {
        self.fill_with(|folio| {
            // SAFETY: No other thread knows the folio, which is of one page.
            unsafe { bindings::rust_folio_copy_from_user_nofault(folio, src as *const c_void) }
        })
    }

    /// Fills the page with zeroes. `address` is that where it is going to be mapped, in bytes.
    #[doc(alias = "clear_user_highpage")]
    #[inline(always)]
    pub fn zero(self, address: usize) -> FilledFolio<S> {
        // SAFETY: By the type invariants no other thread knows the folio, which is of one page. The
        // address chooses how its caches are dealt with.
        unsafe { bindings::rust_folio_zero(self.0 .0.as_ptr(), address) };
        FilledFolio(self.0)
    }
}

impl<S> NewFolio<S> {
    /// Wraps a folio.
    ///
    /// # Safety
    ///
    /// The caller gives the only reference to the folio away, which is one for such memory.
    pub(crate) unsafe fn from_raw(folio: NonNull<bindings::folio>) -> Self {
        // INVARIANT: By the safety requirements.
        Self(Owned(folio, PhantomData))
    }

    /// Calls `fill`, which returns true if it has set all contents of the folio. No other thread
    /// knows the folio meanwhile. Gives the folio back if it was not filled.
    #[inline(always)]
    pub(super) fn fill_with(
        self,
        fill: impl FnOnce(*mut bindings::folio) -> bool,
    ) -> Result<FilledFolio<S>, Self> {
        match fill(self.0 .0.as_ptr()) {
            true => Ok(FilledFolio(self.0)),
            false => Err(self),
        }
    }

    /// Copies pages from an address in user space, in bytes, as many as the folio has.
    ///
    /// # Errors
    ///
    /// `EFAULT` if not all can be read.
    pub fn copy_from_user(self, src: usize, _sleep: &mut Sleepable) -> Result<FilledFolio<S>> {
        // SAFETY: By the type invariants no other thread knows the folio. The caller may sleep.
        if unsafe { bindings::rust_folio_copy_from_user(self.0 .0.as_ptr(), src as *const c_void) }
        {
            Ok(FilledFolio(self.0))
        } else {
            Err(EFAULT)
        }
    }
}

impl<S> FilledFolio<S> {
    #[inline(always)]
    pub(super) fn as_raw(&self) -> *mut bindings::folio {
        self.0 .0.as_ptr()
    }

    /// Returns the folio, with the reference.
    #[inline(always)]
    pub(crate) fn into_raw(self) -> NonNull<bindings::folio> {
        ManuallyDrop::new(self.0).0
    }
}

const MAX: usize = 8;

/// Folios for pages in a row, filled, and charged to the memory cgroup of an mm.
///
/// # Invariants
///
/// Those at `taken..len` were set, and are the only references to folios of one page, which are
/// filled and charged.
pub struct ChargedFolios<'v> {
    vma: PteVma<'v, Private>,
    folios: [MaybeUninit<*mut bindings::folio>; MAX],
    taken: usize,
    len: usize,
}

impl<'v> ChargedFolios<'v> {
    /// How many folios can be added.
    pub const MAX: usize = MAX;

    /// Creates a list without folios, for pages of a VMA.
    #[inline(always)]
    pub fn new(vma: PteVma<'v, Private>) -> Self {
        // INVARIANT: There are none.
        Self {
            vma,
            folios: [const { MaybeUninit::uninit() }; MAX],
            taken: 0,
            len: 0,
        }
    }

    /// Returns the number of folios.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len - self.taken
    }

    /// Returns true if there are none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Charges a folio to the memory cgroup of the mm, and adds it.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if the charge is refused, or if there are too many. The folio is freed then.
    #[doc(alias = "mem_cgroup_charge")]
    #[inline(always)]
    pub fn charge(&mut self, folio: FilledFolio<Private>, _sleep: &mut Sleepable) -> Result {
        let slot = self.folios.get_mut(self.len).ok_or(ENOMEM)?;
        let mm = self.vma.vma().mm().as_raw();
        // SAFETY: By the type invariants no other thread knows the folio. The VMA is locked, so the
        // mm has users. The caller may sleep.
        if unsafe { bindings::rust_folio_charge(folio.0 .0.as_ptr(), mm) } != 0 {
            return Err(ENOMEM);
        }
        // INVARIANT: It is filled and charged.
        slot.write(folio.into_raw().as_ptr());
        self.len += 1;
        Ok(())
    }

    /// Returns the VMA, and the folios that are left.
    #[inline(always)]
    pub(super) fn parts(&mut self) -> (PteVma<'v, Private>, &mut [*mut bindings::folio]) {
        let folios = self.folios.as_mut_ptr().cast::<*mut bindings::folio>();
        // SAFETY: By the type invariants these were set.
        let left = unsafe { slice::from_raw_parts_mut(folios.add(self.taken), self.len()) };
        (self.vma, left)
    }

    /// Forgets the first folios.
    ///
    /// # Safety
    ///
    /// There are as many, and the caller has given their references away.
    #[inline(always)]
    pub(super) unsafe fn forget(&mut self, count: usize) {
        // INVARIANT: By the safety requirements the others are as before.
        self.taken += count;
    }
}

impl Drop for ChargedFolios<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        for folio in self.parts().1 {
            // SAFETY: By the type invariants these are the only references.
            unsafe { bindings::rust_folio_put(*folio) };
        }
    }
}

/// A folio, but none of hugetlb.
///
/// # Invariants
///
/// It has a reference.
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: The functions take and drop a reference.
unsafe impl AlwaysRefCounted for Folio {
    #[inline(always)]
    fn inc_ref(&self) {
        // SAFETY: By the type invariants there is a reference.
        unsafe { bindings::rust_folio_get(self.as_raw()) };
    }

    #[inline(always)]
    unsafe fn dec_ref(folio: NonNull<Self>) {
        // SAFETY: By the safety requirements the caller has a reference, and gives it away.
        unsafe { bindings::rust_folio_put(folio.cast().as_ptr()) };
    }
}

impl Folio {
    #[inline(always)]
    pub(super) fn as_raw(&self) -> *mut bindings::folio {
        self.0.get()
    }

    /// Returns true for a folio of more than one page. If it is not locked, it may be split at any
    /// time.
    #[doc(alias = "folio_test_large")]
    #[inline(always)]
    pub fn is_large(&self) -> bool {
        // SAFETY: By the type invariants there is a reference.
        unsafe { bindings::rust_folio_test_large(self.as_raw()) }
    }

    /// Returns true if the folio is pinned, and maybe if it has very many references. A thread that
    /// pins without locks looks at the page table afterwards: as long as there is an entry for the
    /// folio, it may be pinned at any time.
    #[doc(alias = "folio_maybe_dma_pinned")]
    #[inline(always)]
    pub fn is_maybe_pinned(&self) -> bool {
        // SAFETY: By the type invariants there is a reference.
        unsafe { bindings::rust_folio_maybe_dma_pinned(self.as_raw()) }
    }

    /// Locks the folio if no other thread has.
    #[doc(alias = "folio_trylock")]
    #[inline(always)]
    pub fn try_lock(&self) -> Option<LockedFolio> {
        // SAFETY: By the type invariants there is a reference.
        if !unsafe { bindings::rust_folio_trylock_get(self.as_raw()) } {
            return None;
        }
        // INVARIANT: It was locked, and a reference was taken.
        Some(LockedFolio {
            folio: self.into(),
            _nts: NotThreadSafe,
        })
    }

    /// Locks a folio.
    #[doc(alias = "folio_lock")]
    pub fn lock(this: ARef<Self>, _sleep: &mut Sleepable) -> LockedFolio {
        // SAFETY: By the type invariants there is a reference. The caller may sleep.
        unsafe { bindings::rust_folio_lock(this.as_raw()) };
        // INVARIANT: It was locked. The reference is that of `this`.
        LockedFolio {
            folio: ARef::into_raw(this),
            _nts: NotThreadSafe,
        }
    }
}

/// A folio that is locked.
///
/// # Invariants
///
/// The thread has locked it, and has a reference.
pub struct LockedFolio {
    folio: NonNull<Folio>,
    // The thread that has locked it unlocks it.
    _nts: NotThreadSafe,
}

impl Deref for LockedFolio {
    type Target = Folio;

    #[inline(always)]
    fn deref(&self) -> &Folio {
        // SAFETY: By the type invariants there is a reference.
        unsafe { self.folio.as_ref() }
    }
}

impl LockedFolio {
    /// Splits a large folio into pages, and unlocks it.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is of one page; `EAGAIN` if there are other references; `EBUSY` if it is not
    /// mapped, or being written back; `ENOMEM`.
    #[doc(alias = "split_folio")]
    pub fn split(self, _sleep: &mut Sleepable) -> Result {
        if !self.is_large() {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants the folio is locked and has a reference. The caller may
        // sleep. Afterwards the first page is the folio, and has the lock and the reference.
        to_result(unsafe { bindings::rust_split_folio(self.as_raw()) })
    }
}

impl Drop for LockedFolio {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread has locked it, and has a reference.
        unsafe { bindings::rust_folio_unlock_put(self.as_raw()) };
    }
}
