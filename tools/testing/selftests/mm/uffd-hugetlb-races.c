// SPDX-License-Identifier: GPL-2.0
/*
 * A thread fills a page of a hugetlbfs file while another thread does something
 * with the same page: fills it as well, touches it, takes it out of the file,
 * or out of the page table. No other huge page is free. Whatever the timing,
 * what is mapped afterwards is the page of the file, it has the contents that
 * were asked for, and no huge page and no reservation is lost.
 *
 * Usage: uffd-hugetlb-races [seconds of a test]
 */
#include "uffd-cases.h"
#include <setjmp.h>

#define NR_PAGES	2
#define PAGE		1	/* The index of the first one is 0 in any unit */
#define COPIED		0x4855474543000000ULL
#define IN_FILE		0x4855474546000000ULL

struct contest {
	const char *name;
	long (*fill)(void);
	void (*other)(void);
	void (*prepare)(void);
	bool keeps;	/* the page is there afterwards */
	bool absent;	/* the source is not mapped, and takes a huge page */
};

static const struct contest *contest;
static size_t huge;
static int fd, uffd;
static char *area, *alias, *source;
static __u64 number;	/* of the round */
static atomic_int ready;
static atomic_bool over;
static unsigned long delay;	/* of the other thread */
static long other_ret;
static long others;	/* huge pages that others have reserved */
static int wrong;
static unsigned int seed = 1;
static __thread sigjmp_buf bus;

#define complain(fmt, ...)						\
	do {								\
		if (wrong++ < 8)					\
			ksft_print_msg("round %llu: " fmt "\n",		\
				       number, ##__VA_ARGS__);		\
	} while (0)

static void on_bus(int sig)
{
	siglongjmp(bus, 1);
}

/* A word of the page, and the one after it. */
static __u64 *word(char *p)
{
	return (__u64 *)(p + PAGE * huge + huge / 2);
}

static __u64 get(__u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static void set(__u64 *word, __u64 value)
{
	__atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* The fills. They return 0 or -errno. */
static long answer(long ret)
{
	if (ret > 0 && ret != (long)huge)
		complain("%ld bytes were filled", ret);
	return ret > 0 ? 0 : ret;
}

static long fill_copy(void)
{
	return answer(uffd_copy(uffd, area + PAGE * huge, source + PAGE * huge,
				huge, 0));
}

static long fill_continue(void)
{
	return answer(uffd_continue(uffd, area + PAGE * huge, huge, 0));
}

/* What the other thread does. */
static void do_fill(void)
{
	other_ret = contest->fill();
}

static void do_touch(void)
{
	if (sigsetjmp(bus, 1)) {
		complain("a fault found no huge page");
		return;
	}
	set(word(alias) + 1, number);
}

static void do_punch(void)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      PAGE * huge, huge))
		complain("fallocate: %s", strerror(errno));
}

static void do_drop(void)
{
	if (madvise(area + PAGE * huge, huge, MADV_DONTNEED))
		complain("madvise: %s", strerror(errno));
}

static void add_to_file(void)
{
	set(word(alias), IN_FILE | number);
}

static const struct contest contests[] = {
	{ "COPY and COPY", fill_copy, do_fill, .keeps = true },
	{ "COPY and a fault", fill_copy, do_touch, .keeps = true },
	{ "COPY and a hole", fill_copy, do_punch },
	{ "COPY and MADV_DONTNEED", fill_copy, do_drop },
	{ "COPY of an absent page and COPY", fill_copy, do_fill, .keeps = true,
	  .absent = true },
	{ "COPY of an absent page and a hole", fill_copy, do_punch,
	  .absent = true },
	{ "CONTINUE and CONTINUE", fill_continue, do_fill, add_to_file,
	  .keeps = true },
	{ "CONTINUE and a hole", fill_continue, do_punch, add_to_file },
	{ "CONTINUE and MADV_DONTNEED", fill_continue, do_drop, add_to_file },
};

/* Waits for the other thread, for the nth time, and a while. */
static void rendezvous(int nth, unsigned long spins)
{
	ready++;
	while (ready < 2 * nth)
		sched_yield();
	while (spins--)
		asm volatile("");
}

static void *other_thread(void *arg)
{
	for (int round = 1;; round++) {
		rendezvous(2 * round - 1, delay);
		if (over)
			return NULL;
		contest->other();
		rendezvous(2 * round, 0);
	}
}

static void check(long ret)
{
	__u64 want = (contest->prepare ? IN_FILE : COPIED) | number, have;
	bool is_mapped = present(area + PAGE * huge);

	if (sigsetjmp(bus, 1)) {
		complain("SIGBUS");
		return;
	}
	switch (-ret) {
	case 0:
		if (contest->keeps && !is_mapped)
			complain("what was filled is not mapped");
		break;
	case EEXIST:
		if (contest->other == do_fill && other_ret)
			complain("none has filled the page: EEXIST and %s",
				 name_of(other_ret));
		if (contest->other != do_fill && contest->other != do_touch)
			complain("the page exists already");
		break;
	case EFAULT:
		if (contest->keeps || contest->other == do_drop)
			complain("the file does not have the page: EFAULT");
		break;
	default:
		complain("the fill fails: %s", name_of(ret));
	}
	if (!is_mapped)
		return;
	have = get(word(area));
	if (have != want)
		complain("the contents are %#llx instead of %#llx", have, want);
	/* Is it the page of the file? */
	set(word(area), ~number);
	if (get(word(alias)) != ~number)
		complain("the page that is mapped is not that of the file");
}

/* Are so many pages free and reserved that others have not reserved? */
static void check_counts(const char *when, long free, long reserved)
{
	long have_free = meminfo_of("HugePages_Free") - others;
	long have_reserved = meminfo_of("HugePages_Rsvd") - others;

	if (have_free != free || have_reserved != reserved)
		complain("%s: %ld are free, %ld reserved, and not %ld and %ld",
			 when, have_free, have_reserved, free, reserved);
}

/* Takes the page out of the file, and has it reserved again. */
static void reset_file(void)
{
	do_punch();
	munmap(map(NR_PAGES * huge, MAP_SHARED, fd), NR_PAGES * huge);
}

/* Takes huge pages that are of no use for the test. */
static void take_pages(long pages)
{
	if (pages > 0)
		map(pages * huge, MAP_HUGETLB | MAP_PRIVATE | MAP_ANONYMOUS |
		    MAP_POPULATE, -1);
}

static int race_child(void *arg)
{
	double end = now() + *(double *)arg;
	bool absent = contest->absent;
	unsigned long own_delay;
	pthread_t other;
	int round = 0;
	long ret;

	signal(SIGBUS, on_bus);
	fd = memfd(NR_PAGES * huge, MFD_HUGETLB);
	if (fd < 0)
		ksft_exit_fail_msg("memfd: %s\n", strerror(-fd));
	area = map(NR_PAGES * huge, MAP_SHARED, fd);
	alias = map(NR_PAGES * huge, MAP_SHARED, fd);
	/* No page is left but for the one that is filled, and what is absent. */
	store(alias, 1);
	take_pages(!absent);
	check_counts("before", 1 + absent, 1);
	source = shared(NR_PAGES * huge);
	uffd = uffd_open(0);
	must_register(uffd, area, NR_PAGES * huge, MISSING | MINOR);

	other = start(other_thread, NULL);
	do {
		number++;
		round++;
		set(word(source), COPIED | number);
		if (absent)
			madvise(source, NR_PAGES * huge, MADV_DONTNEED);
		if (contest->prepare)
			contest->prepare();
		delay = 1 << rand_r(&seed) % 18;
		own_delay = 1 << rand_r(&seed) % 18;
		rendezvous(2 * round - 1, own_delay);
		ret = contest->fill();
		rendezvous(2 * round, 0);
		check(ret);
		reset_file();
		if (round % 16 == 0)
			check_counts("meanwhile", 1 + absent, 1);
	} while (now() < end && !wrong);
	delay = 0;
	over = true;
	ready++;
	pthread_join(other, NULL);
	measured("rounds", round);
	return wrong ? KSFT_FAIL : KSFT_PASS;
}

int main(int argc, char **argv)
{
	double secs = argc > 1 ? atof(argv[1]) : 2;

	begin(60 + ARRAY_SIZE(contests) * (secs + 20));
	huge = hugetlb_size(NR_PAGES + 1);
	if (!huge)
		ksft_exit_skip("there are not %d free huge pages\n", NR_PAGES + 1);
	ksft_set_plan(ARRAY_SIZE(contests));
	others = meminfo_of("HugePages_Rsvd");
	take_pages(meminfo_of("HugePages_Free") - others - NR_PAGES - 1);
	for (size_t i = 0; i < ARRAY_SIZE(contests); i++) {
		int ret;

		contest = &contests[i];
		ret = in_child(race_child, &secs, secs + 20);
		if (ret < 0)
			ksft_print_msg("a process hangs\n");
		ksft_test_result(ret == KSFT_PASS, "%s\n", contest->name);
	}
	/* Each process has given back what it had. */
	check_counts("at last", NR_PAGES + 1, 0);
	if (wrong)
		ksft_exit_fail();
	ksft_finished();
}
