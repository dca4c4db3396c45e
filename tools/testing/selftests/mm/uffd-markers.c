// SPDX-License-Identifier: GPL-2.0
/*
 * A guard page (MADV_GUARD_INSTALL) exists, although it has no contents: a fill
 * fails with EEXIST, and the guard page stays. Fills replace the markers of
 * userfaultfd itself: that of write protection, and poison if they bring or map
 * contents.
 */
#include "uffd-cases.h"
#include <setjmp.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define NR_FILLS	5	/* one page for each */
#define NR_PAGES	(3 * NR_FILLS)

enum kind { ANON, SHMEM, HUGETLB, NR_KINDS };

static const char * const kinds[] = { "anon", "shmem", "hugetlb" };

enum marker { GUARD, POISON, NR_MARKERS };

static const char * const markers[] = { "guard", "poison" };

enum fill { COPY, ZEROPAGE, MOVE, CONTINUE, POISON_OVER };

static const char * const fills[] = { "copy", "zeropage", "move", "continue", "poison" };

/* Which fills there are for which memory. */
static const bool possible[NR_KINDS][NR_FILLS] = {
	[ANON] = { true, true, true, false, true },
	[SHMEM] = { true, true, false, true, true },
	[HUGETLB] = { true, false, false, true, true },
};

static sigjmp_buf back;

static void handler(int sig)
{
	siglongjmp(back, sig);
}

/* What a load does: 0, or the signal that it gets. */
static int load_signal(const char *p)
{
	int sig = sigsetjmp(back, 1);

	if (!sig)
		load(p);
	return sig;
}

static char *area, *source;
static size_t size;
static int fd, uffd;

static long fill(enum fill how, char *p)
{
	/* Another mapping of the memory puts the page into the page cache. */
	switch (how) {
	case COPY:
		return uffd_copy(uffd, p, source, size, 0);
	case ZEROPAGE:
		return uffd_zeropage(uffd, p, size, 0);
	case MOVE:
		return uffd_move(uffd, p, source + size, size, 0);
	case CONTINUE:
		return uffd_continue(uffd, p, size, 0);
	default:
		return uffd_poison(uffd, p, size, 0);
	}
}

/* The page cache gets the page, without the mapping that is looked at. */
static bool fill_cache(const char *p)
{
	char *view = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, p - area);

	if (view == MAP_FAILED)
		return false;
	memset(view, 9, size);
	munmap(view, size);
	return true;
}

static void test_marker(enum kind kind, enum marker marker, enum fill how, char *p)
{
	int expected = marker == GUARD ? SIGSEGV : SIGBUS;
	char name[64];
	long ret;
	int sig;

	snprintf(name, sizeof(name), "%s, %s: %s", kinds[kind], markers[marker], fills[how]);
	if (marker == GUARD ? madvise(p, size, MADV_GUARD_INSTALL) :
			      uffd_poison(uffd, p, size, 0) != (long)size) {
		ksft_test_result_skip("%s: no such marker\n", name);
		return;
	}
	if (load_signal(p) != expected) {
		ksft_test_result_fail("%s: the marker is without effect\n", name);
		return;
	}
	if (how == CONTINUE && !fill_cache(p)) {
		ksft_test_result_skip("%s: no page in the page cache\n", name);
		return;
	}
	ret = fill(how, p);
	sig = load_signal(p);
	if (marker == POISON &&
	    (how == COPY || how == CONTINUE || (how == ZEROPAGE && kind == SHMEM))) {
		ksft_test_result(ret == (long)size && !sig, "%s repairs the page\n", name);
		return;
	}
	if (ret != -EEXIST || sig != expected)
		ksft_print_msg("%s: %s, then signal %d\n", name, name_of(ret), sig);
	ksft_test_result(ret == -EEXIST && sig == expected,
			 "%s says EEXIST, and the marker stays\n", name);
}

/* A marker of write protection in the place of a page that is missing. */
static void test_wp(enum kind kind, char *p)
{
	long ret;

	if (uffd_wp(uffd, p, size)) {
		ksft_test_result_skip("%s, write protection: no such marker\n", kinds[kind]);
		return;
	}
	ret = uffd_copy(uffd, p, source, size, 0);
	ksft_test_result(ret == (long)size && !load_signal(p) && load(p) == 5,
			 "%s, write protection: copy works\n", kinds[kind]);
}

/* Returns why there is no such memory, or NULL. */
static const char *setup(enum kind kind)
{
	uint64_t features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_POISON;
	uint64_t mode = MISSING | WP;

	size = page_size;
	fd = -1;
	if (kind == HUGETLB) {
		size = hugetlb_size(NR_PAGES + 2);
		if (!size)
			return "not enough huge pages";
		fd = memfd(NR_PAGES * size, MFD_HUGETLB);
		features |= UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
		mode |= MINOR;
	} else if (kind == SHMEM) {
		fd = memfd(NR_PAGES * size, 0);
		features |= UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
		mode |= MINOR;
	} else {
		features |= UFFD_FEATURE_MOVE | UFFD_FEATURE_WP_UNPOPULATED;
	}
	if (kind != ANON && fd < 0)
		return "no such memory";
	uffd = uffd_open_with(O_NONBLOCK, features);
	if (uffd < 0)
		return "not all features";
	area = kind == ANON ? anon(NR_PAGES * size) : map(NR_PAGES * size, MAP_SHARED, fd);
	source = anon(2 * size);
	memset(source, 5, 2 * size);
	if (uffd_register(uffd, area, NR_PAGES * size, mode))
		return "cannot be registered";
	return NULL;
}

static void test_kind(enum kind kind)
{
	const char *lacking = setup(kind);
	char *p = area;

	for (int marker = 0; marker < NR_MARKERS; marker++) {
		/* There are no guard pages in hugetlb memory. */
		if (kind == HUGETLB && marker == GUARD)
			continue;
		for (int how = 0; how < NR_FILLS; how++) {
			if (!possible[kind][how])
				continue;
			if (lacking) {
				ksft_test_result_skip("%s, %s: %s\n", kinds[kind],
						      markers[marker], lacking);
				continue;
			}
			test_marker(kind, marker, how, p);
			p += size;
		}
	}
	if (lacking) {
		ksft_test_result_skip("%s, write protection: %s\n", kinds[kind], lacking);
		return;
	}
	test_wp(kind, p);
	close(uffd);
	munmap(area, NR_PAGES * size);
	munmap(source, 2 * size);
	if (fd >= 0)
		close(fd);
}

int main(void)
{
	begin(60);
	ksft_set_plan(2 * 4 + 2 * 4 + 3 + NR_KINDS);
	signal(SIGBUS, handler);
	signal(SIGSEGV, handler);

	for (int i = 0; i < NR_KINDS; i++)
		test_kind(i);

	ksft_finished();
}
