/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What uffd-fill-races and uffd-fill-rivals share, and uffd-move-races in part:
 * threads that fill, processes that are made for a test, and what the memory
 * cgroup of these processes and the log of the kernel have to say after it.
 */
#ifndef _MM_UFFD_FILL_TESTS_H
#define _MM_UFFD_FILL_TESTS_H

#include "uffd-fills.h"
#include <sys/stat.h>

#define CHILD_SECS	100	/* a debug kernel takes its time */

#define THP	"/sys/kernel/mm/transparent_hugepage/"

/* The cgroup of the processes that fill, if there is one. */
#define CGROUPS	"/sys/fs/cgroup"
#define GROUP	CGROUPS "/uffd-fills"
#define MEMBERS	GROUP "/test"

static double race_secs = 1.2;
static long steps, done;
static bool have_group;

/* The threads that fill. They and the opponent begin and end together. */
static pthread_t threads[NR_FILLERS];
static pthread_barrier_t barrier;
static atomic_bool stop, quit;
static enum fill round_fill;

/* Where to go on behind a page that cannot be filled. */
static inline long behind(long at, unsigned int *seed)
{
	long table = nr_pages / NR_TABLES;

	switch (rand_r(seed) % 4) {
	case 0:
		return at + 1;
	case 1:
		return at + 1 + rand_r(seed) % 64;
	default:
		return (at / table + 1) * table;
	}
}

static inline void sweep(int n, unsigned int *seed)
{
	static const struct timespec moment = { .tv_nsec = 50000 };
	long at = rand_r(seed) & 1 ? 0 : rand_r(seed) % nr_pages;
	enum fill how = round_fill;
	bool useful = false;
	__u64 mode = 0;
	long pages, ret;

	if (how == MIXED)
		how = rand_r(seed) % NR_FILLS;
	if (race->wp && rand_r(seed) & 1)
		mode = UFFDIO_COPY_MODE_WP;
	while (at < nr_pages && !stop) {
		pages = 1 + rand_r(seed) % (rand_r(seed) & 1 ? nr_pages : 16);
		if (pages > nr_pages - at)
			pages = nr_pages - at;
		ret = fill(n, how, at, pages, mode);
		useful |= ret > 0;
		if (ret > 0)
			at += ret / page_size;
		else if (ret != -EAGAIN)
			at = behind(at, seed);
	}
	/* There may be fewer CPUs than threads. */
	if (!useful)
		nanosleep(&moment, NULL);
}

static inline void *filler(void *number)
{
	long n = (long)number;
	unsigned int seed = n + 1;

	for (;;) {
		pthread_barrier_wait(&barrier);
		if (quit)
			return NULL;
		while (!stop)
			sweep(n, &seed);
		pthread_barrier_wait(&barrier);
	}
}

/* Begins what a process of a test does. */
static inline void set_up(const struct race *r, void *(*thread)(void *))
{
	race = r;
	if (have_group && knob_write(MEMBERS "/cgroup.procs", "0"))
		ksft_exit_fail_msg("cannot enter the cgroup\n");
	make_memory();
	catch_signals();
	pthread_barrier_init(&barrier, NULL, NR_FILLERS + 1);
	for (long i = 0; i < NR_FILLERS; i++)
		threads[i] = start(thread, (void *)i);
}

static inline int finish(void)
{
	quit = true;
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < NR_FILLERS; i++)
		pthread_join(threads[i], NULL);
	ksft_print_msg("%s: %ld steps (%ld worked), %ld calls (%ld in part)\n",
		       race->name, steps, done, calls, partial);
	ksft_print_msg("%s: %ld EAGAIN, %ld EEXIST, %ld ENOENT, %ld EFAULT\n",
		       race->name, again, exists, vanished, beyond);
	return wrong ? KSFT_FAIL : KSFT_PASS;
}

/* A number of a file, which may have a name in front of it, or -1. */
static inline long number_of(const char *path, const char *name)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	static char text[8192];
	ssize_t len = 0, ret;
	const char *p;

	do {
		ret = read(file, text + len, sizeof(text) - 1 - len);
		len += ret > 0 ? ret : 0;
	} while (ret > 0);
	text[len] = 0;
	close(file);
	p = strstr(text, name);
	return p ? atol(p + strlen(name)) : -1;
}

static inline void leave_group(void)
{
	rmdir(MEMBERS);
	rmdir(GROUP);
}

static inline void make_group(void)
{
	rmdir(MEMBERS);
	knob_write(CGROUPS "/cgroup.subtree_control", "+memory");
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		goto none;
	if (knob_write(GROUP "/cgroup.subtree_control", "+memory"))
		goto none;
	have_group = true;
	atexit(leave_group);
	return;
none:
	ksft_print_msg("no memory cgroup: pages are not looked for\n");
	rmdir(GROUP);
}

/*
 * Pages that the processes had, and which are in no counter of theirs, are
 * charged to the cgroup. So are objects of the kernel that are not freed yet.
 * These are few, or there is a debugging aid which keeps them. The number of
 * them is a little old, so that some pages do not matter.
 */
#define FEW_PAGES	16

static inline long pages_left(void)
{
	long all;

	/* CPUs give back what they have charged in advance. */
	knob_write(MEMBERS "/memory.high", "0");
	all = number_of(MEMBERS "/memory.current", "") / page_size;
	if (all <= FEW_PAGES)
		return all;
	return all - number_of(MEMBERS "/memory.stat", "kernel ") / page_size;
}

static inline bool are_pages_gone(void)
{
	double end = now() + 10;
	bool drained = false;
	long left;

	if (!have_group)
		return true;
	while ((left = pages_left()) > FEW_PAGES && now() < end) {
		/* They may also be about to put pages into lists. */
		if (now() > end - 9 && !drained) {
			drained = true;
			knob_write("/proc/sys/vm/drop_caches", "1");
		}
		sleep_ms(10);
	}
	while (rmdir(MEMBERS)) {
		if (errno != EBUSY || now() > end + 5) {
			ksft_print_msg("rmdir: %s\n", strerror(errno));
			return false;
		}
		sleep_ms(10);
	}
	if (left > FEW_PAGES)
		ksft_print_msg("%ld pages are left\n", left);
	return left <= FEW_PAGES;
}

/* Has the kernel complained since the last time? */
static int log_fd;

static inline bool is_log_clean(void)
{
	static const char * const bad[] = {
		"BUG", "WARNING", "Oops", "Bad page", "Bad rss", "leak",
		"possible ", "inconsistent ", "stall",
	};
	char text[4096];
	bool clean = true;
	ssize_t len;

	if (log_fd < 0)
		return true;
	for (;;) {
		len = read(log_fd, text, sizeof(text) - 1);
		if (len < 0 && errno == EPIPE)
			continue;
		if (len <= 0)
			return clean;
		text[len] = 0;
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			if (!strstr(text, bad[i]))
				continue;
			text[strcspn(text, "\n")] = 0;
			ksft_print_msg("log: %s\n", text);
			clean = false;
			break;
		}
	}
}

/* Returns what is lacking for a test, or NULL. */
static inline const char *lacking(const struct race *r)
{
	int tried = uffd_open_with(O_NONBLOCK, features_of(r));

	if (tried < 0)
		return "not all features";
	close(tried);
	if (r->huge && thp_size() != table_size)
		return "no transparent huge pages";
	if (r->swap && meminfo_of("SwapTotal") <= 0)
		return "no swap";
	return NULL;
}

static inline void test(const struct race *r, int (*fn)(void *))
{
	const char *what = lacking(r);
	bool gone, clean;
	int code;

	if (what) {
		ksft_test_result_skip("%s: %s\n", r->name, what);
		return;
	}
	if (have_group && mkdir(MEMBERS, 0755)) {
		ksft_print_msg("mkdir: %s\n", strerror(errno));
		have_group = false;
	}
	code = in_child(fn, (void *)r, CHILD_SECS + race_secs);
	if (code != KSFT_PASS && code != KSFT_FAIL)
		ksft_print_msg("the process ends with %d\n", code);
	gone = are_pages_gone();
	clean = is_log_clean();
	ksft_test_result(code == KSFT_PASS && gone && clean, "%s\n", r->name);
}

/*
 * Begins a program. Its arguments are "large", if copies are to use large
 * folios, and how many seconds a test takes.
 */
static inline void begin_tests(int argc, char **argv, int plan)
{
	if (argc > 1 && !strcmp(argv[1], "large")) {
		large = true;
		argc--;
		argv++;
	}
	if (argc > 1)
		race_secs = atof(argv[1]);
	begin(1000 + 30 * race_secs);
	table_size = page_size / sizeof(__u64) * page_size;
	if (table_size > 32 << 20)
		ksft_exit_skip("page tables map too much\n");
	size = NR_TABLES * table_size;
	nr_pages = size / page_size;
	arena_size = (2 + NR_FILLERS) * (size + table_size) + table_size;
	ksft_set_plan(plan);

	log_fd = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (log_fd >= 0)
		lseek(log_fd, 0, SEEK_END);
	knob_set(THP "enabled", "madvise");
	knob_set(THP "shmem_enabled", "advise");
	if (large) {
		knob_set(THP "hugepages-64kB/enabled", "madvise");
		if (knob_set(THP "userfaultfd_copy", "1"))
			ksft_print_msg("copies use single pages\n");
	}
	make_group();
}

#endif /* _MM_UFFD_FILL_TESTS_H */
