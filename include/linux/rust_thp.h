/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_thp.c and rust/kernel/mm/thp.rs share. There is a function only
 * if CONFIG_TRANSPARENT_HUGEPAGE is set.
 */
#ifndef _LINUX_RUST_THP_H
#define _LINUX_RUST_THP_H

#include <linux/mm_types.h>
#include <linux/rust_pgtable.h>

#ifdef CONFIG_USERFAULTFD_RUST

unsigned long rust_thp_allowable_orders(struct vm_area_struct *vma);
bool rust_thp_is_vacant(struct vm_area_struct *vma, unsigned long addr,
			unsigned int order);
struct folio *rust_thp_alloc_charged(struct vm_area_struct *vma,
				     unsigned long addr, unsigned int order);
bool rust_thp_copy_from_user_nofault(struct folio *folio,
				     const void __user *src);
enum rust_pte_result rust_thp_map(struct vm_area_struct *vma,
				  unsigned long addr, struct folio *folio,
				  unsigned int order, bool uffd_wp);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_THP_H */
