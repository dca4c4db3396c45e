// SPDX-License-Identifier: GPL-2.0
/*
 * If a fill fails with EEXIST the page is there, so the threads that wait for
 * it are woken, unless the mode has DONTWAKE. So a handler may take EEXIST for
 * "another thread has done it", and no thread stays asleep, even if the other
 * thread did not wake.
 *
 * Usage: uffd-eexist [number of faults of a race]
 * Without a number, a race ends after some seconds, too.
 */
#include "uffd-cases.h"

#define ASLEEP_SECS	0.15	/* not woken for so long: stays asleep */
#define AWAKE_SECS	1.5

static size_t size;		/* of a page of the memory that is looked at */
static char *area, *source, *movable;
static int uffd, fd;

/* Threads that wait for a page each. */
#define NR_SLEEPERS 2

static atomic_int awake[NR_SLEEPERS];
static atomic_int tids[NR_SLEEPERS];
static pthread_t sleepers[NR_SLEEPERS];

static char *page(int i)
{
	return area + i * size;
}

static void *sleeper(void *number)
{
	long n = (long)number;

	tids[n] = syscall(SYS_gettid);
	load(page(n));
	awake[n] = 1;
	return NULL;
}

/*
 * Is a thread off the CPU? The message of a fault can be read before the thread
 * has looked at the page table for the last time.
 */
static bool is_off_cpu(int tid)
{
	char path[64], wchan[64] = "0";

	snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", tid);
	return knob_read(path, wchan, sizeof(wchan)) == 0 && strcmp(wchan, "0");
}

/* Has a thread wait for page @n, with its message read. */
static bool send_to_sleep(long n)
{
	double end = now() + 5;
	struct uffd_msg msg;

	awake[n] = 0;
	sleepers[n] = start(sleeper, (void *)n);
	if (!uffd_read(uffd, &msg, 5) ||
	    msg.arg.pagefault.address != (uintptr_t)page(n))
		return false;
	while (!is_off_cpu(tids[n])) {
		if (now() > end)
			return false;
		sleep_ms(1);
	}
	return true;
}

static bool woken(long n)
{
	return wait_for(&awake[n], 1, AWAKE_SECS);
}

static bool asleep(long n)
{
	return !wait_for(&awake[n], 1, ASLEEP_SECS);
}

/* Wakes the thread if it is asleep. The page must be there. */
static void end_sleep(long n)
{
	if (!awake[n])
		uffd_wake(uffd, page(n), size);
	if (!wait_for(&awake[n], 1, 10))
		ksft_exit_fail_msg("UFFDIO_WAKE does not wake\n");
	pthread_join(sleepers[n], NULL);
}

enum kind { ANON, SHMEM, HUGETLB, NR_KINDS };

static const char * const kinds[] = { "anon", "shmem", "hugetlb" };

enum fill { COPY, ZEROPAGE, CONTINUE, POISON, MOVE, NR_FILLS };

static const char * const fills[] = { "COPY", "ZEROPAGE", "CONTINUE", "POISON", "MOVE" };

static const bool possible[NR_KINDS][NR_FILLS] = {
	[ANON] = { true, true, false, true, true },
	[SHMEM] = { true, true, true, true, false },
	[HUGETLB] = { true, false, true, true, false },
};

/* The flag that keeps a fill from waking. */
static uint64_t dont_wake(enum fill how)
{
	static const uint64_t modes[] = {
		UFFDIO_COPY_MODE_DONTWAKE, UFFDIO_ZEROPAGE_MODE_DONTWAKE,
		UFFDIO_CONTINUE_MODE_DONTWAKE, UFFDIO_POISON_MODE_DONTWAKE,
		UFFDIO_MOVE_MODE_DONTWAKE,
	};

	return modes[how];
}

static long fill(enum fill how, char *p, bool wake)
{
	uint64_t mode = wake ? 0 : dont_wake(how);

	switch (how) {
	case COPY:
		return uffd_copy(uffd, p, source, size, mode);
	case ZEROPAGE:
		return uffd_zeropage(uffd, p, size, mode);
	case CONTINUE:
		return uffd_continue(uffd, p, size, mode);
	case POISON:
		return uffd_poison(uffd, p, size, mode);
	default:
		return uffd_move(uffd, p, movable, size, mode);
	}
}

#define NR_PAGES 4

/* Returns why there is no such memory, or NULL. */
static const char *setup(enum kind kind)
{
	uint64_t features = UFFD_FEATURE_POISON, mode = MISSING;

	size = page_size;
	fd = -1;
	if (kind == HUGETLB) {
		size = hugetlb_size(NR_PAGES + 2);
		if (!size)
			return "not enough huge pages";
		fd = memfd(NR_PAGES * size, MFD_HUGETLB);
		features |= UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS;
		mode |= MINOR;
	} else if (kind == SHMEM) {
		fd = memfd(NR_PAGES * size, 0);
		features |= UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
		mode |= MINOR;
	} else {
		features |= UFFD_FEATURE_MOVE;
	}
	if (kind != ANON && fd < 0)
		return "no such memory";
	uffd = uffd_open_with(O_NONBLOCK, features);
	if (uffd < 0)
		return "not all features";
	area = kind == ANON ? anon(NR_PAGES * size) : map(NR_PAGES * size, MAP_SHARED, fd);
	source = anon(2 * size);
	movable = anon(size);
	memset(source, 5, 2 * size);
	memset(movable, 6, size);
	must_register(uffd, area, NR_PAGES * size, mode);
	return NULL;
}

static void teardown(void)
{
	close(uffd);
	munmap(area, NR_PAGES * size);
	munmap(source, 2 * size);
	munmap(movable, size);
	if (fd >= 0)
		close(fd);
}

/* All pages are missing again. */
static void drop(void)
{
	if (fd >= 0)
		fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, NR_PAGES * size);
	else
		madvise(area, NR_PAGES * size, MADV_DONTNEED);
}

/* Two statements: about a page that is there already, with and without a wake-up. */
static void test_fill(enum kind kind, enum fill how)
{
	bool ready, stays;
	long first, ret;

	for (int wake = 0; wake < 2; wake++) {
		ready = send_to_sleep(0);
		first = uffd_copy(uffd, page(0), source, size, UFFDIO_COPY_MODE_DONTWAKE);
		stays = asleep(0);
		ret = fill(how, page(0), wake);
		if (wake)
			ksft_test_result(ready && first == (long)size && stays &&
					 ret == -EEXIST && woken(0),
					 "%s: %s that says EEXIST wakes\n", kinds[kind],
					 fills[how]);
		else
			ksft_test_result(ready && first == (long)size && stays &&
					 ret == -EEXIST && asleep(0),
					 "%s: %s that says EEXIST and is told not to wake does not\n",
					 kinds[kind], fills[how]);
		end_sleep(0);
		drop();
	}
}

/* Two pages, the second of which is there. */
static void test_partial(enum kind kind)
{
	bool ready, right, first, second;
	int64_t field = 0;
	long ret;

	for (int wake = 0; wake < 2; wake++) {
		ready = send_to_sleep(0) && send_to_sleep(1);
		uffd_copy(uffd, page(1), source, size, UFFDIO_COPY_MODE_DONTWAKE);
		ret = uffd_copy_field(uffd, page(0), source, 2 * size,
				      wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE, &field);
		right = ready && ret == -EAGAIN && field == (int64_t)size;
		if (wake) {
			first = woken(0);
			/* What stopped it shows when the monitor goes on. */
			second = asleep(1) &&
				 uffd_copy(uffd, page(1), source, size, 0) == -EEXIST &&
				 woken(1);
			ksft_test_result(right, "%s: a copy of part says EAGAIN, and how much\n",
					 kinds[kind]);
			ksft_test_result(right && first,
					 "%s: a copy of part wakes those of that part\n",
					 kinds[kind]);
			ksft_test_result(right && second,
					 "%s: going on from there wakes those of the page that was there\n",
					 kinds[kind]);
		} else {
			ksft_test_result(right && asleep(0) && asleep(1),
					 "%s: a copy of part that is told not to wake does not\n",
					 kinds[kind]);
		}
		end_sleep(0);
		end_sleep(1);
		drop();
	}
}

/* Nothing was copied: the field says EEXIST, as well. */
static void test_field(enum kind kind)
{
	int64_t field = 0;
	long ret;

	uffd_copy(uffd, page(0), source, size, 0);
	ret = uffd_copy_field(uffd, page(0), source, 2 * size, 0, &field);
	ksft_test_result(ret == -EEXIST && field == -EEXIST,
			 "%s: a copy of nothing says EEXIST\n", kinds[kind]);
	drop();
}

/*
 * EEXIST may also say that a marker is in the way. There is no page, so a thread
 * that was woken would fault again, and again.
 */
static void test_marker(void)
{
	struct uffd_msg msg;
	bool ready, right;

	size = page_size;
	fd = -1;
	uffd = uffd_open_with(O_NONBLOCK,
			      UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_POISON);
	if (uffd < 0) {
		ksft_test_result_skip("marker: not all features\n");
		return;
	}
	area = anon(NR_PAGES * size);
	source = anon(2 * size);
	movable = anon(size);
	must_register(uffd, area, NR_PAGES * size, MISSING | WP);

	ready = !uffd_wp(uffd, page(0), size) && send_to_sleep(0);
	right = fill(ZEROPAGE, page(0), true) == -EEXIST &&
		fill(POISON, page(0), true) == -EEXIST && asleep(0) &&
		!uffd_read(uffd, &msg, 0.05);
	ksft_test_result(ready && right, "marker: EEXIST without a page does not wake\n");

	uffd_copy(uffd, page(0), source, size, 0);
	end_sleep(0);
	teardown();
}

/*
 * Races. Threads touch pages, handlers bring them and some of those that
 * follow. They take EEXIST for an answer, and never send UFFDIO_WAKE.
 */
#define NR_TOUCHERS	4
#define NR_HANDLERS	2
#define RACE_PAGES	1024
#define AHEAD		8
#define RACE_SECS	3.0
#define STRANDED_SECS	2.0

static char *race_area, *race_source;
static int race_uffd;
static uint64_t ahead_mode;
static atomic_long touches[NR_TOUCHERS];	/* how many a thread has made */
static atomic_long touching[NR_TOUCHERS];	/* which page, or -1 */
static atomic_long faults, eexist;
static atomic_bool race_over, handlers_over;
static pthread_barrier_t barrier;

static char *race_page(long i)
{
	return race_area + i * page_size;
}

static void *toucher(void *number)
{
	long n = (long)number;
	unsigned int seed = n;

	for (;;) {
		/* All pages are missing between the two. */
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
		if (race_over)
			return NULL;
		for (long i = 0; i < RACE_PAGES; i++) {
			/* In one order, or nearly so, to meet others and those ahead. */
			long at = (i + rand_r(&seed) % AHEAD) % RACE_PAGES;

			touching[n] = at;
			load(race_page(at));
			touches[n]++;
		}
		touching[n] = -1;
	}
}

static void bring(long i, long pages, uint64_t mode)
{
	long ret;

	if (i + pages > RACE_PAGES)
		pages = RACE_PAGES - i;
	if (pages <= 0)
		return;
	do {
		ret = uffd_copy(race_uffd, race_page(i), race_source, pages * page_size, mode);
		/* A part is enough, because no thread waits for the rest. */
	} while (ret == -EAGAIN && pages == 1);
	eexist += ret == -EEXIST;
}

static void *handler(void *number)
{
	unsigned int seed = (long)number;
	struct uffd_msg msg;
	long i;

	while (!handlers_over) {
		if (!uffd_read(race_uffd, &msg, 0.02))
			continue;
		faults++;
		i = (msg.arg.pagefault.address - (uintptr_t)race_area) / page_size;
		/* Ahead at first, or afterwards. */
		if (rand_r(&seed) & 1)
			bring(i + 1, 1 + rand_r(&seed) % AHEAD, ahead_mode);
		bring(i, 1, 0);
		if (rand_r(&seed) & 1)
			bring(i + 1, 1 + rand_r(&seed) % AHEAD, ahead_mode);
	}
	return NULL;
}

/*
 * Looks after the threads of a round. Returns how many were found asleep at a
 * page that is there. Those are woken.
 */
static long look_after(void)
{
	long last[NR_TOUCHERS], stranded = 0;
	double since[NR_TOUCHERS];
	bool busy;

	for (int i = 0; i < NR_TOUCHERS; i++) {
		last[i] = -1;
		since[i] = now();
	}
	do {
		sleep_ms(1);
		busy = false;
		for (int i = 0; i < NR_TOUCHERS; i++) {
			long at = touching[i];

			busy |= at != -1;
			if (touches[i] != last[i]) {
				last[i] = touches[i];
				since[i] = now();
			} else if (at >= 0 && now() > since[i] + STRANDED_SECS &&
				   present(race_page(at)) && uffd_waiting(race_uffd) > 0) {
				stranded++;
				uffd_wake(race_uffd, race_page(at), page_size);
				since[i] = now();
			}
		}
		/* That is enough. The round has to end. */
		if (stranded >= 3)
			uffd_wake(race_uffd, race_area, RACE_PAGES * page_size);
	} while (busy);
	return stranded;
}

static void test_race(const char *what, uint64_t mode, long limit, double secs)
{
	pthread_t touchers[NR_TOUCHERS], handlers[NR_HANDLERS];
	double end = now() + secs;
	long stranded = 0, rounds = 0;
	char name[64];

	ahead_mode = mode;
	faults = 0;
	eexist = 0;
	race_over = false;
	handlers_over = false;
	race_uffd = uffd_open(0);
	race_area = anon(RACE_PAGES * page_size);
	race_source = anon(AHEAD * page_size);
	memset(race_source, 5, AHEAD * page_size);
	must_register(race_uffd, race_area, RACE_PAGES * page_size, MISSING);
	pthread_barrier_init(&barrier, NULL, NR_TOUCHERS + 1);
	for (long i = 0; i < NR_TOUCHERS; i++)
		touchers[i] = start(toucher, (void *)i);
	for (long i = 0; i < NR_HANDLERS; i++)
		handlers[i] = start(handler, (void *)i);

	while (faults < limit && now() < end && stranded < 3) {
		pthread_barrier_wait(&barrier);
		madvise(race_area, RACE_PAGES * page_size, MADV_DONTNEED);
		for (int i = 0; i < NR_TOUCHERS; i++)
			touching[i] = -2;
		pthread_barrier_wait(&barrier);
		stranded += look_after();
		rounds++;
	}
	race_over = true;
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < NR_TOUCHERS; i++)
		pthread_join(touchers[i], NULL);
	handlers_over = true;
	for (int i = 0; i < NR_HANDLERS; i++)
		pthread_join(handlers[i], NULL);
	close(race_uffd);
	munmap(race_area, RACE_PAGES * page_size);

	snprintf(name, sizeof(name), "%s: rounds", what);
	measured(name, rounds);
	snprintf(name, sizeof(name), "%s: faults", what);
	measured(name, faults);
	snprintf(name, sizeof(name), "%s: EEXIST", what);
	measured(name, eexist);
	snprintf(name, sizeof(name), "%s: stranded", what);
	measured(name, stranded);
	ksft_test_result(rounds && !stranded, "%s: no thread is stranded\n", what);
}

int main(int argc, char **argv)
{
	long limit = argc > 1 ? atol(argv[1]) : 100000;
	/* It is asked for, so it may take its time. */
	double race_secs = argc > 1 ? 10 + limit / 500 : RACE_SECS;

	begin(90 + 2 * race_secs);
	ksft_set_plan(2 * (4 + 4 + 3) + 5 * NR_KINDS + 3);

	for (int kind = 0; kind < NR_KINDS; kind++) {
		const char *lacking = setup(kind);

		for (int how = 0; how < NR_FILLS; how++) {
			if (!possible[kind][how])
				continue;
			if (!lacking) {
				test_fill(kind, how);
				continue;
			}
			ksft_test_result_skip("%s, %s: %s\n", kinds[kind], fills[how], lacking);
			ksft_test_result_skip("%s, %s: %s\n", kinds[kind], fills[how], lacking);
		}
		if (lacking) {
			for (int i = 0; i < 5; i++)
				ksft_test_result_skip("%s, part: %s\n", kinds[kind], lacking);
			continue;
		}
		test_partial(kind);
		test_field(kind);
		teardown();
	}
	test_marker();
	test_race("prefetch", 0, limit, race_secs);
	test_race("prefetch that does not wake", UFFDIO_COPY_MODE_DONTWAKE, limit, race_secs);

	ksft_finished();
}
