// SPDX-License-Identifier: GPL-2.0
/*
 * A thread that waits for a fault or an event of a userfaultfd goes on when the
 * last descriptor is closed that a program can close. While fork() waits for
 * its event, the child, which has not run yet, has a copy of the descriptor
 * that no program can close, so it does not count. All other references do:
 * a duplicate, one of another process, one in a message.
 */
#include "uffd-cases.h"
#include <sys/socket.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define NR_PAGES	64
#define FORK_AT		0
#define FAULT_AT	8
#define REMOVE_AT	16

#define EVENTS	(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |	\
		 UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP)

/* How long "at once" may take. */
#define SOON		2.0

/* What the first process and those that it starts have in common. */
struct shared_state {
	atomic_int ready;
	atomic_int go;
	atomic_int seen;
	atomic_int slowest_ms;
	atomic_int rounds;
};

static struct shared_state *state;
static char *area;
static int uffd;
static atomic_int begun, left;

static void *at(int i)
{
	return area + i * page_size;
}

/* Threads that get into the way of a monitor. */
static void *forker(void *flags)
{
	begun++;
	fork_and_wait((long)flags);
	left++;
	return NULL;
}

static void *toucher(void *p)
{
	begun++;
	load(p);
	left++;
	return NULL;
}

static void *remover(void *p)
{
	begun++;
	madvise(p, page_size, MADV_DONTNEED);
	left++;
	return NULL;
}

static void setup(uint64_t features)
{
	area = anon(NR_PAGES * page_size);
	uffd = uffd_open(features);
	must_register(uffd, area, NR_PAGES * page_size, MISSING);
}

/* Waits until there is something to read, and does not read it. */
static bool unread(int fd, double secs)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };

	return poll(&pollfd, 1, secs * 1000) == 1 && pollfd.revents == POLLIN;
}

static bool read_event(int fd, int event)
{
	struct uffd_msg msg;

	if (!uffd_read(fd, &msg, 3))
		return false;
	if (msg.event == UFFD_EVENT_FORK)
		close(msg.arg.fork.ufd);
	return msg.event == event;
}

/* The following run in processes of their own, and return 0 if all is well. */

static int how_closed(const char *how)
{
	int null = open("/dev/null", O_RDONLY);

	if (!strcmp(how, "dup2"))
		return dup2(null, uffd) < 0;
	if (!strcmp(how, "close_range"))
		return syscall(__NR_close_range, uffd, uffd, 0);
	return close(uffd);
}

/* The thread that forks waits for its event, and the only reader closes. */
static int lonely(void *how)
{
	bool files = !strcmp(how, "files");

	setup(UFFD_FEATURE_EVENT_FORK);
	start(forker, files ? (void *)CLONE_FILES : NULL);
	if (!unread(uffd, 3))
		return 2;
	if (how_closed(how))
		return 2;
	return !wait_for(&left, 1, SOON);
}

/* The same with others that wait. */
static int crowd(void *unused)
{
	setup(EVENTS);
	start(toucher, at(FAULT_AT));
	start(toucher, at(FAULT_AT + 1));
	start(remover, at(REMOVE_AT));
	if (!unread(uffd, 3) || !wait_for(&begun, 3, 2))
		return 2;
	sleep_ms(100);
	start(forker, NULL);
	start(forker, NULL);
	if (!wait_for(&begun, 5, 2))
		return 2;
	sleep_ms(200);
	close(uffd);
	return !wait_for(&left, 5, SOON);
}

/* The event has been read before, so that there is a child context as well. */
static int second_fork(void *unused)
{
	struct uffd_msg msg;

	setup(UFFD_FEATURE_EVENT_FORK);
	start(forker, NULL);
	if (!uffd_read(uffd, &msg, 3) || msg.event != UFFD_EVENT_FORK)
		return 2;
	if (!wait_for(&left, 1, SOON))
		return 3;
	start(forker, NULL);
	if (!unread(uffd, 3))
		return 2;
	close(uffd);
	return !wait_for(&left, 2, SOON);
}

/* Closing one of two descriptors: faults and events go to the other. */
static int duplicate(void *unused)
{
	struct uffd_msg msg;
	int other;

	setup(UFFD_FEATURE_EVENT_FORK);
	other = dup(uffd);
	start(forker, NULL);
	if (!unread(uffd, 3))
		return 2;
	close(uffd);
	if (wait_for(&left, 1, 0.2))
		return 3;
	if (!read_event(other, UFFD_EVENT_FORK))
		return 4;
	if (!wait_for(&left, 1, SOON))
		return 5;
	start(toucher, at(FAULT_AT));
	if (!uffd_read(other, &msg, 3) || msg.event != UFFD_EVENT_PAGEFAULT)
		return 6;
	if (uffd_zeropage(other, at(FAULT_AT), page_size, 0) != (long)page_size)
		return 7;
	return !wait_for(&left, 2, SOON);
}

/* No fork under way: closing a duplicate must not end anything either. */
static int plain_duplicate(void *unused)
{
	struct uffd_msg msg;
	int other;

	setup(EVENTS);
	other = dup(uffd);
	start(toucher, at(FAULT_AT));
	if (!unread(uffd, 3))
		return 2;
	close(uffd);
	if (wait_for(&left, 1, 0.2))
		return 3;
	if (!uffd_read(other, &msg, 3) || msg.event != UFFD_EVENT_PAGEFAULT)
		return 4;
	if (uffd_zeropage(other, at(FAULT_AT), page_size, 0) != (long)page_size)
		return 5;
	if (!wait_for(&left, 1, SOON))
		return 6;
	/* And the last one ends it. */
	start(toucher, at(FAULT_AT + 1));
	if (!unread(other, 3))
		return 7;
	close(other);
	return !wait_for(&left, 2, SOON);
}

/* Another process that has the descriptor. */
static int holder(void *unused)
{
	state->ready = 1;
	if (!wait_for(&state->go, 1, 10))
		return 2;
	/* First the fork that was under way, then a fault. */
	if (!read_event(uffd, UFFD_EVENT_FORK))
		return 3;
	state->seen = 1;
	if (!read_event(uffd, UFFD_EVENT_PAGEFAULT))
		return 4;
	if (uffd_zeropage(uffd, at(FAULT_AT), page_size, 0) != (long)page_size)
		return 5;
	state->seen = 2;
	return 0;
}

static int idle_holder(void *unused)
{
	state->ready = 1;
	wait_for(&state->go, 1, 10);
	return 0;
}

/* Nothing is registered yet when the other process is made, so that says nothing. */
static pid_t setup_with(int (*fn)(void *))
{
	pid_t pid;

	memset(state, 0, sizeof(*state));
	area = anon(NR_PAGES * page_size);
	uffd = uffd_open(UFFD_FEATURE_EVENT_FORK);
	pid = spawn(fn, NULL);
	must_register(uffd, area, NR_PAGES * page_size, MISSING);
	wait_for(&state->ready, 1, 5);
	return pid;
}

static int other_process(void *unused)
{
	pid_t pid = setup_with(holder);

	start(forker, NULL);
	if (!unread(uffd, 3))
		return 2;
	close(uffd);
	if (wait_for(&left, 1, 0.2))
		return 3;
	state->go = 1;
	if (!wait_for(&state->seen, 1, 5) || !wait_for(&left, 1, SOON))
		return 4;
	start(toucher, at(FAULT_AT));
	if (!wait_for(&state->seen, 2, 5) || !wait_for(&left, 2, SOON))
		return 5;
	return reap(pid, 5);
}

/* The last one that could read is killed, while the child is not there yet. */
static int other_process_killed(void *unused)
{
	pid_t pid = setup_with(idle_holder);

	start(forker, NULL);
	if (!unread(uffd, 3))
		return 2;
	close(uffd);
	if (wait_for(&left, 1, 0.2))
		return 3;
	kill(pid, SIGKILL);
	return !wait_for(&left, 1, SOON);
}

static void send_fd(int sock, int fd)
{
	char control[CMSG_SPACE(sizeof(fd))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);

	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
	if (sendmsg(sock, &msg, 0) != 1)
		_exit(10);
}

static int receive_fd(int sock)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 }, byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	int fd;

	if (recvmsg(sock, &msg, 0) != 1 || !CMSG_FIRSTHDR(&msg))
		_exit(11);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	return fd;
}

/* On its way in a message of a socket, the only one left. */
static int on_its_way(void *unused)
{
	int sock[2], other;

	setup(UFFD_FEATURE_EVENT_FORK);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sock))
		return 2;
	start(forker, NULL);
	if (!unread(uffd, 3))
		return 2;
	send_fd(sock[0], uffd);
	close(uffd);
	if (wait_for(&left, 1, 0.2))
		return 3;
	other = receive_fd(sock[1]);
	if (!read_event(other, UFFD_EVENT_FORK) || !wait_for(&left, 1, SOON))
		return 4;
	start(toucher, at(FAULT_AT));
	if (!read_event(other, UFFD_EVENT_PAGEFAULT))
		return 5;
	uffd_zeropage(other, at(FAULT_AT), page_size, 0);
	return !wait_for(&left, 2, SOON);
}

/* Many of them at the same time, and a close at any moment. */
#define NR_ACTORS 10

static atomic_bool go, closing;
static int nr_actions;

static void act(int action, char *p, int i)
{
	char *q;

	switch (action) {
	case 0:
		madvise(p, page_size, MADV_DONTNEED);
		break;
	case 1:
		store(p + (i & 3) * page_size, 1);
		break;
	case 2:
		mmap(p, page_size, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		break;
	case 3:
		q = mremap(p, 2 * page_size, 2 * page_size,
			   MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
		if (q != MAP_FAILED)
			munmap(q, 2 * page_size);
		break;
	default:
		fork_and_wait(0);
	}
}

static void *actor(void *number)
{
	long n = (long)number;

	while (!go)
		sched_yield();
	for (int i = 0; i < 20 && !closing; i++)
		act(n % nr_actions, area + n * 4 * page_size, i);
	left++;
	return NULL;
}

/* The number of actions: 4 without forks, 5 with them. */
static int stress(void *number)
{
	double end = now() + 3, closed, took;
	pthread_t threads[NR_ACTORS];
	unsigned int seed = 3;

	nr_actions = (long)number;
	while (now() < end) {
		setup(EVENTS);
		left = 0;
		go = false;
		closing = false;
		for (long i = 0; i < NR_ACTORS; i++)
			threads[i] = start(actor, (void *)i);
		go = true;
		for (int n = rand_r(&seed) % 40; n; n--) {
			struct uffd_msg msg;

			if (read(uffd, &msg, sizeof(msg)) == sizeof(msg) &&
			    msg.event == UFFD_EVENT_FORK)
				close(msg.arg.fork.ufd);
		}
		closed = now() + rand_r(&seed) % 200 / 1e6;
		while (now() < closed)
			;
		closing = true;
		close(uffd);
		closed = now();
		if (!wait_for(&left, NR_ACTORS, 5))
			return 1;
		took = (now() - closed) * 1000;
		if (took > state->slowest_ms)
			state->slowest_ms = took;
		for (int i = 0; i < NR_ACTORS; i++)
			pthread_join(threads[i], NULL);
		munmap(area, NR_PAGES * page_size);
		state->rounds++;
	}
	return 0;
}

static void test(int (*fn)(void *), const char *arg, const char *statement)
{
	int code = in_child(fn, (void *)arg, 20);

	if (code)
		ksft_print_msg("ended with %d\n", code);
	ksft_test_result(!code, "%s\n", statement);
}

static void test_stress(long actions, const char *statement)
{
	int code;

	memset(state, 0, sizeof(*state));
	code = in_child(stress, (void *)actions, 20);
	measured("rounds", state->rounds);
	measured("ms of the slowest end", state->slowest_ms);
	ksft_test_result(!code, "%s\n", statement);
}

int main(void)
{
	begin(100);
	ksft_set_plan(13);
	state = shared(sizeof(*state));

	test(lonely, "close", "close: fork goes on");
	test(lonely, "files", "close, of files that the child shares: fork goes on");
	test(lonely, "dup2", "dup2: fork goes on");
	test(lonely, "close_range", "close_range: fork goes on");
	test(crowd, NULL, "close: forks, faults and a removal go on");
	test(second_fork, NULL, "close while a child has another context: fork goes on");
	test(plain_duplicate, NULL, "a duplicate is left: it gets the fault");
	test(duplicate, NULL, "a duplicate is left: it gets the fork and a fault");
	test(other_process, NULL, "another process is left: it gets the fork and a fault");
	test(other_process_killed, NULL, "another process is left and killed: fork goes on");
	test(on_its_way, NULL, "a descriptor on its way is left: fork and a fault get there");
	test_stress(4, "close at any moment, without forks: no thread hangs");
	test_stress(5, "close at any moment, with forks: no thread hangs");

	ksft_finished();
}
