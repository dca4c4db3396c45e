// SPDX-License-Identifier: GPL-2.0

//! The calls from mm, which `include/linux/userfaultfd_k.h` declares, and the system call.
//!
//! [`Operations`] names the C function that each stands for.

use crate::{access, event, fault, Userfaultfd};
use core::ops::Range;
use kernel::{
    declare_userfaultfd,
    prelude::*,
    uapi,
    userfaultfd::{
        event_list::{EventList, PendingUnmap},
        vma::{Vma, VmaMut},
        waitset::Fork,
        Context, Fault, FaultOutcome, MmapChanging, Operations,
    },
};

declare_userfaultfd!(Userfaultfd);

impl Operations for Userfaultfd {
    #[inline]
    fn handle_fault<'a>(fault: Fault<'a>) -> FaultOutcome<'a> {
        fault::handle(fault)
    }

    fn is_wp_async(context: &Context) -> bool {
        context.has(uapi::UFFD_FEATURE_WP_ASYNC)
    }

    fn is_wp_unpopulated(context: &Context) -> bool {
        context.has(uapi::UFFD_FEATURE_WP_UNPOPULATED)
    }

    fn wants_fork(context: &Context) -> bool {
        context.has(uapi::UFFD_FEATURE_EVENT_FORK)
    }

    fn fork_complete(fork: Fork) {
        fork.tell();
    }

    fn remap(vma: VmaMut<'_>) -> Option<MmapChanging> {
        event::remap(vma)
    }

    fn remap_complete(changing: MmapChanging, from: usize, to: usize, len: usize) {
        event::remap_complete(changing, from, to, len);
    }

    fn remove(vma: Vma<'_>) -> Option<MmapChanging> {
        event::remove(vma)
    }

    fn removing(changing: MmapChanging, range: Range<usize>) -> MmapChanging {
        event::removing(changing, range)
    }

    fn unmap(
        vma: Vma<'_>,
        range: Range<usize>,
        unmaps: &mut EventList<'_, PendingUnmap>,
    ) -> Result {
        event::unmap(vma, range, unmaps)
    }

    fn unmap_complete(unmap: PendingUnmap) {
        event::unmap_complete(unmap);
    }

    fn create(flags: u32) -> Result<u32> {
        access::create_checked(flags)
    }
}
