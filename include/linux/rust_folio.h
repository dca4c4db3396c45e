/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_folio.c and rust/kernel/mm/folio.rs share.
 */
#ifndef _LINUX_RUST_FOLIO_H
#define _LINUX_RUST_FOLIO_H

#include <linux/mm_types.h>

#ifdef CONFIG_USERFAULTFD_RUST

struct folio *rust_vma_alloc_folio(struct vm_area_struct *vma,
				   unsigned long addr);
bool rust_folio_copy_from_user_nofault(struct folio *folio,
				       const void __user *src);
bool rust_folio_copy_from_user(struct folio *folio, const void __user *src);
void rust_folio_zero(struct folio *folio, unsigned long addr);
int rust_folio_charge(struct folio *folio, struct mm_struct *mm);
void rust_folio_put(struct folio *folio);
bool rust_folio_trylock_get(struct folio *folio);
void rust_folio_lock(struct folio *folio);
void rust_folio_unlock_put(struct folio *folio);
void rust_folio_get(struct folio *folio);
bool rust_folio_test_large(struct folio *folio);
bool rust_folio_maybe_dma_pinned(struct folio *folio);
int rust_split_folio(struct folio *folio);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_FOLIO_H */
