/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of hugetlb, with what mm/rust_hugetlb.c uses of it. The structures are
 * those of model.rs. Each function looks if the locks are held that it needs.
 */
#ifndef _MODEL_HUGETLB_H
#define _MODEL_HUGETLB_H

#include <model.h>

#define CONFIG_HUGETLB_PAGE
#define HUGE_PAGES 4
#define HUGE_FOLIOS 6
#define ENOMEM 12
#define EEXIST 17
#define EHWPOISON 133
#define ERR_PTR(err) ((void *)(long)(err))
#define IS_ERR(ptr) ((unsigned long)(ptr) > -4096UL)
#define WARN_ON_ONCE(condition) assert(!(condition))

typedef unsigned int u32;

struct mutex {
	bool is_locked;
};

struct hstate {
	unsigned int order;
	/* A page is larger than what a PMD table maps. */
	bool is_gigantic;
	/* The source of a copy cannot be read without page faults. */
	bool is_absent;
	/* A new folio has a hardware error. */
	bool is_hwpoison;
	/* Those of the VMA, and the lock of their table. */
	pte_t ptes[HUGE_PAGES];
	spinlock_t ptl;
	/* Which pages of the file, or of the VMA, have a reservation. */
	bool reserved[HUGE_PAGES];
	struct folio pool[HUGE_FOLIOS];
	/* How often the VMA is locked. */
	unsigned int readers;
	/* Which step fails, counted from one, and how many there were. */
	unsigned int fails;
	unsigned int steps;
};

/* One for each index. */
extern __thread struct mutex hugetlb_fault_mutex_table[HUGE_PAGES];

#define hstate_vma(vma) ((vma)->vm_file->f_inode->h)
#define huge_page_order(h) ((h)->order)
#define huge_page_shift(h) ((h)->order + PAGE_SHIFT)
#define huge_page_size(h) (PAGE_SIZE << (h)->order)
#define pages_per_huge_page(h) (1L << (h)->order)
#define folio_size(folio) ((unsigned long)(folio)->nr_pages << PAGE_SHIFT)
#define hugetlb_fault_mutex_hash(mapping, index) ((u32)(index))

static inline void mutex_lock(struct mutex *mutex)
{
	unsigned int i;

	assert(!model.nr_locks);
	for (i = 0; i < HUGE_PAGES; i++)
		assert(!hugetlb_fault_mutex_table[i].is_locked);
	mutex->is_locked = true;
}

/* No page table is locked, and the mutex of the page is, for what sleeps. */
static inline pgoff_t huge_index(struct vm_area_struct *vma, unsigned long addr)
{
	struct hstate *h = hstate_vma(vma);
	pgoff_t index = linear_page_index(vma, addr) >> h->order;

	assert(!model.nr_locks && !(addr & (huge_page_size(h) - 1)));
	assert(index < HUGE_PAGES);
	assert(hugetlb_fault_mutex_table[index].is_locked);
	return index;
}

static inline bool step_fails(struct hstate *h)
{
	return ++h->steps == h->fails;
}

static inline void hugetlb_vma_lock_read(struct vm_area_struct *vma)
{
	assert(!model.nr_locks && !hstate_vma(vma)->readers);
	hstate_vma(vma)->readers++;
}

static inline void hugetlb_vma_unlock_read(struct vm_area_struct *vma)
{
	assert(!model.nr_locks && hstate_vma(vma)->readers == 1);
	hstate_vma(vma)->readers--;
}

static inline pte_t *huge_pte_alloc(struct mm_struct *mm,
				    struct vm_area_struct *vma,
				    unsigned long addr, unsigned long size)
{
	struct hstate *h = hstate_vma(vma);

	huge_index(vma, addr);
	assert(size == huge_page_size(h) && h->readers && mm == vma->vm_mm);
	if (step_fails(h))
		return NULL;
	return &h->ptes[(addr - vma->vm_start) / size];
}

#define huge_ptep_get(mm, addr, pte) (*(pte))
#define huge_pte_none(pte) pte_none(pte)
#define huge_pte_none_mostly(pte) (pte_none(pte) || is_pte_marker(pte))
#define huge_pte_mkdirty(pte) pte_mkdirty(pte)
#define huge_pte_mkuffd_wp(pte) pte_mkuffd_wp(pte)
#define pte_mkyoung(pte) pte_mksoft_dirty(pte)
#define hugetlb_walk(vma, addr, size) \
	(assert(hstate_vma(vma)->readers), \
	 hstate_vma(vma)->is_gigantic ? NULL : hstate_vma(vma)->ptes)

static inline spinlock_t *huge_pte_lock(struct hstate *h, struct mm_struct *mm,
					pte_t *pte)
{
	assert(h->readers && pte >= h->ptes && pte < h->ptes + HUGE_PAGES);
	model.mm = mm;
	spin_lock(&h->ptl);
	return &h->ptl;
}

static inline void set_huge_pte_at(struct mm_struct *mm, unsigned long addr,
				   pte_t *ptep, pte_t pte, unsigned long size)
{
	assert(model.nr_locks && huge_pte_none_mostly(*ptep));
	*ptep = pte;
}

/* Only a folio that is locked is one of the file. */
static inline void hugetlb_add_file_rmap(struct folio *folio)
{
	assert(model.nr_locks && folio->is_locked && folio->mapping);
	folio->rmaps++;
}

static inline void hugetlb_add_new_anon_rmap(struct folio *folio,
					     struct vm_area_struct *vma,
					     unsigned long addr)
{
	assert(model.nr_locks && !folio->mapping && vma->anon_vma);
	assert(!(vma->vm_flags & VM_SHARED) && folio->refcount == 1);
	assert(folio->is_uptodate);
	folio->rmaps++;
	folio->has_reservation = false;
}

#define hugetlb_count_add(pages, mm) ((mm)->hugetlb_pages += (pages))
#define folio_set_hugetlb_migratable(folio) \
	(assert(model.nr_locks), (folio)->is_migratable = true)
#define folio_test_hwpoison(folio) ((folio)->is_hwpoison)
#define __folio_mark_uptodate(folio) ((folio)->is_uptodate = true)

/* One that has no reservation may not take one that is reserved. */
static inline struct folio *model_alloc(struct hstate *h, bool *reserved)
{
	unsigned int i, nr = *reserved ? 0 : 1;
	struct folio *folio = NULL;

	for (i = 0; i < HUGE_PAGES && !*reserved; i++)
		nr += h->reserved[i];
	for (i = 0; i < HUGE_FOLIOS; i++) {
		nr += !!h->pool[i].refcount;
		if (!h->pool[i].refcount)
			folio = &h->pool[i];
	}
	if (!folio || nr > HUGE_FOLIOS)
		return NULL;
	*folio = (struct folio){};
	folio->nr_pages = pages_per_huge_page(h);
	folio->is_absent = h->is_absent;
	folio->is_hwpoison = h->is_hwpoison;
	folio->refcount = 1;
	folio->has_reservation = *reserved;
	*reserved = false;
	return folio;
}

static inline struct folio *alloc_hugetlb_folio(struct vm_area_struct *vma,
						unsigned long addr, bool cow)
{
	struct hstate *h = hstate_vma(vma);
	pgoff_t index = huge_index(vma, addr);
	struct folio *folio = NULL;

	assert(!cow);
	if (!step_fails(h))
		folio = model_alloc(h, &h->reserved[index]);
	return folio ? folio : ERR_PTR(-ENOMEM);
}

/* It is not put yet. */
static inline void restore_reserve_on_error(struct hstate *h,
					    struct vm_area_struct *vma,
					    unsigned long addr,
					    struct folio *folio)
{
	assert(folio->refcount == 1 && !folio->mapping && !folio->rmaps);
	if (folio->has_reservation)
		h->reserved[huge_index(vma, addr)] = true;
	folio->has_reservation = false;
}

static inline long copy_folio_from_user(struct folio *folio, const void *src,
					bool allow_pagefault)
{
	assert(!model.nr_locks && !allow_pagefault && folio->refcount == 1);
	return folio->is_absent ? folio_size(folio) : 0;
}

static inline int copy_user_large_folio(struct folio *dst, struct folio *src,
					unsigned long addr,
					struct vm_area_struct *vma)
{
	huge_index(vma, addr);
	assert(src->refcount == 1 && dst->refcount == 1 && src != dst);
	assert(!src->has_reservation);
	return step_fails(hstate_vma(vma)) ? -EHWPOISON : 0;
}

static inline bool hugetlbfs_pagecache_present(struct hstate *h,
					       struct vm_area_struct *vma,
					       unsigned long addr)
{
	pgoff_t index = huge_index(vma, addr);

	return vma->vm_file->f_mapping->i_pages[index << h->order];
}

static inline struct folio *
filemap_lock_hugetlb_folio(struct hstate *h, struct address_space *mapping,
			   pgoff_t index)
{
	struct folio *folio = mapping->i_pages[index << h->order];

	assert(!model.nr_locks && hugetlb_fault_mutex_table[index].is_locked);
	if (step_fails(h) || !folio)
		return ERR_PTR(-ENOENT);
	assert(!folio->is_locked);
	folio->is_locked = true;
	folio->refcount++;
	return folio;
}

static inline int hugetlb_add_to_page_cache(struct folio *folio,
					    struct address_space *mapping,
					    pgoff_t index)
{
	struct hstate *h = mapping->host->h;

	assert(!model.nr_locks && hugetlb_fault_mutex_table[index].is_locked);
	assert(folio->refcount == 1 && folio->is_uptodate);
	if (step_fails(h))
		return -ENOMEM;
	if (mapping->i_pages[index << h->order])
		return -EEXIST;
	mapping->i_pages[index << h->order] = folio;
	folio->mapping = mapping;
	folio->is_locked = true;
	folio->refcount++;
	folio->has_reservation = false;
	return 0;
}

#endif /* _MODEL_HUGETLB_H */
