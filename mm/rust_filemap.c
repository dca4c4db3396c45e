// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rust/kernel/mm/filemap.rs: inline functions and macros, made for
 * pages in a row, so that Rust calls C once for a run. They are for code that is
 * built in, and not exported.
 */

#include <linux/rmap.h>
#include <linux/rust_filemap.h>
#include <linux/shmem_fs.h>
#include <linux/xarray.h>
#include "rust_pgtable.h"

/*
 * How many folios are locked with a page table locked: other threads may wait
 * for it.
 */
#define MAX_FOLIOS	32

/*
 * shmem_get_folio(), for a page that is in the file: the folio is locked and
 * has a reference. Returns 0, or a negative errno.
 */
int rust_shmem_lock_folio(struct vm_area_struct *vma, unsigned long addr,
			  struct folio **folio)
{
#ifdef CONFIG_SHMEM
	pgoff_t index = linear_page_index(vma, addr);
	int err;

	err = shmem_get_folio(file_inode(vma->vm_file), index, 0, folio,
			      SGP_NOALLOC);
	if (err)
		return err == -ENOENT ? -EFAULT : err;

	return *folio ? 0 : -EFAULT;
#else
	return -EINVAL;
#endif
}

/* The entry that maps a page of a file. Writing to a private one makes a copy. */
static __always_inline pte_t file_pte(struct vm_area_struct *vma,
				      struct page *page, bool uffd_wp)
{
	pte_t val = pte_mkdirty(mk_pte(page, vma->vm_page_prot));

	if ((vma->vm_flags & (VM_WRITE | VM_SHARED)) == (VM_WRITE | VM_SHARED))
		val = pte_mkwrite(val, vma);
	if (uffd_wp)
		val = pte_mkuffd_wp(val);

	return val;
}

/*
 * Map pages of a folio of the page cache, which is locked, from that of @index
 * on, over markers if need be. Returns how many: none if the first entry is not
 * vacant, or the page has a hardware error. For each the page table gets a
 * reference, the first of which is that of the caller.
 */
static unsigned int map_file_ptes(struct vm_area_struct *vma,
				  unsigned long addr, pte_t *pte,
				  struct folio *folio, pgoff_t index,
				  unsigned long max, bool uffd_wp)
{
	struct page *page = folio_file_page(folio, index);
	struct mm_struct *mm = vma->vm_mm;
	unsigned int nr;
	pte_t val;

	max = min(max, folio_nr_pages(folio) - folio_page_idx(folio, page));
	max = count_vacant(pte, max, true);
	for (nr = 0; nr < max; nr++) {
		if (unlikely(PageHWPoison(page + nr)))
			break;
	}
	if (unlikely(!nr))
		return 0;

	val = file_pte(vma, page, uffd_wp);
	if (nr > 1)
		folio_ref_add(folio, nr - 1);
	folio_add_file_rmap_ptes(folio, page, nr, vma);
	add_mm_counter(mm, mm_counter_file(folio), nr);
	set_ptes(mm, addr, pte, val, nr);
	update_mmu_cache_range(NULL, vma, addr, pte, nr);

	return nr;
}

/*
 * Returns the folio at @xas, locked and with a reference, if it can be had
 * without sleeping. Like next_uptodate_folio().
 */
static struct folio *try_lock_cached(struct xa_state *xas,
				     struct address_space *mapping)
{
	struct folio *folio = xas_load(xas);

	if (!folio || xas_retry(xas, folio) || xa_is_value(folio))
		return NULL;
	if (folio_test_locked(folio) || !folio_try_get(folio))
		return NULL;
	if (unlikely(folio != xas_reload(xas)) || !folio_trylock(folio))
		goto out_put;
	/* While it is locked, it stays in the file, and is not split. */
	if (likely(folio->mapping == mapping && folio_test_uptodate(folio)))
		return folio;

	folio_unlock(folio);
out_put:
	folio_put(folio);
	return NULL;
}

/*
 * Map pages that the file of a VMA has in the page cache, over markers if need
 * be, as long as that can be done without sleeping. @count becomes how many
 * were mapped, which may be none.
 */
enum rust_pte_result rust_map_cached_folios(struct vm_area_struct *vma,
					    unsigned long addr,
					    unsigned long end, bool uffd_wp,
					    unsigned int *count)
{
	struct address_space *mapping = vma->vm_file->f_mapping;
	pgoff_t index = linear_page_index(vma, addr);
	XA_STATE(xas, &mapping->i_pages, index);
	unsigned int folios, nr, done = 0;
	enum rust_pte_result result;
	struct rust_pte_run run;
	pmd_t *pmd;

	*count = 0;
	result = alloc_pte(vma, addr, &pmd);
	if (unlikely(result != RUST_PTE_OK))
		return result;
	/* What is in the way comes second: the page might be missing. */
	if (lock_entries(vma, pmd, addr, end, &run) != RUST_PTE_OK)
		return RUST_PTE_OK;

	rcu_read_lock();
	for (folios = 0; folios < MAX_FOLIOS; folios++) {
		struct folio *folio = try_lock_cached(&xas, mapping);

		if (!folio)
			break;
		nr = map_file_ptes(vma, addr + done * PAGE_SIZE, run.pte + done,
				   folio, index + done, run.count - done,
				   uffd_wp);
		folio_unlock(folio);
		if (unlikely(!nr)) {
			folio_put(folio);
			break;
		}
		done += nr;
		if (done == run.count)
			break;
		xas_set(&xas, index + done);
	}
	rcu_read_unlock();
	unlock_entries(run.pte, run.ptl);
	*count = done;

	return RUST_PTE_OK;
}

/*
 * Map pages of a folio of the page cache, which is locked, over markers if need
 * be. @count becomes how many were mapped: the page table has a reference for
 * each, the first of which is that of the caller. Allocates no page tables,
 * because reclaim may wait for the folio.
 */
enum rust_pte_result rust_map_locked_folio(struct vm_area_struct *vma,
					   unsigned long addr,
					   unsigned long end, bool uffd_wp,
					   struct folio *folio,
					   unsigned int *count)
{
	pgoff_t index = linear_page_index(vma, addr);
	pmd_t *pmd = find_pmd(vma->vm_mm, addr);
	enum rust_pte_result result;
	struct rust_pte_run run;

	if (unlikely(PageHWPoison(folio_file_page(folio, index))))
		return RUST_PTE_HWPOISON;
	if (unlikely(!pmd))
		return RUST_PTE_NO_TABLE;
	result = lock_entries(vma, pmd, addr, end, &run);
	if (unlikely(result != RUST_PTE_OK))
		return result;

	*count = map_file_ptes(vma, addr, run.pte, folio, index, run.count,
			       uffd_wp);
	unlock_entries(run.pte, run.ptl);

	return *count ? RUST_PTE_OK : RUST_PTE_TAKEN;
}

#ifdef CONFIG_SHMEM
/*
 * Make the page tables for a page that is to be added to the file, take a block
 * of the file system for it, and allocate a folio, unless @folio is NULL. @pmd
 * becomes the entry of the PMD table.
 */
enum rust_pte_result rust_shmem_new_page(struct vm_area_struct *vma,
					 unsigned long addr, pmd_t **pmd,
					 struct folio **folio)
{
	enum rust_pte_result result = alloc_pte(vma, addr, pmd);

	if (unlikely(result != RUST_PTE_OK))
		return result;

	return rust_shmem_take_block(vma, addr, folio) ? RUST_PTE_OK :
							 RUST_PTE_NO_MEMORY;
}

/*
 * Map a page that was added to the file, and unlock it. The page table has the
 * reference of the caller, and the file the block.
 */
enum rust_pte_result rust_shmem_map_added(struct vm_area_struct *vma,
					  pmd_t *pmd, unsigned long addr,
					  struct folio *folio, bool uffd_wp)
{
	enum rust_pte_result result = RUST_PTE_OK;
	struct mm_struct *mm = vma->vm_mm;
	struct rust_pte_run run;
	pte_t val;

	/* As in lock_entries(). */
	run.pte = __pte_offset_map_lock(mm, pmd, addr, &run.ptl);
	if (unlikely(!run.pte))
		return RUST_PTE_NO_TABLE;

	if (unlikely(!file_pages(vma, addr))) {
		result = RUST_PTE_BEYOND_FILE;
	} else if (unlikely(!is_vacant(ptep_get(run.pte), true))) {
		result = RUST_PTE_TAKEN;
	} else {
		val = file_pte(vma, &folio->page, uffd_wp);
		folio_add_file_rmap_pte(folio, &folio->page, vma);
		inc_mm_counter(mm, mm_counter_file(folio));
		set_pte_at(mm, addr, run.pte, val);
		update_mmu_cache(vma, addr, run.pte);
	}
	unlock_entries(run.pte, run.ptl);
	if (likely(result == RUST_PTE_OK))
		rust_shmem_keep_folio(vma, folio);

	return result;
}
#else
enum rust_pte_result rust_shmem_new_page(struct vm_area_struct *vma,
					 unsigned long addr, pmd_t **pmd,
					 struct folio **folio)
{
	return RUST_PTE_BAD;
}

void rust_shmem_put_block(struct vm_area_struct *vma)
{
}

int rust_shmem_add_folio(struct vm_area_struct *vma, unsigned long addr,
			 struct folio *folio)
{
	return -EINVAL;
}

void rust_shmem_remove_folio(struct folio *folio)
{
}

enum rust_pte_result rust_shmem_map_added(struct vm_area_struct *vma,
					  pmd_t *pmd, unsigned long addr,
					  struct folio *folio, bool uffd_wp)
{
	return RUST_PTE_BAD;
}
#endif
