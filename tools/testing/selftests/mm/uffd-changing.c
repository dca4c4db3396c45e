// SPDX-License-Identifier: GPL-2.0
/*
 * While the layout of an address space changes, pages cannot be filled: the
 * operations fail with EAGAIN. This test checks when they succeed again.
 *
 * A fork, a move and an unmapping are done before the event is sent, so they
 * do when the event has been read. A removal is done after that, so they do
 * when the pages are gone, because no page that was filled may be removed.
 * A descriptor is ready for output while nothing changes, so that a handler can
 * sleep in poll() instead of trying again and again.
 */
#include "uffd-cases.h"
#include <sys/epoll.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define NR_ROUNDS	400
#define SECS		1.0

#define CAUSE_AT	8	/* the pages that events are about */
#define OTHER_AT	4	/* nothing happens here but fills */

/*
 * The removal is busy with many pages for a while. The page that is filled has
 * another page table if tables have 512 entries, so its lock is not the one
 * that the removal holds.
 */
#define REMOVE_AT	512
#define NR_REMOVED	(512 + 1)
#define NR_PAGES	(REMOVE_AT + NR_REMOVED)

#define EVENTS	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |	\
		 UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

enum kind { FORK, REMAP, UNMAP, REMOVE, PUNCH, NR_KINDS };

static const char * const names[] = {
	"fork", "remap", "unmap", "removal", "removal of shared memory",
};

static char *area, *source, *elsewhere;
static int uffd;
static cpu_set_t cpus;

/* One thread causes events, one at a time. */
static enum kind kind;
static atomic_int asked, answered, quit;

static void cause(enum kind what)
{
	char *p = area + CAUSE_AT * page_size;

	switch (what) {
	case FORK:
		fork_and_wait(0);
		break;
	case REMAP:
		/* The pages stay the same, and there is another VMA of them. */
		mremap(p, page_size, page_size,
		       MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, elsewhere);
		break;
	case UNMAP:
		mmap(p, page_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	case REMOVE:
		madvise(area + REMOVE_AT * page_size, NR_REMOVED * page_size, MADV_DONTNEED);
		break;
	default:
		madvise(area + REMOVE_AT * page_size, NR_REMOVED * page_size, MADV_REMOVE);
	}
}

/*
 * Both threads have a CPU of their own, if there are two, so that one of them
 * can be fast enough to see what the other is about to do.
 */
static void pin(int number)
{
	cpu_set_t one;
	int cpu = 0;

	for (; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus) && !number--)
			break;
	if (cpu == CPU_SETSIZE)
		return;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	sched_setaffinity(0, sizeof(one), &one);
}

static void *causer(void *unused)
{
	int round = 0;

	pin(1);
	while (!quit) {
		if (asked == round) {
			sched_yield();
			continue;
		}
		cause(kind);
		round++;
		answered = round;
	}
	return NULL;
}

static pthread_t thread;

static void setup(enum kind what, uint64_t features)
{
	elsewhere = anon(page_size);
	area = anon_aligned(NR_PAGES * page_size, 512 * page_size);
	if (what == PUNCH &&
	    mmap(area, NR_PAGES * page_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 memfd(NR_PAGES * page_size, 0), 0) == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	uffd = uffd_open(features);
	must_register(uffd, area, NR_PAGES * page_size, MISSING);
	kind = what;
	asked = 0;
	answered = 0;
	quit = 0;
	thread = start(causer, NULL);
}

static bool finished(double secs)
{
	return wait_for(&answered, asked, secs);
}

static void teardown(void)
{
	struct uffd_msg msg;

	/* If the thread is stuck, this lets it go on. */
	while (!finished(0.1) && uffd_read(uffd, &msg, 0.1))
		;
	quit = 1;
	if (finished(1))
		pthread_join(thread, NULL);
	close(uffd);
	munmap(area, NR_PAGES * page_size);
}

/* Reads the event. Returns false if it is not what was asked for. */
static bool read_event(void)
{
	static const int events[] = {
		UFFD_EVENT_FORK, UFFD_EVENT_REMAP, UFFD_EVENT_UNMAP,
		UFFD_EVENT_REMOVE, UFFD_EVENT_REMOVE,
	};
	struct uffd_msg msg;

	if (!uffd_read(uffd, &msg, 5))
		return false;
	if (msg.event == UFFD_EVENT_FORK)
		close(msg.arg.fork.ufd);
	return msg.event == events[kind];
}

static int ready(short events, int ms)
{
	struct pollfd pollfd = { .fd = uffd, .events = events };

	return poll(&pollfd, 1, ms) < 0 ? -1 : pollfd.revents;
}

struct tally {
	long rounds;
	long with;		/* rounds with EAGAIN */
	long total;		/* EAGAINs */
	long most;		/* in one round */
	long gone;		/* filled, and taken away again */
	long early;		/* found before they were taken away */
	long timeouts;		/* of poll() */
	long others;		/* other answers */
};

/*
 * Has an event caused, reads it, fills a page until that works, again and
 * again. With @waits, poll() is asked when to try again.
 */
static struct tally rounds(bool waits)
{
	bool removes = kind == REMOVE || kind == PUNCH;
	char *dst = area + (removes ? NR_PAGES - 1 : OTHER_AT) * page_size;
	double end = now() + SECS, limit;
	struct tally tally = { 0 };
	long again, ret;

	while (now() < end && tally.rounds < NR_ROUNDS) {
		/* A removal is kept busy for a while before it gets to the page. */
		if (removes)
			uffd_copy(uffd, area + REMOVE_AT * page_size, source,
				  (NR_REMOVED - 1) * page_size, 0);
		else
			madvise(dst, page_size, MADV_DONTNEED);
		if (kind == UNMAP)
			must_register(uffd, area, NR_PAGES * page_size, MISSING);
		asked++;
		if (!read_event()) {
			tally.others++;
			break;
		}
		again = 0;
		limit = now() + 3;
		while ((ret = uffd_copy(uffd, dst, source, page_size, 0)) == -EAGAIN &&
		       now() < limit) {
			again++;
			if (waits && !(ready(POLLOUT, 1500) & POLLOUT))
				tally.timeouts++;
		}
		/* This end of the change is told before the pages are gone. */
		if (kind == PUNCH && ret == -EEXIST)
			tally.early++;
		else if (ret != (long)page_size)
			tally.others++;
		if (!finished(5)) {
			tally.others++;
			break;
		}
		if (!present(dst))
			tally.gone++;
		tally.rounds++;
		tally.with += again != 0;
		tally.total += again;
		if (again > tally.most)
			tally.most = again;
		if (tally.timeouts)
			break;
	}
	return tally;
}

static void report(const struct tally *tally, const char *how)
{
	char name[96];

	snprintf(name, sizeof(name), "%s, %s: rounds", names[kind], how);
	measured(name, tally->rounds);
	snprintf(name, sizeof(name), "%s, %s: rounds with EAGAIN", names[kind], how);
	measured(name, tally->with);
	snprintf(name, sizeof(name), "%s, %s: EAGAIN in all", names[kind], how);
	measured(name, tally->total);
	snprintf(name, sizeof(name), "%s, %s: most EAGAIN of one event", names[kind], how);
	measured(name, tally->most);
	if (tally->others || tally->timeouts)
		ksft_print_msg("%s, %s: %ld other answers, %ld times poll() timed out\n",
			       names[kind], how, tally->others, tally->timeouts);
}

/*
 * How often a fill says EAGAIN after the event was read. DONTNEED is part of
 * the rounds of others, and must not have an event then.
 */
static void test_rounds(enum kind what)
{
	static const uint64_t features[] = {
		UFFD_FEATURE_EVENT_FORK, UFFD_FEATURE_EVENT_REMAP,
		UFFD_FEATURE_EVENT_UNMAP, UFFD_FEATURE_EVENT_REMOVE,
		UFFD_FEATURE_EVENT_REMOVE,
	};
	struct tally tally;

	setup(what, features[what]);
	tally = rounds(false);
	report(&tally, "spinning");
	if (what == REMOVE || what == PUNCH)
		measured("pages that were taken away again", tally.gone);
	if (what == PUNCH)
		measured("pages that were filled too early", tally.early);
	if (what == PUNCH) {
		/* The end of the change is told before the pages are gone. */
	} else if (what == REMOVE) {
		ksft_test_result(tally.rounds && !tally.others && !tally.gone,
				 "%s: no page that was filled after the event was read is taken away\n",
				 names[what]);
	} else {
		ksft_test_result(tally.rounds && !tally.others && !tally.total,
				 "%s: no EAGAIN after the event was read\n", names[what]);
	}

	tally = rounds(true);
	report(&tally, "polling");
	ksft_test_result(tally.rounds && !tally.others && !tally.timeouts && tally.most <= 2,
			 "%s: with poll(), at most two EAGAIN for an event\n", names[what]);
	teardown();
}

/* What poll() says while an event is unread, and after it. */
static void test_unread(enum kind what)
{
	char *dst;
	int64_t field = 0;
	long ret;
	int said;

	setup(what, EVENTS);
	dst = area + OTHER_AT * page_size;
	said = ready(POLLIN | POLLOUT, 0);
	ksft_test_result(said == POLLOUT, "%s: ready for output before\n", names[what]);

	asked++;
	ready(POLLIN, 5000);
	said = ready(POLLIN | POLLOUT, 0);
	ksft_test_result(said == POLLIN, "%s: event unread: ready for input only\n", names[what]);
	ret = uffd_copy_field(uffd, dst, source, page_size, 0, &field);
	ksft_test_result(ret == -EAGAIN && field == -EAGAIN && empty(dst),
			 "%s: event unread: EAGAIN\n", names[what]);
	said = ready(POLLOUT, 100);
	ksft_test_result(said == 0, "%s: event unread: poll() for output sleeps\n", names[what]);

	read_event();
	said = ready(POLLOUT, 1500);
	ret = uffd_copy(uffd, dst, source, page_size, 0);
	ksft_test_result(said == POLLOUT && ret == (long)page_size,
			 "%s: after the event was read: ready for output, and a fill works\n",
			 names[what]);
	teardown();
}

/* A thread that waits for the end of a change. */
static atomic_int poller_said, poller_started, poller_done;

static void *poller(void *unused)
{
	poller_started = 1;
	poller_said = ready(POLLOUT, 2500);
	poller_done = 1;
	return NULL;
}

static void *epoller(void *unused)
{
	struct epoll_event event = { .events = EPOLLOUT };
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	epoll_ctl(epoll, EPOLL_CTL_ADD, uffd, &event);
	poller_started = 1;
	event.events = 0;
	if (epoll_wait(epoll, &event, 1, 2500) < 0)
		event.events = EPOLLERR;
	poller_said = event.events;
	poller_done = 1;
	close(epoll);
	return NULL;
}

static void test_woken(enum kind what, void *(*fn)(void *), const char *how)
{
	bool early, woken;
	pthread_t sleeper;

	setup(what, EVENTS);
	poller_said = 0;
	poller_started = 0;
	poller_done = 0;
	asked++;
	ready(POLLIN, 5000);
	sleeper = start(fn, NULL);
	wait_for(&poller_started, 1, 2);
	sleep_ms(150);
	early = poller_done;
	read_event();
	woken = wait_for(&poller_done, 1, 2);
	ksft_test_result(!early && woken && poller_said == POLLOUT,
			 "%s: %s() for output is woken when it is over\n", names[what], how);
	pthread_join(sleeper, NULL);
	teardown();
}

/* Two changes at the same time. */
static void *unmapper(void *unused)
{
	cause(UNMAP);
	return NULL;
}

static void test_two(void)
{
	struct uffd_msg msg = { 0 };
	pthread_t other;
	int before, between, after;

	setup(REMOVE, EVENTS);
	asked++;
	ready(POLLIN, 5000);
	other = start(unmapper, NULL);
	sleep_ms(150);
	before = ready(POLLIN | POLLOUT, 0);
	uffd_read(uffd, &msg, 1);
	if (msg.event == UFFD_EVENT_REMOVE)
		finished(2);
	between = ready(POLLIN | POLLOUT, 50);
	uffd_read(uffd, &msg, 1);
	after = ready(POLLOUT, 2000);
	ksft_test_result(before == POLLIN && between == POLLIN && after == POLLOUT,
			 "two changes: ready for output when both are over\n");
	teardown();
	pthread_join(other, NULL);
}

/* Writes a page that is missing to a file, whose lock is held meanwhile. */
static int punched = -1;
static char *missing;

static void *file_writer(void *unused)
{
	return (void *)(long)(pwrite(punched, missing, page_size, 0) == (ssize_t)page_size);
}

static void *puncher(void *p)
{
	return (void *)(long)!madvise(p, page_size, MADV_REMOVE);
}

/* The removal of pages of a file needs the lock that a writer holds which waits for a page. */
static int write_and_punch(void *unused)
{
	struct uffd_msg msg;
	pthread_t writer, remover;
	void *wrote, *removed;
	double end;
	char *view;
	long ret;

	punched = memfd(page_size, 0);
	view = map(page_size, MAP_SHARED, punched);
	missing = anon(page_size);
	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM);
	if (uffd < 0)
		return 1;
	must_register(uffd, view, page_size, MISSING);
	must_register(uffd, missing, page_size, MISSING);
	writer = start(file_writer, NULL);
	if (!uffd_read(uffd, &msg, 5) || msg.event != UFFD_EVENT_PAGEFAULT)
		return 2;
	remover = start(puncher, view);
	if (!uffd_read(uffd, &msg, 5) || msg.event != UFFD_EVENT_REMOVE)
		return 3;
	end = now() + 5;
	while ((ret = uffd_copy(uffd, missing, source, page_size, 0)) == -EAGAIN && now() < end)
		ready(POLLOUT, 100);
	if (ret != (long)page_size)
		return 4;
	pthread_join(writer, &wrote);
	pthread_join(remover, &removed);
	return wrote && removed ? 0 : 5;
}

int main(void)
{
	begin(90);
	ksft_set_plan(2 * NR_KINDS + 5 * NR_KINDS + 3 + 1);
	source = anon(NR_REMOVED * page_size);
	memset(source, 3, NR_REMOVED * page_size);
	sched_getaffinity(0, sizeof(cpus), &cpus);

	for (int i = 0; i < NR_KINDS; i++)
		test_unread(i);
	test_woken(UNMAP, poller, "poll");
	test_woken(REMOVE, poller, "poll");
	test_woken(REMOVE, epoller, "epoll_wait");
	test_two();
	ksft_test_result(in_child(write_and_punch, NULL, 20) == 0,
			 "removal from a file that is being written to: both go on\n");
	pin(0);
	for (int i = 0; i < NR_KINDS; i++)
		test_rounds(i);

	ksft_finished();
}
