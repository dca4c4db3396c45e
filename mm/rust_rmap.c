// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of rmap.rs, swap.rs and mmu_notifier.rs in rust/kernel/mm: inline
 * functions and macros. They are for code that is built in, and not exported.
 */

#include <linux/mmu_notifier.h>
#include <linux/rmap.h>
#include <linux/rust_rmap.h>
#include "swap.h"

/*
 * anon_vma_trylock_write(), inline, for that of a folio. Returns NULL if the
 * folio is not mapped, and otherwise a reference.
 */
struct anon_vma *rust_anon_vma_trylock(struct folio *folio, bool *locked)
{
	struct anon_vma *anon_vma = folio_get_anon_vma(folio);

	*locked = anon_vma && anon_vma_trylock_write(anon_vma);

	return anon_vma;
}

/* anon_vma_lock_write(), inline. */
void rust_anon_vma_lock_write(struct anon_vma *anon_vma)
{
	anon_vma_lock_write(anon_vma);
}

/* anon_vma_unlock_write() and put_anon_vma(), inline. */
void rust_anon_vma_unlock_put(struct anon_vma *anon_vma)
{
	anon_vma_unlock_write(anon_vma);
	put_anon_vma(anon_vma);
}

/* put_anon_vma(), inline. */
void rust_put_anon_vma(struct anon_vma *anon_vma)
{
	put_anon_vma(anon_vma);
}

/* get_swap_device(), inline without swap. */
struct swap_info_struct *rust_get_swap_device(swp_entry_t swap)
{
	return get_swap_device(swap);
}

/* put_swap_device(), inline. */
void rust_put_swap_device(struct swap_info_struct *si)
{
	put_swap_device(si);
}

/* swap_cache_get_folio(), of mm/swap.h. */
struct folio *rust_swap_cache_get_folio(swp_entry_t swap)
{
	return swap_cache_get_folio(swap);
}

/* mmu_notifier_invalidate_range_start(), inline. */
void rust_mmu_notifier_start(struct mmu_notifier_range *range,
			     struct mm_struct *mm, unsigned long start,
			     unsigned long end)
{
	mmu_notifier_range_init(range, MMU_NOTIFY_CLEAR, 0, mm, start, end);
	mmu_notifier_invalidate_range_start(range);
}

/* mmu_notifier_invalidate_range_end(), inline. */
void rust_mmu_notifier_end(struct mmu_notifier_range *range)
{
	mmu_notifier_invalidate_range_end(range);
}
