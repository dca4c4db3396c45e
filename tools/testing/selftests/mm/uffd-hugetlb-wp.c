// SPDX-License-Identifier: GPL-2.0
/*
 * Write protection lasts as long as its registration, mostly that of hugetlb
 * memory: mremap() leaves the neighbours registered, a bit that was left behind
 * stops no thread and does not spread, PAGEMAP_SCAN protects a hole and returns,
 * and fork() takes no bit along while pages are migrated.
 *
 * The last one needs MADV_SOFT_OFFLINE. Each huge page that it migrates costs
 * a small page until the next boot. The pool of huge pages is filled up again.
 */
#include "uffd-cases.h"
#include <linux/fs.h>

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define POOL		"/proc/sys/vm/nr_hugepages"

#define PART		4	/* pages of a VMA that is moved */

#define NR_MIGRATED	4
#define MAX_FORKS	60
#define MAX_SECS	5

#define PRIVATE_HUGE	(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB)
#define SHARED_HUGE	(MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB)

/* What a process tells that ran a test. */
struct answer {
	const char *lacking;
	const char *wrong;
	atomic_int migrated;
	atomic_int forks;
	atomic_int met;		/* children that found a page on its way */
};

static struct answer *answer;
static size_t size;
static char *area;
static int uffd;

static int lacking(const char *why)
{
	answer->lacking = why;
	return 0;
}

static int wrong(const char *what)
{
	answer->wrong = what;
	return 1;
}

/* Only for processes that start no others: these would see their parent's pages. */
static bool protected(const char *p)
{
	return pagemap_entry(p) >> 57 & 1;
}

static long unprotect(const char *p, size_t len)
{
	struct uffdio_writeprotect wp = { .range = { .start = (uintptr_t)p, .len = len } };

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

/* Addresses that are not used otherwise. */
static char *reserve(size_t len)
{
	char *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	return p;
}

static void place(char *p, size_t len, int flags)
{
	if (mmap(p, len, PROT_READ | PROT_WRITE, flags | MAP_FIXED, -1, 0) != p)
		ksft_exit_fail_perror("mmap");
}

struct hole {
	const char *statement;
	int flags;
	bool part;
};

static const struct hole holes[] = {
	{ "a hole, private: a scan protects it and ends", PRIVATE_HUGE, false },
	{ "a part of a hole, private: a scan protects it and ends", PRIVATE_HUGE, true },
	{ "a hole, shared: a scan protects it and ends", SHARED_HUGE, false },
	{ "a part of a hole, shared: a scan protects it and ends", SHARED_HUGE, true },
};

/* Protects what it finds. Returns the number of regions, of which one is told. */
static long scan(int fd, const char *p, size_t len, uint64_t mask, struct page_region *region)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = (uintptr_t)p,
		.end = (uintptr_t)p + len,
		.vec = (uintptr_t)region,
		.vec_len = 1,
		.category_mask = mask,
		.return_mask = mask,
	};
	long ret = ioctl(fd, PAGEMAP_SCAN, &arg);

	return ret < 0 ? -errno : ret;
}

static int scan_hole(void *arg)
{
	const struct hole *hole = arg;
	/* One table of huge pages covers so much. Here is no other page, so no table. */
	size_t covered = page_size / sizeof(uint64_t) * size;
	size_t cut = hole->part ? 3 * page_size : 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *p = reserve(2 * covered);
	struct page_region region;
	long ret;

	p = (char *)(((uintptr_t)p + covered - 1) & ~(covered - 1));
	place(p, size, hole->flags);
	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
			      UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (uffd < 0)
		return lacking("no asynchronous write protection");
	must_register(uffd, p, size, WP);
	/* The output has to end even if this process does not. */
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++)
		close(i);
	ret = scan(fd, p + cut, size - 2 * cut, PAGE_IS_WPALLOWED, &region);
	if (ret == -ENOTTY)
		return lacking("no PAGEMAP_SCAN");
	if (ret != 1)
		return wrong("the hole was not found");
	if (!protected(p))
		return wrong("the hole is not protected");
	store(p + size / 2, 1);
	ret = scan(fd, p, size, PAGE_IS_WRITTEN, &region);
	if (ret != 1 || region.start != (uintptr_t)p || region.end != (uintptr_t)p + size)
		return wrong("a write was not seen");
	if (scan(fd, p, size, PAGE_IS_WRITTEN, &region))
		return wrong("a write was seen twice");
	return 0;
}

/* Moves a VMA beside another one of the same userfaultfd. */
static int move_beside(void *arg)
{
	const char *where = arg;
	size_t len = PART * page_size;
	char *room = reserve(8 * len);
	char *stay = room + 2 * len, *from = room + 5 * len;
	char *to = !strcmp(where, "before") ? stay - len : stay + len;

	uffd = uffd_open(0);
	place(stay, len, MAP_PRIVATE | MAP_ANONYMOUS);
	place(from, len, MAP_PRIVATE | MAP_ANONYMOUS);
	must_register(uffd, stay, len, MISSING);
	must_register(uffd, from, len, MISSING);
	if (mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		ksft_exit_fail_perror("mremap");
	if (uffd_zeropage(uffd, stay, page_size, 0) != (long)page_size)
		return wrong("the neighbour has lost its registration");
	if (uffd_zeropage(uffd, to, page_size, 0) != -ENOENT)
		return wrong("what was moved is still registered");
	return 0;
}

/* Half of a VMA moves away, and back to its place. */
static int move_protected(void *unused)
{
	size_t len = PART * page_size;
	char *room = reserve(8 * len);
	char *stay = room + len, *half = stay + len, *away = room + 5 * len;

	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_PAGEFAULT_FLAG_WP);
	if (uffd < 0)
		return lacking("no write protection");
	place(stay, 2 * len, MAP_PRIVATE | MAP_ANONYMOUS);
	memset(stay, 1, 2 * len);
	must_register(uffd, stay, 2 * len, WP);
	if (uffd_wp(uffd, stay, 2 * len))
		return wrong("cannot be protected");
	if (mremap(half, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, away) != away)
		ksft_exit_fail_perror("mremap");
	must_register(uffd, away, len, WP);
	if (mremap(away, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, half) != half)
		ksft_exit_fail_perror("mremap");
	if (!protected(stay))
		return wrong("the neighbour is not protected any more");
	if (protected(half))
		return wrong("what was moved is protected");
	if (unprotect(stay, len))
		return wrong("the neighbour cannot be unprotected");
	if (protected(stay))
		return wrong("the neighbour stays protected");
	return 0;
}

/*
 * Makes a huge page that was protected and is registered again, in another
 * mode. If this is not possible, @area is NULL, and the result says why.
 */
static int left_over(int flags, bool there)
{
	char *p = map(size, flags, -1);

	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_WP_HUGETLBFS_SHMEM |
			      UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MISSING_HUGETLBFS);
	if (uffd < 0)
		return lacking("not all features");
	if (there)
		store(p, 1);
	must_register(uffd, p, size, WP);
	if (uffd_wp(uffd, p, size) || !protected(p))
		return wrong("cannot be protected");
	if (uffd_register(uffd, p, size, flags & MAP_SHARED ? MINOR : MISSING))
		return lacking("write protection cannot be given up");
	area = p;
	return 0;
}

static int write_left_over(void *arg)
{
	int ret = left_over(*(const int *)arg, true);

	if (!area)
		return ret;
	store(area, 2);
	if (protected(area))
		return wrong("the page is still protected");
	return 0;
}

static int drop_left_over(void *unused)
{
	int ret = left_over(SHARED_HUGE, true);

	if (!area)
		return ret;
	if (madvise(area, size, MADV_DONTNEED))
		return lacking("no MADV_DONTNEED");
	if (protected(area))
		return wrong("a marker is left");
	return 0;
}

static int fill_left_over(void *unused)
{
	int ret = left_over(SHARED_HUGE, false);

	if (!area)
		return ret;
	load(area);
	if (!present(area))
		return wrong("no page");
	if (protected(area))
		return wrong("the page is protected");
	store(area, 2);
	return 0;
}

static atomic_int stop, finished;
static int migration_errno;

static void *migrate(void *unused)
{
	for (int i = 0; i < NR_MIGRATED && !stop; i++) {
		if (!madvise(area + i * size, page_size, MADV_SOFT_OFFLINE))
			answer->migrated++;
		else
			migration_errno = errno;
	}
	finished = 1;
	return NULL;
}

/* What a child sees, which has no userfaultfd. */
static int look(void *unused)
{
	bool met = false, bad = false;

	for (int i = 0; i < NR_MIGRATED; i++) {
		const char *p = area + i * size;

		met |= !present(p);
		bad |= protected(p);
	}
	answer->met += met;
	return bad;
}

static int fork_and_migrate(void *unused)
{
	double end = now() + MAX_SECS;
	pthread_t thread;
	int status = 0;

	area = map(NR_MIGRATED * size, PRIVATE_HUGE, -1);
	for (int i = 0; i < NR_MIGRATED; i++)
		store(area + i * size, 1);
	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	if (uffd < 0)
		return lacking("no write protection");
	must_register(uffd, area, NR_MIGRATED * size, WP);
	if (uffd_wp(uffd, area, NR_MIGRATED * size))
		return wrong("cannot be protected");
	thread = start(migrate, NULL);
	while (!status && !finished && answer->forks < MAX_FORKS && now() < end) {
		if (waitpid(spawn(look, NULL), &status, 0) < 0)
			return wrong("a child is lost");
		answer->forks++;
	}
	stop = 1;
	pthread_join(thread, NULL);
	if (status)
		return wrong("a child has a protected page");
	if (answer->migrated)
		return 0;
	switch (migration_errno) {
	case EINVAL:
		return lacking("no CONFIG_MEMORY_FAILURE");
	case EOPNOTSUPP:
		return lacking("vm.enable_soft_offline is 0");
	default:
		return lacking("no page could be migrated");
	}
}

/* Has a process of its own run a test. Returns whether it is gone. */
static bool test(int (*fn)(void *), const void *arg, double secs, const char *statement)
{
	int code;

	memset(answer, 0, sizeof(*answer));
	code = in_child(fn, (void *)arg, secs);
	if (!code && answer->lacking) {
		ksft_test_result_skip("%s: %s\n", statement, answer->lacking);
		return true;
	}
	if (answer->wrong)
		ksft_print_msg("%s\n", answer->wrong);
	else if (code == CHILD_HUNG || code == CHILD_UNKILLABLE)
		ksft_print_msg("not back after %.0f s%s\n", secs,
			       code == CHILD_UNKILLABLE ? ", and not to be killed" : "");
	else if (code)
		ksft_print_msg("ended with %d\n", code);
	ksft_test_result(!code, "%s\n", statement);
	return code != CHILD_UNKILLABLE;
}

/* The same, with as many huge pages. */
static bool test_huge(long pages, int (*fn)(void *), const void *arg, double secs,
		      const char *statement)
{
	size = hugetlb_size(pages);
	if (size)
		return test(fn, arg, secs, statement);
	ksft_test_result_skip("%s: not enough huge pages\n", statement);
	return true;
}

static void test_holes(void)
{
	bool stuck = false;

	for (size_t i = 0; i < ARRAY_SIZE(holes); i++) {
		/* Such a process stays until the next boot. One is enough. */
		if (stuck)
			ksft_test_result_skip("%s: would get stuck, too\n", holes[i].statement);
		else
			stuck = !test_huge(1, scan_hole, &holes[i], 3, holes[i].statement);
	}
}

static void test_migration(void)
{
	static const char statement[] = "fork during migration: no protected page in the child";
	char pages[32];

	/* What is there already is written, so that it comes back in the end. */
	if (knob_read(POOL, pages, sizeof(pages)) || knob_set(POOL, pages)) {
		ksft_test_result_skip("%s: no pool of huge pages\n", statement);
		return;
	}
	test_huge(NR_MIGRATED + 2, fork_and_migrate, NULL, 20, statement);
	measured("pages migrated", answer->migrated);
	measured("forks", answer->forks);
	measured("children that found a page on its way", answer->met);
	knobs_restore();
	measured("huge pages lost", atol(pages) - meminfo_of("HugePages_Total"));
}

int main(void)
{
	static const int private_huge = PRIVATE_HUGE, shared_huge = SHARED_HUGE;

	begin(60);
	ksft_set_plan(ARRAY_SIZE(holes) + 3 + 4 + 1);
	answer = shared(sizeof(*answer));

	test(move_beside, "before", 3, "mremap to before a VMA: it stays registered");
	test(move_beside, "behind", 3, "mremap to behind a VMA: it stays registered");
	test(move_protected, NULL, 3, "mremap beside pages: they can be unprotected");
	test_huge(1, write_left_over, &private_huge, 3, "a bit left over, private: a write ends");
	test_huge(1, write_left_over, &shared_huge, 3, "a bit left over, shared: a write ends");
	test_huge(1, drop_left_over, NULL, 3, "a bit left over: MADV_DONTNEED leaves no marker");
	test_huge(1, fill_left_over, NULL, 3, "a marker left over: a new page is not protected");
	test_holes();
	test_migration();

	ksft_finished();
}
