/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The boundary between mm and the Rust implementation of userfaultfd.
 *
 * The functions that mm calls are declared in userfaultfd_k.h, for either
 * implementation. This header has those that the Rust code calls, which are
 * in mm/userfaultfd_shim.c, and the one entry point of the system call.
 */
#ifndef _LINUX_USERFAULTFD_RUST_H
#define _LINUX_USERFAULTFD_RUST_H

#include <linux/userfaultfd_k.h>

#ifdef CONFIG_USERFAULTFD_RUST

/* Faults */
void uffd_shim_assert_fault_locked(struct vm_fault *vmf);
void uffd_shim_release_fault_lock(struct vm_fault *vmf);
void uffd_shim_hugetlb_lock_read(struct vm_area_struct *vma);
bool uffd_shim_must_wait_unlock(struct vm_fault *vmf, unsigned long reason);

/* VMAs */
unsigned long uffd_shim_vma_pagesize(struct vm_area_struct *vma);
bool uffd_shim_vma_can_userfault(struct vm_area_struct *vma,
				 vm_flags_t vm_flags, bool wp_async);
void uffd_shim_vma_reset(struct vm_area_struct *vma);
void uffd_shim_vma_iter_init(struct vma_iterator *vmi, struct mm_struct *mm,
			     unsigned long addr);
struct vm_area_struct *uffd_shim_vma_find(struct vma_iterator *vmi,
					  unsigned long end);
struct vm_area_struct *uffd_shim_vma_rewind(struct vma_iterator *vmi,
					    unsigned long addr);
struct vm_area_struct *uffd_shim_vma_modify(struct vma_iterator *vmi,
					    struct vm_area_struct *prev,
					    struct vm_area_struct *vma,
					    unsigned long start,
					    unsigned long end,
					    struct userfaultfd_ctx *ctx,
					    vm_flags_t modes);

/* Pages */

/* The page for which an operation has failed with EEXIST. */
enum uffd_shim_page {
	UFFD_SHIM_PAGE_NONE,		/* no page */
	UFFD_SHIM_PAGE_UNMAPPED,	/* not mapped, or not any more */
	UFFD_SHIM_PAGE_MAPPED,
};

enum uffd_shim_page uffd_shim_find_page(struct mm_struct *mm,
					unsigned long addr,
					unsigned long *size);
bool uffd_shim_copies_large(void);

/* The rest */
unsigned int uffd_shim_descriptors_of(struct mm_struct *mm, struct file *file);

/* Implemented in Rust: userfaultfd(2). */
int userfaultfd_rust_create(int flags);

#endif /* CONFIG_USERFAULTFD_RUST */
#endif /* _LINUX_USERFAULTFD_RUST_H */
