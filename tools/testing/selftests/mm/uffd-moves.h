/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What uffd-move-races moves: pages with a number and a version, each of which
 * is in one of two places. One move and its answer, and what is in both places
 * afterwards. What is wrong is said and counted.
 */
#ifndef _MM_UFFD_MOVES_H
#define _MM_UFFD_MOVES_H

#include "uffd-fill-tests.h"
#include <linux/fs.h>

#ifndef MADV_FREE
#define MADV_FREE	8
#endif
#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MPOL_MF_MOVE
#define MPOL_MF_MOVE	2
#endif

#define STATUS	"/proc/self/status"

#define QUIET_SECS	10
#define NR_SWAPPED	8
#define VERSION_SHIFT	24	/* in the contents */

struct contest {
	struct race race;
	bool busy;	/* others may have a page, or have put one in the way */
	bool drops;	/* pages may be lost */
	bool fills;	/* others fill pages in between */
	bool pins;	/* pages are pinned while they are stored to */
	bool rivals;	/* both threads move */
	bool alike;	/* pages have the same contents as others */
	bool copies;	/* what cannot be moved is copied at last */
	bool whole;	/* huge pages are moved as such */
};

static const struct contest *contest;

/* The places of a page, in which of them it is, and its contents. */
static char *sides[2];
static unsigned char *side_of;
static __u64 *version, *stored;
static atomic_int *tally;
static char *copied;
static atomic_long busy, nr_copied, nr_whole;

static inline char *at(int side, long i)
{
	return sides[side] + i * page_size;
}

static inline __u64 value_of(long i)
{
	return COPIED + (version[i] << VERSION_SHIFT) +
	       (contest->alike ? i % 4 : i);
}

static inline void write_page(char *p, long i)
{
	*first_word(p) = value_of(i);
	*last_word(p) = value_of(i);
}

static inline bool store_word(__u64 *p, __u64 value)
{
	if (sigsetjmp(back, 0))
		return false;
	__atomic_store_n(p, value, __ATOMIC_RELAXED);
	return true;
}

/* Writes a new version where the page is. */
static inline void rewrite(long i)
{
	char *p = at(side_of[i], i);

	version[i]++;
	if ((!store_word(first_word(p), value_of(i)) ||
	     !store_word(last_word(p), value_of(i))) && !contest->drops)
		complain("page %ld cannot be written", i);
}

/* New memory for both places, in one VMA or in two. */
static inline void build(void)
{
	long table = nr_pages / NR_TABLES;
	long shifts[] = { 0, 0, 0, 1, table - 1 };
	size_t len = part(2) - area;

	sides[0] = area;
	sides[1] = away;
	if (!contest->whole)
		sides[1] += shifts[below(ARRAY_SIZE(shifts))] * page_size;
	map_at(area, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
	       -1);
	if (below(2))
		map_at(area + size, page_size, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1);
	if (race->huge)
		madvise(area, len, MADV_HUGEPAGE);
	if (contest->alike)
		madvise(area, len, MADV_MERGEABLE);
	for (long i = 0; i < nr_pages; i++) {
		side_of[i] = 0;
		version[i] = 0;
		stored[i] = 0;
		tally[i] = 0;
		write_page(at(0, i), i);
	}
	must_register(uffd, area, len, MISSING);
}

/* May a move fail so? */
static inline bool may_be(int err)
{
	switch (err) {
	case EAGAIN:
		again++;
		return true;
	case EEXIST:
		exists++;
		return true;
	case ENOENT:
		vanished++;
		return true;
	case EBUSY:
		busy++;
		return contest->busy;
	case EINVAL:
		return race->vanishes;
	default:
		return false;
	}
}

/* Returns how many pages are moved, or -errno. */
static inline long move(int from, long first, long pages, __u64 mode)
{
	struct uffdio_move arg = {
		.dst = (uintptr_t)at(!from, first),
		.src = (uintptr_t)at(from, first),
		.len = pages * page_size,
		.mode = mode,
	};
	int err = ioctl(uffd, UFFDIO_MOVE, &arg) ? errno : 0;

	calls++;
	if (!err && arg.move == (__s64)arg.len)
		return pages;
	if (err == EAGAIN && arg.move > 0 && arg.move < (__s64)arg.len &&
	    !(arg.move & (page_size - 1))) {
		partial++;
		return arg.move / page_size;
	}
	if (!err || arg.move != -err || !may_be(err))
		complain("%ld pages from %ld on: %s, and the field is %lld",
			 pages, first, err ? strerror(err) : "success",
			 (long long)arg.move);
	return err ? -err : -EIO;
}

/* Reads a page, which has to be there unless it may be lost. */
static inline void check_contents(int side, long i)
{
	__u64 *words[] = { first_word(at(side, i)), last_word(at(side, i)) };
	__u64 value = 0;

	for (int n = 0; n < 2; n++) {
		if (load_word(words[n], &value)) {
			if (!contest->drops)
				complain("page %ld cannot be read", i);
		} else if (value != value_of(i)) {
			complain("page %ld has %#llx instead of %#llx", i,
				 (unsigned long long)value,
				 (unsigned long long)value_of(i));
		}
	}
}

/* Puts a page there again that was lost. */
static inline void refill(long i)
{
	if (!empty(at(0, i)) || !empty(at(1, i)))
		return;
	write_page(copied, i);
	stored[i] = 0;
	uffd_copy(uffd, at(side_of[i], i), copied, page_size, 0);
}

/* How many pages from @i on are in the same place? */
static inline long run(long i, long limit)
{
	long n = 1;

	while (n < limit && side_of[i + n] == side_of[i])
		n++;
	return n;
}

/* Moves pages, and notes where they are then. Returns how many have moved. */
static inline long move_and_note(int from, long first, long pages, __u64 mode)
{
	long lead = side_of[first] == from ? run(first, pages) : 0;
	long n = move(from, first, pages, mode);
	long moved = n > 0 ? n : 0;
	__u64 value;

	if (!contest->drops &&
	    (moved > lead || (lead && n == -ENOENT) ||
	     (moved < lead && !contest->busy && n != -EAGAIN && n != -EINVAL)))
		complain("%ld of %ld pages from %ld on moved, %ld were there",
			 n, pages, first, lead);
	for (long i = first; i < first + moved; i++)
		side_of[i] = !from;
	for (int k = 0; k < 4 && moved; k++) {
		long i = k < 2 ? first + k * (moved - 1) : first + below(moved);

		check_contents(!from, i);
		if (!contest->fills && !load_word(first_word(at(from, i)), &value))
			complain("page %ld can be read where it was", i);
	}
	/* The next page has not moved. */
	if (moved && moved < lead)
		check_contents(from, first + moved);
	return moved;
}

/*
 * Asks for a page to be on a node. Even if it is there already, it leaves the
 * lists of CPUs, so that it can be split or freed.
 */
static inline void migrate(char *p, int node)
{
	void *page = p;
	int status;

	syscall(__NR_move_pages, 0, 1, &page, &node, &status, MPOL_MF_MOVE);
}

/* As programs do that are told EBUSY. */
static inline void copy_instead(long i)
{
	char *p = at(side_of[i], i);

	if (uffd_copy(uffd, at(!side_of[i], i), p, page_size, 0) !=
	    (long)page_size)
		complain("page %ld cannot be copied", i);
	madvise(p, page_size, MADV_DONTNEED);
	side_of[i] ^= 1;
	nr_copied++;
}

/* Does one entry map all pages of a page table? */
static inline bool is_huge(char *p)
{
	struct page_region region = { 0 };
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = (uintptr_t)p,
		.end = (uintptr_t)p + table_size,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_HUGE,
		.return_mask = PAGE_IS_HUGE,
	};

	return ioctl(pagemap_fd, PAGEMAP_SCAN, &arg) == 1 &&
	       region.end - region.start == table_size;
}

/*
 * Makes a huge page of those that are to be moved next, and frees the page table
 * where they go to, if the kernel does so.
 */
static inline void renew(long first, long pages)
{
	int side = side_of[first];

	for (long i = first; i < first + pages && contest->drops; i++)
		refill(i);
	madvise(at(side, first), pages * page_size, MADV_COLLAPSE);
	madvise(at(!side, first), pages * page_size, MADV_DONTNEED);
}

/* Brings all pages to a side. */
static inline void gather(int side, bool quiet)
{
	double end = now() + QUIET_SECS;
	long n, tries = 0;

	for (long i = 0; i < nr_pages && (quiet || !stop); i += n) {
		n = run(i, race->vanishes ? 1 : nr_pages - i);
		if (side_of[i] == side)
			continue;
		n = move_and_note(!side, i, n, 0);
		if (n || !quiet) {
			n += !n;
			tries = 0;
			end = now() + QUIET_SECS;
			continue;
		}
		if (now() > end) {
			complain("page %ld cannot be moved", i);
			return;
		}
		/* What is written to is not shared any more. */
		rewrite(i);
		if (++tries % 16)
			continue;
		migrate(at(!side, i), 0);
		if (contest->copies)
			copy_instead(i);
	}
}

/* Can the kernel find the page tables that pages are in now? */
static inline void check_swap(void)
{
	long first = below(nr_pages - NR_SWAPPED), n = 0;
	size_t len = NR_SWAPPED * page_size;
	double end = now() + QUIET_SECS;

	/* Only the page tables know that these are not to be dropped. */
	madvise(at(1, first), len, MADV_FREE);
	for (long i = first; i < first + NR_SWAPPED; i++)
		rewrite(i);
	for (long i = first; i < first + NR_SWAPPED; i++)
		while (!move_and_note(1, i, 1, 0) && now() < end)
			migrate(at(1, i), 0);
	while (n < NR_SWAPPED && now() < end) {
		migrate(at(0, first), 0);
		madvise(at(0, first), len, MADV_PAGEOUT);
		while (n < NR_SWAPPED && !present(at(0, first + n)))
			n++;
	}
	if (n < NR_SWAPPED)
		complain("page %ld cannot be swapped out", first + n);
	for (long i = first; i < first + NR_SWAPPED; i++)
		check_contents(0, i);
}

/* The same for a huge page, if there is one. */
static inline void check_huge(void)
{
	long pages = nr_pages / NR_TABLES, n = 0;
	double end = now() + QUIET_SECS;

	/* What was moved to and fro may be found by its first place. */
	mprotect(at(side_of[0], 0), page_size, PROT_READ);
	mprotect(at(side_of[0], 0), page_size, PROT_READ | PROT_WRITE);
	renew(0, pages);
	move_and_note(side_of[0], 0, pages, 0);
	if (!is_huge(at(side_of[0], 0)))
		return;
	while (n < NR_SWAPPED && now() < end) {
		madvise(at(side_of[0], 0), NR_SWAPPED * page_size, MADV_PAGEOUT);
		while (n < NR_SWAPPED && !present(at(side_of[0], n)))
			n++;
	}
	if (n < NR_SWAPPED)
		complain("page %ld of a huge one cannot be swapped out", n);
	for (long i = 0; i < pages; i++)
		check_contents(side_of[i], i);
	gather(1, true);
}

static inline long memory(void)
{
	return number_of(STATUS, "\nRssAnon:") + number_of(STATUS, "\nVmSwap:");
}

/* What is there when nothing else is going on, and can it be moved? */
static inline void check_quietly(void)
{
	long before;

	for (long i = 0; i < nr_pages; i++) {
		if (contest->rivals)
			side_of[i] = tally[i];
		if (side_of[i] > 1 || !empty(at(!side_of[i], i)))
			complain("page %ld is not where it was moved to", i);
		if (contest->drops)
			refill(i);
		check_contents(side_of[i], i);
		rewrite(i);
	}
	before = memory();
	gather(0, true);
	/* If this works, huge pages are moved as a whole, and split then. */
	if (race->huge)
		madvise(area, size, MADV_COLLAPSE);
	gather(1, true);
	for (long i = 0; i < nr_pages; i++) {
		check_contents(1, i);
		if (!empty(at(0, i)))
			complain("page %ld is where it was moved from", i);
	}
	if (memory() != before)
		complain("%ld KiB too many after moves", memory() - before);
	if (meminfo_of("SwapTotal") <= 0)
		return;
	if (contest->whole)
		check_huge();
	check_swap();
}

#endif /* _MM_UFFD_MOVES_H */
