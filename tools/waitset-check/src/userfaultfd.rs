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

/// As in `rust/kernel/userfaultfd/trace.rs`, while all tracepoints are off.
pub(crate) mod trace {
    use super::{
        message::{Message, PageFault},
        waitset::WaitSet,
    };
    use crate::task::Task;

    #[derive(Copy, Clone)]
    pub(crate) struct Since;

    impl Since {
        pub(crate) fn in_jiffies() -> Self {
            Self
        }

        pub(crate) fn elapsed_ms(self) -> u64 {
            0
        }
    }

    pub(crate) fn is_timed() -> bool {
        false
    }

    #[derive(Copy, Clone)]
    pub(crate) enum Why {
        Resolved,
        Woken,
        Interrupted,
        Unneeded,
        Read,
        Abandoned,
    }

    pub(crate) fn fault(_set: &WaitSet, _address: u64, _flags: u64) -> Since {
        Since
    }

    pub(crate) fn fault_end(_set: &WaitSet, _message: &PageFault, _why: Why, _since: Since) {}

    pub(crate) fn event(_set: &WaitSet, _message: Option<&Message>) -> Since {
        Since
    }

    pub(crate) fn event_end(_: &WaitSet, _: Option<&Message>, _why: Why, _since: Since) {}

    pub(crate) fn read(_: &WaitSet, _: Option<&Message>, _task: &Task, _since: Since) {}
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
