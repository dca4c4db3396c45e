// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/thp.rs: large folios of anonymous memory. The
 * functions are for code that is built in, and not exported.
 */

#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/rmap.h>
#include <linux/rust_thp.h>
#include <linux/swap.h>
#include <asm/pgalloc.h>
#include "rust_pgtable.h"

/* thp_vma_allowable_orders(), inline, for a fault in anonymous memory. */
unsigned long rust_thp_allowable_orders(struct vm_area_struct *vma)
{
	return thp_vma_allowable_orders(vma, vma->vm_flags, TVA_PAGEFAULT,
					THP_ORDERS_ALL_ANON);
}

/*
 * pte_range_none(), of mm/memory.c, with the tables above. The answer can be
 * wrong at once: it saves allocations that would be in vain.
 */
bool rust_thp_is_vacant(struct vm_area_struct *vma, unsigned long addr,
			unsigned int order)
{
	pmd_t *pmd = find_pmd(vma->vm_mm, addr);
	unsigned int i = 0;
	pte_t *pte;

	if (!pmd || pmd_none(pmdp_get_lockless(pmd)))
		return true;
	/* There is a table, which may be empty but is in the way. */
	if (order == HPAGE_PMD_ORDER)
		return false;

	pte = pte_offset_map(pmd, addr);
	if (!pte)
		return false;
	while (i < 1 << order && pte_none(ptep_get_lockless(pte + i)))
		i++;
	pte_unmap(pte);

	return i == 1 << order;
}

static void count_fallback(unsigned int order, bool charge)
{
	count_mthp_stat(order, MTHP_STAT_ANON_FAULT_FALLBACK);
	if (charge)
		count_mthp_stat(order, MTHP_STAT_ANON_FAULT_FALLBACK_CHARGE);
	if (order != HPAGE_PMD_ORDER)
		return;
	count_vm_event(THP_FAULT_FALLBACK);
	if (charge)
		count_vm_event(THP_FAULT_FALLBACK_CHARGE);
}

/*
 * vma_alloc_folio(), a macro, and mem_cgroup_charge(), inline, for a folio of
 * 1 << @order pages at @addr.
 */
struct folio *rust_thp_alloc_charged(struct vm_area_struct *vma,
				     unsigned long addr, unsigned int order)
{
	gfp_t gfp = vma_thp_gfp_mask(vma);
	struct folio *folio = vma_alloc_folio(gfp, order, vma, addr);

	if (!folio) {
		count_fallback(order, false);
		return NULL;
	}
	if (mem_cgroup_charge(folio, vma->vm_mm, gfp)) {
		count_fallback(order, true);
		folio_put(folio);
		return NULL;
	}

	return folio;
}

/* copy_folio_from_user(), which is there only if there are large folios. */
bool rust_thp_copy_from_user_nofault(struct folio *folio,
				     const void __user *src)
{
	return !copy_folio_from_user(folio, src, false);
}

static enum rust_pte_result map_pmd(struct vm_area_struct *vma,
				    unsigned long addr, struct folio *folio,
				    bool uffd_wp)
{
	struct mm_struct *mm = vma->vm_mm;
	pgtable_t table;
	spinlock_t *ptl;	/* of the entry */
	pmd_t *pmd, val;

	pmd = rust_alloc_pmd(mm, addr);
	if (!pmd)
		return RUST_PTE_NO_MEMORY;
	/* What the huge page is split into, if it is: that must not fail. */
	table = pte_alloc_one(mm);
	if (!table)
		return RUST_PTE_NO_MEMORY;

	val = pmd_mkdirty(folio_mk_pmd(folio, vma->vm_page_prot));
	if (vma->vm_flags & VM_WRITE)
		val = pmd_mkwrite(val, vma);
	if (uffd_wp)
		val = pmd_mkuffd_wp(val);

	ptl = pmd_lock(mm, pmd);
	if (unlikely(!pmd_none(pmdp_get(pmd)))) {
		spin_unlock(ptl);
		pte_free(mm, table);
		return RUST_PTE_TAKEN;
	}
	pgtable_trans_huge_deposit(mm, pmd, table);
	mm_inc_nr_ptes(mm);
	folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
	folio_add_lru_vma(folio, vma);
	set_pmd_at(mm, addr, pmd, val);
	update_mmu_cache_pmd(vma, addr, pmd);
	add_mm_counter(mm, MM_ANONPAGES, HPAGE_PMD_NR);
	/* It is split under pressure if most of it is zeroes. */
	deferred_split_folio(folio, false);
	spin_unlock(ptl);

	count_vm_event(THP_FAULT_ALLOC);
	count_memcg_event_mm(mm, THP_FAULT_ALLOC);

	return RUST_PTE_OK;
}

static enum rust_pte_result map_ptes(struct vm_area_struct *vma,
				     unsigned long addr, struct folio *folio,
				     bool uffd_wp)
{
	unsigned int count = folio_nr_pages(folio);
	struct mm_struct *mm = vma->vm_mm;
	enum rust_pte_result result;
	spinlock_t *ptl;	/* of the table */
	pte_t *pte, val;
	pmd_t *pmd;

	result = alloc_pte(vma, addr, &pmd);
	if (result != RUST_PTE_OK)
		return result;

	val = pte_mkdirty(mk_pte(&folio->page, vma->vm_page_prot));
	if (vma->vm_flags & VM_WRITE)
		val = pte_mkwrite(val, vma);
	if (uffd_wp)
		val = pte_mkuffd_wp(val);

	/* Sparse cannot follow pte_offset_map_lock() from here to the unlock. */
	pte = __pte_offset_map_lock(mm, pmd, addr, &ptl);
	if (unlikely(!pte))
		return RUST_PTE_NO_TABLE;
	if (unlikely(count_vacant(pte, count, false) != count)) {
		unlock_entries(pte, ptl);
		return RUST_PTE_TAKEN;
	}
	folio_ref_add(folio, count - 1);
	folio_add_new_anon_rmap(folio, vma, addr, RMAP_EXCLUSIVE);
	folio_add_lru_vma(folio, vma);
	set_ptes(mm, addr, pte, val, count);
	update_mmu_cache_range(NULL, vma, addr, pte, count);
	add_mm_counter(mm, MM_ANONPAGES, count);
	unlock_entries(pte, ptl);

	return RUST_PTE_OK;
}

/*
 * Map a new folio of 1 << @order pages, which is filled and charged, where
 * there must be nothing. If it works, the page table has the reference.
 */
enum rust_pte_result rust_thp_map(struct vm_area_struct *vma,
				  unsigned long addr, struct folio *folio,
				  unsigned int order, bool uffd_wp)
{
	enum rust_pte_result result;

	/* What was stored is visible before the entry that maps it. */
	__folio_mark_uptodate(folio);

	if (order == HPAGE_PMD_ORDER)
		result = map_pmd(vma, addr, folio, uffd_wp);
	else
		result = map_ptes(vma, addr, folio, uffd_wp);
	if (result == RUST_PTE_OK)
		count_mthp_stat(order, MTHP_STAT_ANON_FAULT_ALLOC);

	return result;
}
