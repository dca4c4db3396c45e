// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/relocation.rs: inline functions and macros, made
 * for entries in a row, so that Rust calls C once for a run. They are for code
 * that is built in, and not exported.
 */

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/rmap.h>
#include <linux/rust_move.h>
#include <linux/swapops.h>
#include <linux/userfaultfd_k.h>
#include "internal.h"
#include "rust_pgtable.h"

/* spin_lock(), a macro, for two locks in the order of their addresses. */
static void lock_pair(spinlock_t *a, spinlock_t *b)
	__acquires(a)
	__acquires(b)
{
	spinlock_t *first = min(a, b), *second = max(a, b);

	spin_lock(first);
	if (first == second)
		__acquire(second);
	else
		spin_lock_nested(second, SINGLE_DEPTH_NESTING);
}

/* spin_unlock(), inline. */
static void unlock_pair(spinlock_t *a, spinlock_t *b)
	__releases(a)
	__releases(b)
{
	spin_unlock(a);
	if (a == b)
		__release(b);
	else
		spin_unlock(b);
}

/*
 * Find the tables that have the entries of both pages. Those of the destination
 * are made unless they are there, and if @alloc those of the source. A source
 * that is a huge page needs no PTE table.
 */
enum rust_move_tables rust_move_find_tables(struct rust_move *move, bool alloc)
{
	struct mm_struct *mm = move->src_vma->vm_mm;
	pmd_t dst_pmdval, src_pmdval;

	move->src_pmd = find_pmd(mm, move->src);
	if (unlikely(!move->src_pmd)) {
		if (!alloc)
			return RUST_MOVE_NO_SOURCE;
		move->src_pmd = rust_alloc_pmd(mm, move->src);
	}
	move->dst_pmd = find_pmd(mm, move->dst);
	if (unlikely(!move->dst_pmd))
		move->dst_pmd = rust_alloc_pmd(mm, move->dst);
	if (unlikely(!move->src_pmd || !move->dst_pmd))
		return RUST_MOVE_NO_MEMORY;

	dst_pmdval = pmdp_get_lockless(move->dst_pmd);
	move->dst_is_none = pmd_none(dst_pmdval);
	if (unlikely(pmd_trans_huge(dst_pmdval)))
		return RUST_MOVE_HUGE_TAKEN;

	src_pmdval = pmdp_get_lockless(move->src_pmd);
	if (is_swap_pmd(src_pmdval) || pmd_trans_huge(src_pmdval))
		return RUST_MOVE_LEAF;
	if (unlikely(pmd_none(src_pmdval))) {
		if (!alloc)
			return RUST_MOVE_NO_SOURCE;
		if (__pte_alloc(mm, move->src_pmd))
			return RUST_MOVE_NO_MEMORY;
	}

	return pte_alloc(mm, move->dst_pmd) ? RUST_MOVE_NO_MEMORY :
					      RUST_MOVE_PTE;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
/*
 * What is an entry that was read from a PMD table, which is locked? A huge page
 * that is present has a folio.
 */
static __always_inline enum rust_pmd pmd_kind(pmd_t val, struct folio **folio)
{
	if (likely(pmd_present(val) && pmd_trans_huge(val))) {
		*folio = pmd_folio(val);
		if (unlikely(is_huge_zero_folio(*folio)))
			return RUST_PMD_HUGE_ZERO;
		return likely(PageAnonExclusive(&(*folio)->page)) ?
			       RUST_PMD_HUGE : RUST_PMD_BUSY;
	}
	if (pmd_none(val))
		return RUST_PMD_NONE;
	if (is_pmd_migration_entry(val))
		return RUST_PMD_MIGRATION;

	return pmd_present(val) && !pmd_bad(val) ? RUST_PMD_TABLE :
						   RUST_PMD_BAD;
}

/*
 * pmd_lockptr(), inline, for the entries of both. Returns what the source is, by
 * one read. If there is something to be done, the tables stay locked: for a huge
 * page that can be moved.
 */
enum rust_pmd rust_move_lock_pmds(struct rust_move *move)
{
	struct mm_struct *mm = move->src_vma->vm_mm;
	enum rust_pmd kind = RUST_PMD_TAKEN;
	struct folio *folio;

	move->dst_ptl = pmd_lockptr(mm, move->dst_pmd);
	move->src_ptl = pmd_lockptr(mm, move->src_pmd);
	lock_pair(move->dst_ptl, move->src_ptl);
	__release(move->dst_ptl);
	__release(move->src_ptl);

	if (likely(pmd_none(pmdp_get(move->dst_pmd))))
		kind = pmd_kind(pmdp_get(move->src_pmd), &folio);
	if (likely(kind == RUST_PMD_HUGE)) {
		move->folio = folio;
		if (unlikely(folio_maybe_dma_pinned(folio)))
			kind = RUST_PMD_BUSY;
	}
	if (unlikely(kind != RUST_PMD_HUGE && kind != RUST_PMD_HUGE_ZERO))
		rust_move_unlock_pmds(move);

	return kind;
}

/* spin_unlock(), inline. */
void rust_move_unlock_pmds(struct rust_move *move)
{
	/* As in rust_move_unlock(). */
	__acquire(move->dst_ptl);
	__acquire(move->src_ptl);
	unlock_pair(move->dst_ptl, move->src_ptl);
}

/*
 * flush_cache_range() and pmdp_huge_clear_flush(), inline or macros. No CPU uses
 * the old entry afterwards.
 */
void rust_move_clear_pmd(struct rust_move *move)
{
	struct vm_area_struct *vma = move->src_vma;

	flush_cache_range(vma, move->src, move->src + HPAGE_PMD_SIZE);
	move->src_pmdval = pmdp_huge_clear_flush(vma, move->src, move->src_pmd);
}

/* set_pmd_at(), inline, for the entry that was cleared. */
void rust_move_restore_pmd(struct rust_move *move)
{
	set_pmd_at(move->src_vma->vm_mm, move->src, move->src_pmd,
		   move->src_pmdval);
}

/* Set the entry of the destination, which needs a PTE table in reserve. */
static void place_pmd(struct rust_move *move, pmd_t val)
{
	struct mm_struct *mm = move->dst_vma->vm_mm;
	pgtable_t table = pgtable_trans_huge_withdraw(mm, move->src_pmd);

	pgtable_trans_huge_deposit(mm, move->dst_pmd, table);
	set_pmd_at(mm, move->dst, move->dst_pmd, val);
	rust_move_unlock_pmds(move);
}

/*
 * Map the huge page whose entry was cleared at the destination, and unlock the
 * tables. Its folio and the anon_vma of that are locked.
 */
void rust_move_place_huge(struct rust_move *move)
{
	struct vm_area_struct *vma = move->dst_vma;
	struct folio *folio = move->folio;
	pmd_t val = folio_mk_pmd(folio, vma->vm_page_prot);

	folio_move_anon_rmap(folio, vma);
	folio->index = linear_page_index(vma, move->dst);
	/* As mremap() does, this says that it was written to. */
	place_pmd(move, pmd_mkwrite(pmd_mkdirty(val), vma));
}

/* The same for the huge zero page, which cannot be written to. */
void rust_move_place_huge_zero(struct rust_move *move)
{
	struct folio *folio = pmd_folio(move->src_pmdval);
	pmd_t val = folio_mk_pmd(folio, move->dst_vma->vm_page_prot);

	val = pmd_mkspecial(val);
	if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		val = pmd_mksoft_dirty(val);
	place_pmd(move, val);
}

/*
 * split_huge_pmd(), a macro, unless others may have the page as well: then it
 * returns -EBUSY, because no part of it could be moved.
 */
int rust_split_pmd(struct vm_area_struct *vma, pmd_t *pmd, unsigned long addr)
{
	spinlock_t *ptl = __pmd_trans_huge_lock(pmd, vma);
	struct folio *folio;
	enum rust_pmd kind;

	if (!ptl)
		return 0;
	__acquire(ptl);
	kind = pmd_kind(pmdp_get(pmd), &folio);
	spin_unlock(ptl);
	if (kind == RUST_PMD_BUSY)
		return -EBUSY;

	split_huge_pmd(vma, pmd, addr);
	return 0;
}

/* pmd_migration_entry_wait(), inline without migration of huge pages. */
void rust_pmd_migration_entry_wait(struct vm_area_struct *vma, pmd_t *pmd)
{
	pmd_migration_entry_wait(vma->vm_mm, pmd);
}
#endif /* CONFIG_TRANSPARENT_HUGEPAGE */

/* How many bytes there are from @addr to the end of its table, or run. */
static unsigned long run_bytes(unsigned long addr)
{
	return RUN_SIZE - (addr & (RUN_SIZE - 1));
}

static bool maps_zero_page(pte_t pte)
{
	return pte_present(pte) && is_zero_pfn(pte_pfn(pte));
}

/* Find out what the first page is. Both tables are locked. */
static __always_inline enum rust_move_source find_source(struct rust_move *move)
{
	pte_t pte = ptep_get(move->src_pte);
	struct folio *folio;
	unsigned int holes;

	if (unlikely(!pte_none(ptep_get(move->dst_pte))))
		return RUST_MOVE_TAKEN;

	if (pte_none(pte)) {
		holes = count_vacant(move->src_pte, move->count, false);
		move->count = count_vacant(move->dst_pte, holes, false);
		return RUST_MOVE_HOLE;
	}

	if (pte_present(pte)) {
		if (is_zero_pfn(pte_pfn(pte)))
			return RUST_MOVE_ZERO_PAGE;
		folio = vm_normal_folio(move->src_vma, move->src, pte);
		if (!folio || !PageAnonExclusive(&folio->page))
			return RUST_MOVE_SHARED;
		move->folio = folio;
		return unlikely(folio_test_large(folio)) ? RUST_MOVE_LARGE :
							   RUST_MOVE_PAGE;
	}

	move->swap = pte_to_swp_entry(pte);
	if (!non_swap_entry(move->swap))
		return pte_swp_exclusive(pte) ? RUST_MOVE_SWAP :
						RUST_MOVE_SHARED;

	return is_migration_entry(move->swap) ? RUST_MOVE_MIGRATION :
						RUST_MOVE_OTHER;
}

/* pte_unmap(), inline: what was mapped last comes first. */
void rust_move_unlock(struct rust_move *move)
{
	/* Sparse cannot follow the locks from rust_move_lock() to here. */
	__acquire(move->dst_ptl);
	__acquire(move->src_ptl);
	__acquire(RCU);
	__acquire(RCU);
	unlock_pair(move->dst_ptl, move->src_ptl);
	pte_unmap(move->src_pte);
	pte_unmap(move->dst_pte);
}

/*
 * pte_offset_map_rw_nolock(), a macro, for both places of the first page, and
 * the locks of the tables. Returns what it is. If there is something to be done,
 * the tables stay locked: for a page of any kind that can be moved.
 */
enum rust_move_source rust_move_lock(struct rust_move *move)
{
	struct mm_struct *mm = move->src_vma->vm_mm;
	enum rust_move_source source;
	pmd_t dst_pmdval, src_pmdval;
	unsigned long len;

	move->dst_pte = pte_offset_map_rw_nolock(mm, move->dst_pmd, move->dst,
						 &dst_pmdval, &move->dst_ptl);
	if (unlikely(!move->dst_pte))
		return RUST_MOVE_NO_TABLE;
	move->src_pte = pte_offset_map_rw_nolock(mm, move->src_pmd, move->src,
						 &src_pmdval, &move->src_ptl);
	if (unlikely(!move->src_pte)) {
		__acquire(RCU);
		pte_unmap(move->dst_pte);
		return RUST_MOVE_NO_TABLE;
	}
	len = min3(move->len, run_bytes(move->dst), run_bytes(move->src));
	move->count = len / PAGE_SIZE;

	lock_pair(move->dst_ptl, move->src_ptl);
	__release(move->dst_ptl);
	__release(move->src_ptl);
	/* A table is taken from its PMD entry with its lock held. */
	if (likely(pmd_same(dst_pmdval, pmdp_get_lockless(move->dst_pmd)) &&
		   pmd_same(src_pmdval, pmdp_get_lockless(move->src_pmd))))
		source = find_source(move);
	else
		source = RUST_MOVE_NO_TABLE;
	if (source != RUST_MOVE_PAGE && source != RUST_MOVE_ZERO_PAGE &&
	    source != RUST_MOVE_SWAP && source != RUST_MOVE_LARGE)
		rust_move_unlock(move);

	return source;
}

/*
 * Move zero pages in a row, and unlock the tables. Returns how many were moved,
 * which is one at least.
 */
unsigned int rust_move_zero_ptes(struct rust_move *move)
{
	struct mm_struct *mm = move->src_vma->vm_mm;
	unsigned long dst = move->dst, src = move->src;
	pgprot_t prot = move->dst_vma->vm_page_prot;
	pte_t *dst_pte = move->dst_pte, *src_pte = move->src_pte;
	unsigned int nr = 0;

	do {
		pte_t val = pfn_pte(my_zero_pfn(dst), prot);

		ptep_get_and_clear(mm, src, src_pte++);
		set_pte_at(mm, dst, dst_pte++, pte_mkspecial(val));
		dst += PAGE_SIZE;
		src += PAGE_SIZE;
		nr++;
	} while (nr < move->count && pte_none(ptep_get(dst_pte)) &&
		 maps_zero_page(ptep_get(src_pte)));
	flush_tlb_range(move->src_vma, move->src, src);
	rust_move_unlock(move);

	return nr;
}

/*
 * The folio of the next page, locked, if it can be moved as the one before it:
 * with the same anon_vma, which is locked, and without sleeping.
 */
static __always_inline
struct folio *lock_next_folio(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *dst_pte, pte_t *src_pte,
			      struct anon_vma *anon_vma)
{
	pte_t pte = ptep_get(src_pte);
	struct folio *folio;

	if (!pte_none(ptep_get(dst_pte)) || !pte_present(pte) ||
	    is_zero_pfn(pte_pfn(pte)))
		return NULL;

	folio = vm_normal_folio(vma, addr, pte);
	if (!folio || !folio_trylock(folio))
		return NULL;
	if (likely(!folio_test_large(folio) &&
		   PageAnonExclusive(&folio->page) &&
		   folio_anon_vma(folio) == anon_vma))
		return folio;

	folio_unlock(folio);
	return NULL;
}

/*
 * Move anonymous pages in a row, and unlock the tables. The folio of the first
 * is locked, and of one page. @anon_vma is its own, locked for writing:
 * folio_referenced() does not lock folios.
 *
 * Returns how many were moved: none if the first one is pinned.
 */
unsigned int rust_move_anon_ptes(struct rust_move *move,
				 struct anon_vma *anon_vma)
{
	struct vm_area_struct *dst_vma = move->dst_vma, *vma = move->src_vma;
	unsigned long dst = move->dst, src = move->src;
	pte_t *dst_pte = move->dst_pte, *src_pte = move->src_pte;
	unsigned long end = src + move->count * PAGE_SIZE;
	struct folio *first = move->folio, *folio = first;

	flush_cache_range(vma, src, end);
	arch_enter_lazy_mmu_mode();
	do {
		pte_t old = ptep_get_and_clear(vma->vm_mm, src, src_pte);
		pte_t val;

		/*
		 * A fast GUP looks at the entry once more after it has pinned
		 * the page. So either it finds the entry cleared, or this finds
		 * the page pinned.
		 */
		if (unlikely(folio_maybe_dma_pinned(folio))) {
			set_pte_at(vma->vm_mm, src, src_pte, old);
			break;
		}

		folio_move_anon_rmap(folio, dst_vma);
		folio->index = linear_page_index(dst_vma, dst);

		val = folio_mk_pte(folio, dst_vma->vm_page_prot);
		if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
			val = pte_mksoft_dirty(val);
		if (pte_dirty(old))
			val = pte_mkdirty(val);
		set_pte_at(vma->vm_mm, dst, dst_pte, pte_mkwrite(val, dst_vma));

		dst += PAGE_SIZE;
		src += PAGE_SIZE;
		if (folio != first)
			folio_unlock(folio);
		folio = NULL;
		if (src == end)
			break;
		folio = lock_next_folio(vma, src, ++dst_pte, ++src_pte,
					anon_vma);
	} while (folio);
	arch_leave_lazy_mmu_mode();

	/* No CPU uses the old entries once the tables are unlocked. */
	if (src != move->src)
		flush_tlb_range(vma, move->src, src);
	/* While the table is locked, its entry keeps the folio. */
	if (folio && folio != first)
		folio_unlock(folio);
	rust_move_unlock(move);

	return (src - move->src) / PAGE_SIZE;
}

/*
 * Move a page that is swapped out, and unlock the tables. @folio is NULL, or one
 * that the swap cache had for it, locked. Returns false if that has changed.
 */
bool rust_move_swap_pte(struct rust_move *move, struct swap_info_struct *si,
			struct folio *folio)
{
	struct vm_area_struct *dst_vma = move->dst_vma;
	struct mm_struct *mm = dst_vma->vm_mm;
	swp_entry_t swap = move->swap;
	bool moved = false;
	pte_t pte;

	if (folio) {
		if (!folio_test_swapcache(folio) || folio_test_large(folio) ||
		    folio->swap.val != swap.val)
			goto out_unlock;
		/* A fault at the destination may find it. */
		folio_move_anon_rmap(folio, dst_vma);
		folio->index = linear_page_index(dst_vma, move->dst);
	} else if (READ_ONCE(si->swap_map[swp_offset(swap)]) & SWAP_HAS_CACHE) {
		/*
		 * It was read back, or is being read. The thread that swaps it
		 * out again has taken the lock of the table to do so.
		 */
		goto out_unlock;
	}

	pte = ptep_get_and_clear(mm, move->src, move->src_pte);
	if (IS_ENABLED(CONFIG_MEM_SOFT_DIRTY))
		pte = pte_swp_mksoft_dirty(pte);
	set_pte_at(mm, move->dst, move->dst_pte, pte);
	moved = true;
out_unlock:
	rust_move_unlock(move);

	return moved;
}

/* migration_entry_wait(), inline without migration. */
void rust_migration_entry_wait(struct rust_move *move)
{
	migration_entry_wait(move->src_vma->vm_mm, move->src_pmd, move->src);
}
