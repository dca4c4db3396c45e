// SPDX-License-Identifier: GPL-2.0
/*
 * What a thread has of the model, and what it waits for or does with a huge
 * page.
 */

#include <model.h>

__thread struct model_thread model;

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

/* The caller has locked the source, which is unlocked here. */
int move_pages_huge_pmd(struct mm_struct *mm, pmd_t *dst_pmd, pmd_t *src_pmd,
			pmd_t dst_pmdval, struct vm_area_struct *dst_vma,
			struct vm_area_struct *src_vma, unsigned long dst_addr,
			unsigned long src_addr)
{
	pmd_t src = *src_pmd;

	assert(!((dst_addr | src_addr) & ~PMD_MASK));
	spin_unlock(&src_pmd->lock);
	if (src.kind != PMD_HUGE || !pmd_same(*dst_pmd, dst_pmdval))
		return -EAGAIN;
	if (src.huge && src.huge->is_pinned)
		return -EBUSY;
	dst_pmd->kind = PMD_HUGE;
	dst_pmd->huge = src.huge;
	src_pmd->kind = PMD_NONE;
	src_pmd->huge = NULL;
	return 0;
}

/* The table has what a test has put there. */
void split_huge_pmd(struct vm_area_struct *vma, pmd_t *pmd, unsigned long addr)
{
	assert(!model.nr_locks);
	pmd->kind = PMD_TABLE;
	pmd->huge = NULL;
}
