// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/pgtable.rs: inline functions and macros for page
 * tables, made for entries in a row, so that Rust calls C once for a run. They
 * are for code that is built in, and not exported.
 */

#include <linux/rmap.h>
#include <linux/swap.h>
#include "rust_pgtable.h"

/* p4d_alloc(), pud_alloc() and pmd_alloc(). */
pmd_t *rust_alloc_pmd(struct mm_struct *mm, unsigned long addr)
{
	p4d_t *p4d = p4d_alloc(mm, pgd_offset(mm, addr), addr);
	pud_t *pud = p4d ? pud_alloc(mm, p4d, addr) : NULL;

	return pud ? pmd_alloc(mm, pud, addr) : NULL;
}

/* The same and pte_alloc(). */
pmd_t *rust_alloc_tables(struct mm_struct *mm, unsigned long addr)
{
	pmd_t *pmd = rust_alloc_pmd(mm, addr);

	return pmd && !pte_alloc(mm, pmd) ? pmd : NULL;
}

/* pte_alloc(), a macro, with the tables above. */
enum rust_pte_result rust_pte_alloc(struct vm_area_struct *vma,
				    unsigned long addr)
{
	pmd_t *pmd;

	return alloc_pte(vma, addr, &pmd);
}

/* pte_alloc_map_lock(), a macro, with the tables above, and pte_none(). */
enum rust_pte_result rust_pte_alloc_lock_none(struct vm_area_struct *vma,
					      unsigned long addr,
					      unsigned long end,
					      struct rust_pte_run *run)
{
	enum rust_pte_result result;
	pmd_t *pmd;

	result = alloc_pte(vma, addr, &pmd);
	if (unlikely(result != RUST_PTE_OK))
		return result;

	return lock_vacant(vma, pmd, addr, end, false, run);
}

/*
 * Map new anonymous folios of one page in a row, over markers if need be.
 * @count becomes how many were mapped: the page table has their references.
 */
enum rust_pte_result rust_map_anon_folios(struct vm_area_struct *vma,
					  unsigned long addr,
					  struct folio **folios,
					  unsigned int *count, bool uffd_wp)
{
	struct mm_struct *mm = vma->vm_mm;
	enum rust_pte_result result;
	struct rust_pte_run run;
	unsigned int i;
	pmd_t *pmd;
	pte_t *pte;

	result = alloc_pte(vma, addr, &pmd);
	if (unlikely(result != RUST_PTE_OK))
		return result;
	result = lock_vacant(vma, pmd, addr, addr + *count * PAGE_SIZE, true,
			     &run);
	if (unlikely(result != RUST_PTE_OK))
		return result;

	for (i = 0, pte = run.pte; i < run.count; i++, pte++) {
		struct folio *folio = folios[i];
		pte_t val = mk_pte(&folio->page, vma->vm_page_prot);

		val = pte_mkdirty(val);
		if (vma->vm_flags & VM_WRITE)
			val = pte_mkwrite(val, vma);
		if (uffd_wp)
			val = pte_mkuffd_wp(val);

		folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
		folio_add_lru_vma(folio, vma);
		set_pte_at(mm, addr, pte, val);
		update_mmu_cache(vma, addr, pte);
		addr += PAGE_SIZE;
	}
	add_mm_counter(mm, MM_ANONPAGES, run.count);
	unlock_entries(run.pte, run.ptl);
	*count = run.count;

	return RUST_PTE_OK;
}

/* pte_unmap_unlock(), a macro. */
void rust_pte_unmap_unlock(pte_t *pte, spinlock_t *ptl)
{
	unlock_entries(pte, ptl);
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
