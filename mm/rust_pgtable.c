// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/pgtable.rs: inline functions and macros for page
 * tables, made for entries in a row, so that Rust calls C once for a run. They
 * are for code that is built in, and not exported.
 */

#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/rust_pgtable.h>
#include <linux/swap.h>
#include <linux/swapops.h>

/*
 * A run of entries is for a part of memory of this size and alignment. A PTE
 * table is for one, or for a few of them: it can have thousands of entries, and
 * all that time its lock is held.
 */
#define RUN_SIZE	min(PMD_SIZE, 512 * PAGE_SIZE)

/* p4d_alloc(), pud_alloc(), pmd_alloc() and pte_alloc(). */
static noinline pmd_t *alloc_tables(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;
	pmd_t *pmd = pud ? pmd_alloc(mm, pud, addr) : NULL;

	return pmd && !pte_alloc(mm, pmd) ? pmd : NULL;
}

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
		*pmd = alloc_tables(vma->vm_mm, addr);
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

/* pte_alloc(), a macro, with the tables above. */
enum rust_pte_result rust_pte_alloc(struct vm_area_struct *vma,
				    unsigned long addr, pmd_t **pmd)
{
	return alloc_pte(vma, addr, pmd);
}

/*
 * How many pages the file of a VMA has from @addr on. A private mapping of
 * /dev/zero has a file as well, which has none.
 */
static pgoff_t file_pages(struct vm_area_struct *vma, unsigned long addr)
{
	pgoff_t size = DIV_ROUND_UP(i_size_read(vma->vm_file->f_inode),
				    PAGE_SIZE);
	pgoff_t index = linear_page_index(vma, addr);

	return index < size ? size - index : 0;
}

/*
 * pte_alloc_map_lock(), a macro, with the tables above: locks the PTE table of
 * @addr, and counts the entries from there to @end at most for which pte_none()
 * is true.
 */
enum rust_pte_result rust_pte_alloc_lock_none(struct vm_area_struct *vma,
					      unsigned long addr,
					      unsigned long end,
					      struct rust_pte_run *run)
{
	enum rust_pte_result result;
	unsigned long max;
	unsigned int count;
	spinlock_t *ptl; /* of the PTE table */
	pmd_t *pmd;
	pte_t *pte;

	result = alloc_pte(vma, addr, &pmd);
	if (unlikely(result != RUST_PTE_OK))
		return result;

	pte = pte_offset_map_lock(vma->vm_mm, pmd, addr, &ptl);
	if (unlikely(!pte))
		return RUST_PTE_NO_TABLE;

	/* pmd_addr_end() does not clip if there is no PMD level. */
	max = (min(end - 1, addr | (RUN_SIZE - 1)) - addr) / PAGE_SIZE + 1;
	if (vma->vm_file) {
		max = min(max, file_pages(vma, addr));
		if (!max) {
			result = RUST_PTE_BEYOND_FILE;
			goto out_unlock;
		}
	}

	for (count = 0; count < max; count++) {
		if (!pte_none(ptep_get(pte + count)))
			break;
	}
	if (unlikely(!count)) {
		result = RUST_PTE_TAKEN;
		goto out_unlock;
	}

	run->pte = pte;
	run->ptl = ptl;
	run->count = count;

	return RUST_PTE_OK;

out_unlock:
	pte_unmap_unlock(pte, ptl);
	return result;
}

/* pte_unmap_unlock(), a macro. */
void rust_pte_unmap_unlock(pte_t *pte, spinlock_t *ptl)
	__releases(ptl)
{
	pte_unmap_unlock(pte, ptl);
}

/* my_zero_pfn() and set_pte_at(), inline. */
void rust_set_zero_ptes(struct vm_area_struct *vma, unsigned long addr,
			pte_t *pte, unsigned int count)
{
	pgprot_t prot = vma->vm_page_prot;

	/* The host of a virtual machine must not have them in its memory. */
	BUILD_BUG_ON(IS_ENABLED(CONFIG_S390));

	arch_enter_lazy_mmu_mode();
	for (; count; count--, pte++, addr += PAGE_SIZE) {
		pte_t val = pfn_pte(my_zero_pfn(addr), prot);

		set_pte_at(vma->vm_mm, addr, pte, pte_mkspecial(val));
		update_mmu_cache(vma, addr, pte);
	}
	arch_leave_lazy_mmu_mode();
}

/* make_pte_marker() and set_pte_at(), inline. */
void rust_set_poison_ptes(struct vm_area_struct *vma, unsigned long addr,
			  pte_t *pte, unsigned int count)
{
	pte_t val = make_pte_marker(PTE_MARKER_POISONED);

	arch_enter_lazy_mmu_mode();
	for (; count; count--, pte++, addr += PAGE_SIZE) {
		set_pte_at(vma->vm_mm, addr, pte, val);
		update_mmu_cache(vma, addr, pte);
	}
	arch_leave_lazy_mmu_mode();
}
