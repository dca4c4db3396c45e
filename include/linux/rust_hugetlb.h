/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_hugetlb.c and rust/kernel/mm/hugetlb.rs share.
 */
#ifndef _LINUX_RUST_HUGETLB_H
#define _LINUX_RUST_HUGETLB_H

#include <linux/mutex.h>
#include <linux/rust_pgtable.h>

#ifdef CONFIG_USERFAULTFD_RUST

/* How a folio of hugetlb is mapped. */
#define RUST_HUGE_CACHED	1	/* it is in the page cache, and locked */
#define RUST_HUGE_NEW		2	/* it was not mapped before */
#define RUST_HUGE_UFFD_WP	4	/* it is write-protected by userfaultfd */

unsigned int rust_hugetlb_page_shift(struct vm_area_struct *vma);

struct mutex *rust_hugetlb_lock_faults(struct vm_area_struct *vma,
				       pgoff_t index);
pte_t *rust_hugetlb_lock_vma(struct vm_area_struct *vma, unsigned long addr,
			     unsigned long size);
void rust_hugetlb_unlock_vma(struct vm_area_struct *vma);

bool rust_huge_pte_is_vacant(struct vm_area_struct *vma, unsigned long addr,
			     pte_t *pte);
bool rust_hugetlb_has_pmd_table(struct vm_area_struct *vma,
				unsigned long addr);
spinlock_t *rust_huge_pte_lock_none(struct vm_area_struct *vma,
				    unsigned long addr, pte_t *pte);
enum rust_pte_result
rust_huge_pte_lock_vacant(struct vm_area_struct *vma, unsigned long addr,
			  pte_t *pte, struct folio *folio, spinlock_t **ptl);
void rust_huge_pte_unlock(spinlock_t *ptl);
void rust_huge_pte_poison_unlock(struct vm_area_struct *vma,
				 unsigned long addr,
				 pte_t *pte, spinlock_t *ptl);
void rust_huge_pte_map_unlock(struct vm_area_struct *vma, unsigned long addr,
			      pte_t *pte, spinlock_t *ptl, struct folio *folio,
			      unsigned int flags);

struct folio *rust_hugetlb_alloc_reserved(struct vm_area_struct *vma,
					  unsigned long addr);
void rust_hugetlb_put_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, unsigned int flags);
bool rust_hugetlb_copy_from_user_nofault(struct folio *folio,
					 const void __user *src);
int rust_hugetlb_copy_folio(struct vm_area_struct *vma, unsigned long addr,
			    struct folio *folio, struct folio *from);

bool rust_hugetlb_is_cached(struct vm_area_struct *vma, unsigned long addr);
struct folio *rust_hugetlb_lock_folio(struct vm_area_struct *vma,
				      pgoff_t index);
int rust_hugetlb_add_folio(struct vm_area_struct *vma, pgoff_t index,
			   struct folio *folio);

/* These are in mm/hugetlb.c. */
struct folio *rust_alloc_hugetlb_folio_vma(struct vm_area_struct *vma,
					   unsigned long addr);
pte_t rust_make_huge_pte(struct vm_area_struct *vma, struct folio *folio,
			 bool try_mkwrite);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_HUGETLB_H */
