/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_pgtable.c and rust/kernel/mm/pgtable.rs share.
 */
#ifndef _LINUX_RUST_PGTABLE_H
#define _LINUX_RUST_PGTABLE_H

#include <linux/mm_types.h>

#ifdef CONFIG_USERFAULTFD_RUST

/* What is found where something is to be mapped. */
enum rust_pte_result {
	RUST_PTE_OK,
	RUST_PTE_TAKEN,		/* there is something, or a huge page was */
	RUST_PTE_BEYOND_FILE,	/* the file has no such page */
	RUST_PTE_NO_TABLE,	/* there is no PTE table any more */
	RUST_PTE_NO_MEMORY,
	RUST_PTE_BAD,		/* pmd_bad() */
	RUST_PTE_HWPOISON,	/* the page has a hardware error */
};

/* Entries in a row, in a PTE table that is locked. */
struct rust_pte_run {
	pte_t *pte;
	spinlock_t *ptl;	/* of the table */
	unsigned int count;
};

enum rust_pte_result rust_pte_alloc(struct vm_area_struct *vma,
				    unsigned long addr);
enum rust_pte_result rust_pte_alloc_lock_none(struct vm_area_struct *vma,
					      unsigned long addr,
					      unsigned long end,
					      struct rust_pte_run *run);
enum rust_pte_result rust_map_anon_folios(struct vm_area_struct *vma,
					  unsigned long addr,
					  struct folio **folios,
					  unsigned int *count, bool uffd_wp);
void rust_pte_unmap_unlock(pte_t *pte, spinlock_t *ptl);
void rust_set_zero_ptes(struct vm_area_struct *vma, unsigned long addr,
			pte_t *pte, unsigned int count);
void rust_set_poison_ptes(struct vm_area_struct *vma, unsigned long addr,
			  pte_t *pte, unsigned int count);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_PGTABLE_H */
