/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of page tables, with what mm/rust_pgtable.c uses of them. The
 * structures are those of model.rs.
 */
#ifndef _MODEL_H
#define _MODEL_H

#include <stdbool.h>
#include <stddef.h>

#define CONFIG_USERFAULTFD_RUST
#define noinline __attribute__((noinline))
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define unlikely(x) (x)
#define __releases(lock)
#define min(a, b) ((a) < (b) ? (a) : (b))
#define IS_ENABLED(option) 0
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), "")
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
/* A table has more entries than are set at once. */
#define PTRS_PER_PTE 1024
#define PTRS_PER_PMD 2
#define PMD_SHIFT (PAGE_SHIFT + 10)
#define PMD_SIZE (1UL << PMD_SHIFT)
#define PMD_MASK (~(PMD_SIZE - 1))

typedef unsigned long pgoff_t;
typedef unsigned long pgprot_t;
typedef unsigned long pte_t;

typedef struct {
	bool is_locked;
} spinlock_t;

enum pmd_kind { PMD_NONE, PMD_TABLE, PMD_HUGE, PMD_BAD };

typedef struct {
	enum pmd_kind kind;
	/* The table goes away before it can be locked. */
	bool is_freed;
	spinlock_t lock;
	pte_t *ptes;
} pmd_t;

/* The levels above are one. */
typedef struct {
	bool is_there;
	pmd_t pmds[PTRS_PER_PMD];
} pgd_t, p4d_t, pud_t;

struct mm_struct {
	pgd_t pgd;
	bool has_memory;
	/* There are more fields in Rust. */
};

struct inode {
	unsigned long size;
};

struct file {
	struct inode *f_inode;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct mm_struct *vm_mm;
	pgoff_t vm_pgoff;
	pgprot_t vm_page_prot;
	struct file *vm_file;
	/* There are more fields in Rust. */
};

/* What the kernel has as inline functions and macros. */

#define pgd_offset(mm, addr) (&(mm)->pgd)
#define p4d_offset(pgd, addr) (pgd)
#define pud_offset(p4d, addr) (p4d)
#define pmd_offset(pud, addr) (&(pud)->pmds[(addr) >> PMD_SHIFT])
#define pgd_none(pgd) (!(pgd).is_there)
#define p4d_none(p4d) false
#define pud_none(pud) false
#define p4d_alloc(mm, pgd, addr) \
	((mm)->has_memory ? ((pgd)->is_there = true, (pgd)) : NULL)
#define pud_alloc(mm, p4d, addr) (p4d)
#define pmd_alloc(mm, pud, addr) pmd_offset(pud, addr)

#define pmdp_get_lockless(pmd) (*(pmd))
#define pmd_none(pmd) ((pmd).kind == PMD_NONE)
#define pmd_present(pmd) ((pmd).kind != PMD_NONE)
#define pmd_trans_huge(pmd) ((pmd).kind == PMD_HUGE)
#define pmd_bad(pmd) ((pmd).kind == PMD_BAD)

static inline int pte_alloc(struct mm_struct *mm, pmd_t *pmd)
{
	if (pmd->kind == PMD_NONE)
		pmd->kind = PMD_TABLE;
	return 0;
}

static inline pte_t *pte_offset_map_lock(struct mm_struct *mm, pmd_t *pmd,
					 unsigned long addr, spinlock_t **ptl)
{
	if (pmd->is_freed)
		return NULL;
	if (pmd->lock.is_locked)
		__builtin_trap();
	pmd->lock.is_locked = true;
	*ptl = &pmd->lock;
	return pmd->ptes + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
}

static inline void pte_unmap_unlock(pte_t *pte, spinlock_t *ptl)
{
	if (!ptl->is_locked)
		__builtin_trap();
	ptl->is_locked = false;
}

#define pte_none(pte) (!(pte))
#define ptep_get(pte) (*(pte))
#define set_pte_at(mm, addr, ptep, pte) (*(ptep) = (pte))
#define update_mmu_cache(vma, addr, pte) ((void)(addr))
#define arch_enter_lazy_mmu_mode() ((void)0)
#define arch_leave_lazy_mmu_mode() ((void)0)

/* Entries are of three kinds: see model.rs. */
#define my_zero_pfn(addr) 0
#define pfn_pte(pfn, prot) 1
#define pte_mkspecial(pte) (pte)
#define PTE_MARKER_POISONED 2
#define make_pte_marker(marker) (marker)

#define i_size_read(inode) ((inode)->size)
#define linear_page_index(vma, addr) \
	((((addr) - (vma)->vm_start) >> PAGE_SHIFT) + (vma)->vm_pgoff)

#endif /* _MODEL_H */
