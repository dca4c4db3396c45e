// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/hugetlb.rs: inline functions and macros. They
 * are for code that is built in, and not exported. An index is in huge pages.
 */

#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/pagemap.h>
#include <linux/rmap.h>
#include <linux/rust_hugetlb.h>
#include <linux/swapops.h>

#ifdef CONFIG_HUGETLB_PAGE
/* huge_page_shift(), inline. */
unsigned int rust_hugetlb_page_shift(struct vm_area_struct *vma)
{
	return huge_page_shift(hstate_vma(vma));
}

/* The mutex of hugetlb_fault_mutex_table, and mutex_lock(), a macro. */
struct mutex *rust_hugetlb_lock_faults(struct vm_area_struct *vma,
				       pgoff_t index)
{
	u32 hash = hugetlb_fault_mutex_hash(vma->vm_file->f_mapping, index);
	struct mutex *mutex = &hugetlb_fault_mutex_table[hash];

	mutex_lock(mutex);

	return mutex;
}

/*
 * hugetlb_vma_lock_read() and huge_pte_alloc(), which are inline or not there
 * without hugetlb. The entry is valid until the lock is dropped. If there is no
 * memory for tables, this returns NULL, and the lock is not held.
 */
pte_t *rust_hugetlb_lock_vma(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long size)
{
	pte_t *pte;

	hugetlb_vma_lock_read(vma);
	pte = huge_pte_alloc(vma->vm_mm, vma, addr, size);
	if (unlikely(!pte))
		hugetlb_vma_unlock_read(vma);

	return pte;
}

/* hugetlb_vma_unlock_read(), inline without hugetlb. */
void rust_hugetlb_unlock_vma(struct vm_area_struct *vma)
{
	hugetlb_vma_unlock_read(vma);
}

/* huge_ptep_get() and huge_pte_none_mostly(), inline. */
bool rust_huge_pte_is_vacant(struct vm_area_struct *vma, unsigned long addr,
			     pte_t *pte)
{
	return huge_pte_none_mostly(huge_ptep_get(vma->vm_mm, addr, pte));
}

/* hugetlb_walk(), inline: are there tables for pages of PMD_SIZE? */
bool rust_hugetlb_has_pmd_table(struct vm_area_struct *vma, unsigned long addr)
{
	return hugetlb_walk(vma, addr, PMD_SIZE);
}

/*
 * huge_pte_lock(), inline. Returns NULL, with the page table unlocked, if there
 * is anything in the entry.
 */
spinlock_t *rust_huge_pte_lock_none(struct vm_area_struct *vma,
				    unsigned long addr, pte_t *pte)
{
	struct mm_struct *mm = vma->vm_mm;
	spinlock_t *ptl = huge_pte_lock(hstate_vma(vma), mm, pte);

	if (unlikely(!huge_pte_none(huge_ptep_get(mm, addr, pte)))) {
		spin_unlock(ptl);
		return NULL;
	}
	/* Sparse cannot follow it to the unlock. */
	__release(ptl);

	return ptl;
}

/*
 * The same, for an entry that is to map a folio. There may be a marker. The
 * page table stays locked only if this returns RUST_PTE_OK.
 */
enum rust_pte_result
rust_huge_pte_lock_vacant(struct vm_area_struct *vma, unsigned long addr,
			  pte_t *pte, struct folio *folio, spinlock_t **ptl)
{
	enum rust_pte_result result = RUST_PTE_OK;
	struct mm_struct *mm = vma->vm_mm;

	*ptl = huge_pte_lock(hstate_vma(vma), mm, pte);
	if (unlikely(folio_test_hwpoison(folio)))
		result = RUST_PTE_HWPOISON;
	else if (unlikely(!huge_pte_none_mostly(huge_ptep_get(mm, addr, pte))))
		result = RUST_PTE_TAKEN;

	if (unlikely(result != RUST_PTE_OK))
		spin_unlock(*ptl);
	else
		__release(*ptl);

	return result;
}

/* spin_unlock(), inline. */
void rust_huge_pte_unlock(spinlock_t *ptl)
{
	__acquire(ptl);
	spin_unlock(ptl);
}

/* set_huge_pte_at(), inline, for a marker, and spin_unlock(). */
void rust_huge_pte_poison_unlock(struct vm_area_struct *vma,
				 unsigned long addr,
				 pte_t *pte, spinlock_t *ptl)
{
	set_huge_pte_at(vma->vm_mm, addr, pte,
			make_pte_marker(PTE_MARKER_POISONED),
			huge_page_size(hstate_vma(vma)));
	update_mmu_cache(vma, addr, pte);
	rust_huge_pte_unlock(ptl);
}

/*
 * set_huge_pte_at(), inline, for a folio, what counts it, and spin_unlock().
 * The page table has the reference of the caller then. If the folio is in the
 * page cache, it is unlocked. Otherwise it may be gone afterwards.
 */
void rust_huge_pte_map_unlock(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *pte, spinlock_t *ptl, struct folio *folio,
			      unsigned int flags)
{
	bool is_cached = flags & RUST_HUGE_CACHED;
	bool is_new = flags & RUST_HUGE_NEW;
	bool uffd_wp = flags & RUST_HUGE_UFFD_WP;
	struct hstate *h = hstate_vma(vma);
	struct mm_struct *mm = vma->vm_mm;
	bool is_own;
	pte_t val;

	if (is_cached)
		hugetlb_add_file_rmap(folio);
	else
		hugetlb_add_new_anon_rmap(folio, vma, addr);

	/* A write to a page of the file through a private mapping copies it. */
	is_own = !is_cached || (vma->vm_flags & VM_SHARED);
	val = rust_make_huge_pte(vma, folio, is_own && !uffd_wp);
	val = pte_mkyoung(huge_pte_mkdirty(val));
	if (uffd_wp)
		val = huge_pte_mkuffd_wp(val);
	set_huge_pte_at(mm, addr, pte, val, huge_page_size(h));
	hugetlb_count_add(pages_per_huge_page(h), mm);
	update_mmu_cache(vma, addr, pte);

	/* A folio that others know may have been isolated to migrate it. */
	if (is_new)
		folio_set_hugetlb_migratable(folio);
	rust_huge_pte_unlock(ptl);
	if (is_cached)
		folio_unlock(folio);
}

/* alloc_hugetlb_folio(), inline without hugetlb. NULL if there is none. */
struct folio *rust_hugetlb_alloc_reserved(struct vm_area_struct *vma,
					  unsigned long addr)
{
	struct folio *folio = alloc_hugetlb_folio(vma, addr, false);

	return IS_ERR(folio) ? NULL : folio;
}

/*
 * folio_put(), inline, and folio_unlock() if the folio is in the page cache, or
 * else restore_reserve_on_error().
 */
void rust_hugetlb_put_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, unsigned int flags)
{
	if (flags & RUST_HUGE_CACHED)
		folio_unlock(folio);
	else
		restore_reserve_on_error(hstate_vma(vma), vma, addr, folio);
	folio_put(folio);
}

/*
 * copy_folio_from_user(), without page faults, and __folio_mark_uptodate(),
 * inline: what was stored is visible before the entry that maps it. Returns
 * false if not all could be read.
 */
bool rust_hugetlb_copy_from_user_nofault(struct folio *folio,
					 const void __user *src)
{
	if (unlikely(copy_folio_from_user(folio, src, false)))
		return false;
	__folio_mark_uptodate(folio);

	return true;
}

/* copy_user_large_folio(), and the same. Returns 0, or a negative errno. */
int rust_hugetlb_copy_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, struct folio *from)
{
	int err;

	if (folio_size(folio) != folio_size(from))
		return -EINVAL;
	err = copy_user_large_folio(folio, from, addr, vma);
	if (!err)
		__folio_mark_uptodate(folio);

	return err;
}

/* hugetlbfs_pagecache_present(), inline without hugetlb. */
bool rust_hugetlb_is_cached(struct vm_area_struct *vma, unsigned long addr)
{
	return hugetlbfs_pagecache_present(hstate_vma(vma), vma, addr);
}

/*
 * filemap_lock_hugetlb_folio(), inline: the folio is locked and has a
 * reference. NULL if the file does not have it.
 */
struct folio *rust_hugetlb_lock_folio(struct vm_area_struct *vma,
				      pgoff_t index)
{
	struct folio *folio;

	folio = filemap_lock_hugetlb_folio(hstate_vma(vma),
					   vma->vm_file->f_mapping, index);
	if (IS_ERR(folio))
		return NULL;
	WARN_ON_ONCE(!folio_test_uptodate(folio));

	return folio;
}

/*
 * hugetlb_add_to_page_cache(), which is not there without hugetlb, unless the
 * file ends before the end of the page. Afterwards the folio is locked. Returns
 * a negative errno if it is not added.
 */
int rust_hugetlb_add_folio(struct vm_area_struct *vma, pgoff_t index,
			   struct folio *folio)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	unsigned int shift = huge_page_shift(hstate_vma(vma));

	if (index >= i_size_read(mapping->host) >> shift)
		return -EFAULT;

	return hugetlb_add_to_page_cache(folio, mapping, index);
}
#else
/* No VMA is one of hugetlb. These are not called. */
unsigned int rust_hugetlb_page_shift(struct vm_area_struct *vma)
{
	return PAGE_SHIFT;
}

struct mutex *rust_hugetlb_lock_faults(struct vm_area_struct *vma,
				       pgoff_t index)
{
	return NULL;
}

pte_t *rust_hugetlb_lock_vma(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long size)
{
	return NULL;
}

void rust_hugetlb_unlock_vma(struct vm_area_struct *vma)
{
}

bool rust_huge_pte_is_vacant(struct vm_area_struct *vma, unsigned long addr,
			     pte_t *pte)
{
	return false;
}

bool rust_hugetlb_has_pmd_table(struct vm_area_struct *vma, unsigned long addr)
{
	return false;
}

spinlock_t *rust_huge_pte_lock_none(struct vm_area_struct *vma,
				    unsigned long addr, pte_t *pte)
{
	return NULL;
}

enum rust_pte_result
rust_huge_pte_lock_vacant(struct vm_area_struct *vma, unsigned long addr,
			  pte_t *pte, struct folio *folio, spinlock_t **ptl)
{
	return RUST_PTE_BAD;
}

void rust_huge_pte_unlock(spinlock_t *ptl)
{
}

void rust_huge_pte_poison_unlock(struct vm_area_struct *vma,
				 unsigned long addr,
				 pte_t *pte, spinlock_t *ptl)
{
}

void rust_huge_pte_map_unlock(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *pte, spinlock_t *ptl, struct folio *folio,
			      unsigned int flags)
{
}

struct folio *rust_hugetlb_alloc_reserved(struct vm_area_struct *vma,
					  unsigned long addr)
{
	return NULL;
}

void rust_hugetlb_put_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, unsigned int flags)
{
}

bool rust_hugetlb_copy_from_user_nofault(struct folio *folio,
					 const void __user *src)
{
	return false;
}

int rust_hugetlb_copy_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, struct folio *from)
{
	return -EINVAL;
}

bool rust_hugetlb_is_cached(struct vm_area_struct *vma, unsigned long addr)
{
	return false;
}

struct folio *rust_hugetlb_lock_folio(struct vm_area_struct *vma,
				      pgoff_t index)
{
	return NULL;
}

int rust_hugetlb_add_folio(struct vm_area_struct *vma, pgoff_t index,
			   struct folio *folio)
{
	return -EINVAL;
}

struct folio *rust_alloc_hugetlb_folio_vma(struct vm_area_struct *vma,
					   unsigned long addr)
{
	return NULL;
}
#endif
