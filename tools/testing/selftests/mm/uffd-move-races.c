// SPDX-License-Identifier: GPL-2.0
/*
 * A thread moves pages to and fro with UFFDIO_MOVE while another thread stores
 * to them and something else changes their page tables. A page is always in one
 * of two places, with its last contents, and what is stored through the place
 * that it left does not reach it.
 *
 * Usage: uffd-move-races [seconds of a test]
 */
#include "uffd-moves.h"
#include <sys/uio.h>

#define KSM	"/sys/kernel/mm/ksm/"
#define COMPACT	"/proc/sys/vm/compact_memory"

#define ROUND_SECS	0.3
#define KILL_SECS	20
#define NR_WATCHED	8
#define NR_HOT		2	/* pages that are often moved and filled */
#define STORED		8	/* the word that is stored to */
#define HOLES		UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES

/* Which pages are stored to, where, and how often that was done. */
static atomic_int watched_side;
static atomic_long watched, nr_watched, laps;

static __u64 *stored_word(char *p)
{
	return (__u64 *)p + STORED;
}

/* Waits until all pages that are watched were stored to. */
static bool wait_laps(void)
{
	long end = laps + 2;

	while (laps < end) {
		if (stop)
			return false;
		sched_yield();
	}
	return true;
}

/* Does what is stored to pages stay the same after they have moved? */
static void move_watched(int from, long first, long pages, __u64 mode)
{
	__u64 before[NR_WATCHED], after;
	long n = pages < NR_WATCHED ? pages : NR_WATCHED;
	bool have[NR_WATCHED];
	long i, moved;

	watched_side = from;
	watched = first + (below(2) ? pages - n : below(pages - n + 1));
	nr_watched = n;
	if (!wait_laps())
		return;
	moved = move_and_note(from, first, pages, mode);
	for (long k = 0; k < n; k++) {
		i = watched + k;
		have[k] = i < first + moved &&
			  !load_word(stored_word(at(!from, i)), &before[k]);
	}
	if (!wait_laps())
		return;
	for (long k = 0; k < n; k++) {
		i = watched + k;
		if (!have[k] || load_word(stored_word(at(!from, i)), &after))
			continue;
		if (after != before[k])
			complain("page %ld was stored to where it was", i);
		if (!contest->drops && !contest->pins && after != stored[i])
			complain("page %ld has lost what was stored", i);
	}
}

static void move_some(void)
{
	long first, pages;
	__u64 mode;

	some(&first, &pages);
	if (below(16) == 0)
		return gather(below(2), false);
	/* Others come in between most often where they come again and again. */
	for (int n = 0; n < 64 && contest->fills && !stop; n++) {
		long i = below(NR_HOT);

		move_and_note(side_of[i], i, 1, 0);
	}
	if (below(2))
		pages = run(first, pages);
	mode = below(2) ? HOLES : 0;
	if (below(4) == 0 && !contest->fills)
		move_watched(side_of[first], first, pages, mode);
	else
		move_and_note(below(8) ? side_of[first] : below(2), first, pages,
			      mode);
	for (long i = first; i < first + few(pages); i++) {
		if (contest->drops)
			refill(i);
		if (!race->vanishes && !contest->pins)
			rewrite(i);
	}
}

/* All pages of a page table, which are one huge page if they can be. */
static void move_whole(void)
{
	long pages = nr_pages / NR_TABLES, first = below(NR_TABLES) * pages, n;
	int from = side_of[first];

	if (run(first, pages) == pages && below(4))
		renew(first, pages);
	for (long i = first; i < first + pages && !stop; i += n) {
		n = run(i, first + pages - i);
		if (side_of[i] != from)
			continue;
		if (below(2))
			move_watched(from, i, n, 0);
		else
			move_and_note(from, i, n, 0);
	}
	if (side_of[first] != from && is_huge(at(!from, first)))
		nr_whole++;
	for (long i = first; i < first + few(pages); i++)
		if (!race->vanishes && !contest->pins)
			rewrite(i);
}

/* A hole may be a page that the other thread has moved just now. */
static void move_as_rival(void)
{
	int from = below(2);
	long first, pages, n;

	some(&first, &pages);
	n = move(from, first, pages, 0);
	for (long i = first; i < first + n; i++)
		tally[i] += from ? -1 : 1;
}

static void store_lap(void)
{
	static char pinned[NR_WATCHED << 16];
	long first = watched, pages = nr_watched;
	char *p = at(watched_side, first);

	for (long i = 0; i < pages && !contest->pins; i++)
		if (store_word(stored_word(p + i * page_size), laps))
			stored[first + i] = laps;
	if (contest->pins) {
		struct iovec from = { pinned, pages * page_size };
		struct iovec to = { p, pages * page_size };

		for (long i = 0; i < pages; i++) {
			write_page(pinned + i * page_size, first + i);
			*stored_word(pinned + i * page_size) = laps;
		}
		process_vm_writev(getpid(), &from, 1, &to, 1, 0);
	}
	laps++;
}

static void *mover(void *number)
{
	long n = (long)number;

	seed = n + 1;
	for (;;) {
		pthread_barrier_wait(&barrier);
		if (quit)
			return NULL;
		while (!stop) {
			if (contest->rivals)
				move_as_rival();
			else if (n && contest->fills)
				race->step();
			else if (n)
				store_lap();
			else if (contest->whole)
				move_whole();
			else
				move_some();
		}
		pthread_barrier_wait(&barrier);
	}
}

/* Makes what a process needs. */
static void enter(const struct contest *c)
{
	size_t nr;

	contest = c;
	set_up(&c->race, mover);
	nr = nr_pages + NR_WATCHED;
	side_of = calloc(nr, sizeof(*side_of));
	version = calloc(nr, sizeof(*version));
	stored = calloc(nr, sizeof(*stored));
	tally = calloc(nr, sizeof(*tally));
	copied = anon(page_size);
	if (!side_of || !version || !stored || !tally)
		ksft_exit_fail_msg("no memory\n");
}

static void step_nothing(void)
{
	sleep_ms(1);
}

static int contest_child(void *arg)
{
	double end;

	enter(arg);
	end = now() + race_secs;
	for (int n = 0; (n < 2 || now() < end) && !wrong; n++) {
		build();
		watched = 0;
		nr_watched = 0;
		stop = false;
		pthread_barrier_wait(&barrier);
		for (double until = now() + ROUND_SECS; now() < until; steps++)
			race->step();
		stop = true;
		pthread_barrier_wait(&barrier);
		mprotect(area, size, PROT_READ | PROT_WRITE);
		mprotect(away, size + table_size, PROT_READ | PROT_WRITE);
		check_quietly();
		unmap_all();
	}
	ksft_print_msg("%s: %ld EBUSY, %ld pages copied, %ld huge ones moved\n",
		       race->name, busy, nr_copied, nr_whole);
	if (contest->whole && race->step == step_nothing && !nr_whole)
		complain("no huge page was moved");
	return finish();
}

/* The other opponents. */
/* Some pages of one of the places. */
static char *somewhere(size_t *len)
{
	long first, pages;

	some(&first, &pages);
	*len = (below(8) ? few(pages) : pages) * page_size;
	return at(below(2), first);
}

static void step_drop(void)
{
	size_t len;
	char *p = somewhere(&len);

	madvise(p, len, MADV_DONTNEED);
	done++;
	sleep_ms(1);
}

/* A page that is filled is dropped again, and no other one. */
static void fill_and_drop(char *p, bool zero)
{
	long ret = zero ? uffd_zeropage(uffd, p, page_size, 0) :
		   uffd_copy(uffd, p, source, page_size, 0);

	if (ret > 0)
		done += !madvise(p, ret, MADV_DONTNEED);
}

static void step_fill(void)
{
	fill_and_drop(at(below(2), below(NR_HOT)), below(4));
	if (below(4) == 0)
		fill_and_drop(at(below(2), below(nr_pages)), below(2));
}

static void step_collapse(void)
{
	char *p = below(2) ? area : away;

	p += below(NR_TABLES) * table_size;
	done += !madvise(p, table_size, MADV_COLLAPSE);
}

/* A child has all pages, as they were, and cannot move those of its parent. */
static int fork_child(void *unused)
{
	__u64 value, sums[2] = { 0 };

	for (int n = 0; n < 2; n++) {
		for (long i = 0; i < nr_pages; i++) {
			value = *first_word(at(0, i)) + *first_word(at(1, i));
			sums[n] += value * (i + 1);
			if ((value ^ (COPIED + i)) & 0xffff)
				complain("child: page %ld has %#llx", i,
					 (unsigned long long)value);
		}
		sleep_ms(1);
	}
	if (sums[0] != sums[1])
		complain("child: pages change");
	if (uffd_move(uffd, at(0, 0), at(1, 0), page_size, 0) != -EINVAL)
		complain("child: UFFDIO_MOVE works");
	return wrong ? KSFT_FAIL : KSFT_PASS;
}

static void step_fork(void)
{
	if (in_child(fork_child, NULL, 20) != KSFT_PASS)
		complain("the child has failed");
}

static void step_mprotect(void)
{
	size_t len;
	char *p = somewhere(&len);

	mprotect(p, len, PROT_READ);
	sleep_ms(below(2));
	mprotect(area, size, PROT_READ | PROT_WRITE);
	mprotect(away, size + table_size, PROT_READ | PROT_WRITE);
}

/* Nothing comes there before it is registered. */
static void step_munmap(void)
{
	size_t len;
	char *p = somewhere(&len);

	munmap(p, len);
	map_at(p, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	must_register(uffd, p, len, MISSING);
	mprotect(p, len, PROT_READ | PROT_WRITE);
}

static void step_pageout(void)
{
	size_t len;
	char *p = somewhere(&len);

	done += !madvise(p, len, MADV_PAGEOUT);
}

static void step_migrate(void)
{
	migrate(at(below(2), below(nr_pages)), below(2));
	if (below(4) == 0)
		knob_write(COMPACT, "1");
}

/* Where they are, so that there are entries for huge pages that migrate. */
static void step_migrate_whole(void)
{
	long i = below(nr_pages);

	migrate(at(side_of[i], i), below(2));
}

#define RACE(text, opponent, ...) \
	.race = { .name = text, .step = opponent, __VA_ARGS__ }
#define HUGE_RACE(text, opponent, ...) \
	RACE(text ", huge", opponent, .huge = true, __VA_ARGS__), .busy = true

#define WHOLE_RACE(text, opponent, ...) \
	RACE(text ", whole", opponent, .huge = true, __VA_ARGS__), \
	.busy = true, .whole = true

static const struct contest contests[] = {
	{ RACE("stores", step_nothing) },
	{ HUGE_RACE("stores", step_nothing) },
	{ WHOLE_RACE("stores", step_nothing) },
	{ RACE("pins", step_nothing), .busy = true, .pins = true },
	{ HUGE_RACE("pins", step_nothing), .pins = true },
	{ WHOLE_RACE("pins", step_nothing), .pins = true },
	{ RACE("MADV_DONTNEED", step_drop), .drops = true },
	{ HUGE_RACE("MADV_DONTNEED", step_drop), .drops = true },
	{ WHOLE_RACE("MADV_DONTNEED", step_drop), .drops = true },
	{ RACE("fills", step_fill), .busy = true, .fills = true },
	{ HUGE_RACE("MADV_COLLAPSE", step_collapse) },
	{ WHOLE_RACE("MADV_COLLAPSE", step_collapse) },
	{ RACE("fork", step_fork), .busy = true },
	{ HUGE_RACE("fork", step_fork), .copies = true },
	{ WHOLE_RACE("fork", step_fork), .copies = true },
	{ RACE("mprotect", step_mprotect, .vanishes = true) },
	{ WHOLE_RACE("mprotect", step_mprotect, .vanishes = true) },
	{ RACE("munmap", step_munmap, .vanishes = true), .drops = true },
	{ RACE("MADV_PAGEOUT", step_pageout, .swap = true), .busy = true },
	{ HUGE_RACE("MADV_PAGEOUT", step_pageout, .swap = true) },
	{ WHOLE_RACE("MADV_PAGEOUT", step_pageout, .swap = true) },
	{ RACE("migration", step_migrate) },
	{ HUGE_RACE("migration", step_migrate) },
	{ WHOLE_RACE("migration", step_migrate_whole) },
	{ RACE("another that moves", step_nothing), .rivals = true },
	{ HUGE_RACE("another that moves", step_nothing), .rivals = true },
	{ RACE("KSM", step_nothing), .busy = true, .alike = true },
};

/* A process that is killed while it moves. */
static int doomed_child(void *started)
{
	enter(&contests[below(2)]);
	build();
	pthread_barrier_wait(&barrier);
	*(atomic_int *)started = 1;
	pause();
	return KSFT_FAIL;
}

static int killing_child(void *arg)
{
	atomic_int *started = shared(page_size);
	double end = now() + race_secs;
	pid_t pid;
	int code;

	for (seed = 1; (seed < 4 || now() < end) && !wrong; seed++) {
		*started = 0;
		pid = spawn(doomed_child, started);
		if (!wait_for(started, 1, CHILD_SECS))
			complain("the process does not start");
		sleep_ms(below(20));
		kill(pid, SIGKILL);
		code = reap(pid, KILL_SECS);
		if (code != 256 + SIGKILL)
			complain("the process ends with %d", code);
	}
	return wrong ? KSFT_FAIL : KSFT_PASS;
}

int main(int argc, char **argv)
{
	static const struct race killing = { .name = "SIGKILL" };
	int fd;

	begin_tests(argc, argv, ARRAY_SIZE(contests) + 1);
	fd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_MOVE);
	if (fd < 0)
		ksft_exit_skip("no UFFDIO_MOVE\n");
	close(fd);
	knob_set(KSM "pages_to_scan", "1000");
	knob_set(KSM "sleep_millisecs", "1");
	for (size_t i = 0; i < ARRAY_SIZE(contests); i++) {
		if (contests[i].alike && knob_set(KSM "run", "1"))
			ksft_test_result_skip("KSM: it is not there\n");
		else
			test(&contests[i].race, contest_child);
	}
	test(&killing, killing_child);
	ksft_finished();
}
