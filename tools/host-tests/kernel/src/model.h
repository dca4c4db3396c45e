/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of page tables and of the page cache, with what mm/rust_pgtable.c and
 * mm/rust_filemap.c use of them. The structures are those of model.rs.
 */
#ifndef _MODEL_H
#define _MODEL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#define CONFIG_SHMEM
#define CONFIG_USERFAULTFD_RUST
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define likely(x) (x)
#define unlikely(x) (x)
#define __acquire(lock)
#define __release(lock)
#define __user
#define min(a, b) ((a) < (b) ? (a) : (b))
#define IS_ENABLED(option) 0
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), "")
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define EINVAL 22
#define EFAULT 14
#define ENOENT 2

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
/* A table has more entries than are set at once. */
#define PTRS_PER_PTE 1024
#define PTRS_PER_PMD 2
#define PMD_SHIFT (PAGE_SHIFT + 10)
#define PMD_SIZE (1UL << PMD_SHIFT)
#define PMD_MASK (~(PMD_SIZE - 1))

typedef unsigned long pgoff_t;
typedef unsigned long pgprot_t;
typedef unsigned long pte_t;

typedef struct {
	bool is_locked;
} spinlock_t;

enum pmd_kind { PMD_NONE, PMD_TABLE, PMD_HUGE, PMD_BAD };

typedef struct {
	enum pmd_kind kind;
	/* The table goes away before it can be locked. */
	bool is_freed;
	spinlock_t lock;
	pte_t *ptes;
} pmd_t;

/* The levels above are one. */
typedef struct {
	bool is_there;
	pmd_t pmds[PTRS_PER_PMD];
} pgd_t, p4d_t, pud_t;

struct page {
	int refcount;
	int rmaps;
	int rmap_calls;
	int lrus;
	unsigned long address;
	bool is_charged;
	bool is_locked;
	bool is_contended;
	bool is_uptodate;
	bool is_moved;
	bool is_hwpoison;
	unsigned int tries;
	unsigned int nr_pages;
	struct address_space *mapping;
};

/* Its first page. */
struct folio {
	union {
		struct page page;
		struct page;
	};
};

struct address_space {
	struct folio *i_pages[128];
};

struct mm_struct {
	pgd_t pgd;
	bool has_memory;
	unsigned long anon_pages;
	unsigned long file_pages;
	/* There are more fields in Rust. */
};

struct inode {
	unsigned long size;
	/* There are more fields in Rust. */
};

struct file {
	struct inode *f_inode;
	struct address_space *f_mapping;
};

struct vm_area_struct {
	unsigned long vm_start;
	unsigned long vm_end;
	struct mm_struct *vm_mm;
	pgoff_t vm_pgoff;
	pgprot_t vm_page_prot;
	struct file *vm_file;
	unsigned long vm_flags;
	/* There are more fields in Rust. */
};

/* What the kernel has as inline functions and macros. */

#define pgd_offset(mm, addr) (&(mm)->pgd)
#define p4d_offset(pgd, addr) (pgd)
#define pud_offset(p4d, addr) (p4d)
#define pmd_offset(pud, addr) (&(pud)->pmds[(addr) >> PMD_SHIFT])
#define pgd_none(pgd) (!(pgd).is_there)
#define p4d_none(p4d) false
#define pud_none(pud) false
#define p4d_alloc(mm, pgd, addr) \
	((mm)->has_memory ? ((pgd)->is_there = true, (pgd)) : NULL)
#define pud_alloc(mm, p4d, addr) (p4d)
#define pmd_alloc(mm, pud, addr) pmd_offset(pud, addr)

#define pmdp_get_lockless(pmd) (*(pmd))
#define pmd_none(pmd) ((pmd).kind == PMD_NONE)
#define pmd_present(pmd) ((pmd).kind != PMD_NONE)
#define pmd_trans_huge(pmd) ((pmd).kind == PMD_HUGE)
#define pmd_bad(pmd) ((pmd).kind == PMD_BAD)

static inline int pte_alloc(struct mm_struct *mm, pmd_t *pmd)
{
	if (pmd->kind == PMD_NONE)
		pmd->kind = PMD_TABLE;
	return 0;
}

static inline pte_t *__pte_offset_map_lock(struct mm_struct *mm, pmd_t *pmd,
					 unsigned long addr, spinlock_t **ptl)
{
	if (pmd->kind != PMD_TABLE || pmd->is_freed)
		return NULL;
	if (pmd->lock.is_locked)
		__builtin_trap();
	pmd->lock.is_locked = true;
	*ptl = &pmd->lock;
	return pmd->ptes + ((addr & ~PMD_MASK) >> PAGE_SHIFT);
}

static inline void pte_unmap_unlock(pte_t *pte, spinlock_t *ptl)
{
	if (!ptl->is_locked)
		__builtin_trap();
	ptl->is_locked = false;
}

#define pte_none(pte) (!(pte))
#define ptep_get(pte) (*(pte))
#define set_pte_at(mm, addr, ptep, pte) (*(ptep) = (pte))
#define update_mmu_cache(vma, addr, pte) ((void)(addr))
#define arch_enter_lazy_mmu_mode() ((void)0)
#define arch_leave_lazy_mmu_mode() ((void)0)

/* What an entry is: see model.rs. */
#define my_zero_pfn(addr) 0
#define pfn_pte(pfn, prot) 1
#define pte_mkspecial(pte) (pte)
#define PTE_MARKER_POISONED 2
#define PTE_MARKER_UFFD_WP 3
#define PTE_MARKER_GUARD 4
#define make_pte_marker(marker) (marker)
#define is_pte_marker(pte) ((pte) >= 2 && (pte) <= 4)
#define pte_to_swp_entry(pte) (pte)
#define is_guard_swp_entry(entry) ((entry) == PTE_MARKER_GUARD)

#define mk_pte(page, prot) ((pte_t)(page))
#define pte_mkdirty(pte) ((pte) | 1)
#define pte_mkwrite(pte, vma) ((pte) | 2)
#define pte_mkuffd_wp(pte) (((pte) & ~2) | 4)
#define VM_WRITE 2
#define VM_SHARED 8
#define RMAP_EXCLUSIVE 1
#define folio_add_new_anon_rmap(folio, vma, addr, flags) \
	((folio)->rmaps++, (folio)->address = (addr))
#define folio_add_lru_vma(folio, vma) ((folio)->lrus++)
#define MM_ANONPAGES anon_pages
#define mm_counter_file(folio) file_pages
#define add_mm_counter(mm, member, value) ((mm)->member += (value))

/* The pages of a folio follow each other, and so do entries. */
#define folio_nr_pages(folio) ((folio)->nr_pages)
#define folio_page_idx(folio, p) ((p) - &(folio)->page)
#define folio_file_page(folio, index) \
	(&(folio)->page + ((index) & (folio_nr_pages(folio) - 1)))
#define PageHWPoison(page) ((page)->is_hwpoison)
#define folio_ref_add(folio, nr) ((folio)->refcount += (nr))
#define update_mmu_cache_range(vmf, vma, addr, pte, nr) ((void)(addr))

static inline void folio_add_file_rmap_ptes(struct folio *folio,
					    struct page *page, unsigned int nr,
					    struct vm_area_struct *vma)
{
	folio->rmap_calls++;
	for (; nr; nr--, page++)
		page->rmaps++;
}

static inline void set_ptes(struct mm_struct *mm, unsigned long addr,
			    pte_t *ptep, pte_t pte, unsigned int nr)
{
	for (; nr; nr--, ptep++, pte += sizeof(struct page))
		*ptep = pte;
}

/* The page cache. A folio is in the slot of its first page, siblings follow. */
struct xa_state {
	struct folio **pages;
	pgoff_t index;
	pgoff_t slot;
};

#define XA_STATE(name, array, first) \
	struct xa_state name = { *(array), (first) }
#define xas_set(xas, first) ((xas)->index = (first))
#define xa_is_value(entry) ((unsigned long)(entry) == 1)
#define xas_retry(xas, entry) ((unsigned long)(entry) == 2)
#define SIBLING ((struct folio *)6)
#define xa_is_sibling(entry) ((entry) == SIBLING)

static inline bool has_sibling(struct folio **pages, pgoff_t slot)
{
	return slot && (unsigned long)pages[slot] > 6 &&
	       pages[slot] == pages[slot - 1];
}

/* Goes to the slot of the folio that has the page. */
static inline struct folio *xas_load(struct xa_state *xas)
{
	xas->slot = xas->index;
	while (has_sibling(xas->pages, xas->slot))
		xas->slot--;
	return xas->pages[xas->slot];
}

static inline struct folio *xas_reload(struct xa_state *xas)
{
	struct folio *folio = xas->pages[xas->index];

	return folio->is_moved ? NULL : folio;
}

/* These do not build unless they are balanced. */
#define rcu_read_lock() do {
#define rcu_read_unlock() } while (0)

#define folio_test_uptodate(folio) ((folio)->is_uptodate)
#define folio_test_large(folio) ((folio)->nr_pages > 1)
#define folio_try_get(folio) \
	((folio)->tries++, (folio)->refcount && (folio)->refcount++)
#define folio_put(folio) ((folio)->refcount--)
#define folio_trylock(folio) \
	((folio)->is_locked || (folio)->is_contended ? \
		 false : ((folio)->is_locked = true))
void folio_unlock(struct folio *folio);

/* It is not a folio that is looked at first. */
static inline bool folio_test_locked(struct folio *folio)
{
	assert(!xa_is_sibling(folio));
	return folio->is_locked;
}

#define SGP_NOALLOC 1
#define file_inode(file) ((file)->f_inode)
int shmem_get_folio(struct inode *inode, pgoff_t index, long write_end,
		    struct folio **folio, int sgp);

#define i_size_read(inode) ((inode)->size)
#define linear_page_index(vma, addr) \
	((((addr) - (vma)->vm_start) >> PAGE_SHIFT) + (vma)->vm_pgoff)

#endif /* _MODEL_H */
