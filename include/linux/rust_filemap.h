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
void rust_folio_unlock_put(struct folio *folio);
enum rust_pte_result rust_map_cached_folios(struct vm_area_struct *vma,
					    unsigned long addr,
					    unsigned long end, bool uffd_wp,
					    unsigned int *count);
enum rust_pte_result rust_map_locked_folio(struct vm_area_struct *vma,
					   unsigned long addr,
					   unsigned long end, bool uffd_wp,
					   struct folio *folio,
					   unsigned int *count);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_RUST_FILEMAP_H */
