/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_rmap.c and rmap.rs, swap.rs and mmu_notifier.rs in rust/kernel/mm
 * share.
 */
#ifndef _LINUX_RUST_RMAP_H
#define _LINUX_RUST_RMAP_H

#include <linux/mmu_notifier.h>
#include <linux/swap.h>

#ifdef CONFIG_USERFAULTFD_RUST

struct anon_vma *rust_anon_vma_trylock(struct folio *folio, bool *locked);
void rust_anon_vma_lock_write(struct anon_vma *anon_vma);
void rust_anon_vma_unlock_put(struct anon_vma *anon_vma);
void rust_put_anon_vma(struct anon_vma *anon_vma);

struct swap_info_struct *rust_get_swap_device(swp_entry_t swap);
void rust_put_swap_device(struct swap_info_struct *si);
struct folio *rust_swap_cache_get_folio(swp_entry_t swap);

void rust_mmu_notifier_start(struct mmu_notifier_range *range,
			     struct mm_struct *mm, unsigned long start,
			     unsigned long end);
void rust_mmu_notifier_end(struct mmu_notifier_range *range);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_RMAP_H */
