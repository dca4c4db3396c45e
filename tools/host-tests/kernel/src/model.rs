// SPDX-License-Identifier: GPL-2.0

//! An address space of one VMA, two tables of PTEs, and a few folios, a file that may have some of them, and
//! what C does with it.
//!
//! `mm/rust_pgtable.c` and `mm/rust_filemap.c` are real, and built with `model.h`, which has the same
//! structures. The rest is here, with what `mm/rust_folio.c` does.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    clippy::missing_safety_doc
)]

use core::{
    ffi::{c_int, c_uint, c_void},
    ptr::{null_mut, without_provenance_mut, NonNull},
};

pub const PTRS_PER_PTE: usize = 1024;
pub const PMD_SIZE: usize = PTRS_PER_PTE << 12;

pub type vm_flags_t = usize;
pub const VM_WRITE: u32 = 0x2;
pub const VM_SHARED: u32 = 0x8;
pub const VM_UFFD_MISSING: u32 = 0x200;
pub const VM_PFNMAP: u32 = 0x400;
pub const VM_UFFD_WP: u32 = 0x1000;
pub const VM_IO: u32 = 0x4000;
pub const VM_HUGETLB: u32 = 0x40_0000;
pub const VM_MIXEDMAP: u32 = 0x1000_0000;

/// An entry of a table of PTEs: zero if there is nothing, or the address of a folio with flags.
pub type pte_t = usize;
pub const ZERO_PAGE: pte_t = 1;
pub const POISON: pte_t = 2;
pub const UFFD_WP: pte_t = 3;
pub const GUARD: pte_t = 4;

/// Flags of the entry of a folio.
pub const PTE_DIRTY: pte_t = 1;
pub const PTE_WRITE: pte_t = 2;
pub const PTE_UFFD_WP: pte_t = 4;

#[repr(C)]
#[derive(Default)]
pub struct spinlock_t {
    pub is_locked: bool,
}

#[repr(C)]
#[derive(Copy, Clone, PartialEq, Eq)]
pub enum pmd_kind {
    None,
    Table,
    Huge,
    Bad,
}

#[repr(C)]
pub struct pmd_t {
    pub kind: pmd_kind,
    pub is_freed: bool,
    pub lock: spinlock_t,
    pub ptes: *mut pte_t,
}

#[repr(C)]
pub struct pgd_t {
    pub is_there: bool,
    pub pmds: [pmd_t; 2],
}

/// A folio, which is its first page, or a further page of one: these follow. Its address has room for the
/// flags.
#[repr(C)]
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
}

/// How many pages there are, and how many a file may have.
pub const FOLIOS: usize = 128;

/// Entries of the page cache that are no folio. `RETRY` is one that is being changed.
pub const SWAPPED: *mut folio = without_provenance_mut(1);
pub const RETRY: *mut folio = without_provenance_mut(2);

/// The page cache of a file: for each page the folio, if it has one.
#[repr(C)]
pub struct address_space {
    pub i_pages: [*mut folio; FOLIOS],
}

#[repr(C)]
pub struct mm_struct {
    pub pgd: pgd_t,
    pub has_memory: bool,
    pub anon_pages: usize,
    pub file_pages: usize,
    pub folios: [folio; FOLIOS],
    /// How many of them were allocated.
    pub allocated: usize,
    /// How many can still be charged.
    pub charges: usize,
    pub vma: *mut vm_area_struct,
    pub has_mmap_lock: bool,
}

#[repr(C)]
pub struct inode {
    pub size: usize,
    /// That which has the file.
    pub vma: *mut vm_area_struct,
}

#[repr(C)]
pub struct file {
    pub f_inode: *mut inode,
    pub f_mapping: *mut address_space,
}

#[repr(C)]
pub struct vm_area_struct {
    pub vm_start: usize,
    pub vm_end: usize,
    pub vm_mm: *mut mm_struct,
    pub vm_pgoff: usize,
    pub vm_page_prot: usize,
    pub vm_file: *mut file,
    pub vm_flags: vm_flags_t,
    pub vm_ops: *const c_void,
    pub anon_vma: *mut c_void,
    pub vm_userfaultfd_ctx: vm_userfaultfd_ctx,
    pub is_locked: bool,
}

#[repr(C)]
pub struct vm_userfaultfd_ctx {
    pub ctx: *mut userfaultfd_ctx,
}

#[repr(C)]
pub struct rw_semaphore(());

#[repr(C)]
pub struct userfaultfd_ctx {
    pub mm: *mut mm_struct,
    pub map_changing_lock: rw_semaphore,
    pub mmap_changing: bool,
}

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

unsafe extern "C" {
    pub fn rust_pte_alloc(
        vma: *mut vm_area_struct,
        addr: usize,
        pmd: *mut *mut pmd_t,
    ) -> rust_pte_result;
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
    pub fn rust_folio_unlock_put(folio: *mut folio);
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
    pub fn rust_pte_unmap_unlock(pte: *mut pte_t, ptl: *mut spinlock_t);
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

pub unsafe fn rust_folio_put(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    unsafe { (*folio).refcount -= 1 };
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
        let inode { size, vma } = *inode;
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

/// The C code calls this as well.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn folio_unlock(folio: *mut folio) {
    // SAFETY: The caller passes a valid folio.
    let is_locked = unsafe { &mut (*folio).is_locked };
    assert!(*is_locked, "the folio is not locked");
    *is_locked = false;
}

pub unsafe fn cond_resched_killable() -> bool {
    false
}

pub unsafe fn mmap_read_lock(mm: *mut mm_struct) {
    // SAFETY: The caller passes a valid mm.
    let has_lock = unsafe { &mut (*mm).has_mmap_lock };
    assert!(!*has_lock, "the mmap lock is taken twice");
    *has_lock = true;
}

pub unsafe fn mmap_read_unlock(mm: *mut mm_struct) {
    // SAFETY: The caller passes a valid mm.
    unsafe { (*mm).has_mmap_lock = false };
}

pub unsafe fn vma_lookup(mm: *mut mm_struct, addr: usize) -> *mut vm_area_struct {
    // SAFETY: The caller passes a valid mm.
    let vma = unsafe { (*mm).vma };
    // SAFETY: So its VMA is valid.
    if unsafe { (*vma).vm_start <= addr && addr < (*vma).vm_end } {
        vma
    } else {
        null_mut()
    }
}

pub unsafe fn lock_vma_under_rcu(mm: *mut mm_struct, addr: usize) -> *mut vm_area_struct {
    // SAFETY: The caller passes a valid mm.
    let vma = unsafe { vma_lookup(mm, addr) };
    if !vma.is_null() {
        // SAFETY: It was found.
        unsafe { vma_start_read_locked(vma) };
    }
    vma
}

pub unsafe fn vma_start_read_locked(vma: *mut vm_area_struct) -> bool {
    // SAFETY: The caller passes a valid VMA.
    let is_locked = unsafe { &mut (*vma).is_locked };
    assert!(!*is_locked, "the VMA is locked twice");
    *is_locked = true;
    true
}

pub unsafe fn vma_end_read(vma: *mut vm_area_struct) {
    // SAFETY: The caller passes a valid VMA.
    unsafe { (*vma).is_locked = false };
}

pub unsafe fn __anon_vma_prepare(vma: *mut vm_area_struct) -> c_int {
    // SAFETY: The caller passes a valid VMA.
    unsafe { (*vma).anon_vma = vma.cast() };
    0
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
                unreachable!("no test has a context")
            }
        )*
    };
}

pub type uffd_shim_page = c_uint;
pub const uffd_shim_page_UFFD_SHIM_PAGE_UNMAPPED: uffd_shim_page = 1;
pub const uffd_shim_page_UFFD_SHIM_PAGE_MAPPED: uffd_shim_page = 2;

not_called! {
    fn down_read(*mut rw_semaphore);
    fn up_read(*mut rw_semaphore);
    fn mmget_not_zero(*mut mm_struct) -> bool;
    fn mmput(*mut mm_struct);
    fn get_file(*mut file);
    fn fput(*mut file);
    fn uffd_shim_vma_pagesize(*mut vm_area_struct) -> usize;
    fn uffd_shim_find_page(*mut mm_struct, usize, *mut usize) -> uffd_shim_page;
    fn uffd_shim_shmem_zeropage(*mut pmd_t, *mut vm_area_struct, usize) -> c_int;
    fn uffd_shim_shmem_copy(
        *mut pmd_t, *mut vm_area_struct, usize, usize, bool, *mut *mut folio
    ) -> c_int;
    fn uffd_shim_hugetlb_continue(*mut vm_area_struct, usize, bool) -> c_int;
    fn uffd_shim_hugetlb_poison(*mut vm_area_struct, usize) -> c_int;
    fn uffd_shim_hugetlb_copy(*mut vm_area_struct, usize, usize, bool, *mut *mut folio) -> c_int;
    fn uffd_shim_move(*mut userfaultfd_ctx, usize, usize, usize, u64) -> isize;
    fn uffd_shim_writeprotect(*mut userfaultfd_ctx, usize, usize, bool) -> c_int;
}
