// SPDX-License-Identifier: GPL-2.0
/*
 * UFFDIO_REGISTER and UFFDIO_UNREGISTER if a mapping has to be split, and the
 * process may have no more of them (vm.max_map_count): they fail with ENOMEM,
 * and nothing has changed. Whole mappings can be registered and unregistered at
 * the limit, and closing a descriptor always works.
 */
#include "uffd-cases.h"

#define LIMIT		"/proc/sys/vm/max_map_count"
#define ROOM		60	/* mappings that there may be more of */
#define FILLER_PAGES	400

/* Three mappings side by side, kept apart by their protection. */
#define PART		8
#define NR_PARTS	3

#define UM		1
#define UW		2
#define SD		4

static char *parts, *filler, *smaps;
static int uffd;

static long nr_maps(void)
{
	static char buf[1 << 16];
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	long lines = 0;
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0)
		while (n)
			lines += buf[--n] == '\n';
	close(fd);
	return lines;
}

#define SMAPS_SIZE	(1024 * 1024)

/* The flags of one page's mapping. No memory is allocated for this. */
static int flags_of(const char *p)
{
	int fd = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
	unsigned long from, to;
	size_t len = 0;
	bool in = false;
	char *line;
	ssize_t n;

	while ((n = read(fd, smaps + len, SMAPS_SIZE - 1 - len)) > 0)
		len += n;
	close(fd);
	smaps[len] = 0;
	for (line = strtok(smaps, "\n"); line; line = strtok(NULL, "\n")) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			in = (uintptr_t)p >= from && (uintptr_t)p < to;
		else if (in && !strncmp(line, "VmFlags:", 8))
			return (strstr(line, " um") ? UM : 0) | (strstr(line, " uw") ? UW : 0) |
			       (strstr(line, " sd") ? SD : 0);
	}
	return -1;
}

static char *page(int i)
{
	return parts + i * page_size;
}

/* Whether all pages of the three mappings, from one to another, have these flags. */
static bool all(int from, int to, int flags)
{
	for (int i = from; i < to; i++) {
		int is = flags_of(page(i)) & ~SD;

		if (is == flags)
			continue;
		ksft_print_msg("page %d has flags %d, not %d\n", i, is, flags);
		return false;
	}
	return true;
}

static void new_parts(void)
{
	if (mmap(parts, NR_PARTS * PART * page_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	if (mprotect(page(PART), PART * page_size, PROT_READ))
		ksft_exit_fail_perror("mprotect");
}

/* Makes mappings until there may be no more, but for @spare of them. */
static void fill(int spare)
{
	int i = 1;

	if (mmap(filler, FILLER_PAGES * page_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	while (i < FILLER_PAGES && !mprotect(filler + i * page_size, page_size, PROT_READ))
		i += 2;
	if (i >= FILLER_PAGES)
		ksft_exit_fail_msg("no limit of mappings\n");
	/* Pages 1, 3, 5... are mappings of one page, and so are those between them. */
	for (int k = 0; k < spare; k++)
		if (munmap(filler + (1 + k) * page_size, page_size))
			ksft_exit_fail_perror("munmap");
}

/* The place stays taken, or stacks of threads would get there. */
static void unfill(void)
{
	if (mmap(filler, FILLER_PAGES * page_size, PROT_NONE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
}

/* Memory that has no neighbours which it could become one mapping with. */
static char *lonely(int pages)
{
	char *p = anon((pages + 2) * page_size);

	if (mprotect(p, (pages + 2) * page_size, PROT_NONE) ||
	    mprotect(p + page_size, pages * page_size, PROT_READ | PROT_WRITE))
		ksft_exit_fail_perror("mprotect");
	return p + page_size;
}

/*
 * Has a call split the first and the third mapping, with room for none, one and
 * more mappings. If it fails nothing may have changed.
 */
static void test_parts(const char *what, int old, long (*call)(void), int changed)
{
	bool failed = false, worked = false, right = true;
	int half = PART / 2;
	long ret;

	for (int spare = 0; spare <= 3; spare++) {
		bool same;

		uffd = uffd_open(0);
		new_parts();
		if (old)
			must_register(uffd, parts, NR_PARTS * PART * page_size,
				      (old & UM ? MISSING : 0) | (old & UW ? WP : 0));
		fill(spare);
		ret = call();
		if (ret)
			same = all(0, NR_PARTS * PART, old);
		else
			same = all(0, half, old) &&
			       all(half, 2 * PART + half, changed) &&
			       all(2 * PART + half, NR_PARTS * PART, old);
		ksft_print_msg("%s, room for %d: %s\n", what, spare, name_of(ret));
		if (ret && ret != -ENOMEM)
			right = false;
		right &= same;
		failed |= ret != 0;
		worked |= ret == 0;
		close(uffd);
		unfill();
	}
	ksft_test_result(right, "%s: all or nothing\n", what);
	ksft_test_result(failed && worked, "%s: fails without room, works with it\n", what);
}

static long part_of(long (*fn)(int fd, const void *p, size_t len, uint64_t mode), uint64_t mode)
{
	return fn(uffd, page(PART / 2), 2 * PART * page_size, mode);
}

static long unregister_mode(int fd, const void *p, size_t len, uint64_t unused)
{
	return uffd_unregister(fd, p, len);
}

static long register_missing(void)
{
	return part_of(uffd_register, MISSING);
}

static long register_both(void)
{
	return part_of(uffd_register, MISSING | WP);
}

static long register_wp(void)
{
	return part_of(uffd_register, WP);
}

static long unregister(void)
{
	return part_of(unregister_mode, 0);
}

/* A thread that reads a page. */
static atomic_int touched;

static void *toucher(void *p)
{
	load(p);
	touched++;
	return NULL;
}

/* What was not unregistered is still watched, and what was not registered is not. */
static void test_faults(void)
{
	struct uffd_msg msg;
	pthread_t thread;
	bool told;
	long ret;

	uffd = uffd_open(0);
	new_parts();
	must_register(uffd, parts, NR_PARTS * PART * page_size, MISSING);
	fill(0);
	ret = unregister();
	unfill();
	thread = start(toucher, page(PART - 1));
	told = uffd_read(uffd, &msg, 3);
	ksft_test_result(ret == -ENOMEM && told,
			 "a page that could not be unregistered: faults are reported\n");
	uffd_zeropage(uffd, page(PART - 1), page_size, 0);
	if (!wait_for(&touched, 1, 2))
		uffd_wake(uffd, page(PART - 1), page_size);
	pthread_join(thread, NULL);
	close(uffd);

	uffd = uffd_open(0);
	new_parts();
	fill(0);
	ret = register_missing();
	unfill();
	touched = 0;
	thread = start(toucher, page(PART - 1));
	told = uffd_read(uffd, &msg, 0.3);
	ksft_test_result(ret == -ENOMEM && !told && wait_for(&touched, 1, 2),
			 "a page that could not be registered: faults are not reported\n");
	close(uffd);
	pthread_join(thread, NULL);
}

static void test_whole(void)
{
	long ret;

	uffd = uffd_open(0);
	new_parts();
	fill(0);
	ret = uffd_register(uffd, parts, 2 * PART * page_size, MISSING);
	ksft_test_result(!ret && all(0, 2 * PART, UM) && all(2 * PART, 3 * PART, 0),
			 "whole mappings can be registered at the limit\n");
	ret = uffd_register(uffd, parts, 2 * PART * page_size, MISSING | WP);
	ksft_test_result(!ret && all(0, 2 * PART, UM | UW),
			 "whole mappings can be registered otherwise at the limit\n");
	ret = uffd_unregister(uffd, page(PART), PART * page_size);
	ksft_test_result(!ret && all(0, PART, UM | UW) && all(PART, 2 * PART, 0),
			 "whole mappings can be unregistered at the limit\n");
	close(uffd);
	ksft_test_result(all(0, 3 * PART, 0), "a descriptor can be closed at the limit\n");
	unfill();
}

/*
 * Both ends of a range become one mapping with what is between them already, so
 * no mapping is added. Threads that sleep in the ends go on if these are
 * unregistered.
 */
static void test_between(const char *what, int old, long (*call)(void), int changed)
{
	size_t part = PART * page_size;
	int half = PART / 2;
	int nr_threads = old ? 2 : 0;
	pthread_t threads[2];
	struct uffd_msg msg;
	bool told = true;

	uffd = uffd_open(0);
	new_parts();
	if (mprotect(parts, NR_PARTS * part, PROT_READ | PROT_WRITE))
		ksft_exit_fail_perror("mprotect");
	if (old) {
		must_register(uffd, parts, part, MISSING);
		must_register(uffd, page(2 * PART), part, MISSING);
	} else {
		must_register(uffd, page(PART), part, MISSING);
	}
	touched = 0;
	for (int i = 0; i < nr_threads; i++) {
		threads[i] = start(toucher, page(half + 2 * i * PART - i));
		told &= uffd_read(uffd, &msg, 3);
	}
	fill(0);
	ksft_test_result(!call() && all(0, half, old) &&
			 all(half, 2 * PART + half, changed) &&
			 all(2 * PART + half, NR_PARTS * PART, old),
			 "%s: parts become one with what is between them at the limit\n", what);
	if (nr_threads)
		ksft_test_result(told && wait_for(&touched, nr_threads, 2),
				 "%s: threads that sleep in these parts go on\n", what);
	close(uffd);
	for (int i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	unfill();
}

/*
 * A mapping that is unregistered becomes one with a neighbour. What is new there
 * stays new for those who track changes.
 */
static void test_neighbour(const char *where, int registered, int neighbour)
{
	size_t len = PART * page_size;

	uffd = uffd_open(0);
	if (munmap(parts, NR_PARTS * len) ||
	    mmap(page(registered * PART), len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	must_register(uffd, page(registered * PART), len, MISSING);
	if (knob_write("/proc/self/clear_refs", "4"))
		ksft_exit_fail_msg("cannot clear the soft-dirty bits\n");
	if (mmap(page(neighbour * PART), len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	if (!(flags_of(page(neighbour * PART)) & SD))
		ksft_test_result_skip("no soft-dirty bits\n");
	else
		ksft_test_result(!uffd_unregister(uffd, page(registered * PART), len) &&
				 flags_of(page(neighbour * PART)) & SD,
				 "unregister: a neighbour %s stays soft-dirty\n", where);
	close(uffd);
	new_parts();
}

int main(void)
{
	char limit[32];

	begin(60);
	smaps = anon(SMAPS_SIZE);
	memset(smaps, 0, SMAPS_SIZE);
	parts = lonely(NR_PARTS * PART);
	filler = lonely(FILLER_PAGES);
	new_parts();
	if (flags_of(parts) < 0)
		ksft_exit_skip("no VmFlags in smaps\n");
	ksft_set_plan(2 + 8 + 2 + 4 + 3);
	test_neighbour("before", 1, 0);
	test_neighbour("behind", 1, 2);
	snprintf(limit, sizeof(limit), "%ld", nr_maps() + ROOM);
	if (knob_set(LIMIT, limit))
		ksft_exit_fail_msg("cannot set " LIMIT "\n");

	test_parts("register", 0, register_missing, UM);
	test_parts("register with a mode more", UM, register_both, UM | UW);
	test_parts("register with a mode instead", UM, register_wp, UW);
	test_parts("unregister", UM | UW, unregister, 0);
	test_faults();
	test_whole();
	test_between("register", 0, register_missing, UM);
	test_between("unregister", UM, unregister, 0);

	ksft_finished();
}
