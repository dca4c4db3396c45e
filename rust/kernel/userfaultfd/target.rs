// SPDX-License-Identifier: GPL-2.0

//! The parts of operations that fill pages.
//!
//! [`Pages::lock_target`] locks the VMA, and checks that it is registered. What can be done then
//! depends on its [`Memory`]: see [`crate::mm::pgtable`], [`crate::mm::filemap`] and
//! [`crate::mm::hugetlb`].
//!
//! Locks nest so: mmap lock, VMA lock, `map_changing_lock`; then those of the page tables.

use super::{
    context::Context,
    pages::Pages,
    range::PageRange,
    supported::{VM_UFFD_FLAGS, VM_UFFD_WP},
    vma::Vma,
};
use crate::{
    bindings,
    error::{
        code::{EAGAIN, EINVAL, ENOENT},
        Result,
    },
    mm::{
        locked::{AnonPair, LockedVma, LockedVmaPair, Memory},
        virt::{flags, vm_flags_t, VmaRef},
        MmWithUser,
    },
    task::Sleepable,
    types::NotThreadSafe,
};
use core::ptr::NonNull;

/// The layout of the address space of a context does not change.
///
/// # Invariants
///
/// The thread holds `map_changing_lock` for reading, and has seen that the layout was not changing.
pub(super) struct Unchanging<'a> {
    context: &'a Context,
    // A lock is given back by the thread that has taken it.
    _nts: NotThreadSafe,
}

impl<'a> Unchanging<'a> {
    /// # Errors
    ///
    /// `EAGAIN` if it is changing.
    #[inline(always)]
    pub(super) fn new(context: &'a Context) -> Result<Self> {
        // SAFETY: The context is valid.
        unsafe { bindings::down_read(&raw mut (*context.as_raw()).map_changing_lock) };
        // INVARIANT: The lock was taken. If the layout is changing, it is given back.
        let unchanging = Self {
            context,
            _nts: NotThreadSafe,
        };
        if context.mmap_changing() {
            return Err(EAGAIN);
        }
        Ok(unchanging)
    }
}

impl Drop for Unchanging<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the thread holds the lock.
        unsafe { bindings::up_read(&raw mut (*self.context.as_raw()).map_changing_lock) };
    }
}

/// The memory of a range of pages that is to be filled: it is in one VMA, which is registered.
/// While this exists, the VMA is locked, and no other operation can be made with the same
/// [`Pages`].
pub struct Target<'p> {
    mm: &'p MmWithUser,
    // It goes before the lock of the VMA, because it was taken after it.
    unchanging: Unchanging<'p>,
    vma: LockedVma<'p>,
}

impl Pages<'_> {
    /// Locks the VMA of a range, and checks what all operations that fill pages ask of it.
    ///
    /// It may be registered with another context, as in C.
    ///
    /// # Errors
    ///
    /// `ENOENT` if no VMA has the whole range, or if it is not registered; `EAGAIN` if the layout
    /// of the address space is changing, or if the VMA has too many readers; `ENOMEM`.
    #[doc(alias = "uffd_mfill_lock")]
    #[inline(always)]
    pub fn lock_target(&mut self, range: PageRange) -> Result<Target<'_>> {
        Target::lock(self.context, &self.mm, range, self.sleep)
    }
}

/// The memory of two ranges of pages, between which pages are to be moved. While this exists, the
/// VMAs at their beginnings are locked, as for a [`Target`].
pub struct TargetPair<'p> {
    // It goes before the locks of the VMAs, because it was taken after them.
    _unchanging: Unchanging<'p>,
    vmas: LockedVmaPair<'p>,
}

impl Pages<'_> {
    /// Locks the VMAs at the beginnings of two ranges, and checks that the first is registered with
    /// the context.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no VMA at the beginning of a range; `EINVAL` if that of the first is
    /// not registered with the context; `EAGAIN` and `ENOMEM` as for [`Pages::lock_target`].
    #[doc(alias = "uffd_move_lock")]
    #[inline(always)]
    pub fn lock_target_pair(&mut self, dst: PageRange, src: PageRange) -> Result<TargetPair<'_>> {
        let (mm, context) = (&*self.mm, self.context);
        let vmas = mm.lock_vma_pair_prepare_anon(dst.start(), src.start(), self.sleep)?;
        let unchanging = Unchanging::new(context)?;
        let is_registered = Vma::from_ref(vmas.dst())
            .context()
            .is_some_and(|other| core::ptr::eq(other, context));
        if !is_registered {
            return Err(EINVAL);
        }
        Ok(TargetPair {
            _unchanging: unchanging,
            vmas,
        })
    }
}

impl TargetPair<'_> {
    /// Returns the VMAs, if pages can be moved from one to the other, and the token for what sleeps
    /// while they are locked.
    #[inline(always)]
    pub fn parts(&mut self) -> (Option<AnonPair<'_>>, &mut Sleepable) {
        self.vmas.parts()
    }
}

impl<'p> Target<'p> {
    #[inline(always)]
    fn lock(
        context: &'p Context,
        mm: &'p MmWithUser,
        range: PageRange,
        sleep: &'p mut Sleepable,
    ) -> Result<Self> {
        let vma = mm.lock_vma_prepare_anon(range.start(), sleep)?;
        if range.end() > vma.end() || Vma::from_ref(&vma).context().is_none() {
            return Err(ENOENT);
        }
        Ok(Self {
            mm,
            unchanging: Unchanging::new(context)?,
            vma,
        })
    }

    /// Returns true if the VMA is registered for write protection.
    #[inline(always)]
    pub fn tracks_writes(&self) -> bool {
        self.vma.flags() & VM_UFFD_WP != 0
    }

    /// Unlocks the VMA, calls `work`, and locks it again. All that was checked is checked again,
    /// and that what `work` has made still fits: the VMA has to be of the same kind of memory,
    /// file, and offset in it, and registered in the same modes.
    ///
    /// # Errors
    ///
    /// That of `work`; those of [`Pages::lock_target`]; `EAGAIN` if the VMA is not as it was.
    #[inline(never)]
    pub fn unlocked<R>(
        self,
        range: PageRange,
        work: impl FnOnce(&mut Sleepable) -> Result<R>,
    ) -> Result<(Self, R)> {
        let Self {
            mm,
            vma,
            unchanging,
        } = self;
        let was = Identity::of(&vma, range);
        let context = unchanging.context;
        drop(unchanging);
        let sleep = vma.unlock();
        let ret = work(sleep)?;
        let target = Self::lock(context, mm, range, sleep)?;
        if !was.is_that_of(&target.vma, range) {
            // The VMA is unlocked before the reference to the file goes, because it was locked
            // later.
            return Err(EAGAIN);
        }
        Ok((target, ret))
    }

    /// Returns what the memory is, and the token for what sleeps while it is locked.
    #[inline(always)]
    pub fn parts(&mut self) -> (Memory<'_>, &mut Sleepable) {
        self.vma.parts()
    }
}

/// Returns true if copies may use large folios where the policy of the VMA allows them. This is set
/// for all VMAs, in `/sys/kernel/mm/transparent_hugepage/userfaultfd_copy`.
#[inline]
pub fn copies_into_large_folios() -> bool {
    // SAFETY: It can always be called.
    unsafe { bindings::uffd_shim_copies_large() }
}

/// What a page that is to be mapped depends on.
struct Identity {
    flags: vm_flags_t,
    /// While this has a reference, no other file has the same address.
    file: Option<FileRef>,
    index: usize,
}

impl Identity {
    const FLAGS: vm_flags_t = VM_UFFD_FLAGS | flags::SHARED | flags::HUGETLB;

    fn of(vma: &VmaRef, range: PageRange) -> Self {
        Self {
            flags: vma.flags() & Self::FLAGS,
            file: FileRef::of(vma),
            index: Vma::from_ref(vma).page_index(range.start()),
        }
    }

    fn is_that_of(&self, vma: &VmaRef, range: PageRange) -> bool {
        if vma.flags() & Self::FLAGS != self.flags {
            return false;
        }
        match &self.file {
            // Anonymous memory can be moved, and its index does not matter.
            None => file_of(vma).is_null(),
            Some(FileRef(file)) => {
                file_of(vma) == file.as_ptr()
                    && Vma::from_ref(vma).page_index(range.start()) == self.index
            }
        }
    }
}

/// Returns the file of a VMA, or null.
fn file_of(vma: &VmaRef) -> *mut bindings::file {
    // SAFETY: The VMA is locked, so that this does not change.
    unsafe { (*vma.as_ptr()).vm_file }
}

/// A reference to the file of a VMA. It is compared, and not used: `File` promises something about
/// the position in the file, of which nothing is known here.
///
/// # Invariants
///
/// It is owned.
struct FileRef(NonNull<bindings::file>);

impl FileRef {
    fn of(vma: &VmaRef) -> Option<Self> {
        let file = NonNull::new(file_of(vma))?;
        // SAFETY: The VMA, which is locked, has a reference.
        unsafe { bindings::get_file(file.as_ptr()) };
        // INVARIANT: It was taken.
        Some(Self(file))
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is owned.
        unsafe { bindings::fput(self.0.as_ptr()) };
    }
}
