// SPDX-License-Identifier: GPL-2.0
/*
 * Two threads fill the same pages, with each pair of operations. Each page is
 * filled by one of them, once. And processes with threads that fill are killed,
 * which ends them soon and leaves nothing behind.
 *
 * Usage: uffd-fill-rivals [large] [seconds of a test]
 */
#include "uffd-fill-tests.h"

#define KILL_SECS	20

static enum fill pair[NR_FILLERS];
static atomic_uchar *filled;
static atomic_long bytes;

static void *rival(void *number)
{
	long n = (long)number;
	unsigned int seed = n + 1;
	long pages, ret;
	double end;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (quit)
			return NULL;
		end = now() + 30;
		for (long at = 0; at < nr_pages && now() < end;) {
			pages = nr_pages - at;
			if (rand_r(&seed) & 1)
				pages = 1 + rand_r(&seed) % pages;
			ret = fill(n, pair[n], at, pages, 0);
			if (ret == -EEXIST)
				at++;
			if (ret <= 0)
				continue;
			bytes += ret;
			for (; ret > 0; ret -= page_size)
				filled[at++]++;
		}
		pthread_barrier_wait(&barrier);
	}
}

/* Some fills repair what is poisoned, so that a page is filled twice. */
static bool is_exclusive(enum fill a, enum fill b)
{
	if (b == POISON) {
		b = a;
		a = POISON;
	}
	return a != POISON || b == POISON ||
	       (b == ZERO && race->memory != SHARED);
}

/* What is there after both have filled everything? */
static void check_pair(void)
{
	const char *a = fills[pair[0]], *b = fills[pair[1]];

	if (bytes != (long)size)
		complain("%s and %s: %ld bytes of %zu", a, b, bytes, size);
	read_entries(0);
	for (long i = 0; i < nr_pages; i++) {
		if (filled[i] != 1)
			complain("%s and %s: page %ld: filled %d times", a, b,
				 i, filled[i]);
		if (is_present(i))
			check_page(MIXED, i, true);
		else if (!is_swap_or_marker(i))
			complain("%s and %s: page %ld is not there", a, b, i);
	}
}

static int rivals_child(void *arg)
{
	double end = now() + race_secs;

	set_up(arg, rival);
	filled = calloc(nr_pages, sizeof(*filled));
	if (!filled)
		ksft_exit_fail_msg("no memory\n");
	for (int n = 0; (now() < end || n < NR_FILLS * NR_FILLS) && !wrong;
	     n++) {
		pair[0] = n % NR_FILLS;
		pair[1] = n / NR_FILLS % NR_FILLS;
		if (!is_exclusive(pair[0], pair[1]))
			continue;
		/* The page tables are made in the race, too. */
		map_all();
		memset(filled, 0, nr_pages);
		bytes = 0;
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		steps++;
		check_pair();
		drop_all();
		unmap_all();
	}
	return finish();
}

static const struct race rivalries[NR_MEMORIES] = {
	{ .name = "anon, another that fills", .memory = ANON },
	{ .name = "private shmem, another that fills", .memory = PRIVATE },
	{ .name = "shared shmem, another that fills", .memory = SHARED },
};

/* With the features that all need. */
static const struct race killing = { .name = "SIGKILL", .memory = SHARED };

static atomic_int *filling;

/* A process that fills and drops for ever. */
static int doomed_child(void *arg)
{
	set_up(arg, filler);
	map_all();
	round_fill = MIXED;
	pthread_barrier_wait(&barrier);
	*filling = 1;
	for (;;)
		drop_some();
	return KSFT_FAIL;
}

static int killing_child(void *arg)
{
	double end = now() + race_secs, begin, longest = 0;
	int code;
	pid_t pid;

	filling = shared(page_size);
	for (int n = 0; (n < NR_MEMORIES || now() < end) && !wrong; n++) {
		*filling = 0;
		pid = spawn(doomed_child, (void *)&rivalries[n % NR_MEMORIES]);
		if (!wait_for(filling, 1, CHILD_SECS))
			complain("the process does not start");
		sleep_ms(below(20));
		begin = now();
		kill(pid, SIGKILL);
		code = reap(pid, KILL_SECS);
		if (now() - begin > longest)
			longest = now() - begin;
		if (code != 256 + SIGKILL)
			complain("the process ends with %d", code);
		if (kill(pid, 0) != -1 || errno != ESRCH)
			complain("the process stays");
		steps++;
	}
	ksft_print_msg("SIGKILL: %ld processes, %.0f ms at most\n", steps,
		       longest * 1000);
	return wrong ? KSFT_FAIL : KSFT_PASS;
}

int main(int argc, char **argv)
{
	begin_tests(argc, argv, NR_MEMORIES + 1);
	for (size_t i = 0; i < NR_MEMORIES; i++)
		test(&rivalries[i], rivals_child);
	test(&killing, killing_child);
	ksft_finished();
}
