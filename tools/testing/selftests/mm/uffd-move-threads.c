// SPDX-License-Identifier: GPL-2.0
/*
 * Threads move parts of the same huge pages with UFFDIO_MOVE. The split of a
 * huge page makes an attempt fail, which the call repeats. A page that moved at
 * the second attempt is counted, and the threads that wait for it are woken. It
 * is not taken for a page that was there before.
 */
#include "uffd-cases.h"

#define ENABLED	"/sys/kernel/mm/transparent_hugepage/enabled"

#define NR_THREADS	4
#define NR_HUGE		4
#define NR_ROUNDS	6
#define SECS		3
#define STRANDED_SECS	2

static size_t huge_size;
static long nr_pages;
static char *dst, *src;
static int uffd;
static pthread_barrier_t barrier;

static atomic_long moved, busy, again, others, lied;

/* A page's contents: its number, which is never 0. */
static unsigned int *word(char *base, long i)
{
	return (unsigned int *)(base + i * page_size);
}

static void fill(void)
{
	if (mmap(src, NR_HUGE * huge_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	madvise(src, NR_HUGE * huge_size, MADV_HUGEPAGE);
	for (long i = 0; i < nr_pages; i++)
		*word(src, i) = i + 1;
}

/* Moves a page. What may pass is tried again. */
static long move(long i)
{
	double end = now() + 5;
	long ret;

	do {
		ret = uffd_move(uffd, word(dst, i), word(src, i), page_size, 0);
		busy += ret == -EBUSY;
		again += ret == -EAGAIN;
	} while ((ret == -EBUSY || ret == -EAGAIN) && now() < end);
	return ret;
}

static void *mover(void *number)
{
	pthread_barrier_wait(&barrier);
	for (long i = (long)number; i < nr_pages; i += NR_THREADS) {
		long ret = move(i);

		if (ret == (long)page_size)
			moved++;
		else if (ret == -EEXIST && present(word(dst, i)) && empty(word(src, i)))
			lied++;	/* No other thread moves this page. */
		else
			others++;
	}
	return NULL;
}

/* All pages are moved, each by one thread, and no thread waits for them. */
static void test_movers(void)
{
	pthread_t threads[NR_THREADS];
	long wrong = 0, total = 0, rounds = 0;
	double end = now() + SECS;

	uffd = uffd_open(UFFD_FEATURE_MOVE | UFFD_FEATURE_SIGBUS);
	must_register(uffd, dst, NR_HUGE * huge_size, MISSING);
	while (rounds < NR_ROUNDS && now() < end) {
		fill();
		for (long i = 0; i < NR_THREADS; i++)
			threads[i] = start(mover, (void *)i);
		for (long i = 0; i < NR_THREADS; i++)
			pthread_join(threads[i], NULL);
		for (long i = 0; i < nr_pages; i++)
			wrong += !present(word(dst, i)) || *word(dst, i) != i + 1;
		madvise(dst, NR_HUGE * huge_size, MADV_DONTNEED);
		total += nr_pages;
		rounds++;
	}
	close(uffd);
	measured("moves", total);
	measured("EBUSY", busy);
	measured("EAGAIN", again);
	measured("EEXIST for a page that the thread had moved itself", lied);
	ksft_test_result(!lied && moved == total, "a move that worked says so\n");
	ksft_test_result(!others, "no other answers\n");
	ksft_test_result(!wrong, "all pages are in their places\n");
}

/*
 * Faults that are resolved by moves. A page that is there already is taken for
 * one whose waiters were woken, as handlers do.
 */
static atomic_long touching[NR_THREADS];
static atomic_int finished;
static atomic_bool quit;

static void *toucher(void *number)
{
	long n = (long)number;

	pthread_barrier_wait(&barrier);
	for (long i = n; i < nr_pages; i += NR_THREADS) {
		touching[n] = i;
		load((char *)word(dst, i));
	}
	touching[n] = -1;
	finished++;
	return NULL;
}

static void *handler(void *unused)
{
	struct uffd_msg msg;

	while (!quit) {
		if (!uffd_read(uffd, &msg, 0.02))
			continue;
		move((msg.arg.pagefault.address - (uintptr_t)dst) / page_size);
	}
	return NULL;
}

/* Looks after the threads that touch. Returns how often one had to be helped. */
static long watch(void)
{
	double since[NR_THREADS];
	long last[NR_THREADS], stranded = 0;
	double end = now() + 30;

	for (int i = 0; i < NR_THREADS; i++)
		last[i] = -1;
	/* Three are enough to know. Then the round is left as it is. */
	while (finished < NR_THREADS && now() < end && stranded < 3) {
		sleep_ms(2);
		for (int i = 0; i < NR_THREADS; i++) {
			long at = touching[i];

			if (at != last[i]) {
				last[i] = at;
				since[i] = now();
			} else if (at >= 0 && now() > since[i] + STRANDED_SECS &&
				   present(word(dst, at)) && uffd_waiting(uffd) > 0) {
				stranded++;
				uffd_wake(uffd, word(dst, at), page_size);
				since[i] = now();
			}
		}
	}
	return stranded;
}

static void test_faults(void)
{
	pthread_t touchers[NR_THREADS], handlers[NR_THREADS];
	long stranded = 0, wrong = 0, rounds = 0;
	double end = now() + SECS;

	uffd = uffd_open(UFFD_FEATURE_MOVE);
	must_register(uffd, dst, NR_HUGE * huge_size, MISSING);
	while (rounds < NR_ROUNDS && now() < end && stranded < 3) {
		fill();
		finished = 0;
		quit = false;
		for (long i = 0; i < NR_THREADS; i++) {
			touching[i] = -1;
			touchers[i] = start(toucher, (void *)i);
			handlers[i] = start(handler, NULL);
		}
		stranded += watch();
		if (finished < NR_THREADS) {
			ksft_print_msg("round %ld is left as it is\n", rounds);
			break;
		}
		quit = true;
		for (long i = 0; i < NR_THREADS; i++) {
			pthread_join(touchers[i], NULL);
			pthread_join(handlers[i], NULL);
		}
		for (long i = 0; i < nr_pages; i++)
			wrong += *word(dst, i) != i + 1;
		madvise(dst, NR_HUGE * huge_size, MADV_DONTNEED);
		rounds++;
	}
	measured("rounds of faults", rounds);
	measured("stranded threads", stranded);
	ksft_test_result(rounds && !stranded && finished == NR_THREADS,
			 "threads that wait for a page that moved are woken\n");
	ksft_test_result(rounds && !wrong, "faults find the pages that moved\n");
}

int main(void)
{
	begin(90);
	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_MOVE);
	if (uffd < 0)
		ksft_exit_skip("no UFFDIO_MOVE\n");
	close(uffd);
	huge_size = thp_size();
	if (!huge_size || knob_set(ENABLED, "madvise"))
		ksft_exit_skip("no transparent huge pages\n");
	ksft_set_plan(5);
	nr_pages = NR_HUGE * huge_size / page_size;
	dst = anon_aligned(NR_HUGE * huge_size, huge_size);
	src = anon_aligned(NR_HUGE * huge_size, huge_size);
	madvise(dst, NR_HUGE * huge_size, MADV_NOHUGEPAGE);
	pthread_barrier_init(&barrier, NULL, NR_THREADS);

	test_movers();
	test_faults();

	ksft_finished();
}
