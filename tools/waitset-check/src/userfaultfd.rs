// SPDX-License-Identifier: GPL-2.0

//! The wait set, and stand-ins for its neighbours.

#[allow(unexpected_cfgs, unreachable_pub)]
pub(crate) mod fault;
pub(crate) mod message;
#[allow(unexpected_cfgs)]
pub(crate) mod waitset;

mod context;

pub(crate) use context::{Access, Context, ContextOwner, Ended, MmapChanging};
pub(crate) use fault::FaultOutcome;

/// As in `rust/kernel/userfaultfd/supported.rs`.
mod supported {
    use crate::mm::virt::vm_flags_t;

    pub(super) const VM_UFFD_MISSING: vm_flags_t = 1 << 9;
    pub(super) const VM_UFFD_WP: vm_flags_t = 1 << 12;
    pub(super) const VM_UFFD_MINOR: vm_flags_t = 1 << 41;
    pub(super) const VM_UFFD_FLAGS: vm_flags_t = VM_UFFD_MISSING | VM_UFFD_WP | VM_UFFD_MINOR;
}

/// As in `rust/kernel/userfaultfd/vma.rs`.
mod vma {
    use crate::mm::virt::VmaRef;
    use core::ops::Deref;

    pub struct Vma<'a>(&'a VmaRef);

    impl<'a> Vma<'a> {
        pub(super) fn from_ref(vma: &'a VmaRef) -> Self {
            Self(vma)
        }

        pub(super) fn is_hugetlb(&self) -> bool {
            false
        }
    }

    impl Deref for Vma<'_> {
        type Target = VmaRef;

        fn deref(&self) -> &VmaRef {
            self.0
        }
    }
}
