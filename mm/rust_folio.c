// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/folio.rs: inline functions and macros. They are
 * for code that is built in, and not exported.
 */

#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rust_folio.h>
#include <linux/uaccess.h>

/* vma_alloc_folio(), a macro. */
struct folio *rust_vma_alloc_folio(struct vm_area_struct *vma,
				   unsigned long addr)
{
	return vma_alloc_folio(GFP_HIGHUSER_MOVABLE, 0, vma, addr);
}

static __always_inline bool copy_page_from_user(struct folio *folio,
						const void __user *src,
						bool nofault)
{
	void *kaddr = kmap_local_folio(folio, 0);
	unsigned long left;

	if (nofault)
		pagefault_disable();
	left = copy_from_user(kaddr, src, PAGE_SIZE);
	if (nofault)
		pagefault_enable();
	kunmap_local(kaddr);
	if (unlikely(left))
		return false;
	flush_dcache_folio(folio);

	return true;
}

/*
 * kmap_local_folio() and copy_from_user(), inline, for a folio of one page.
 * Returns false if not all could be read without page faults.
 */
bool rust_folio_copy_from_user_nofault(struct folio *folio,
				       const void __user *src)
{
	return copy_page_from_user(folio, src, true);
}

/*
 * The same with page faults, and copy_folio_from_user(), which is there only if
 * there are large folios.
 */
bool rust_folio_copy_from_user(struct folio *folio, const void __user *src)
{
#if defined(CONFIG_TRANSPARENT_HUGEPAGE) || defined(CONFIG_HUGETLBFS)
	if (folio_test_large(folio))
		return !copy_folio_from_user(folio, src, true);
#endif
	return copy_page_from_user(folio, src, false);
}

/* clear_user_highpage(), inline, for a folio of one page. */
void rust_folio_zero(struct folio *folio, unsigned long addr)
{
	clear_user_highpage(&folio->page, addr);
}

/* __folio_mark_uptodate() and mem_cgroup_charge(), inline. */
int rust_folio_charge(struct folio *folio, struct mm_struct *mm)
{
	/* What was stored is visible before the entry that maps it. */
	__folio_mark_uptodate(folio);

	return mem_cgroup_charge(folio, mm, GFP_KERNEL);
}

/* folio_put(), inline. */
void rust_folio_put(struct folio *folio)
{
	folio_put(folio);
}

/* folio_trylock() and folio_get(), inline. The folio has a reference. */
bool rust_folio_trylock_get(struct folio *folio)
{
	if (!folio_trylock(folio))
		return false;
	folio_get(folio);

	return true;
}

/* folio_lock(), inline. */
void rust_folio_lock(struct folio *folio)
{
	folio_lock(folio);
}

/* folio_unlock() and folio_put(), which is inline. */
void rust_folio_unlock_put(struct folio *folio)
{
	folio_unlock(folio);
	folio_put(folio);
}

/* folio_get(), inline. */
void rust_folio_get(struct folio *folio)
{
	folio_get(folio);
}

/* folio_test_large(), inline. */
bool rust_folio_test_large(struct folio *folio)
{
	return folio_test_large(folio);
}

/* folio_maybe_dma_pinned(), inline. */
bool rust_folio_maybe_dma_pinned(struct folio *folio)
{
	return folio_maybe_dma_pinned(folio);
}

/* split_folio(), inline. */
int rust_split_folio(struct folio *folio)
{
	return split_folio(folio);
}
