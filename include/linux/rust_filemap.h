/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What mm/rust_filemap.c and rust/kernel/mm/filemap.rs share.
 */
#ifndef _LINUX_RUST_FILEMAP_H
#define _LINUX_RUST_FILEMAP_H

#include <linux/rust_pgtable.h>

#ifdef CONFIG_USERFAULTFD_RUST

int rust_shmem_lock_folio(struct vm_area_struct *vma, unsigned long addr,
			  struct folio **folio);
enum rust_pte_result rust_map_cached_folios(struct vm_area_struct *vma,
					    unsigned long addr,
					    unsigned long end, bool uffd_wp,
					    unsigned int *count);
enum rust_pte_result rust_map_locked_folio(struct vm_area_struct *vma,
					   unsigned long addr,
					   unsigned long end, bool uffd_wp,
					   struct folio *folio,
					   unsigned int *count);

enum rust_pte_result rust_shmem_new_page(struct vm_area_struct *vma,
					 unsigned long addr, pmd_t **pmd,
					 struct folio **folio);
enum rust_pte_result rust_shmem_map_added(struct vm_area_struct *vma,
					  pmd_t *pmd, unsigned long addr,
					  struct folio *folio, bool uffd_wp);

/* These are in mm/shmem.c. */
bool rust_shmem_take_block(struct vm_area_struct *vma, unsigned long addr,
			   struct folio **folio);
void rust_shmem_put_block(struct vm_area_struct *vma);
int rust_shmem_add_folio(struct vm_area_struct *vma, unsigned long addr,
			 struct folio *folio);
void rust_shmem_keep_folio(struct vm_area_struct *vma, struct folio *folio);
void rust_shmem_remove_folio(struct folio *folio);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_FILEMAP_H */
