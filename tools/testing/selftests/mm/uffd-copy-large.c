// SPDX-License-Identifier: GPL-2.0
/*
 * UFFDIO_COPY into large folios: they are used if the policy of the memory and
 * the switch allow it, and if nothing is in the way. Whether they are makes no
 * difference to answers, contents, and messages. A kernel without the switch is
 * tested as well: it uses single pages.
 */
#include "uffd-cases.h"

#define THP	"/sys/kernel/mm/transparent_hugepage/"
#define SWITCH	THP "userfaultfd_copy"
#define SMALL	65536	/* the other size of folios, in bytes */

/* Which sizes the memory may have. */
enum { NONE, HUGE, OF_64K, BOTH };

static size_t size, nr_pages;
static char *source;
static bool can;	/* there is a switch */

/* Four times as much as a huge page, and a pattern in each page. */
static char *expected(size_t i)
{
	return source + i * page_size;
}

struct world {
	char *p;		/* where a huge page would begin */
	int uffd;
	long before;		/* folios of 64 KiB that were made */
};

static long folios_made(void)
{
	char buf[64];

	if (knob_read(THP "hugepages-64kB/stats/anon_fault_alloc", buf,
		      sizeof(buf)))
		return 0;
	return atol(buf);
}

static void choose(int sizes)
{
	if (knob_write(THP "hugepages-64kB/enabled",
		       sizes & OF_64K ? "madvise" : "never") ||
	    knob_write(THP "enabled", sizes & HUGE ? "madvise" : "never"))
		ksft_exit_fail_msg("no policy\n");
}

static struct world make(int sizes, uint64_t mode)
{
	struct world w = { .uffd = uffd_open(UFFD_FEATURE_WP_UNPOPULATED |
					     UFFD_FEATURE_MOVE) };

	choose(sizes);
	w.p = anon_aligned(4 * size, size) + size;
	madvise(w.p - size, 3 * size, MADV_HUGEPAGE);
	must_register(w.uffd, w.p - size, 3 * size, mode);
	w.before = folios_made();
	return w;
}

/* How much of the memory at @p is in huge pages, in bytes. */
static size_t huge_bytes(const char *p)
{
	unsigned long start, end, kib = 0;
	bool in = false;
	char line[256];
	FILE *f = fopen("/proc/self/smaps", "re");

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			in = (uintptr_t)p >= start && (uintptr_t)p < end;
		else if (in && sscanf(line, "AnonHugePages: %lu", &kib) == 1)
			break;
	}
	if (f)
		fclose(f);
	return kib << 10;
}

/* Are pages of @p those of the source from number @from on? */
static bool are_right(const char *p, size_t from, size_t pages)
{
	return !memcmp(p, expected(from), pages * page_size);
}

static long copy(struct world *w, size_t page, size_t pages, uint64_t mode)
{
	return uffd_copy(w->uffd, w->p + page * page_size, expected(page),
			 pages * page_size, mode);
}

static void done(struct world *w)
{
	munmap(w->p - size, 3 * size);
	close(w->uffd);
}

/* The policy, the switch, and what comes of them. */
static void test_policy(void)
{
	static const struct {
		const char *name, *on;
		int sizes, advice;
		size_t huge, small;	/* folios */
	} cases[] = {
		{ "off", "0", BOTH, MADV_HUGEPAGE, 0, 0 },
		{ "on", "1", BOTH, MADV_HUGEPAGE, 1, 0 },
		{ "64 KiB", "1", OF_64K, MADV_HUGEPAGE, 0, 1 },
		{ "no policy", "1", NONE, MADV_HUGEPAGE, 0, 0 },
		{ "MADV_NOHUGEPAGE", "1", BOTH, MADV_NOHUGEPAGE, 0, 0 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct world w = make(cases[i].sizes, MISSING);
		size_t small = can * cases[i].small * size / SMALL;
		size_t huge = can * cases[i].huge * size;
		bool right;

		knob_write(SWITCH, cases[i].on);
		madvise(w.p, size, cases[i].advice);
		right = copy(&w, 0, nr_pages, 0) == (long)size &&
			are_right(w.p, 0, nr_pages);
		ksft_test_result(right && huge_bytes(w.p) == huge &&
				 folios_made() - w.before == (long)small,
				 "policy: %s\n", cases[i].name);
		knob_write(SWITCH, "1");
		done(&w);
	}
}

/* A range is made of the largest folios that fit. */
static void test_range(void)
{
	struct world w = make(BOTH, MISSING);
	size_t small = SMALL / page_size;
	size_t first = small + 1;
	long ret;

	/* One page, 64 KiB pieces, a huge page, a 64 KiB piece, one page. */
	ret = uffd_copy(w.uffd, w.p - size + (nr_pages - first) * page_size,
			source, (first + nr_pages + small + 1) * page_size, 0);
	ksft_test_result(ret == (long)((first + nr_pages + small + 1) * page_size) &&
			 are_right(w.p - first * page_size, 0,
				   first + nr_pages + small + 1) &&
			 huge_bytes(w.p) == can * size &&
			 folios_made() - w.before == can * 2,
			 "range: the largest folios that fit\n");
	done(&w);
}

/* Something is in the way of each page, one after the other. */
static void test_taken(int sizes, const char *name)
{
	static const size_t at[] = { 0, 1, 15, 16, 100 };
	bool right = true;

	for (size_t i = 0; i <= ARRAY_SIZE(at); i++) {
		size_t taken = i < ARRAY_SIZE(at) ? at[i] : nr_pages - 1;
		struct world w = make(sizes, MISSING);
		long want = taken * page_size, ret;

		uffd_zeropage(w.uffd, w.p + want, page_size, 0);
		ret = copy(&w, 0, nr_pages, 0);
		right &= ret == (taken ? -EAGAIN : -EEXIST);
		right &= are_right(w.p, 0, taken) && !load(w.p + want);
		if (taken + 1 < nr_pages)
			right &= empty(w.p + want + page_size);
		right &= copy(&w, taken, nr_pages - taken, 0) == -EEXIST;
		done(&w);
	}
	ksft_test_result(right, "taken: %s\n", name);
}

/* A page of the source is not there yet, or cannot be read. */
static void test_source(int sizes, const char *name)
{
	static const size_t at[] = { 0, 1, 15, 16, 100 };
	bool slow = true, refused = true;

	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		struct world w = make(sizes, MISSING);
		char *src = anon_aligned(2 * size, size);
		char *bad = src + at[i] * page_size;
		long ret;

		madvise(src, size, MADV_NOHUGEPAGE);
		memcpy(src, source, size);
		madvise(bad, page_size, MADV_DONTNEED);
		ret = uffd_copy(w.uffd, w.p, src, size, 0);
		slow &= ret == (long)size && !memcmp(w.p, src, size);
		/* The page is copied by itself, and those beside it. */
		slow &= !huge_bytes(w.p);
		slow &= !can || sizes == HUGE ||
			folios_made() - w.before == (long)(size / SMALL) - 1;

		madvise(w.p, size, MADV_DONTNEED);
		mprotect(bad, page_size, PROT_NONE);
		ret = uffd_copy(w.uffd, w.p, src, size, 0);
		refused &= ret == (at[i] ? -EAGAIN : -EFAULT);
		refused &= empty(w.p + at[i] * page_size);
		refused &= !at[i] || !memcmp(w.p, src, at[i] * page_size);
		munmap(src, size);
		done(&w);
	}
	ksft_test_result(slow, "source: %s, a page is read in\n", name);
	ksft_test_result(refused, "source: %s, a page cannot be read\n", name);
}

/* What is copied first is copied again by the same call. */
static void test_overlap(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING);
	bool right = true;
	long ret;

	copy(&w, 0, 1, 0);
	ret = uffd_copy(w.uffd, w.p + page_size, w.p, size - page_size, 0);
	right &= ret == (long)(size - page_size);
	for (size_t i = 0; i < nr_pages && right; i++)
		right &= are_right(w.p + i * page_size, 0, 1);
	ksft_test_result(right, "overlap: %s\n", name);
	done(&w);
}

struct writer {
	char *p;
	atomic_int wrote;
};

static void *write_byte(void *arg)
{
	struct writer *writer = arg;

	store(writer->p, 0x5a);
	writer->wrote = 1;
	return NULL;
}

/* Each page is protected by itself. */
static void test_protected(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING | WP);
	struct uffdio_writeprotect lift = {
		.range = { .start = (uintptr_t)w.p + page_size, .len = page_size },
	};
	struct writer writer = { .p = w.p + page_size };
	struct uffd_msg msg = {};
	pthread_t thread;
	bool right;

	right = copy(&w, 0, nr_pages, UFFDIO_COPY_MODE_WP) == (long)size;
	for (size_t i = 0; i < nr_pages; i++)
		right &= pagemap_entry(w.p + i * page_size) >> 57 & 1;
	thread = start(write_byte, &writer);
	right &= uffd_read(w.uffd, &msg, 5) &&
		 msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP &&
		 msg.arg.pagefault.address == lift.range.start;
	right &= !ioctl(w.uffd, UFFDIO_WRITEPROTECT, &lift) &&
		 wait_for(&writer.wrote, 1, 5);
	for (size_t i = 0; i < nr_pages; i++)
		right &= (pagemap_entry(w.p + i * page_size) >> 57 & 1) == (i != 1);
	right &= are_right(w.p, 0, 1) && are_right(w.p + 2 * page_size, 2, nr_pages - 2);
	ksft_test_result(right, "protected: %s\n", name);
	if (right)
		pthread_join(thread, NULL);
	done(&w);
}

/* Threads that wait for several pages of a folio go on. */
static void test_sleepers(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING);
	struct writer writers[4] = {};
	pthread_t threads[4];
	bool right;

	for (int i = 0; i < 4; i++) {
		writers[i].p = w.p + i * (nr_pages / 4) * page_size;
		threads[i] = start(write_byte, &writers[i]);
	}
	right = wait_waiting(w.uffd, 4, 5);
	right &= copy(&w, 0, nr_pages, 0) == (long)size;
	for (int i = 0; i < 4; i++)
		right &= wait_for(&writers[i].wrote, 1, 5);
	ksft_test_result(right, "sleepers: %s\n", name);
	for (int i = 0; i < 4 && right; i++)
		pthread_join(threads[i], NULL);
	done(&w);
}

/* One page goes: the next access faults, and the others stay. */
static void test_discard(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING);
	struct writer writer = { .p = w.p + 3 * page_size };
	struct uffd_msg msg = {};
	pthread_t thread;
	bool right;

	right = copy(&w, 0, nr_pages, 0) == (long)size;
	madvise(writer.p, page_size, MADV_DONTNEED);
	right &= empty(writer.p) && present(writer.p + page_size);
	thread = start(write_byte, &writer);
	right &= uffd_read(w.uffd, &msg, 5) &&
		 msg.arg.pagefault.address == (uintptr_t)writer.p;
	right &= copy(&w, 3, 1, 0) == (long)page_size && wait_for(&writer.wrote, 1, 5);
	right &= are_right(w.p, 0, 3) && are_right(w.p + 4 * page_size, 4, nr_pages - 4);
	ksft_test_result(right, "discard: %s\n", name);
	if (right)
		pthread_join(thread, NULL);
	done(&w);
}

/* Pages that were copied are moved: one, and then the others. */
static void test_move(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING);
	char *dst = w.p + size;
	bool right;

	right = copy(&w, 0, nr_pages, 0) == (long)size;
	right &= uffd_move(w.uffd, dst, w.p, page_size, 0) == (long)page_size;
	right &= empty(w.p) && are_right(dst, 0, 1);
	right &= uffd_move(w.uffd, dst + page_size, w.p + page_size,
			   size - page_size, 0) == (long)(size - page_size);
	right &= are_right(dst, 0, nr_pages);
	ksft_test_result(right, "move: %s\n", name);
	done(&w);
}

static int child(void *arg)
{
	struct world *w = arg;

	if (!are_right(w->p, 0, nr_pages))
		return KSFT_FAIL;
	memset(w->p, 0x11, size);
	return KSFT_PASS;
}

/* A child has a copy. */
static void test_fork(int sizes, const char *name)
{
	struct world w = make(sizes, MISSING);
	bool right;

	right = copy(&w, 0, nr_pages, 0) == (long)size;
	right &= in_child(child, &w, 20) == KSFT_PASS;
	right &= are_right(w.p, 0, nr_pages);
	ksft_test_result(right, "fork: %s\n", name);
	done(&w);
}

static void test_all(int sizes, const char *name)
{
	test_taken(sizes, name);
	test_source(sizes, name);
	test_overlap(sizes, name);
	test_protected(sizes, name);
	test_sleepers(sizes, name);
	test_discard(sizes, name);
	test_move(sizes, name);
	test_fork(sizes, name);
}

int main(void)
{
	begin(180);
	size = thp_size();
	if (!size || access(THP "hugepages-64kB/enabled", W_OK))
		ksft_exit_skip("no transparent huge pages of 64 KiB and more\n");
	if (size > 32 << 20)
		ksft_exit_skip("huge pages are too large\n");
	can = !knob_set(SWITCH, "1");
	ksft_print_msg("copies use %s\n", can ? "large folios" : "single pages");
	if (knob_set(THP "enabled", "madvise") ||
	    knob_set(THP "hugepages-64kB/enabled", "madvise"))
		ksft_exit_fail_msg("no policy\n");
	ksft_set_plan(5 + 1 + 2 * 9);

	nr_pages = size / page_size;
	source = anon(4 * size);
	madvise(source, 4 * size, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < 4 * nr_pages; i++) {
		memset(expected(i), i % 251 + 1, page_size);
		*(size_t *)expected(i) = i;
	}
	test_policy();
	test_range();
	test_all(HUGE, "2 MiB");
	test_all(OF_64K, "64 KiB");
	ksft_finished();
}
