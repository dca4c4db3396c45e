// SPDX-License-Identifier: GPL-2.0
/*
 * UFFDIO_COPY lets go of the destination to read a source that is not there.
 * Meanwhile other memory may get to the place of the destination. The answer
 * is EAGAIN then, or the copy is made to the new memory, and the page that was
 * made for the old one is given back.
 */
#include "uffd-cases.h"

#define DROP_CACHES	"/proc/sys/vm/drop_caches"
#define STAT_REFRESH	"/proc/sys/vm/stat_refresh"

#define NR_BATCHES	4
#define BATCH		50
#define SECS		2	/* for one kind of memory */

enum kind { ANON, SHMEM, HUGETLB, NR_KINDS };

static const char * const kinds[] = { "anon", "shmem", "hugetlb" };

static char *dst, *slow, *contents;
static size_t size;		/* of all of the destination */
static int dst_uffd, slow_uffd;
static int fds[NR_KINDS] = { -1, -1, -1 };

/* The thread that copies. */
static atomic_int asked, answered;
static atomic_long answer;
static size_t copy_len;

static void *copier(void *unused)
{
	int turn = 0;

	for (;;) {
		if (asked == turn) {
			sched_yield();
			continue;
		}
		answer = uffd_copy(dst_uffd, dst, slow, copy_len, 0);
		turn++;
		answered = turn;
	}
	return NULL;
}

static void map_dst(enum kind kind)
{
	int flags = kind == ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;

	if (kind != ANON &&
	    fallocate(fds[kind], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, size))
		ksft_exit_fail_perror("fallocate");
	if (mmap(dst, size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fds[kind], 0) ==
	    MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	must_register(dst_uffd, dst, size, MISSING);
}

/* One copy to private memory that becomes other memory. Returns the answer. */
static long once(enum kind kind)
{
	struct uffd_msg msg;

	map_dst(ANON);
	madvise(slow, page_size, MADV_DONTNEED);
	copy_len = kind == HUGETLB ? size : page_size;
	asked++;
	if (!uffd_read(slow_uffd, &msg, 5))
		ksft_exit_fail_msg("the source is not asked for\n");
	map_dst(kind);
	uffd_copy(slow_uffd, slow, contents, page_size, 0);
	if (!wait_for(&answered, asked, 5))
		ksft_exit_fail_msg("the copy does not come back\n");
	return answer;
}

/* Pages of the system that are neither free nor known to be used for something. */
static long unaccounted(void)
{
	static const char * const known[] = {
		"nr_free_pages ", "nr_slab_reclaimable ", "nr_slab_unreclaimable ",
		"nr_anon_pages ", "nr_file_pages ", "nr_page_table_pages ",
		"nr_zspages ", "nr_sec_page_table_pages ",
	};
	long pages = 0, n;
	char line[256];
	FILE *f;

	knob_write(DROP_CACHES, "3");
	knob_write(STAT_REFRESH, "1");
	sleep_ms(100);
	f = fopen("/proc/vmstat", "re");
	while (f && fgets(line, sizeof(line), f)) {
		for (size_t i = 0; i < ARRAY_SIZE(known); i++)
			if (!strncmp(line, known[i], strlen(known[i])))
				pages -= atol(line + strlen(known[i]));
		if (sscanf(line, "nr_kernel_stack %ld", &n) == 1)
			pages -= n * 1024 / (long)page_size;
	}
	if (f)
		fclose(f);
	f = fopen("/proc/zoneinfo", "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, " managed %ld", &n) == 1)
			pages += n;
		else if (sscanf(line, " count: %ld", &n) == 1)
			pages -= n; /* free, and kept by a CPU */
	}
	if (f)
		fclose(f);
	return pages;
}

static void test(enum kind kind)
{
	long least = LONG_MAX, rounds = 0, odd = 0, again = 0, huge;
	double end = now() + SECS;
	char name[64];

	if (kind != ANON && fds[kind] < 0) {
		ksft_test_result_skip("%s: no such memory\n", kinds[kind]);
		ksft_test_result_skip("%s: no such memory\n", kinds[kind]);
		return;
	}
	once(kind);
	huge = meminfo_of("HugePages_Free");
	/* What is lost with each copy is lost in each batch, and all else is not. */
	for (int batch = 0; batch < NR_BATCHES && (batch < 3 || now() < end); batch++) {
		long before = unaccounted(), lost;

		for (int i = 0; i < BATCH; i++) {
			long ret = once(kind);

			again += ret == -EAGAIN;
			odd += ret != -EAGAIN && ret != (long)copy_len;
			rounds++;
		}
		lost = unaccounted() - before;
		if (lost < least)
			least = lost;
	}
	map_dst(kind);
	huge -= meminfo_of("HugePages_Free");
	snprintf(name, sizeof(name), "%s: copies", kinds[kind]);
	measured(name, rounds);
	snprintf(name, sizeof(name), "%s: EAGAIN", kinds[kind]);
	measured(name, again);
	snprintf(name, sizeof(name), "%s: pages lost with %d copies", kinds[kind], BATCH);
	measured(name, least);
	ksft_test_result(!odd, "private memory becomes %s: EAGAIN or done\n", kinds[kind]);
	ksft_test_result(least < BATCH / 2 && huge <= 1,
			 "private memory becomes %s: nothing is lost\n", kinds[kind]);
}

int main(void)
{
	begin(90);
	ksft_set_plan(2 * NR_KINDS);
	size = hugetlb_size(4);
	if (size)
		fds[HUGETLB] = memfd(size, MFD_HUGETLB);
	else
		size = 64 * page_size;
	fds[SHMEM] = memfd(size, 0);
	dst = anon_aligned(size, size);
	slow = anon_aligned(size, size);
	contents = anon(page_size);
	memset(contents, 7, page_size);
	madvise(slow, size, MADV_NOHUGEPAGE);
	memset(slow, 1, size);
	dst_uffd = uffd_open(size > 64 * page_size ? UFFD_FEATURE_MISSING_HUGETLBFS : 0);
	slow_uffd = uffd_open(0);
	must_register(slow_uffd, slow, size, MISSING);
	start(copier, NULL);

	for (int i = 0; i < NR_KINDS; i++)
		test(i);

	ksft_finished();
}
