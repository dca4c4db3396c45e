/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Finding entries of page tables that can be set: for mm/rust_pgtable.c,
 * mm/rust_filemap.c and mm/rust_move.c.
 */
#ifndef _MM_RUST_PGTABLE_H
#define _MM_RUST_PGTABLE_H

#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/rust_pgtable.h>
#include <linux/swapops.h>

pmd_t *rust_alloc_pmd(struct mm_struct *mm, unsigned long addr);
pmd_t *rust_alloc_tables(struct mm_struct *mm, unsigned long addr);

/*
 * A run of entries is for a part of memory of this size and alignment. A PTE
 * table is for one, or for a few of them: it can have thousands of entries, and
 * all that time its lock is held.
 */
#define RUN_SIZE	min(PMD_SIZE, 512 * PAGE_SIZE)

/* Like mm_find_pmd(), for an entry of any kind. */
static __always_inline pmd_t *find_pmd(struct mm_struct *mm, unsigned long addr)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;

	if (unlikely(pgd_none(*pgd)))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (unlikely(p4d_none(*p4d)))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (unlikely(pud_none(*pud)))
		return NULL;

	return pmd_offset(pud, addr);
}

/*
 * Make a PTE table for @addr, and the tables above it, unless they are there.
 * @pmd becomes the entry of the PMD table.
 */
static __always_inline
enum rust_pte_result alloc_pte(struct vm_area_struct *vma, unsigned long addr,
			       pmd_t **pmd)
{
	pmd_t val;

	*pmd = find_pmd(vma->vm_mm, addr);
	if (unlikely(!*pmd || pmd_none(pmdp_get_lockless(*pmd)))) {
		*pmd = rust_alloc_tables(vma->vm_mm, addr);
		if (!*pmd)
			return RUST_PTE_NO_MEMORY;
	}

	val = pmdp_get_lockless(*pmd);
	if (unlikely(!pmd_present(val) || pmd_trans_huge(val)))
		return RUST_PTE_TAKEN;
	if (unlikely(pmd_bad(val)))
		return RUST_PTE_BAD;

	return RUST_PTE_OK;
}

/*
 * How many pages the file of a VMA has from @addr on. A private mapping of
 * /dev/zero has a file as well, which has none.
 */
static inline pgoff_t file_pages(struct vm_area_struct *vma, unsigned long addr)
{
	pgoff_t size = DIV_ROUND_UP(i_size_read(vma->vm_file->f_inode),
				    PAGE_SIZE);
	pgoff_t index = linear_page_index(vma, addr);

	return index < size ? size - index : 0;
}

/* Is there nothing in an entry, or a marker that a page may replace? */
static __always_inline bool is_vacant(pte_t pte, bool over_markers)
{
	if (likely(pte_none(pte)))
		return true;
	if (!over_markers || !is_pte_marker(pte))
		return false;

	return !is_guard_swp_entry(pte_to_swp_entry(pte));
}

/* Count entries that are vacant, from @pte on. */
static __always_inline unsigned int count_vacant(pte_t *pte, unsigned int max,
						 bool over_markers)
{
	unsigned int count;

	for (count = 0; count < max; count++) {
		if (!is_vacant(ptep_get(pte + count), over_markers))
			break;
	}

	return count;
}

static __always_inline void unlock_entries(pte_t *pte, spinlock_t *ptl)
{
	__acquire(ptl);
	__acquire(RCU);
	pte_unmap_unlock(pte, ptl);
}

/*
 * pte_offset_map_lock(), inline: locks the PTE table of @addr. The run has all
 * entries from there to @end that are in it, and for pages that the file has.
 */
static __always_inline
enum rust_pte_result lock_entries(struct vm_area_struct *vma, pmd_t *pmd,
				  unsigned long addr, unsigned long end,
				  struct rust_pte_run *run)
{
	unsigned long max;

	/* Sparse cannot follow pte_offset_map_lock() from here to the unlock. */
	run->pte = __pte_offset_map_lock(vma->vm_mm, pmd, addr, &run->ptl);
	if (unlikely(!run->pte))
		return RUST_PTE_NO_TABLE;

	/* pmd_addr_end() does not clip if there is no PMD level. */
	max = (min(end - 1, addr | (RUN_SIZE - 1)) - addr) / PAGE_SIZE + 1;
	if (vma->vm_file) {
		max = min(max, file_pages(vma, addr));
		if (!max) {
			unlock_entries(run->pte, run->ptl);
			return RUST_PTE_BEYOND_FILE;
		}
	}
	run->count = max;

	return RUST_PTE_OK;
}

/* Like lock_entries(), for entries that are vacant. */
static __always_inline
enum rust_pte_result lock_vacant(struct vm_area_struct *vma, pmd_t *pmd,
				 unsigned long addr, unsigned long end,
				 bool over_markers, struct rust_pte_run *run)
{
	enum rust_pte_result result;

	result = lock_entries(vma, pmd, addr, end, run);
	if (unlikely(result != RUST_PTE_OK))
		return result;

	run->count = count_vacant(run->pte, run->count, over_markers);
	if (unlikely(!run->count)) {
		unlock_entries(run->pte, run->ptl);
		return RUST_PTE_TAKEN;
	}

	return RUST_PTE_OK;
}

#endif /* _MM_RUST_PGTABLE_H */
