// SPDX-License-Identifier: GPL-2.0

//! An address space of one VMA and two tables of PTEs, and what C does with it.
//!
//! `mm/rust_pgtable.c` is real, and built with `model.h`, which has the same structures. The rest
//! is here.

#![allow(
    non_camel_case_types,
    non_upper_case_globals,
    clippy::missing_safety_doc
)]

use core::{
    ffi::{c_int, c_uint, c_void},
    ptr::null_mut,
};

pub const PTRS_PER_PTE: usize = 1024;

pub type vm_flags_t = usize;
pub const VM_SHARED: u32 = 0x8;
pub const VM_PFNMAP: u32 = 0x400;
pub const VM_IO: u32 = 0x4000;
pub const VM_HUGETLB: u32 = 0x40_0000;
pub const VM_MIXEDMAP: u32 = 0x1000_0000;

/// An entry of a table of PTEs: zero if there is nothing.
pub type pte_t = usize;
pub const ZERO_PAGE: pte_t = 1;
pub const POISON: pte_t = 2;

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

#[repr(C)]
pub struct mm_struct {
    pub pgd: pgd_t,
    pub has_memory: bool,
    pub vma: *mut vm_area_struct,
    pub has_mmap_lock: bool,
}

#[repr(C)]
pub struct inode {
    pub size: usize,
}

#[repr(C)]
pub struct file {
    pub f_inode: *mut inode,
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
    fn uffd_shim_vma_pagesize(*mut vm_area_struct) -> usize;
    fn uffd_shim_find_page(*mut mm_struct, usize, *mut usize) -> uffd_shim_page;
    fn uffd_shim_shmem_zeropage(*mut pmd_t, *mut vm_area_struct, usize) -> c_int;
    fn uffd_shim_hugetlb_poison(*mut vm_area_struct, usize) -> c_int;
    fn uffd_shim_copy(*mut userfaultfd_ctx, usize, usize, usize, bool) -> isize;
    fn uffd_shim_continue(*mut userfaultfd_ctx, usize, usize, bool) -> isize;
    fn uffd_shim_move(*mut userfaultfd_ctx, usize, usize, usize, u64) -> isize;
    fn uffd_shim_writeprotect(*mut userfaultfd_ctx, usize, usize, bool) -> c_int;
}
