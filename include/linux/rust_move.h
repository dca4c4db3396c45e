/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_move.c and rust/kernel/mm/relocation.rs share.
 */
#ifndef _LINUX_RUST_MOVE_H
#define _LINUX_RUST_MOVE_H

#include <linux/mm_types.h>
#include <linux/swap.h>

#ifdef CONFIG_USERFAULTFD_RUST

/* The tables that have the pages which are to be moved. */
enum rust_move_tables {
	RUST_MOVE_PTE,		/* PTE tables, both */
	RUST_MOVE_LEAF,		/* the source is a huge page */
	RUST_MOVE_NO_SOURCE,	/* there is no table of the source */
	RUST_MOVE_HUGE_TAKEN,	/* there is a huge page at the destination */
	RUST_MOVE_NO_MEMORY,
};

/* What the first of them is. */
enum rust_move_source {
	RUST_MOVE_NO_TABLE,	/* there is no PTE table any more */
	RUST_MOVE_TAKEN,	/* there is something at the destination */
	RUST_MOVE_HOLE,		/* nothing, in @count entries */
	RUST_MOVE_ZERO_PAGE,
	RUST_MOVE_PAGE,		/* an anonymous page, of no other process */
	RUST_MOVE_LARGE,	/* one of several in a folio */
	RUST_MOVE_SWAP,		/* one that is swapped out */
	RUST_MOVE_SHARED,	/* one that others may have as well */
	RUST_MOVE_MIGRATION,
	RUST_MOVE_OTHER,
};

/* What an entry of a PMD table is, where a huge page is to be moved. */
enum rust_pmd {
	RUST_PMD_NONE,
	RUST_PMD_TABLE,
	RUST_PMD_HUGE,		/* a huge page, of no other process */
	RUST_PMD_HUGE_ZERO,
	RUST_PMD_BUSY,		/* one that others may have, or that is pinned */
	RUST_PMD_MIGRATION,
	RUST_PMD_BAD,		/* anything else */
	RUST_PMD_TAKEN,		/* there is something at the destination */
};

/* Pages that are to be moved, and what was found out about the first of them. */
struct rust_move {
	struct vm_area_struct *dst_vma, *src_vma;
	unsigned long dst, src;
	unsigned long len;		/* in bytes */

	/* Its entries in PMD tables. */
	pmd_t *dst_pmd, *src_pmd;
	bool dst_is_none;		/* *dst_pmd was pmd_none() */
	pmd_t src_pmdval;		/* what was cleared at *src_pmd */

	/* The locks of the tables that have its entries. */
	spinlock_t *dst_ptl, *src_ptl;

	/* Its entries in PTE tables. */
	pte_t *dst_pte, *src_pte;
	unsigned int count;		/* how many both tables have */
	union {
		struct folio *folio;	/* of the page, or huge page */
		swp_entry_t swap;	/* RUST_MOVE_SWAP */
	};
};

enum rust_move_tables rust_move_find_tables(struct rust_move *move, bool alloc);

enum rust_move_source rust_move_lock(struct rust_move *move);
void rust_move_unlock(struct rust_move *move);
unsigned int rust_move_zero_ptes(struct rust_move *move);
unsigned int rust_move_anon_ptes(struct rust_move *move,
				 struct anon_vma *anon_vma);
bool rust_move_swap_pte(struct rust_move *move, struct swap_info_struct *si,
			struct folio *folio);
void rust_migration_entry_wait(struct rust_move *move);

enum rust_pmd rust_move_lock_pmds(struct rust_move *move);
void rust_move_unlock_pmds(struct rust_move *move);
void rust_move_clear_pmd(struct rust_move *move);
void rust_move_restore_pmd(struct rust_move *move);
void rust_move_place_huge(struct rust_move *move);
void rust_move_place_huge_zero(struct rust_move *move);
int rust_split_pmd(struct vm_area_struct *vma, pmd_t *pmd, unsigned long addr);
void rust_pmd_migration_entry_wait(struct vm_area_struct *vma, pmd_t *pmd);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_MOVE_H */
