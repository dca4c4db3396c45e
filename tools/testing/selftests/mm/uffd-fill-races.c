// SPDX-License-Identifier: GPL-2.0
/*
 * Threads fill pages while something else changes the page tables under them.
 * Whatever the timing, an answer is one that is documented, its field agrees
 * with it, pages have the contents that were asked for, nothing is left beyond
 * the end of a file, and what is accounted for goes back to what it was.
 *
 * Usage: uffd-fill-races [large] [seconds of a test]
 */
#include "uffd-fill-tests.h"

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif

#define ROUND_SECS	0.05
#define WARM_UP_SECS	0.02

static bool warm;	/* all that is touched once was touched */

/*
 * What the process has, in KiB. The kernel adds up the parts of its counters to
 * answer, so these are exact.
 */
struct counts {
	long anon, shmem, swap, tables;
};

#define STATUS	"/proc/self/status"

/* Page tables are only looked at when nothing is mapped. */
static struct counts count(bool tables)
{
	return (struct counts) {
		.anon = number_of(STATUS, "\nRssAnon:"),
		.shmem = number_of(STATUS, "\nRssShmem:"),
		.swap = number_of(STATUS, "\nVmSwap:"),
		.tables = tables ? number_of(STATUS, "\nVmPTE:") : 0,
	};
}

static void compare(const char *when, enum fill how, struct counts want,
		    struct counts have)
{
	if (!warm || !memcmp(&want, &have, sizeof(want)))
		return;
	complain("%s %s: KiB too many: anon %ld, shmem %ld, swap %ld, PTE %ld",
		 fills[how], when, have.anon - want.anon,
		 have.shmem - want.shmem, have.swap - want.swap,
		 have.tables - want.tables);
}

/* Fills all pages while nothing else happens. */
static void fill_quietly(enum fill how)
{
	struct counts before, want, have;
	static bool poison_read;
	double end = now() + 30;
	struct stat stat;
	__u64 value;
	long ret;

	drop_all();
	before = count(false);
	for (long at = 0; at < nr_pages;) {
		ret = fill(0, how, at, 1 + below(nr_pages - at), 0);
		if (ret > 0) {
			at += ret / page_size;
		} else if (ret != -EAGAIN || now() > end) {
			complain("%s: page %ld: %s with nothing else going on",
				 fills[how], at, strerror(-ret));
			break;
		}
	}
	read_entries(0);
	for (long i = 0; i < nr_pages; i++) {
		bool marker = how == POISON;

		if (is_present(i) == marker || is_swap_or_marker(i) != marker) {
			complain("%s: page %ld was filled and is not there",
				 fills[how], i);
			break;
		}
		if (how != POISON)
			check_page(how, i, true);
	}
	/* Once is enough, because the kernel prints a line. */
	if (how == POISON && !poison_read) {
		poison_read = true;
		if (load_word(first_word(page(below(nr_pages))), &value) !=
		    SIGBUS || signal_code != BUS_MCEERR_AR)
			complain("poison can be read");
	}
	drop_absent();
	have = count(false);
	want = before;
	if (race->memory == SHARED)
		want.shmem += how != POISON ? size >> 10 : 0;
	else
		want.anon += how == COPY || how == ABSENT ? size >> 10 : 0;
	compare("of everything", how, want, have);

	drop_all();
	compare("and MADV_DONTNEED", how, before, count(false));
	if (race->memory == ANON || race->in_file)
		return;
	if (fstat(fd, &stat) || stat.st_blocks)
		complain("%s: the file is empty and has %ld blocks",
			 fills[how], (long)stat.st_blocks);
}

/* The contents of what there is after a race. */
static void check_area(enum fill how)
{
	read_entries(0);
	for (long i = 0; i < nr_pages; i++)
		if (is_present(i) ||
		    (is_swap_or_marker(i) && how != POISON && how != MIXED))
			check_page(how, i, !race->wp);
}

static void protect(long first, long pages, int prot)
{
	if (mprotect(page(first), pages * page_size, prot))
		complain("mprotect: %s", strerror(errno));
}

static void write_protect(long first, long pages, bool on)
{
	struct uffdio_writeprotect wp = {
		.range = {
			.start = (uintptr_t)page(first),
			.len = pages * page_size,
		},
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	if (ioctl(uffd, UFFDIO_WRITEPROTECT, &wp))
		complain("UFFDIO_WRITEPROTECT: %s", strerror(errno));
}

static void run_round(enum fill how, double secs)
{
	double end = now() + secs;

	round_fill = how;
	stop = false;
	pthread_barrier_wait(&barrier);
	do {
		race->step();
		steps++;
		/* The kernel prints a line for each that is poisoned. */
		for (int i = 0; i < 4 && how != POISON && how != MIXED; i++)
			check_page(how, below(nr_pages), false);
	} while (now() < end);
	stop = true;
	pthread_barrier_wait(&barrier);
	protect(0, nr_pages, PROT_READ | PROT_WRITE);
	/* Markers of write protection stay in page tables of files. */
	if (race->wp)
		write_protect(0, nr_pages, false);
	check_area(how);
	/* Parts with an anon_vma each do not become one again. */
	if (race->vanishes) {
		map_area();
		register_area();
	}
	fill_quietly(how == MIXED ? below(NR_FILLS) : how);
}

static int race_child(void *arg)
{
	struct counts before;
	int how = 0;
	double end;

	/* The code, for example. */
	mlockall(MCL_CURRENT);
	set_up(arg, filler);
	map_all();
	for (int i = 0; i < NR_MIXES; i++)
		run_round(i, WARM_UP_SECS);
	unmap_all();
	warm = true;
	before = count(true);

	map_all();
	end = now() + race_secs;
	do {
		run_round(how, ROUND_SECS);
		how = (how + 1) % NR_MIXES;
	} while (now() < end && !wrong);
	unmap_all();
	compare("and munmap", MIXED, before, count(true));
	return finish();
}

/* The opponents. */
static void step_collapse(void)
{
	long table = nr_pages / NR_TABLES;
	long first = below(NR_TABLES) * table;

	done += !madvise(page(first), table_size, MADV_COLLAPSE);
	if (below(3) == 0)
		drop(first, table);
}

static void step_mremap(void)
{
	int flags = MREMAP_MAYMOVE | MREMAP_FIXED;

	if (mremap(area, size, size, flags, away) != away ||
	    mremap(away, size, size, flags, area) != area)
		complain("mremap: %s", strerror(errno));
	register_area();
	if (below(4) == 0)
		drop_some();
}

static void step_munmap(void)
{
	if (munmap(area, size))
		complain("munmap: %s", strerror(errno));
	map_area();
	register_area();
	if (race->memory == SHARED)
		drop_some();
}

static void step_fork(void)
{
	fork_and_wait(0);
	if (below(2))
		drop_some();
}

static void step_mprotect(void)
{
	static const int prots[] = {
		PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
	};
	long first, pages;

	some(&first, &pages);
	protect(first, pages, prots[below(3)]);
	if (below(4) == 0)
		protect(0, nr_pages, PROT_READ | PROT_WRITE);
	if (below(4) == 0)
		drop_some();
}

/* Is nothing left beyond the new end, and can nothing come there? */
static void step_truncate(void)
{
	long pages = below(nr_pages);
	__u64 value;
	long i;
	int sig;

	if (ftruncate(fd, pages * page_size))
		complain("ftruncate: %s", strerror(errno));
	for (int n = 0; n < 3; n++) {
		read_entries(pages);
		for (i = pages; i < nr_pages; i++)
			if (is_present(i) || is_swap_or_marker(i))
				break;
		if (i < nr_pages) {
			complain("page %ld is beyond the end of the file, %ld",
				 i, pages);
			break;
		}
		i = pages + below(nr_pages - pages);
		sig = load_word(first_word(page(i)), &value);
		if (sig != SIGBUS || signal_code != BUS_ADRERR)
			complain("page %ld beyond the end, %ld: signal %d",
				 i, pages, sig);
	}
	if (ftruncate(fd, size))
		complain("ftruncate: %s", strerror(errno));
}

static void step_pageout(void)
{
	long first, pages;

	some(&first, &pages);
	done += !madvise(page(first), few(pages) * page_size, MADV_PAGEOUT);
	if (below(3) == 0)
		drop_some();
}

static void step_wp(void)
{
	long first, pages;

	some(&first, &pages);
	write_protect(first, pages, below(2));
	if (below(4) == 0)
		drop_some();
}

#define RACE(text, mem, opponent, ...) \
	{ .name = text, .memory = mem, .step = opponent, __VA_ARGS__ }

static const struct race races[] = {
	RACE("anon, MADV_DONTNEED", ANON, drop_some),
	RACE("private shmem, MADV_DONTNEED", PRIVATE, drop_some),
	RACE("shared shmem, holes", SHARED, drop_some),
	RACE("anon, MADV_COLLAPSE", ANON, step_collapse, .huge = true),
	RACE("private shmem, MADV_COLLAPSE", PRIVATE, step_collapse,
	     .huge = true, .in_file = true),
	RACE("shared shmem, MADV_COLLAPSE", SHARED, step_collapse,
	     .huge = true),
	RACE("anon, mremap", ANON, step_mremap, .vanishes = true),
	RACE("shared shmem, mremap", SHARED, step_mremap, .vanishes = true),
	RACE("anon, munmap", ANON, step_munmap, .vanishes = true),
	RACE("shared shmem, munmap", SHARED, step_munmap, .vanishes = true),
	RACE("anon, fork", ANON, step_fork),
	RACE("anon, mprotect", ANON, step_mprotect, .vanishes = true),
	RACE("private shmem, ftruncate", PRIVATE, step_truncate,
	     .shrinks = true),
	RACE("shared shmem, ftruncate", SHARED, step_truncate, .shrinks = true),
	RACE("anon, MADV_PAGEOUT", ANON, step_pageout, .swap = true),
	RACE("shared shmem, MADV_PAGEOUT", SHARED, step_pageout, .swap = true),
	RACE("anon, UFFDIO_WRITEPROTECT", ANON, step_wp, .wp = true),
	RACE("shared shmem, UFFDIO_WRITEPROTECT", SHARED, step_wp, .wp = true),
};

int main(int argc, char **argv)
{
	begin_tests(argc, argv, ARRAY_SIZE(races));
	for (size_t i = 0; i < ARRAY_SIZE(races); i++)
		test(&races[i], race_child);
	ksft_finished();
}
