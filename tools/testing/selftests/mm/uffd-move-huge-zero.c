// SPDX-License-Identifier: GPL-2.0
/*
 * UFFDIO_MOVE of the huge zero page, as root and unprivileged: the destination
 * reads as zeros, or the move is refused. No other memory can be seen there,
 * and the numbers of the process's pages stay right.
 */
#include "uffd-cases.h"

#define THP		"/sys/kernel/mm/transparent_hugepage/"
#define NOBODY		65534

struct answer {
	int uid;
	long ret;
	long other;		/* bytes that are not zero */
	struct {
		long all;
		long file;
	} pages[3];		/* before, after, without the memory */
	bool unsupported;
	bool zero;		/* there was nothing else there to move */
};

static size_t size;
static struct answer *answer;

/*
 * What /proc/self/statm says about this process. A number that has become
 * negative is shown as 0.
 */
static void count(int i)
{
	int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	char buf[128] = "";

	if (read(fd, buf, sizeof(buf) - 1) > 0)
		sscanf(buf, "%*d %ld %ld", &answer->pages[i].all, &answer->pages[i].file);
	close(fd);
}

static int move(void *unused)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MOVE };
	char *src, *dst;
	int fd;

	if (answer->uid && (setgid(NOBODY) || setuid(NOBODY)))
		return 2;
	/* Or pagemap would not be this user's. */
	prctl(PR_SET_DUMPABLE, 1);
	fd = syscall(__NR_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
	if (fd < 0 || ioctl(fd, UFFDIO_API, &api)) {
		answer->unsupported = true;
		return 0;
	}
	src = anon_aligned(4 * size, size);
	dst = src + 2 * size;
	madvise(src, size, MADV_HUGEPAGE);
	madvise(dst, size, MADV_HUGEPAGE);
	must_register(fd, dst, size, MISSING);
	count(0);
	load(src);
	answer->zero = present(src + size - page_size);
	answer->ret = uffd_move(fd, dst, src, size, 0);
	if (answer->ret == (long)size)
		for (size_t i = 0; i < size; i++)
			answer->other += load(dst + i) != 0;
	count(1);
	munmap(dst, size);
	munmap(src, size);
	count(2);
	return 0;
}

/* Whether the numbers of pages are those from before, more or less. */
static bool plausible(void)
{
	for (int i = 1; i < 3; i++)
		if (answer->pages[i].file < answer->pages[0].file / 2 ||
		    labs(answer->pages[i].all - answer->pages[0].all) >
		    (long)(size / page_size / 2))
			return false;
	return true;
}

/*
 * Runs on all CPUs. One that was idle may have borrowed the address space of a
 * process that has ended, and the kernel looks at that when it is given back.
 */
static void visit_cpus(void)
{
	cpu_set_t all, one;

	sched_getaffinity(0, sizeof(all), &all);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (!CPU_ISSET(i, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		sched_setaffinity(0, sizeof(one), &one);
		sleep_ms(20);
	}
	sched_setaffinity(0, sizeof(all), &all);
}

/* Whether the kernel has complained since @kmsg was opened. */
static bool complained(int kmsg)
{
	bool found = false;
	char record[8192];
	ssize_t n;

	while ((n = read(kmsg, record, sizeof(record) - 1)) > 0 || (n < 0 && errno == EPIPE)) {
		if (n < 0)
			continue;
		record[n] = 0;
		if (strstr(record, "Bad rss-counter") || strstr(record, "Bad page map") ||
		    strstr(record, "non-zero pgtables_bytes"))
			found = true;
	}
	return found;
}

static void test(int uid)
{
	char name[32];
	int kmsg, code;

	snprintf(name, sizeof(name), "as user %d", uid);
	memset(answer, 0, sizeof(*answer));
	answer->uid = uid;
	kmsg = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (kmsg >= 0)
		lseek(kmsg, 0, SEEK_END);
	code = in_child(move, NULL, 20);
	visit_cpus();
	if (!code && (answer->unsupported || !answer->zero)) {
		for (int i = 0; i < 3; i++)
			ksft_test_result_skip("%s: %s\n", name, answer->unsupported ?
					      "no UFFDIO_MOVE" : "no huge zero page");
	} else {
		ksft_print_msg("%s: %s\n", name, name_of(answer->ret));
		measured("bytes that are not zero", answer->other);
		for (int i = 0; i < 3; i++)
			ksft_print_msg("%ld pages, %ld of files\n", answer->pages[i].all,
				       answer->pages[i].file);
		ksft_test_result(!code && !answer->other, "%s: nothing but zeros\n", name);
		ksft_test_result(!code && plausible(), "%s: the number of pages stays right\n",
				 name);
		if (kmsg < 0)
			ksft_test_result_skip("%s: no /dev/kmsg\n", name);
		else
			ksft_test_result(!complained(kmsg), "%s: the kernel does not complain\n",
					 name);
	}
	if (kmsg >= 0)
		close(kmsg);
}

int main(void)
{
	begin(60);
	size = thp_size();
	if (!size || knob_set(THP "enabled", "madvise") || knob_set(THP "use_zero_page", "1"))
		ksft_exit_skip("no transparent huge pages\n");
	ksft_set_plan(6);
	answer = shared(sizeof(*answer));

	test(0);
	test(NOBODY);

	ksft_finished();
}
