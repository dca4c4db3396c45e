// SPDX-License-Identifier: GPL-2.0
/*
 * What a thread has of the model, and what it waits for.
 */

#include <model_hugetlb.h>
#include <linux/rust_hugetlb.h>

__thread struct model_thread model;
struct folio huge_zero_folio;
__thread struct mutex hugetlb_fault_mutex_table[HUGE_PAGES];

/* Is nothing locked or mapped? */
bool model_is_idle(void)
{
	return !model.nr_locks && !model.nr_mapped && !model.is_lazy;
}

/*
 * The page has migrated then: to the same place, which does not matter. What
 * migrates it may wait for those that have page tables of their own, and for
 * what is locked here.
 */
void migration_entry_wait(struct mm_struct *mm, pmd_t *pmd, unsigned long addr)
{
	pte_t *pte = pmd->ptes + ((addr & ~PMD_MASK) >> PAGE_SHIFT);

	struct page *page = (struct page *)(*pte & ~(PTE_MIGRATION | PTE_FLAGS));

	assert(!model.nr_locks && !mm->notified_end);
	assert(!page->is_locked && !page->anon_vma->is_locked);
	*pte &= ~PTE_MIGRATION;
}

/* The same for a huge page. The entry is one of a table, and no copy. */
void pmd_migration_entry_wait(struct mm_struct *mm, pmd_t *pmd)
{
	assert(!model.nr_locks && !mm->notified_end);
	assert(pmd == &mm->pgd.pmds[0] || pmd == &mm->pgd.pmds[1]);
	if (pmd->kind != PMD_MIGRATION)
		return;
	assert(!pmd->huge->is_locked && !pmd->huge->anon_vma->is_locked);
	pmd->kind = PMD_HUGE;
}

/* Is none of them locked? */
bool model_has_no_faults(void)
{
	unsigned int i;

	for (i = 0; i < HUGE_PAGES; i++) {
		if (hugetlb_fault_mutex_table[i].is_locked)
			return false;
	}
	return true;
}

/* It has no reservation. */
struct folio *rust_alloc_hugetlb_folio_vma(struct vm_area_struct *vma,
					   unsigned long addr)
{
	struct hstate *h = hstate_vma(vma);
	bool reserved = false;

	huge_index(vma, addr);
	return step_fails(h) ? NULL : model_alloc(h, &reserved);
}

pte_t rust_make_huge_pte(struct vm_area_struct *vma, struct folio *folio,
			 bool try_mkwrite)
{
	pte_t pte = mk_pte(&folio->page, vma->vm_page_prot);

	return try_mkwrite && (vma->vm_flags & VM_WRITE) ?
		pte_mkwrite(pte, vma) : pte;
}
