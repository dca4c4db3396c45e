// SPDX-License-Identifier: GPL-2.0

//! The address space that the tests of page tables use.

use kernel::{
    bindings::{self, pmd_kind, FOLIOS, PTRS_PER_PTE},
    mm::{
        locked::{Memory, Private, PteVma},
        MmWithUser,
    },
    page::PAGE_SIZE,
    task::Sleepable,
};
use std::{array, ptr};

/// Makes an anonymous VMA of pages, which is private.
pub fn new_vma(start: usize, end: usize) -> bindings::vm_area_struct {
    bindings::vm_area_struct {
        vm_start: start * PAGE_SIZE,
        vm_end: end * PAGE_SIZE,
        vm_mm: ptr::null_mut(),
        vm_pgoff: 0,
        vm_page_prot: bindings::pgprot_t::default(),
        vm_file: ptr::null_mut(),
        vm_flags: 0,
        vm_ops: ptr::null(),
        anon_vma: ptr::null_mut(),
        vm_userfaultfd_ctx: bindings::vm_userfaultfd_ctx {
            ctx: ptr::null_mut(),
        },
        is_locked: false,
        has_writer: false,
        is_full: false,
        own_anon_vma: bindings::anon_vma::default(),
        orders: 0,
    }
}

/// An address space with two tables of PTEs, and a VMA from the page 10 on, which is private unless its
/// flags say otherwise.
pub struct Space {
    pub mm: bindings::mm_struct,
    pub vma: bindings::vm_area_struct,
    /// Another one, if it is one of the mm.
    pub other: bindings::vm_area_struct,
    pub swap: bindings::swap_info_struct,
    file: bindings::file,
    pub inode: bindings::inode,
    pub mapping: bindings::address_space,
    pub ptes: Vec<bindings::pte_t>,
}

impl Space {
    /// Makes one whose VMA ends at a page. If `file_pages` is set, that is of a file of shmem.
    pub fn new(end: usize, file_pages: Option<usize>) -> Box<Self> {
        let mut ptes = vec![0; 2 * PTRS_PER_PTE];
        let pmds = [0, PTRS_PER_PTE].map(|first| bindings::pmd_t {
            kind: pmd_kind::None,
            is_missing: false,
            is_freed: false,
            is_retracted: false,
            lock: bindings::spinlock_t::default(),
            ptes: &mut ptes[first],
            huge: ptr::null_mut(),
            flags: 0,
            reserve: 0,
        });
        let mut space = Box::new(Self {
            mm: bindings::mm_struct {
                pgd: bindings::pgd_t {
                    is_there: false,
                    pmds,
                },
                has_memory: true,
                anon_pages: 0,
                file_pages: 0,
                stale: [0; 2 * PTRS_PER_PTE],
                flushes: 0,
                cache: [0; 2],
                __bindgen_anon_1: bindings::mm_notifiers {
                    notifier_subscriptions: ptr::null_mut(),
                },
                notified: [0; 2],
                has_one_pmd_table: false,
                hugetlb_pages: 0,
                folios: array::from_fn(|_| bindings::folio::default()),
                allocated: 0,
                charges: usize::MAX,
                vmas: [ptr::null_mut(); 2],
                has_mmap_lock: false,
                mmap_locks: 0,
            },
            vma: new_vma(10, end),
            other: new_vma(0, 0),
            swap: bindings::swap_info_struct {
                refcount: 0,
                is_off: false,
                swap_map: [0; 8],
                folios: [ptr::null_mut(); 8],
            },
            file: bindings::file {
                f_inode: ptr::null_mut(),
                f_mapping: ptr::null_mut(),
                refcount: 0,
            },
            inode: bindings::inode {
                h: ptr::null_mut(),
                size: file_pages.unwrap_or(0) * PAGE_SIZE,
                vma: ptr::null_mut(),
                free_blocks: FOLIOS,
                new_blocks: 0,
            },
            mapping: bindings::address_space {
                i_pages: [ptr::null_mut(); FOLIOS],
                host: ptr::null_mut(),
            },
            ptes,
        });
        space.mm.vmas[0] = &mut space.vma;
        space.vma.vm_mm = &mut space.mm;
        space.other.vm_mm = &mut space.mm;
        space.inode.vma = &mut space.vma;
        space.file.f_inode = &mut space.inode;
        space.file.f_mapping = &mut space.mapping;
        space.mapping.host = &mut space.inode;
        if file_pages.is_some() {
            space.vma.vm_file = &mut space.file;
            space.vma.vm_ops = ptr::from_ref(&space.file).cast();
        }
        space
    }

    /// Locks the VMA, which is private, and calls `work` with it.
    pub fn with_vma<R>(
        &mut self,
        work: impl FnOnce(PteVma<'_, Private>, &mut Sleepable) -> R,
    ) -> R {
        self.with_memory(|memory, sleep| {
            let Memory::Private(vma) = memory else {
                unreachable!("the VMA is private");
            };
            work(vma, sleep)
        })
    }

    /// Locks the VMA, and calls `work` with what it is.
    pub fn with_memory<R>(&mut self, work: impl FnOnce(Memory<'_>, &mut Sleepable) -> R) -> R {
        // SAFETY: This thread may sleep.
        let mut sleep = unsafe { Sleepable::new() };
        // SAFETY: The mm is valid, and as large as all that it points to.
        let mm = unsafe { MmWithUser::from_raw(&self.mm) };
        let locked = mm.lock_vma_prepare_anon(10 * PAGE_SIZE, &mut sleep);
        let mut locked = locked.expect("the VMA is there");
        let (memory, sleep) = locked.parts();
        let ret = work(memory, sleep);
        drop(locked);
        assert!(!self.vma.is_locked);
        ret
    }

    /// Returns the pages that have an entry.
    pub fn done(&self, entry: bindings::pte_t) -> Vec<usize> {
        let pages = 0..self.ptes.len();
        pages.filter(|&page| self.ptes[page] == entry).collect()
    }
}
