// SPDX-License-Identifier: GPL-2.0
/*
 * The C side of the Rust implementation of userfaultfd (fs/userfaultfd/).
 *
 * Rust cannot call inline functions and macros, and functions of mm may be
 * renamed. Each function here stands for one C construct, which
 * its comment names. There is no policy here, except for the page table walk,
 * which decides if a fault is still pending.
 */

#include <linux/fdtable.h>
#include <linux/hugetlb.h>
#include <linux/mm.h>
#include <linux/mm_inline.h>
#include <linux/pagemap.h>
#include <linux/pgtable.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/swapops.h>
#include <linux/syscalls.h>
#include <linux/userfaultfd_rust.h>
#include <asm/tlb.h>
#include "internal.h"

/* assert_fault_locked(), inline: the mmap or the VMA lock is held. */
void uffd_shim_assert_fault_locked(struct vm_fault *vmf)
{
	assert_fault_locked(vmf);
}

/* release_fault_lock(), inline: drop whichever of the two it is. */
void uffd_shim_release_fault_lock(struct vm_fault *vmf)
{
	release_fault_lock(vmf);
}

/* hugetlb_vma_lock_read(), inline without hugetlb. */
void uffd_shim_hugetlb_lock_read(struct vm_area_struct *vma)
{
	hugetlb_vma_lock_read(vma);
}

/*
 * Is the fault still pending if no page is mapped? Missing and minor faults
 * are. A write-protect fault is not: retrying it shows what happened to the
 * page.
 */
static bool absent_pending(unsigned long reason)
{
	return !(reason & VM_UFFD_WP);
}

/*
 * Is the fault still pending if there is a marker? Poisoned and guard pages
 * resolve it, because the fault fails if it is taken again. Other markers do
 * not, because they only describe a page to come. With a reason of 0, the
 * question is if there is no entry at all.
 */
static bool marker_pending(pte_t pte, unsigned long reason)
{
	swp_entry_t entry = pte_to_swp_entry(pte);

	return reason && !is_poisoned_swp_entry(entry) &&
		!is_guard_swp_entry(entry) && absent_pending(reason);
}

#ifdef CONFIG_HUGETLB_PAGE
static noinline bool huge_fault_pending(struct vm_fault *vmf,
					unsigned long reason)
{
	struct vm_area_struct *vma = vmf->vma;
	pte_t *ptep, pte;

	ptep = hugetlb_walk(vma, vmf->address, vma_mmu_pagesize(vma));
	if (!ptep)
		return absent_pending(reason);

	pte = huge_ptep_get(vma->vm_mm, vmf->address, ptep);
	if (huge_pte_none(pte))
		return absent_pending(reason);
	if (is_pte_marker(pte))
		return marker_pending(pte, reason);

	return (reason & VM_UFFD_WP) && pte_present(pte) &&
		huge_pte_uffd_wp(pte);
}
#else
static bool huge_fault_pending(struct vm_fault *vmf, unsigned long reason)
{
	return false;
}
#endif

/*
 * userfaultfd_must_wait(), of fs/userfaultfd.c: is the fault still pending?
 *
 * If a page is mapped, the fault is pending while the page is protected for
 * userfaultfd, because lifting that protection need not make it writable. If
 * an entry is not present (swapped out, migrating), the fault is taken again.
 *
 * The thread is about to sleep: its task state is set, so this must not
 * block. Only the fault lock is held (for hugetlb also the hugetlb VMA lock).
 * It keeps the tables from being freed, but entries may change at any time.
 */
static __always_inline bool fault_pending(struct vm_fault *vmf,
					  unsigned long reason)
{
	unsigned long addr = vmf->address;
	pgd_t *pgd;
	p4d_t *p4d;
	pud_t *pud;
	pmd_t *pmd, pmdval;
	pte_t *ptep, pte;

	pgd = pgd_offset(vmf->vma->vm_mm, addr);
	if (!pgd_present(*pgd))
		return absent_pending(reason);
	p4d = p4d_offset(pgd, addr);
	if (!p4d_present(*p4d))
		return absent_pending(reason);
	pud = pud_offset(p4d, addr);
	if (!pud_present(*pud))
		return absent_pending(reason);
	pmd = pmd_offset(pud, addr);

	do {
		pmdval = pmdp_get_lockless(pmd);
		if (pmd_none(pmdval))
			return absent_pending(reason);
		if (!pmd_present(pmdval))
			return false;
		if (pmd_trans_huge(pmdval))
			return (reason & VM_UFFD_WP) && pmd_uffd_wp(pmdval);

		/* Fails if the table was freed meanwhile: look again. */
		ptep = pte_offset_map(pmd, addr);
	} while (!ptep);

	pte = ptep_get(ptep);
	pte_unmap(ptep);
	if (pte_none(pte))
		return absent_pending(reason);
	if (is_pte_marker(pte))
		return marker_pending(pte, reason);

	return (reason & VM_UFFD_WP) && pte_present(pte) && pte_uffd_wp(pte);
}

/*
 * Is the fault still pending? Drops the fault lock, and the hugetlb VMA lock.
 * The caller may be in an RCU read-side critical section, so this must not
 * sleep.
 */
bool uffd_shim_must_wait_unlock(struct vm_fault *vmf, unsigned long reason)
{
	bool pending;

	assert_fault_locked(vmf);

	if (unlikely(is_vm_hugetlb_page(vmf->vma))) {
		pending = huge_fault_pending(vmf, reason);
		hugetlb_vma_unlock_read(vmf->vma);
	} else {
		pending = fault_pending(vmf, reason);
	}
	release_fault_lock(vmf);

	return pending;
}

/* vma_kernel_pagesize(), inline without hugetlb. In bytes. */
unsigned long uffd_shim_vma_pagesize(struct vm_area_struct *vma)
{
	return vma_kernel_pagesize(vma);
}

/* vma_can_userfault(), inline. */
bool uffd_shim_vma_can_userfault(struct vm_area_struct *vma,
				 vm_flags_t vm_flags, bool wp_async)
{
	return vma_can_userfault(vma, vm_flags, wp_async);
}

/* Register @vma with @ctx, in the modes of @modes, or with none. */
static void set_registration(struct vm_area_struct *vma,
			     struct userfaultfd_ctx *ctx, vm_flags_t modes)
{
	vm_flags_t flags = (vma->vm_flags & ~__VM_UFFD_FLAGS) | modes;
	bool wp_changes = (vma->vm_flags ^ flags) & VM_UFFD_WP;

	vma_start_write(vma);
	vma->vm_userfaultfd_ctx.ctx = ctx;
	vm_flags_reset(vma, flags);
	/* Pages of shared mappings are mapped read-only while it is on. */
	if (wp_changes && (flags & VM_SHARED))
		vma_set_page_prot(vma);
}

/* userfaultfd_reset_ctx(). The VMA is write-locked or not visible yet. */
void uffd_shim_vma_reset(struct vm_area_struct *vma)
{
	set_registration(vma, NULL, 0);
}

/* vma_iter_init(), inline. */
void uffd_shim_vma_iter_init(struct vma_iterator *vmi, struct mm_struct *mm,
			     unsigned long addr)
{
	vma_iter_init(vmi, mm, addr);
}

/* vma_find(), inline: the next VMA that begins below @end. */
struct vm_area_struct *uffd_shim_vma_find(struct vma_iterator *vmi,
					  unsigned long end)
{
	return vma_find(vmi, end);
}

/* vma_iter_set() and vma_prev(), inline: go to @addr, and what precedes. */
struct vm_area_struct *uffd_shim_vma_rewind(struct vma_iterator *vmi,
					    unsigned long addr)
{
	vma_iter_set(vmi, addr);
	return vma_prev(vmi);
}

/*
 * vma_modify_flags_uffd(), and the changes to the VMA after it: [@start, @end)
 * of @vma gets @ctx, which may be NULL, in the modes of @modes. @vmi is at
 * @vma, @prev is the VMA that precedes the range after a split.
 *
 * Returns the VMA that has the range. On failure nothing has changed, except
 * that @vma may have been split. A VMA that need not be split is always
 * changed: if there is no memory to merge it, it is not merged. The mmap lock
 * is held for writing.
 */
struct vm_area_struct *uffd_shim_vma_modify(struct vma_iterator *vmi,
					    struct vm_area_struct *prev,
					    struct vm_area_struct *vma,
					    unsigned long start,
					    unsigned long end,
					    struct userfaultfd_ctx *ctx,
					    vm_flags_t modes)
{
	vm_flags_t flags = (vma->vm_flags & ~__VM_UFFD_FLAGS) | modes;
	struct vm_userfaultfd_ctx new_ctx = { ctx };
	bool whole = start == vma->vm_start && end == vma->vm_end;

	vma = vma_modify_flags_uffd(vmi, prev, vma, start, end, flags, new_ctx,
				    whole);
	if (IS_ERR(vma))
		return vma;

	/* VMAs that were merged may have differed in VM_SOFTDIRTY. */
	set_registration(vma, ctx, modes);
	if (ctx && is_vm_hugetlb_page(vma) && uffd_disable_huge_pmd_share(vma))
		hugetlb_unshare_all_pmds(vma);

	return vma;
}

/*
 * change_protection(), with struct mmu_gather, which points to itself: protect
 * [@start, @start + @len) for userfaultfd, or lift the protection. The range is
 * in @vma, which is locked. Returns the number of pages that were changed, or a
 * negative errno. PAGEMAP_SCAN calls this as well.
 */
long uffd_wp_range(struct vm_area_struct *vma, unsigned long start,
		   unsigned long len, bool enable_wp)
{
	unsigned long flags = MM_CP_UFFD_WP;
	struct mmu_gather tlb;
	long changed;

	VM_WARN_ON_ONCE(start < vma->vm_start || start + len > vma->vm_end);

	if (!enable_wp) {
		flags = MM_CP_UFFD_WP_RESOLVE;
		/* By its protection bits a page of such a VMA is read-only. */
		if (vma_wants_manual_pte_write_upgrade(vma))
			flags |= MM_CP_TRY_CHANGE_WRITABLE;
	}

	tlb_gather_mmu(&tlb, vma->vm_mm);
	changed = change_protection(&tlb, vma, start, start + len, flags);
	tlb_finish_mmu(&tlb);

	return changed;
}

#ifdef CONFIG_MEMCG
struct file_count {
	const struct file *file;
	unsigned int count;
};

static int count_file(const void *data, struct file *file, unsigned int fd)
{
	struct file_count *count = (struct file_count *)data;

	count->count += file == count->file;
	return 0;
}
#endif

/*
 * iterate_fd(): the number of descriptors of @file in the table of the process
 * that @mm belongs to. Zero if the current task uses this table as well, or if
 * mm does not know the process.
 */
unsigned int uffd_shim_descriptors_of(struct mm_struct *mm, struct file *file)
{
#ifdef CONFIG_MEMCG
	struct file_count count = { .file = file };
	struct task_struct *owner;

	rcu_read_lock();
	owner = rcu_dereference(mm->owner);
	if (owner) {
		task_lock(owner);
		if (owner->files && owner->files != current->files)
			iterate_fd(owner->files, 0, count_file, &count);
		task_unlock(owner);
	}
	rcu_read_unlock();

	return count.count;
#else
	return 0;
#endif
}

/* filemap_get_folio(): is there a page for @addr in the page cache? */
static bool is_in_page_cache(struct vm_area_struct *vma, unsigned long addr)
{
	struct folio *folio;

	if (!vma->vm_file)
		return false;

	folio = filemap_get_folio(vma->vm_file->f_mapping,
				  linear_page_index(vma, addr));
	if (IS_ERR(folio))
		return false;
	folio_put(folio);

	return true;
}

static enum uffd_shim_page find_page(struct vm_area_struct *vma,
				     unsigned long addr)
{
	struct vm_fault vmf = { .vma = vma, .address = addr };
	bool is_hugetlb = is_vm_hugetlb_page(vma);
	bool pending;

	if (is_hugetlb) {
		hugetlb_vma_lock_read(vma);
		pending = huge_fault_pending(&vmf, VM_UFFD_MISSING);
		hugetlb_vma_unlock_read(vma);
	} else {
		pending = fault_pending(&vmf, VM_UFFD_MISSING);
	}

	if (!pending)
		return UFFD_SHIM_PAGE_MAPPED;
	if (is_in_page_cache(vma, addr))
		return UFFD_SHIM_PAGE_UNMAPPED;
	/* EEXIST may stand for a marker, or for a lack of huge pages. */
	if (is_hugetlb || !fault_pending(&vmf, 0))
		return UFFD_SHIM_PAGE_NONE;
	/* The page was unmapped after the operation had found it. */
	return UFFD_SHIM_PAGE_UNMAPPED;
}

/*
 * The state of the page at @addr, for which an operation has just failed with
 * EEXIST, and vma_kernel_pagesize() of the VMA. Takes the mmap lock.
 */
enum uffd_shim_page uffd_shim_find_page(struct mm_struct *mm,
					unsigned long addr, unsigned long *size)
{
	enum uffd_shim_page page = UFFD_SHIM_PAGE_NONE;
	struct vm_area_struct *vma;

	mmap_read_lock(mm);
	vma = vma_lookup(mm, addr);
	if (vma) {
		page = find_page(vma, addr);
		*size = vma_kernel_pagesize(vma);
	}
	mmap_read_unlock(mm);

	return page;
}

#ifdef CONFIG_TRANSPARENT_HUGEPAGE
#define COPY_FLAG	TRANSPARENT_HUGEPAGE_USERFAULTFD_COPY_FLAG

#ifdef CONFIG_SYSFS
static ssize_t userfaultfd_copy_show(struct kobject *kobj,
				     struct kobj_attribute *attr, char *buf)
{
	return single_hugepage_flag_show(kobj, attr, buf, COPY_FLAG);
}

static ssize_t userfaultfd_copy_store(struct kobject *kobj,
				      struct kobj_attribute *attr,
				      const char *buf, size_t count)
{
	return single_hugepage_flag_store(kobj, attr, buf, count, COPY_FLAG);
}

/* A file in /sys/kernel/mm/transparent_hugepage. */
struct kobj_attribute userfaultfd_copy_attr = __ATTR_RW(userfaultfd_copy);
#endif

/* test_bit(), a macro: is the flag of that file set? */
bool uffd_shim_copies_large(void)
{
	return test_bit(COPY_FLAG, &transparent_hugepage_flags);
}
#else
bool uffd_shim_copies_large(void)
{
	return false;
}
#endif

/* SYSCALL_DEFINE, a macro. */
SYSCALL_DEFINE1(userfaultfd, int, flags)
{
	return userfaultfd_rust_create(flags);
}
