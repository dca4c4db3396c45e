/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A model of page tables, of the page cache, and of where anonymous pages are
 * mapped, with what mm/rust_pgtable.c, mm/rust_filemap.c and mm/rust_move.c use
 * of them. The structures are those of model.rs.
 */
#ifndef _MODEL_H
#define _MODEL_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>

#define CONFIG_SHMEM
#define CONFIG_TRANSPARENT_HUGEPAGE
#define CONFIG_USERFAULTFD_RUST
#ifndef __always_inline
#define __always_inline inline __attribute__((always_inline))
#endif
#define likely(x) (x)
#define unlikely(x) (x)
#define __acquire(lock)
#define __release(lock)
#define __acquires(lock)
#define __releases(lock)
#define __user
#define min(a, b) ((a) < (b) ? (a) : (b))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define min3(a, b, c) min(min(a, b), c)
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))
#define IS_ENABLED(option) HAS_##option
#define HAS_CONFIG_S390 0
#define HAS_CONFIG_MEM_SOFT_DIRTY 1
#define BUILD_BUG_ON(condition) _Static_assert(!(condition), "")
#define DIV_ROUND_UP(n, d) (((n) + (d) - 1) / (d))
#define EINVAL 22
#define EFAULT 14
#define EBUSY 16
#define EAGAIN 11
#define ENOENT 2

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
/* A table has more entries than are set at once. */
#define PTRS_PER_PTE 1024
#define PTRS_PER_PMD 2
#define PMD_SHIFT (PAGE_SHIFT + 10)
#define PMD_SIZE (1UL << PMD_SHIFT)
#define PMD_MASK (~(PMD_SIZE - 1))
#define HPAGE_PMD_SIZE PMD_SIZE

typedef unsigned long pgoff_t;
typedef unsigned long pgprot_t;
typedef unsigned long pte_t;

typedef struct {
	unsigned long val;
} swp_entry_t;

typedef struct {
	bool is_locked;
} spinlock_t;

enum pmd_kind { PMD_NONE, PMD_TABLE, PMD_HUGE, PMD_BAD, PMD_MIGRATION };

typedef struct {
	enum pmd_kind kind;
	/* There is no PMD table for it. */
	bool is_missing;
	/* The table goes away before it can be locked. */
	bool is_freed;
	/* The same, once it was found. */
	bool is_retracted;
	spinlock_t lock;
	pte_t *ptes;
	/* A huge page that is not the zero page, and the flags of its entry. */
	struct page *huge;
	unsigned int flags;
	/* PTE tables for the case that it is split. */
	unsigned int reserve;
} pmd_t, pud_t;

/* A PMD table has one entry. The levels above are one. */
typedef struct {
	bool is_there;
	pmd_t pmds[PTRS_PER_PMD];
} pgd_t, p4d_t;

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
	pgoff_t index;
	struct anon_vma *anon_vma;
	/* No other process has it. */
	bool is_exclusive;
	bool is_pinned;
	/* A thread pins it without locks, if it finds the entry. */
	bool is_being_pinned;
	/* A processor writes to it as long as there is an entry. */
	bool is_being_written;
	bool is_swapcache;
	swp_entry_t swap;
	/* Set to @entry while a thread waits for the lock. */
	pte_t *changes;
	pte_t entry;
	/* For hugetlb. */
	bool has_reservation;
	bool is_migratable;
	/* It is to be filled from what cannot be read without page faults. */
	bool is_absent;
} __attribute__((aligned(64)));

/* Its first page. */
struct folio {
	union {
		struct page page;
		struct page;
	};
};

struct address_space {
	struct folio *i_pages[128];
	struct inode *host;
};

struct anon_vma {
	int refcount;
	bool is_locked;
	/* Another thread has locked it. */
	bool is_contended;
};

struct swap_info_struct {
	int refcount;
	/* It is being taken out of use. */
	bool is_off;
	unsigned char swap_map[8];
	/* The swap cache. */
	struct folio *folios[8];
} __attribute__((aligned(64)));

struct mm_struct {
	pgd_t pgd;
	bool has_memory;
	unsigned long anon_pages;
	unsigned long file_pages;
	/* Entries that were cleared, and that TLBs may have. */
	pte_t stale[PTRS_PER_PMD * PTRS_PER_PTE];
	unsigned int flushes;
	/* Addresses whose caches were flushed. */
	unsigned long cache_start, cache_end;
	struct {
		void *notifier_subscriptions;
	};
	/* Addresses that the notifiers were told of. */
	unsigned long notified_start, notified_end;
	/* All PMD entries are in one table. */
	bool has_one_pmd_table;
	unsigned long hugetlb_pages;
	/* There are more fields in Rust. */
};

struct inode {
	unsigned long size;
	/* Only a file of hugetlb has one. */
	struct hstate *h;
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
	const void *vm_ops;
	struct anon_vma *anon_vma;
	/* There are more fields in Rust. */
};

/* What a thread has. Nested page table locks are taken in their order. */
struct model_thread {
	spinlock_t *locks[2];
	unsigned int nr_locks;
	pte_t *mapped[2];
	unsigned int nr_mapped;
	struct mm_struct *mm;
	bool is_lazy;
};
extern __thread struct model_thread model;

/* What other threads do at such a moment: see model.rs. */
enum moment { FOR_TABLE, FOR_FOLIO, FOR_RMAP };
void model_others(enum moment moment);

/* What the kernel has as inline functions and macros. */

#define pgd_offset(mm, addr) (&(mm)->pgd)
#define p4d_offset(pgd, addr) (pgd)
#define pud_offset(p4d, addr) (&(p4d)->pmds[(addr) >> PMD_SHIFT])
#define pmd_offset(pud, addr) (pud)
#define pgd_none(pgd) (!(pgd).is_there)
#define p4d_none(p4d) false
#define pud_none(pud) ((pud).is_missing)
#define p4d_alloc(mm, pgd, addr) \
	((mm)->has_memory ? ((pgd)->is_there = true, (pgd)) : NULL)
#define pud_alloc(mm, p4d, addr) pud_offset(p4d, addr)
#define pmd_alloc(mm, pud, addr) \
	((mm)->has_memory ? ((pud)->is_missing = false, (pud)) : NULL)

#define pmdp_get_lockless(pmd) (*(pmd))
#define pmdp_get(pmd) (assert(model.nr_locks), *(pmd))
#define pmd_none(pmd) ((pmd).kind == PMD_NONE)
#define pmd_present(pmd) ((pmd).kind != PMD_NONE && (pmd).kind != PMD_MIGRATION)
#define is_swap_pmd(pmd) ((pmd).kind == PMD_MIGRATION)
#define pmd_same(a, b) ((a).kind == (b).kind && (a).ptes == (b).ptes)
#define pmd_trans_huge(pmd) ((pmd).kind == PMD_HUGE)
#define pmd_bad(pmd) ((pmd).kind == PMD_BAD)

static inline int __pte_alloc(struct mm_struct *mm, pmd_t *pmd)
{
	assert(!pmd->is_missing);
	if (!mm->has_memory)
		return -1;
	if (pmd->kind == PMD_NONE)
		pmd->kind = PMD_TABLE;
	return 0;
}

#define pte_alloc(mm, pmd) \
	((pmd)->kind == PMD_NONE ? __pte_alloc(mm, pmd) : 0)

/* The locks of two tables are taken in the order of their addresses. */
static inline void spin_lock_nested(spinlock_t *lock, int subclass)
{
	if (!subclass)
		model_others(FOR_TABLE);
	assert(!lock->is_locked && model.nr_locks == subclass);
	assert(!subclass || model.locks[0] < lock);
	lock->is_locked = true;
	model.locks[model.nr_locks++] = lock;
}

#define SINGLE_DEPTH_NESTING 1
#define spin_lock(lock) spin_lock_nested(lock, 0)

/* No TLB has an entry that is not there any more. */
static inline void assert_flushed(struct mm_struct *mm)
{
	unsigned int i;

	for (i = 0; i < PTRS_PER_PMD * PTRS_PER_PTE; i++)
		assert(!mm->stale[i]);
}

static inline void spin_unlock(spinlock_t *lock)
{
	assert(lock->is_locked && model.nr_locks && !model.is_lazy);
	assert_flushed(model.mm);
	lock->is_locked = false;
	model.nr_locks--;
}

/* Another thread may take the table away, once it was found. */
static inline pte_t *pte_offset_map_rw_nolock(struct mm_struct *mm, pmd_t *pmd,
					    unsigned long addr, pmd_t *val,
					    spinlock_t **ptl)
{
	pte_t *pte = pmd->ptes + ((addr & ~PMD_MASK) >> PAGE_SHIFT);

	if (pmd->kind != PMD_TABLE || pmd->is_freed)
		return NULL;
	assert(!model.nr_locks && model.nr_mapped < 2);
	*val = *pmd;
	*ptl = &pmd->lock;
	if (pmd->is_retracted)
		pmd->kind = PMD_NONE;
	model.mm = mm;
	model.mapped[model.nr_mapped++] = pte;
	return pte;
}

/* What was mapped last is unmapped first. */
static inline void pte_unmap(pte_t *pte)
{
	assert(model.nr_mapped && model.mapped[model.nr_mapped - 1] == pte);
	model.nr_mapped--;
}

static inline void pte_unmap_unlock(pte_t *pte, spinlock_t *ptl)
{
	spin_unlock(ptl);
	pte_unmap(pte);
}

static inline pte_t *__pte_offset_map_lock(struct mm_struct *mm, pmd_t *pmd,
					 unsigned long addr, spinlock_t **ptl)
{
	pmd_t val;
	pte_t *pte = pte_offset_map_rw_nolock(mm, pmd, addr, &val, ptl);

	if (!pte)
		return NULL;
	spin_lock(*ptl);
	if (pmd_same(val, *pmd))
		return pte;
	pte_unmap_unlock(pte, *ptl);
	return NULL;
}

#define pte_none(pte) (!(pte))
#define ptep_get(pte) (*(pte))
#define update_mmu_cache(vma, addr, pte) ((void)(addr))
#define arch_enter_lazy_mmu_mode() (assert(!model.is_lazy), model.is_lazy = true)
#define arch_leave_lazy_mmu_mode() (assert(model.is_lazy), model.is_lazy = false)

/* The entry is that of the address, and its table is locked. */
static inline void assert_entry(struct mm_struct *mm, unsigned long addr,
				pte_t *ptep)
{
	pmd_t *pmd = pud_offset(&mm->pgd, addr);

	assert(ptep == pmd->ptes + ((addr & ~PMD_MASK) >> PAGE_SHIFT));
	assert(pmd->lock.is_locked);
}

static inline void set_pte_at(struct mm_struct *mm, unsigned long addr,
			      pte_t *ptep, pte_t pte)
{
	assert_entry(mm, addr, ptep);
	*ptep = pte;
	/* It is what TLBs have. */
	if (mm->stale[addr >> PAGE_SHIFT] == pte)
		mm->stale[addr >> PAGE_SHIFT] = 0;
}

/* What an entry is: see model.rs. */
#define my_zero_pfn(addr) 1
#define is_zero_pfn(pfn) ((pfn) == 1)
#define pfn_pte(pfn, prot) ((pte_t)(pfn) + 4)
#define pte_mkspecial(pte) ((pte) - 4)
#define pte_pfn(pte) (pte)
#define PTE_MARKER_POISONED 2
#define PTE_MARKER_UFFD_WP 3
#define PTE_MARKER_GUARD 4
#define make_pte_marker(marker) (marker)
#define is_pte_marker(pte) ((pte) >= 2 && (pte) <= 4)
#define PTE_SWAP (1UL << 63)
#define PTE_MIGRATION (1UL << 62)
#define PTE_SWP_EXCLUSIVE (1UL << 61)
#define PTE_SWP_SOFT_DIRTY (1UL << 60)
#define PTE_SWP_FLAGS (PTE_SWP_EXCLUSIVE | PTE_SWP_SOFT_DIRTY)
#define pte_to_swp_entry(pte) ((swp_entry_t){ (pte) & ~PTE_SWP_FLAGS })
#define is_guard_swp_entry(entry) ((entry).val == PTE_MARKER_GUARD)
#define non_swap_entry(entry) (!((entry).val & PTE_SWAP))
#define is_migration_entry(entry) ((entry).val & PTE_MIGRATION)
#define pte_swp_exclusive(pte) ((pte) & PTE_SWP_EXCLUSIVE)
#define pte_swp_mksoft_dirty(pte) ((pte) | PTE_SWP_SOFT_DIRTY)
#define pte_present(pte) \
	((pte) == 1 || ((pte) && !is_pte_marker(pte) && !((pte) >> 60)))

#define PTE_FLAGS 15
#define mk_pte(page, prot) ((pte_t)(page))
#define folio_mk_pte(folio, prot) mk_pte(&(folio)->page, prot)
#define pte_dirty(pte) ((pte) & 1)
#define pte_mkdirty(pte) ((pte) | 1)
#define pte_mkwrite(pte, vma) ((pte) | 2)
#define pte_mkuffd_wp(pte) (((pte) & ~2) | 4)
#define pte_mksoft_dirty(pte) ((pte) | 8)
#define VM_WRITE 2
#define VM_SHARED 8
#define RMAP_EXCLUSIVE 1
#define folio_add_new_anon_rmap(folio, vma, addr, flags) \
	((folio)->rmaps++, (folio)->address = (addr), \
	 (folio)->is_exclusive = true, (folio)->anon_vma = (vma)->anon_vma, \
	 (folio)->index = linear_page_index(vma, addr))
#define folio_add_lru_vma(folio, vma) ((folio)->lrus++)
#define MM_ANONPAGES anon_pages
#define mm_counter_file(folio) file_pages
#define add_mm_counter(mm, member, value) ((mm)->member += (value))
#define inc_mm_counter(mm, member) ((mm)->member++)

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

#define folio_add_file_rmap_pte(folio, page, vma) \
	folio_add_file_rmap_ptes(folio, page, 1, vma)

static inline void set_ptes(struct mm_struct *mm, unsigned long addr,
			    pte_t *ptep, pte_t pte, unsigned int nr)
{
	for (; nr; nr--, ptep++, addr += PAGE_SIZE, pte += sizeof(struct page))
		set_pte_at(mm, addr, ptep, pte);
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

/* Anonymous pages, and where they are mapped. */

/* The first page of a folio says how many there are. */
static inline struct folio *vm_normal_folio(struct vm_area_struct *vma,
					    unsigned long addr, pte_t pte)
{
	struct page *page = (struct page *)(pte & ~PTE_FLAGS);

	assert(pte_present(pte) && addr >= vma->vm_start && addr < vma->vm_end);
	if (pte < 64)
		return NULL;
	while (!page->nr_pages)
		page--;
	return (struct folio *)page;
}

#define PageAnonExclusive(page) ((page)->is_exclusive)
#define folio_maybe_dma_pinned(folio) ((folio)->is_pinned)
#define folio_anon_vma(folio) ((folio)->anon_vma)
#define folio_test_swapcache(folio) ((folio)->is_swapcache)

/* A walk of the rmap has one of these locks. */
static inline void folio_move_anon_rmap(struct folio *folio,
					struct vm_area_struct *vma)
{
	assert(folio->is_locked && model.nr_locks);
	assert(folio->is_swapcache || folio->anon_vma->is_locked);
	folio->anon_vma = vma->anon_vma;
	folio->is_exclusive = true;
}

/*
 * TLBs may have the entry until they are flushed. Those that have page tables of
 * their own have it unless they were told.
 */
static inline pte_t ptep_get_and_clear(struct mm_struct *mm, unsigned long addr,
				       pte_t *ptep)
{
	pte_t pte = *ptep;
	struct page *page = (struct page *)(pte & ~PTE_FLAGS);

	assert_entry(mm, addr, ptep);
	if (pte_present(pte)) {
		if (mm->notifier_subscriptions)
			assert(addr >= mm->notified_start &&
			       addr < mm->notified_end);
		if (pte != 1) {
			assert(addr >= mm->cache_start && addr < mm->cache_end);
			if (page->is_being_pinned)
				page->is_pinned = true;
			if (page->is_being_written)
				pte |= 1;
		}
		mm->stale[addr >> PAGE_SHIFT] = pte;
	}
	*ptep = 0;
	return pte;
}

static inline void flush_tlb_range(struct vm_area_struct *vma,
				   unsigned long start, unsigned long end)
{
	assert(!model.is_lazy && start >= vma->vm_start && end <= vma->vm_end);
	vma->vm_mm->flushes++;
	for (; start < end; start += PAGE_SIZE)
		vma->vm_mm->stale[start >> PAGE_SHIFT] = 0;
}

static inline void flush_cache_range(struct vm_area_struct *vma,
				     unsigned long start, unsigned long end)
{
	vma->vm_mm->cache_start = start;
	vma->vm_mm->cache_end = end;
}

/* The reference to an anon_vma that a folio is mapped by is not the last one. */
static inline struct anon_vma *folio_get_anon_vma(struct folio *folio)
{
	assert(folio->is_locked);
	if (!folio->anon_vma || !folio->rmaps)
		return NULL;
	folio->anon_vma->refcount++;
	return folio->anon_vma;
}

static inline bool anon_vma_trylock_write(struct anon_vma *anon_vma)
{
	if (anon_vma->is_locked || anon_vma->is_contended)
		return false;
	anon_vma->is_locked = true;
	return true;
}

/* The other thread unlocks it then. */
static inline void anon_vma_lock_write(struct anon_vma *anon_vma)
{
	assert(!anon_vma->is_locked && !model.nr_locks);
	model_others(FOR_RMAP);
	anon_vma->is_contended = false;
	anon_vma->is_locked = true;
}

static inline void anon_vma_unlock_write(struct anon_vma *anon_vma)
{
	assert(anon_vma->is_locked);
	anon_vma->is_locked = false;
}

static inline void put_anon_vma(struct anon_vma *anon_vma)
{
	/* This sleeps if it is the last one. */
	assert(anon_vma->refcount > 1 && !model.nr_locks);
	anon_vma->refcount--;
}

/* Swap. An entry is the address of a device, and a number. */
#define SWAP_HAS_CACHE 0x40
#define swp_offset(entry) ((entry).val & 7)

static inline struct swap_info_struct *swap_device(swp_entry_t entry)
{
	return (struct swap_info_struct *)(entry.val & ~(PTE_SWAP | 7));
}

static inline struct swap_info_struct *get_swap_device(swp_entry_t entry)
{
	struct swap_info_struct *si = swap_device(entry);

	if (si->is_off)
		return NULL;
	si->refcount++;
	return si;
}

static inline void put_swap_device(struct swap_info_struct *si)
{
	assert(si->refcount > 0);
	si->refcount--;
}

static inline struct folio *swap_cache_get_folio(swp_entry_t entry)
{
	struct swap_info_struct *si = swap_device(entry);
	struct folio *folio = si->folios[swp_offset(entry)];

	assert(si->refcount > 0);
	if (folio)
		folio->refcount++;
	return folio;
}

/* Waiting for what migrates: see model.c. */
void migration_entry_wait(struct mm_struct *mm, pmd_t *pmd, unsigned long addr);
void pmd_migration_entry_wait(struct mm_struct *mm, pmd_t *pmd);

/* Huge pages. */
extern struct folio huge_zero_folio;
#define is_huge_zero_folio(folio) ((folio) == &huge_zero_folio)
#define is_pmd_migration_entry(pmd) ((pmd).kind == PMD_MIGRATION)

static inline spinlock_t *pmd_lockptr(struct mm_struct *mm, pmd_t *pmd)
{
	model.mm = mm;
	return mm->has_one_pmd_table ? &mm->pgd.pmds[0].lock : &pmd->lock;
}

static inline struct folio *pmd_folio(pmd_t pmd)
{
	assert(pmd.kind == PMD_HUGE);
	return pmd.huge ? (struct folio *)pmd.huge : &huge_zero_folio;
}

static inline spinlock_t *__pmd_trans_huge_lock(pmd_t *pmd,
						struct vm_area_struct *vma)
{
	spinlock_t *ptl = pmd_lockptr(vma->vm_mm, pmd);

	spin_lock(ptl);
	if (pmd->kind == PMD_HUGE || pmd->kind == PMD_MIGRATION)
		return ptl;
	spin_unlock(ptl);
	return NULL;
}

/* The flags of PTEs, and one more. */
#define PMD_SPECIAL 16

static inline pmd_t folio_mk_pmd(struct folio *folio, pgprot_t prot)
{
	return (pmd_t){
		.kind = PMD_HUGE,
		.huge = is_huge_zero_folio(folio) ? NULL : &folio->page,
	};
}

static inline pmd_t pmd_with(pmd_t pmd, unsigned int flags)
{
	pmd.flags |= flags;
	return pmd;
}

#define pmd_mkdirty(pmd) pmd_with(pmd, 1 | 8)
#define pmd_mkwrite(pmd, vma) pmd_with(pmd, 2)
#define pmd_mksoft_dirty(pmd) pmd_with(pmd, 8)
#define pmd_mkspecial(pmd) pmd_with(pmd, PMD_SPECIAL)

/* It is that of the address, and the table is locked. */
static inline void assert_pmd(struct mm_struct *mm, unsigned long addr,
			      pmd_t *pmdp)
{
	assert(!(addr & ~PMD_MASK) && pmdp == pud_offset(&mm->pgd, addr));
	assert(pmd_lockptr(mm, pmdp)->is_locked);
}

static inline void set_pmd_at(struct mm_struct *mm, unsigned long addr,
			      pmd_t *pmdp, pmd_t pmd)
{
	assert_pmd(mm, addr, pmdp);
	assert(pmdp->kind == PMD_NONE && pmd.kind == PMD_HUGE);
	pmdp->kind = pmd.kind;
	pmdp->huge = pmd.huge;
	pmdp->flags = pmd.flags;
}

/* As ptep_get_and_clear(), and flush_tlb_range(). */
static inline pmd_t pmdp_huge_clear_flush(struct vm_area_struct *vma,
					  unsigned long addr, pmd_t *pmdp)
{
	struct mm_struct *mm = vma->vm_mm;
	pmd_t pmd = *pmdp;

	assert_pmd(mm, addr, pmdp);
	assert(pmd.kind == PMD_HUGE);
	assert(addr >= vma->vm_start && addr + PMD_SIZE <= vma->vm_end);
	if (mm->notifier_subscriptions)
		assert(addr >= mm->notified_start &&
		       addr + PMD_SIZE <= mm->notified_end);
	assert(addr >= mm->cache_start && addr + PMD_SIZE <= mm->cache_end);
	if (pmd.huge && pmd.huge->is_being_pinned)
		pmd.huge->is_pinned = true;
	if (pmd.huge && pmd.huge->is_being_written)
		pmd.flags |= 1;
	pmdp->kind = PMD_NONE;
	pmdp->huge = NULL;
	pmdp->flags = 0;
	mm->flushes++;
	return pmd;
}

/* All tables are alike. */
typedef bool pgtable_t;

static inline pgtable_t pgtable_trans_huge_withdraw(struct mm_struct *mm,
						    pmd_t *pmd)
{
	assert(pmd_lockptr(mm, pmd)->is_locked && pmd->reserve);
	pmd->reserve--;
	return true;
}

static inline void pgtable_trans_huge_deposit(struct mm_struct *mm, pmd_t *pmd,
					      pgtable_t table)
{
	assert(pmd_lockptr(mm, pmd)->is_locked && table);
	pmd->reserve++;
}

/* The table has what a test has put there. */
static inline void split_huge_pmd(struct vm_area_struct *vma, pmd_t *pmd,
				  unsigned long addr)
{
	assert(!model.nr_locks);
	assert(pmd == pud_offset(&vma->vm_mm->pgd, addr & PMD_MASK));
	if (pmd->kind != PMD_HUGE && pmd->kind != PMD_MIGRATION)
		return;
	assert(pmd->reserve);
	pmd->reserve--;
	pmd->kind = PMD_TABLE;
	pmd->huge = NULL;
	pmd->flags = 0;
}

/* Those that have page tables of their own. */
struct mmu_notifier_range {
	struct mm_struct *mm;
	unsigned long start, end;
};

#define MMU_NOTIFY_CLEAR 1
#define mmu_notifier_range_init(range, event, flags, mm_, start_, end_)    \
	(*(range) = (struct mmu_notifier_range){                           \
		 .mm = (event) == MMU_NOTIFY_CLEAR ? (mm_) : NULL,         \
		 .start = (start_),                                        \
		 .end = (end_),                                            \
	 })

static inline void
mmu_notifier_invalidate_range_start(struct mmu_notifier_range *range)
{
	assert(!model.nr_locks && !range->mm->notified_end);
	range->mm->notified_start = range->start;
	range->mm->notified_end = range->end;
}

static inline void
mmu_notifier_invalidate_range_end(struct mmu_notifier_range *range)
{
	assert(!model.nr_locks && range->mm->notified_end == range->end);
	range->mm->notified_start = 0;
	range->mm->notified_end = 0;
}

#endif /* _MODEL_H */
