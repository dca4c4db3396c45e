// SPDX-License-Identifier: GPL-2.0

//! An address space of one VMA or two, two tables of PTEs, and a few folios, a file that may have some of
//! them, a device for swap, and what C does with it.
//!
//! `mm/rust_pgtable.c`, `mm/rust_filemap.c`, `mm/rust_hugetlb.c` and `mm/rust_move.c` are real, and built with
//! `model.h` and `model_hugetlb.h`, which have the same structures. The rest is here, with what
//! `mm/rust_folio.c` and `mm/shmem.c` do.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    clippy::missing_safety_doc
)]

use core::{
    cell::RefCell,
    ffi::{c_int, c_uint, c_void},
    ptr::{null_mut, without_provenance_mut, NonNull},
};

pub const PTRS_PER_PTE: usize = 1024;
pub const PMD_SIZE: usize = PTRS_PER_PTE << 12;

#[repr(C)]
#[derive(Copy, Clone, Default)]
pub struct pgprot_t {
    pub pgprot: usize,
}

pub type vm_flags_t = usize;
pub const VM_READ: u32 = 0x1;
pub const VM_WRITE: u32 = 0x2;
pub const VM_EXEC: u32 = 0x4;
pub const VM_SHARED: u32 = 0x8;
pub const VM_UFFD_MISSING: u32 = 0x200;
pub const VM_PFNMAP: u32 = 0x400;
pub const VM_UFFD_WP: u32 = 0x1000;
pub const VM_LOCKED: u32 = 0x2000;
pub const VM_IO: u32 = 0x4000;
pub const VM_HUGETLB: u32 = 0x40_0000;
pub const VM_MIXEDMAP: u32 = 0x1000_0000;
pub const RUST_VM_SHADOW_STACK: vm_flags_t = 0x2000_0000;

/// An entry of a table of PTEs: zero if there is nothing, or the address of a folio with flags.
pub type pte_t = usize;
pub const ZERO_PAGE: pte_t = 1;
pub const POISON: pte_t = 2;
pub const UFFD_WP: pte_t = 3;
pub const GUARD: pte_t = 4;
/// One that is neither the zero page nor one of a folio.
pub const SPECIAL_PAGE: pte_t = 6;

/// Flags of the entry of a folio.
pub const PTE_DIRTY: pte_t = 1;
pub const PTE_WRITE: pte_t = 2;
pub const PTE_UFFD_WP: pte_t = 4;
pub const PTE_SOFT_DIRTY: pte_t = 8;
pub const PMD_SPECIAL: pte_t = 16;

/// An entry of a page that is swapped out: these, the address of the device, and a number.
pub const PTE_SWAP: pte_t = 1 << 63;
pub const PTE_SWP_EXCLUSIVE: pte_t = 1 << 61;
pub const PTE_SWP_SOFT_DIRTY: pte_t = 1 << 60;
/// It is set in that of a page that migrates.
pub const PTE_MIGRATION: pte_t = 1 << 62;

#[repr(C)]
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct swp_entry_t {
    pub val: usize,
}

#[repr(C)]
#[derive(Default)]
pub struct spinlock_t {
    pub is_locked: bool,
}

#[repr(C)]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum pmd_kind {
    None,
    Table,
    Huge,
    Bad,
    Migration,
}

#[repr(C)]
pub struct pmd_t {
    pub kind: pmd_kind,
    /// There is no PMD table for it.
    pub is_missing: bool,
    /// There is no table when it is looked for.
    pub is_freed: bool,
    /// The table is taken away when it was found, and before it is locked.
    pub is_retracted: bool,
    pub lock: spinlock_t,
    pub ptes: *mut pte_t,
    /// A huge page, or null for the zero page.
    pub huge: *mut folio,
    /// Those of the entry of a huge page: see `PTE_DIRTY`.
    pub flags: c_uint,
    /// How many PTE tables are kept for the case that it is split.
    pub reserve: c_uint,
}

#[repr(C)]
pub struct pgd_t {
    pub is_there: bool,
    pub pmds: [pmd_t; 2],
}

/// A folio, which is its first page, or a further page of one: these follow. Its address has room for the
/// flags.
#[repr(C, align(64))]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct folio {
    pub refcount: c_int,
    /// Those of this page.
    pub rmaps: c_int,
    /// How often pages of the folio were added.
    pub rmap_calls: c_int,
    pub lrus: c_int,
    /// That of the page it is mapped for.
    pub address: usize,
    pub is_charged: bool,
    pub is_locked: bool,
    /// Another thread locks it, once it was seen that it is not locked.
    pub is_contended: bool,
    pub is_uptodate: bool,
    /// It is not in the page cache any more, once the caller looks again.
    pub is_moved: bool,
    /// This page has a hardware error.
    pub is_hwpoison: bool,
    /// How often it was tried to get a reference, where the folio may be gone.
    pub tries: c_uint,
    /// A power of two.
    pub nr_pages: c_uint,
    pub mapping: Option<NonNull<address_space>>,
    pub index: usize,
    pub anon_vma: Option<NonNull<anon_vma>>,
    pub is_exclusive: bool,
    pub is_pinned: bool,
    /// Another thread pins it without locks, if that finds the entry.
    pub is_being_pinned: bool,
    /// Another thread writes to it, as long as there is an entry.
    pub is_being_written: bool,
    pub is_swapcache: bool,
    pub swap: swp_entry_t,
    /// An entry that another thread sets while one waits for the lock, and what it becomes.
    pub changes: Option<NonNull<pte_t>>,
    pub entry: pte_t,
    /// For hugetlb: it has taken a reservation, which it has to give to what it is mapped for.
    pub has_reservation: bool,
    pub is_migratable: bool,
    /// It is to be filled from what cannot be read without page faults.
    pub is_absent: bool,
}

/// When other threads do something.
#[repr(C)]
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Before a page table is locked, the first one if there are two.
    ForTable,
    /// While a thread waits for the lock of a folio.
    ForFolio,
    /// While it waits for that of an `anon_vma`.
    ForRmap,
}

type Others = Vec<(Moment, Box<dyn FnOnce()>)>;

thread_local! {
    static OTHERS: RefCell<Others> = const { RefCell::new(Vec::new()) };
}

/// Has others do something at a moment, once.
pub fn at(moment: Moment, work: impl FnOnce() + 'static) {
    OTHERS.with_borrow_mut(|others| others.push((moment, Box::new(work))));
}

/// Returns true if others have done all that they were to do.
pub fn others_are_done() -> bool {
    OTHERS.with_borrow(|others| others.is_empty())
}

/// The C code calls this as well. The first of what is to be done is done first.
#[unsafe(no_mangle)]
extern "C" fn model_others(moment: Moment) {
    let work = OTHERS.with_borrow_mut(|others| {
        let is_due = others.first().is_some_and(|(first, _)| *first == moment);
        is_due.then(|| others.remove(0).1)
    });
    if let Some(work) = work {
        work();
    }
}

#[repr(C)]
#[derive(Debug, Default, PartialEq)]
pub struct anon_vma {
    pub refcount: c_int,
    pub is_locked: bool,
    /// Another thread has locked it.
    pub is_contended: bool,
}

#[repr(C, align(64))]
pub struct swap_info_struct {
    pub refcount: c_int,
    /// It is being taken out of use.
    pub is_off: bool,
    pub swap_map: [u8; 8],
    /// The swap cache.
    pub folios: [*mut folio; 8],
}

pub const SWAP_HAS_CACHE: u8 = 0x40;

/// How many pages there are, and how many a file may have.
pub const FOLIOS: usize = 128;

/// Entries of the page cache that are no folio. `RETRY` is one that is being changed.
pub const SWAPPED: *mut folio = without_provenance_mut(1);
pub const RETRY: *mut folio = without_provenance_mut(2);

/// The page cache of a file: for each page the folio, if it has one.
#[repr(C)]
pub struct address_space {
    pub i_pages: [*mut folio; FOLIOS],
    pub host: *mut inode,
}

#[repr(C)]
pub struct mm_struct {
    pub pgd: pgd_t,
    pub has_memory: bool,
    pub anon_pages: usize,
    pub file_pages: usize,
    /// For each page the entry that TLBs may have, while it is not there any more.
    pub stale: [pte_t; 2 * PTRS_PER_PTE],
    /// How often TLBs were flushed.
    pub flushes: c_uint,
    /// Addresses whose caches were flushed: the first, and the one behind the last.
    pub cache: [usize; 2],
    pub __bindgen_anon_1: mm_notifiers,
    /// Those that the notifiers were told of.
    pub notified: [usize; 2],
    /// The entries of PMD tables have one lock.
    pub has_one_pmd_table: bool,
    pub hugetlb_pages: usize,
    pub folios: [folio; FOLIOS],
    /// How many of them were allocated.
    pub allocated: usize,
    /// How many can still be charged.
    pub charges: usize,
    pub vmas: [*mut vm_area_struct; 2],
    pub has_mmap_lock: bool,
    /// How often the mmap lock was taken.
    pub mmap_locks: c_uint,
}

#[repr(C)]
pub struct mm_notifiers {
    pub notifier_subscriptions: *mut c_void,
}

#[repr(C)]
pub struct mmu_notifier_range {
    mm: *mut mm_struct,
    start: usize,
    end: usize,
}

#[repr(C)]
pub struct inode {
    pub size: usize,
    /// Only a file of hugetlb has one.
    pub h: *mut hstate,
    /// That which has the file.
    pub vma: *mut vm_area_struct,
    /// How many blocks there are, and how many were taken for pages that are not added yet.
    pub free_blocks: usize,
    pub new_blocks: usize,
}

#[repr(C)]
pub struct file {
    pub f_inode: *mut inode,
    pub f_mapping: *mut address_space,
    /// Those that are not of a VMA.
    pub refcount: c_int,
}

#[repr(C)]
pub struct vm_area_struct {
    pub vm_start: usize,
    pub vm_end: usize,
    pub vm_mm: *mut mm_struct,
    pub vm_pgoff: usize,
    pub vm_page_prot: pgprot_t,
    pub vm_file: *mut file,
    pub vm_flags: vm_flags_t,
    pub vm_ops: *const c_void,
    pub anon_vma: *mut anon_vma,
    pub vm_userfaultfd_ctx: vm_userfaultfd_ctx,
    pub is_locked: bool,
    /// A thread waits to lock it for writing, so that it is not locked without the mmap lock.
    pub has_writer: bool,
    /// It has too many readers.
    pub is_full: bool,
    /// That which it gets.
    pub own_anon_vma: anon_vma,
    /// The orders of large folios that its policy allows.
    pub orders: usize,
}

#[repr(C)]
pub struct vm_userfaultfd_ctx {
    pub ctx: *mut userfaultfd_ctx,
}

#[repr(C)]
#[derive(Default)]
pub struct rw_semaphore {
    pub readers: c_uint,
}

#[repr(C)]
pub struct userfaultfd_ctx {
    pub mm: *mut mm_struct,
    pub map_changing_lock: rw_semaphore,
    pub mmap_changing: bool,
}

/// How many pages a file of hugetlb has, and how many folios there are for them.
pub const HUGE_PAGES: usize = 4;
pub const HUGE_FOLIOS: usize = 6;

#[repr(C)]
pub struct mutex {
    pub is_locked: bool,
}

#[repr(C)]
#[derive(Default)]
pub struct hstate {
    pub order: c_uint,
    /// A page is larger than what a PMD table maps.
    pub is_gigantic: bool,
    /// The source of a copy cannot be read without page faults.
    pub is_absent: bool,
    /// A new folio has a hardware error.
    pub is_hwpoison: bool,
    /// Those of the VMA, and the lock of their table.
    pub ptes: [pte_t; HUGE_PAGES],
    pub ptl: spinlock_t,
    /// Which pages of the file, or of the VMA, have a reservation.
    pub reserved: [bool; HUGE_PAGES],
    pub pool: [folio; HUGE_FOLIOS],
    /// How often the VMA is locked.
    pub readers: c_uint,
    /// Which step fails, counted from one, and how many there were.
    pub fails: c_uint,
    pub steps: c_uint,
}

pub const RUST_HUGE_CACHED: u32 = 1;
pub const RUST_HUGE_NEW: u32 = 2;
pub const RUST_HUGE_UFFD_WP: u32 = 4;

pub type rust_pte_result = c_uint;
pub const rust_pte_result_RUST_PTE_OK: rust_pte_result = 0;
pub const rust_pte_result_RUST_PTE_TAKEN: rust_pte_result = 1;
pub const rust_pte_result_RUST_PTE_BEYOND_FILE: rust_pte_result = 2;
pub const rust_pte_result_RUST_PTE_NO_TABLE: rust_pte_result = 3;
pub const rust_pte_result_RUST_PTE_NO_MEMORY: rust_pte_result = 4;
pub const rust_pte_result_RUST_PTE_BAD: rust_pte_result = 5;
pub const rust_pte_result_RUST_PTE_HWPOISON: rust_pte_result = 6;

#[repr(C)]
pub struct rust_pte_run {
    pub pte: *mut pte_t,
    pub ptl: *mut spinlock_t,
    pub count: c_uint,
}

pub type rust_move_tables = c_uint;
pub const rust_move_tables_RUST_MOVE_PTE: rust_move_tables = 0;
pub const rust_move_tables_RUST_MOVE_LEAF: rust_move_tables = 1;
pub const rust_move_tables_RUST_MOVE_NO_SOURCE: rust_move_tables = 2;
pub const rust_move_tables_RUST_MOVE_HUGE_TAKEN: rust_move_tables = 3;

pub type rust_move_source = c_uint;
pub const rust_move_source_RUST_MOVE_NO_TABLE: rust_move_source = 0;
pub const rust_move_source_RUST_MOVE_TAKEN: rust_move_source = 1;
pub const rust_move_source_RUST_MOVE_HOLE: rust_move_source = 2;
pub const rust_move_source_RUST_MOVE_ZERO_PAGE: rust_move_source = 3;
pub const rust_move_source_RUST_MOVE_PAGE: rust_move_source = 4;
pub const rust_move_source_RUST_MOVE_LARGE: rust_move_source = 5;
pub const rust_move_source_RUST_MOVE_SWAP: rust_move_source = 6;
pub const rust_move_source_RUST_MOVE_SHARED: rust_move_source = 7;
pub const rust_move_source_RUST_MOVE_MIGRATION: rust_move_source = 8;

pub type rust_pmd = c_uint;
pub const rust_pmd_RUST_PMD_NONE: rust_pmd = 0;
pub const rust_pmd_RUST_PMD_TABLE: rust_pmd = 1;
pub const rust_pmd_RUST_PMD_HUGE: rust_pmd = 2;
pub const rust_pmd_RUST_PMD_HUGE_ZERO: rust_pmd = 3;
pub const rust_pmd_RUST_PMD_BUSY: rust_pmd = 4;
pub const rust_pmd_RUST_PMD_MIGRATION: rust_pmd = 5;
pub const rust_pmd_RUST_PMD_TAKEN: rust_pmd = 7;

#[repr(C)]
pub struct rust_move {
    pub dst_vma: *mut vm_area_struct,
    pub src_vma: *mut vm_area_struct,
    pub dst: usize,
    pub src: usize,
    pub len: usize,
    pub dst_pmd: *mut pmd_t,
    pub src_pmd: *mut pmd_t,
    pub dst_is_none: bool,
    pub src_pmdval: pmd_t,
    pub dst_ptl: *mut spinlock_t,
    pub src_ptl: *mut spinlock_t,
    pub dst_pte: *mut pte_t,
    pub src_pte: *mut pte_t,
    pub count: c_uint,
    pub __bindgen_anon_1: rust_move__bindgen_ty_1,
}

#[repr(C)]
pub union rust_move__bindgen_ty_1 {
    pub folio: *mut folio,
    pub swap: swp_entry_t,
}

unsafe extern "C" {
    /// Returns true if the thread has locked or mapped no table.
    pub safe fn model_is_idle() -> bool;

    pub fn rust_move_find_tables(move_: *mut rust_move, alloc: bool) -> rust_move_tables;
    pub fn rust_move_lock_pmds(move_: *mut rust_move) -> rust_pmd;
    pub fn rust_move_unlock_pmds(move_: *mut rust_move);
    pub fn rust_move_clear_pmd(move_: *mut rust_move);
    pub fn rust_move_restore_pmd(move_: *mut rust_move);
    pub fn rust_move_place_huge(move_: *mut rust_move);
    pub fn rust_move_place_huge_zero(move_: *mut rust_move);
    pub fn rust_split_pmd(vma: *mut vm_area_struct, pmd: *mut pmd_t, addr: usize) -> c_int;
    pub fn rust_pmd_migration_entry_wait(vma: *mut vm_area_struct, pmd: *mut pmd_t);
    pub fn rust_move_lock(move_: *mut rust_move) -> rust_move_source;
    pub fn rust_move_unlock(move_: *mut rust_move);
    pub fn rust_move_zero_ptes(move_: *mut rust_move) -> c_uint;
    pub fn rust_move_anon_ptes(move_: *mut rust_move, anon_vma: *mut anon_vma) -> c_uint;
    pub fn rust_move_swap_pte(
        move_: *mut rust_move,
        si: *mut swap_info_struct,
        folio: *mut folio,
    ) -> bool;
    pub fn rust_migration_entry_wait(move_: *mut rust_move);
    pub fn rust_anon_vma_trylock(folio: *mut folio, locked: *mut bool) -> *mut anon_vma;
    pub fn rust_anon_vma_lock_write(anon_vma: *mut anon_vma);
    pub fn rust_anon_vma_unlock_put(anon_vma: *mut anon_vma);
    pub fn rust_put_anon_vma(anon_vma: *mut anon_vma);
    pub fn rust_get_swap_device(swap: swp_entry_t) -> *mut swap_info_struct;
    pub fn rust_put_swap_device(si: *mut swap_info_struct);
    pub fn rust_swap_cache_get_folio(swap: swp_entry_t) -> *mut folio;
    pub fn rust_mmu_notifier_start(
        range: *mut mmu_notifier_range,
        mm: *mut mm_struct,
        start: usize,
        end: usize,
    );
    pub fn rust_mmu_notifier_end(range: *mut mmu_notifier_range);

    pub fn rust_pte_alloc(vma: *mut vm_area_struct, addr: usize) -> rust_pte_result;
    pub fn rust_pte_alloc_lock_none(
        vma: *mut vm_area_struct,
        addr: usize,
        end: usize,
        run: *mut rust_pte_run,
    ) -> rust_pte_result;
    pub fn rust_map_anon_folios(
        vma: *mut vm_area_struct,
        addr: usize,
        folios: *mut *mut folio,
        count: *mut c_uint,
        uffd_wp: bool,
    ) -> rust_pte_result;
    pub fn rust_shmem_lock_folio(
        vma: *mut vm_area_struct,
        addr: usize,
        folio: *mut *mut folio,
    ) -> c_int;
    pub fn rust_map_cached_folios(
        vma: *mut vm_area_struct,
        addr: usize,
        end: usize,
        uffd_wp: bool,
        count: *mut c_uint,
    ) -> rust_pte_result;
    pub fn rust_map_locked_folio(
        vma: *mut vm_area_struct,
        addr: usize,
        end: usize,
        uffd_wp: bool,
        folio: *mut folio,
        count: *mut c_uint,
    ) -> rust_pte_result;
    pub fn rust_shmem_new_page(
        vma: *mut vm_area_struct,
        addr: usize,
        pmd: *mut *mut pmd_t,
        folio: *mut *mut folio,
    ) -> rust_pte_result;
    pub fn rust_shmem_map_added(
        vma: *mut vm_area_struct,
        pmd: *mut pmd_t,
        addr: usize,
        folio: *mut folio,
        uffd_wp: bool,
    ) -> rust_pte_result;
    pub fn rust_pte_unmap_unlock(pte: *mut pte_t, ptl: *mut spinlock_t);

    /// Returns true if the thread has locked no mutex of faults.
    pub safe fn model_has_no_faults() -> bool;
    pub fn rust_hugetlb_page_shift(vma: *mut vm_area_struct) -> c_uint;
    pub fn rust_hugetlb_lock_faults(vma: *mut vm_area_struct, index: usize) -> *mut mutex;
    pub fn rust_hugetlb_lock_vma(vma: *mut vm_area_struct, addr: usize, size: usize) -> *mut pte_t;
    pub fn rust_hugetlb_unlock_vma(vma: *mut vm_area_struct);
    pub fn rust_huge_pte_is_vacant(vma: *mut vm_area_struct, addr: usize, pte: *mut pte_t) -> bool;
    pub fn rust_hugetlb_has_pmd_table(vma: *mut vm_area_struct, addr: usize) -> bool;
    pub fn rust_huge_pte_lock_none(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
    ) -> *mut spinlock_t;
    pub fn rust_huge_pte_lock_vacant(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
        folio: *mut folio,
        ptl: *mut *mut spinlock_t,
    ) -> rust_pte_result;
    pub fn rust_huge_pte_unlock(ptl: *mut spinlock_t);
    pub fn rust_huge_pte_poison_unlock(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
        ptl: *mut spinlock_t,
    );
    pub fn rust_huge_pte_map_unlock(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
        ptl: *mut spinlock_t,
        folio: *mut folio,
        flags: c_uint,
    );
    pub fn rust_hugetlb_alloc_reserved(vma: *mut vm_area_struct, addr: usize) -> *mut folio;
    pub fn rust_hugetlb_put_folio(
        vma: *mut vm_area_struct,
        addr: usize,
        folio: *mut folio,
        flags: c_uint,
    );
    pub fn rust_hugetlb_copy_from_user_nofault(folio: *mut folio, src: *const c_void) -> bool;
    pub fn rust_hugetlb_copy_folio(
        vma: *mut vm_area_struct,
        addr: usize,
        folio: *mut folio,
        from: *mut folio,
    ) -> c_int;
    pub fn rust_hugetlb_is_cached(vma: *mut vm_area_struct, addr: usize) -> bool;
    pub fn rust_hugetlb_lock_folio(vma: *mut vm_area_struct, index: usize) -> *mut folio;
    pub fn rust_hugetlb_add_folio(
        vma: *mut vm_area_struct,
        index: usize,
        folio: *mut folio,
    ) -> c_int;
    pub fn rust_alloc_hugetlb_folio_vma(vma: *mut vm_area_struct, addr: usize) -> *mut folio;
    pub fn rust_set_zero_ptes(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
        count: c_uint,
    );
    pub fn rust_set_poison_ptes(
        vma: *mut vm_area_struct,
        addr: usize,
        pte: *mut pte_t,
        count: c_uint,
    );
}

pub unsafe fn rust_vma_alloc_folio(vma: *mut vm_area_struct, _addr: usize) -> *mut folio {
    // SAFETY: The caller passes a valid VMA, so its mm is valid.
    let mm = unsafe { &mut *(*vma).vm_mm };
    let Some(folio) = mm.folios.get_mut(mm.allocated) else {
        return null_mut();
    };
    mm.allocated += 1;
    folio.refcount = 1;
    folio.nr_pages = 1;
    folio
}

/// All but null can be read without page faults.
pub unsafe fn rust_folio_copy_from_user_nofault(_folio: *mut folio, src: *const c_void) -> bool {
    !src.is_null()
}

pub unsafe fn rust_folio_copy_from_user(_folio: *mut folio, src: *const c_void) -> bool {
    !src.is_null()
}

pub unsafe fn rust_folio_charge(folio: *mut folio, mm: *mut mm_struct) -> c_int {
    // SAFETY: The caller passes a valid folio and a valid mm.
    let (is_charged, charges) = unsafe { (&mut (*folio).is_charged, &mut (*mm).charges) };
    if *charges == 0 {
        return -12;
    }
    assert!(!*is_charged, "the folio is charged twice");
    *charges -= 1;
    *is_charged = true;
    0
}

pub unsafe fn rust_folio_zero(_folio: *mut folio, _addr: usize) {}

/// The last reference is given back with the lock.
pub unsafe fn rust_folio_put(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    let folio = unsafe { &mut *folio };
    assert!(folio.refcount > 0, "there is no reference");
    folio.refcount -= 1;
    assert!(folio.refcount > 0 || !folio.is_locked, "it is locked");
}

pub unsafe fn rust_folio_get(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    let refcount = unsafe { &mut (*folio).refcount };
    assert!(*refcount > 0, "there is no reference");
    *refcount += 1;
}

pub unsafe fn rust_folio_test_large(folio: *mut folio) -> bool {
    // SAFETY: The caller passes a valid folio.
    unsafe { (*folio).nr_pages > 1 }
}

pub unsafe fn rust_folio_maybe_dma_pinned(folio: *mut folio) -> bool {
    // SAFETY: The caller passes a valid folio.
    unsafe { (*folio).is_pinned }
}

pub unsafe fn rust_folio_trylock_get(folio: *mut folio) -> bool {
    // SAFETY: The caller passes a valid folio.
    let state = unsafe { &mut *folio };
    if state.is_locked || state.is_contended {
        return false;
    }
    state.is_locked = true;
    // SAFETY: As above.
    unsafe { rust_folio_get(folio) };
    true
}

/// The other thread unlocks it then.
pub unsafe fn rust_folio_lock(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    let state = unsafe { &mut *folio };
    assert!(model_is_idle(), "a table is locked");
    assert!(!state.is_locked, "the folio is locked twice");
    model_others(Moment::ForFolio);
    state.is_contended = false;
    state.is_locked = true;
    if let Some(entry) = state.changes.take() {
        // SAFETY: A test has set it to one.
        unsafe { entry.write(state.entry) };
    }
}

pub unsafe fn rust_folio_unlock_put(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    unsafe {
        folio_unlock(folio);
        rust_folio_put(folio);
    }
}

/// Each page gets what the folio has. One that is pinned cannot be split.
pub unsafe fn rust_split_folio(folio: *mut folio) -> c_int {
    assert!(model_is_idle(), "a table is locked");
    // SAFETY: The caller passes a valid folio.
    unsafe {
        // It is locked to split the folio.
        let anon_vma = (*folio).anon_vma.map(|anon_vma| &*anon_vma.as_ptr());
        assert!(anon_vma.is_none_or(|anon_vma| !anon_vma.is_locked));
        split_folio(folio)
    }
}

/// The same, by any thread.
pub unsafe fn split_folio(folio: *mut folio) -> c_int {
    // SAFETY: The caller passes a valid folio.
    let first = unsafe { &mut *folio };
    assert!(first.is_locked, "the folio is not locked");
    assert!(first.nr_pages > 1, "the folio is of one page");
    if first.is_pinned {
        return -11;
    }
    let count = first.nr_pages as usize;
    first.nr_pages = 1;
    for number in 1..count {
        // SAFETY: The other pages follow, and have their own counts.
        let page = unsafe { &mut *folio.add(number) };
        page.nr_pages = 1;
        page.refcount = page.rmaps;
        first.refcount -= page.rmaps;
        page.anon_vma = first.anon_vma;
        page.index = first.index + number;
    }
    0
}

/// Adds a folio of so many pages to a file. The file has a reference for each.
pub unsafe fn add_to_file(vma: *mut vm_area_struct, index: usize, nr_pages: c_uint) -> *mut folio {
    let pages = nr_pages as usize;
    assert_eq!(index % pages, 0, "the folio is aligned");
    // SAFETY: The caller passes a valid VMA of a file.
    let (mm, mapping) = unsafe { (&mut *(*vma).vm_mm, &mut *(*(*vma).vm_file).f_mapping) };
    let folio = &raw mut mm.folios[mm.allocated..][..pages][0];
    mm.allocated += pages;
    // SAFETY: It is one of the array.
    unsafe {
        *folio = folio {
            refcount: nr_pages as c_int,
            is_uptodate: true,
            nr_pages,
            mapping: Some(NonNull::from(&mut *mapping)),
            ..Default::default()
        };
    }
    mapping.i_pages[index..][..pages].fill(folio);
    folio
}

/// The C code calls this, with `SGP_NOALLOC`. No other thread has the lock of a folio, or it would wait forever.
#[unsafe(no_mangle)]
unsafe extern "C" fn shmem_get_folio(
    inode: *mut inode,
    index: usize,
    _write_end: i64,
    folio: *mut *mut folio,
    _sgp: c_int,
) -> c_int {
    // SAFETY: The caller passes the inode of a file, which a VMA has.
    let (size, vma, entry) = unsafe {
        let (size, vma) = ((*inode).size, (*inode).vma);
        let file = (*vma).vm_file;
        (size, vma, (*(*file).f_mapping).i_pages[index])
    };
    if index << 12 >= size {
        return -22;
    }
    let found = match entry {
        // SAFETY: As above.
        SWAPPED => unsafe { add_to_file(vma, index, 1) },
        _ if entry.is_null() => return -2,
        _ => entry,
    };
    // SAFETY: The caller passes a place for a folio, and what was found is one.
    let locked = unsafe {
        *folio = found;
        &mut *found
    };
    assert!(!locked.is_locked, "the folio is locked twice");
    locked.is_locked = true;
    locked.is_uptodate = true;
    locked.refcount += 1;
    0
}

/// The C code calls this as well. If only entries have references, that is with their table locked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn folio_unlock(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    let state = unsafe { &mut *folio };
    assert!(state.is_locked, "the folio is not locked");
    let is_kept = state.anon_vma.is_none() || state.refcount > state.rmaps;
    assert!(is_kept || !model_is_idle(), "the folio may be gone");
    state.is_locked = false;
}

pub unsafe fn cond_resched_killable() -> bool {
    false
}

pub unsafe fn mmap_read_lock(mm: *mut mm_struct) {
    // SAFETY: The caller passes a valid mm.
    let has_lock = unsafe { &mut (*mm).has_mmap_lock };
    assert!(!*has_lock, "the mmap lock is taken twice");
    *has_lock = true;
    // SAFETY: As above.
    unsafe { (*mm).mmap_locks += 1 };
}

pub unsafe fn mmap_read_unlock(mm: *mut mm_struct) {
    // SAFETY: The caller passes a valid mm.
    unsafe { (*mm).has_mmap_lock = false };
}

pub unsafe fn vma_lookup(mm: *mut mm_struct, addr: usize) -> *mut vm_area_struct {
    // SAFETY: The caller passes a valid mm.
    for vma in unsafe { (*mm).vmas } {
        // SAFETY: So its VMAs are valid or null.
        if !vma.is_null() && unsafe { (*vma).vm_start <= addr && addr < (*vma).vm_end } {
            return vma;
        }
    }
    null_mut()
}

pub unsafe fn lock_vma_under_rcu(mm: *mut mm_struct, addr: usize) -> *mut vm_area_struct {
    // SAFETY: The caller passes a valid mm.
    let vma = unsafe { vma_lookup(mm, addr) };
    // SAFETY: It was found.
    if vma.is_null() || unsafe { (*vma).has_writer || !vma_start_read_locked(vma) } {
        return null_mut();
    }
    vma
}

pub unsafe fn vma_start_read_locked(vma: *mut vm_area_struct) -> bool {
    // SAFETY: The caller passes a valid VMA.
    let vma = unsafe { &mut *vma };
    assert!(!vma.is_locked, "the VMA is locked twice");
    vma.is_locked = !vma.is_full;
    vma.is_locked
}

/// Only a thread that holds the mmap lock may lock a second one, for which it waits.
pub unsafe fn vma_start_read_locked_nested(vma: *mut vm_area_struct) -> bool {
    // SAFETY: The caller passes a valid VMA.
    unsafe {
        assert!((*(*vma).vm_mm).has_mmap_lock);
        vma_start_read_locked(vma)
    }
}

pub unsafe fn vma_end_read(vma: *mut vm_area_struct) {
    // SAFETY: The caller passes a valid VMA.
    let is_locked = unsafe { &mut (*vma).is_locked };
    assert!(*is_locked, "the VMA is not locked");
    *is_locked = false;
}

pub unsafe fn __anon_vma_prepare(vma: *mut vm_area_struct) -> c_int {
    // SAFETY: The caller passes a valid VMA, whose mm is locked.
    let vma = unsafe { &mut *vma };
    vma.own_anon_vma.refcount = 1;
    vma.anon_vma = &mut vma.own_anon_vma;
    0
}

pub unsafe fn down_read(lock: *mut rw_semaphore) {
    // SAFETY: The caller passes a valid lock.
    unsafe { (*lock).readers += 1 };
}

pub unsafe fn up_read(lock: *mut rw_semaphore) {
    // SAFETY: The caller passes a valid lock.
    let readers = unsafe { &mut (*lock).readers };
    assert!(*readers > 0, "it is not locked");
    *readers -= 1;
}

/// Its users are not counted.
pub unsafe fn mmget_not_zero(_mm: *mut mm_struct) -> bool {
    true
}

pub unsafe fn mmget(_mm: *mut mm_struct) {}

pub unsafe fn mmput(_mm: *mut mm_struct) {}

/// The file system has blocks for so many pages. The C code calls this.
#[unsafe(no_mangle)]
unsafe extern "C" fn rust_shmem_take_block(
    vma: *mut vm_area_struct,
    addr: usize,
    folio: *mut *mut folio,
) -> bool {
    // SAFETY: The caller passes a valid VMA of a file.
    let inode = unsafe { &mut *(*(*vma).vm_file).f_inode };
    if inode.free_blocks == 0 {
        return false;
    }
    if !folio.is_null() {
        // SAFETY: The caller passes a place for a folio.
        unsafe {
            *folio = rust_vma_alloc_folio(vma, addr);
            if (*folio).is_null() {
                return false;
            }
        }
    }
    inode.free_blocks -= 1;
    inode.new_blocks += 1;
    true
}

pub unsafe fn rust_shmem_put_block(vma: *mut vm_area_struct) {
    // SAFETY: The caller passes a valid VMA of a file.
    let inode = unsafe { &mut *(*(*vma).vm_file).f_inode };
    assert!(inode.new_blocks > 0, "no block was taken");
    inode.free_blocks += 1;
    inode.new_blocks -= 1;
}

pub unsafe fn rust_shmem_add_folio(
    vma: *mut vm_area_struct,
    addr: usize,
    folio: *mut folio,
) -> c_int {
    // SAFETY: The caller passes a valid VMA of a file, and a folio.
    let (vma, state) = unsafe { (&mut *vma, &mut *folio) };
    // SAFETY: As above.
    let (inode, mapping, mm) = unsafe {
        let file = &*vma.vm_file;
        (&*file.f_inode, &mut *file.f_mapping, &mut *vma.vm_mm)
    };
    let index = ((addr - vma.vm_start) >> 12) + vma.vm_pgoff;
    assert_eq!(state.refcount, 1, "another thread knows the folio");
    if index << 12 >= inode.size {
        return -14;
    }
    if mm.charges == 0 {
        return -12;
    }
    if !mapping.i_pages[index].is_null() {
        return -17;
    }
    mm.charges -= 1;
    state.is_charged = true;
    state.is_locked = true;
    state.is_uptodate = true;
    state.index = index;
    state.mapping = Some(NonNull::from(&mut *mapping));
    state.refcount += 1;
    mapping.i_pages[index] = folio;
    0
}

/// The C code calls this, with the tables unlocked.
#[unsafe(no_mangle)]
unsafe extern "C" fn rust_shmem_keep_folio(vma: *mut vm_area_struct, folio: *mut folio) {
    assert!(model_is_idle(), "a table is locked");
    // SAFETY: The caller passes a valid VMA of a file, and a folio of that.
    let (inode, folio) = unsafe { (&mut *(*(*vma).vm_file).f_inode, &mut *folio) };
    assert!(inode.new_blocks > 0, "no block was taken");
    inode.new_blocks -= 1;
    folio.lrus += 1;
    // SAFETY: It is one.
    unsafe { folio_unlock(folio) };
}

pub unsafe fn rust_shmem_remove_folio(folio: *mut folio) {
    // SAFETY: The caller passes a folio of a file.
    let state = unsafe { &mut *folio };
    let mapping = state.mapping.take().expect("a file has it");
    // SAFETY: The file is valid.
    unsafe { (*mapping.as_ptr()).i_pages[state.index] = null_mut() };
    assert_eq!(state.lrus, 0);
    state.refcount -= 1;
    // SAFETY: It was locked, and the caller gives its reference away.
    unsafe { rust_folio_unlock_put(folio) };
}

pub unsafe fn get_file(file: *mut file) {
    // SAFETY: The caller passes a valid file.
    unsafe { (*file).refcount += 1 };
}

pub unsafe fn fput(file: *mut file) {
    // SAFETY: The caller passes a valid file.
    let refcount = unsafe { &mut (*file).refcount };
    assert!(*refcount > 0, "there is no reference");
    *refcount -= 1;
}

pub unsafe fn mutex_unlock(mutex: *mut mutex) {
    // SAFETY: The caller passes a valid mutex.
    let is_locked = unsafe { &mut (*mutex).is_locked };
    assert!(model_is_idle(), "a table is locked");
    assert!(*is_locked, "it is not locked");
    *is_locked = false;
}

pub unsafe fn vma_is_shmem(vma: *mut vm_area_struct) -> bool {
    // SAFETY: The caller passes a valid VMA.
    unsafe { !(*vma).vm_file.is_null() }
}

/// Functions of userfaultfd that the tests do not call.
macro_rules! not_called {
    ($(fn $name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        $(
            pub unsafe fn $name($(_: $argument),*) $(-> $result)? {
                unreachable!("no test calls it")
            }
        )*
    };
}

pub type uffd_shim_page = c_uint;
pub const uffd_shim_page_UFFD_SHIM_PAGE_UNMAPPED: uffd_shim_page = 1;
pub const uffd_shim_page_UFFD_SHIM_PAGE_MAPPED: uffd_shim_page = 2;

not_called! {
    fn uffd_shim_copies_large() -> bool;
    fn uffd_shim_vma_pagesize(*mut vm_area_struct) -> usize;
    fn uffd_shim_find_page(*mut mm_struct, usize, *mut usize) -> uffd_shim_page;
    fn find_vma_intersection(*mut mm_struct, usize, usize) -> *mut vm_area_struct;
    fn uffd_wp_range(*mut vm_area_struct, usize, usize, bool) -> isize;
}

/// The orders that the policy of the VMA allows.
pub unsafe fn rust_thp_allowable_orders(vma: *mut vm_area_struct) -> usize {
    // SAFETY: The caller passes a valid VMA.
    unsafe { (*vma).orders }
}

pub unsafe fn rust_thp_alloc_charged(
    vma: *mut vm_area_struct,
    addr: usize,
    order: c_uint,
) -> *mut folio {
    // SAFETY: The caller passes a valid VMA that has these pages, so its mm is valid.
    unsafe {
        thp_entries(vma, addr, order);
        let vma = &mut *vma;
        if (*vma.vm_mm).charges >> order == 0 {
            return null_mut();
        }
        let folio = rust_vma_alloc_folio(vma, addr);
        if !folio.is_null() {
            (*folio).nr_pages = 1 << order;
            rust_folio_charge(folio, vma.vm_mm);
        }
        folio
    }
}

pub unsafe fn rust_thp_is_vacant(vma: *mut vm_area_struct, addr: usize, order: c_uint) -> bool {
    // SAFETY: The caller passes a valid VMA that has these pages.
    unsafe { thp_entries(vma, addr, order).iter().all(|pte| *pte == 0) }
}

/// The entries of the two tables are in a row.
unsafe fn thp_entries<'a>(vma: *mut vm_area_struct, addr: usize, order: c_uint) -> &'a mut [pte_t] {
    // SAFETY: The caller passes a valid VMA, so its mm is valid.
    let vma = unsafe { &*vma };
    let count = 1 << order;
    assert!(vma.vm_ops.is_null() && vma.vm_file.is_null());
    assert!(addr >= vma.vm_start && addr + (count << 12) <= vma.vm_end);
    assert_eq!(addr % (count << 12), 0);
    // SAFETY: As before. It has these entries.
    unsafe {
        let first = (*vma.vm_mm).pgd.pmds[0].ptes;
        core::slice::from_raw_parts_mut(first.add(addr >> 12), count)
    }
}

/// All but null can be read without page faults.
pub unsafe fn rust_thp_copy_from_user_nofault(_folio: *mut folio, src: *const c_void) -> bool {
    !src.is_null()
}

pub unsafe fn rust_thp_map(
    vma: *mut vm_area_struct,
    addr: usize,
    folio: *mut folio,
    order: c_uint,
    uffd_wp: bool,
) -> rust_pte_result {
    assert!(model_is_idle(), "a table is locked");
    // SAFETY: The caller passes a valid folio, which it gives away.
    let first = unsafe { &mut *folio };
    assert!(first.is_charged && first.refcount == 1 && first.nr_pages == 1 << order);
    // SAFETY: The caller passes a valid VMA that has these pages.
    let ptes = unsafe { thp_entries(vma, addr, order) };
    if ptes.iter().any(|pte| *pte != 0) {
        return rust_pte_result_RUST_PTE_TAKEN;
    }
    let flags = PTE_DIRTY | if uffd_wp { PTE_UFFD_WP } else { 0 };
    ptes.fill(folio.addr() | flags);
    rust_pte_result_RUST_PTE_OK
}
