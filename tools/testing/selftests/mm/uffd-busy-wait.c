// SPDX-License-Identifier: GPL-2.0
/*
 * A task that waits for a page inside of a system call or of the delivery of a
 * signal cannot be interrupted. So it sleeps until the page comes, even if
 * handled signals, stops by a tracer, freezing or notifications are pending. It
 * does not take a CPU meanwhile, and reports the fault once. The pending work
 * is done when the page has come. A fatal signal ends the wait, and a thread
 * that waits in user mode handles a signal at once.
 */
#include "uffd-cases.h"
#include <linux/io_uring.h>
#include <sys/ptrace.h>
#include <sys/stat.h>

#define NR_PAGES	32
#define STACK_PAGES	8
#define RSEQ_PAGE	20
#define RSEQ_SIG	0x53053053

#define CGROUP		"/sys/fs/cgroup"

/* Milliseconds of a second that a task may take that sleeps. */
#define IDLE_MS		300

#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif

/* What a victim tells, and is told. */
struct shared_state {
	atomic_int uffd;
	atomic_int tid;
	atomic_int stage;
	atomic_int handled[2];
	atomic_int cancelled;
	atomic_long result;
	char *area;
};

static struct shared_state *state;
static char *source;

/* The victim that there is. */
static pid_t victim;
static int uffd;
static long messages[NR_PAGES];

static void handler(int sig)
{
	state->handled[sig == SIGUSR2]++;
}

static void handle(int sig, int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };

	sigaction(sig, &action, NULL);
}

/* Victims. They run in processes of their own. */

static void in_write(void)
{
	int pipes[2];
	long ret;

	handle(SIGUSR1, SA_RESTART);
	if (pipe(pipes))
		_exit(2);
	state->tid = gettid();
	ret = write(pipes[1], state->area, 8);
	state->result = ret < 0 ? -errno : ret;
}

static void in_load(void)
{
	handle(SIGUSR1, SA_RESTART);
	state->tid = gettid();
	state->result = load(state->area) == 0 ? 8 : 0;
}

/* Just enough of io_uring. */
struct ring {
	struct io_uring_params params;
	struct io_uring_sqe *entries;
	char *rings;
	int fd;
};

static unsigned int *ring_word(struct ring *ring, unsigned int offset)
{
	return (unsigned int *)(ring->rings + offset);
}

static void ring_open(struct ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	ring->fd = syscall(__NR_io_uring_setup, 8, &ring->params);
	if (ring->fd < 0)
		_exit(KSFT_SKIP);
	ring->rings = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_SHARED,
			   ring->fd, IORING_OFF_SQ_RING);
	ring->entries = mmap(NULL, 8 * sizeof(*ring->entries), PROT_READ | PROT_WRITE,
			     MAP_SHARED, ring->fd, IORING_OFF_SQES);
	if (ring->rings == MAP_FAILED || ring->entries == MAP_FAILED)
		_exit(KSFT_SKIP);
}

static void ring_submit(struct ring *ring, const struct io_uring_sqe *entry)
{
	unsigned int *tail = ring_word(ring, ring->params.sq_off.tail);
	unsigned int mask = *ring_word(ring, ring->params.sq_off.ring_mask);
	unsigned int i = *tail & mask;

	ring->entries[i] = *entry;
	ring_word(ring, ring->params.sq_off.array)[i] = i;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(__NR_io_uring_enter, ring->fd, 1, 0, 0, NULL, 0) != 1)
		_exit(2);
}

/* Waits for an answer, for ever. Returns to which request it is. */
static uint64_t ring_wait(struct ring *ring, int *result)
{
	unsigned int *head = ring_word(ring, ring->params.cq_off.head);
	unsigned int *tail = ring_word(ring, ring->params.cq_off.tail);
	unsigned int mask = *ring_word(ring, ring->params.cq_off.ring_mask);
	struct io_uring_cqe *answers = (void *)(ring->rings + ring->params.cq_off.cqes);
	uint64_t request;

	while (*head == __atomic_load_n(tail, __ATOMIC_ACQUIRE))
		syscall(__NR_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
	request = answers[*head & mask].user_data;
	*result = answers[*head & mask].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return request;
}

static void in_worker(void)
{
	struct io_uring_sqe cancel = {
		.opcode = IORING_OP_ASYNC_CANCEL,
		.fd = -1,
		.addr = 1,
		.user_data = 2,
	};
	struct io_uring_sqe write = {
		.opcode = IORING_OP_WRITE,
		.addr = (uintptr_t)state->area,
		.len = 8,
		.flags = IOSQE_ASYNC,
		.user_data = 1,
	};
	struct ring ring;
	int pipes[2], result;

	if (pipe(pipes))
		_exit(2);
	write.fd = pipes[1];
	ring_open(&ring);
	ring_submit(&ring, &write);
	if (!wait_for(&state->stage, 1, 10))
		_exit(2);
	ring_submit(&ring, &cancel);
	for (;;) {
		if (ring_wait(&ring, &result) == 1)
			break;
		state->cancelled = 1;
	}
	/* It was cancelled, but what it does may be done nevertheless. */
	state->result = result == -ECANCELED || result == -EINTR ? 8 : result;
}

static void in_frame(void)
{
	stack_t stack = { .ss_sp = state->area, .ss_size = STACK_PAGES * page_size };
	sigset_t both;

	handle(SIGUSR1, SA_ONSTACK);
	handle(SIGUSR2, SA_ONSTACK);
	sigemptyset(&both);
	sigaddset(&both, SIGUSR1);
	sigaddset(&both, SIGUSR2);
	sigprocmask(SIG_BLOCK, &both, NULL);
	if (sigaltstack(&stack, NULL))
		_exit(2);
	state->tid = gettid();
	kill(getpid(), SIGUSR1);
	kill(getpid(), SIGUSR2);
	sigprocmask(SIG_UNBLOCK, &both, NULL);
	state->result = 8;
}

/* A thread for which the C library has not registered rseq memory. */
static int sequenced(void *area)
{
	cpu_set_t all, one;
	int i = 0;

	sched_getaffinity(0, sizeof(all), &all);
	if (syscall(__NR_rseq, area, 32, 0, RSEQ_SIG))
		_exit(KSFT_SKIP);
	state->tid = gettid();
	madvise(area, page_size, MADV_DONTNEED);
	while (state->stage < 2) {
		/* If it runs on another CPU, the kernel writes to the memory. */
		do {
			i = (i + 1) % CPU_SETSIZE;
		} while (!CPU_ISSET(i, &all));
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		sched_setaffinity(0, sizeof(one), &one);
		sleep_ms(1);
	}
	state->result = 8;
	syscall(__NR_exit, 0);
	return 0;
}

static void in_sequence(void)
{
	int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;
	char *area = state->area + RSEQ_PAGE * page_size;
	char *stack = anon(16 * page_size);

	handle(SIGUSR1, SA_RESTART);
	if (uffd_copy(uffd, area, source, page_size, 0) != (long)page_size)
		_exit(2);
	if (clone(sequenced, stack + 16 * page_size - 64, flags, area) < 0)
		_exit(2);
	while (state->result != 8)
		sleep_ms(20);
}

static int victim_main(void *fn)
{
	state->area = anon(NR_PAGES * page_size);
	uffd = uffd_open(0);
	must_register(uffd, state->area, NR_PAGES * page_size, MISSING);
	state->uffd = uffd;
	((void (*)(void))fn)();
	return 0;
}

/* The side that watches. */

/* Reads what there is, for a time. */
static void watch(double secs)
{
	double end = now() + secs;
	struct uffd_msg msg;

	do {
		if (uffd_read(uffd, &msg, 0.02))
			messages[(msg.arg.pagefault.address - (uintptr_t)state->area) /
				 page_size]++;
	} while (now() < end);
}

static long most_messages(void)
{
	long most = 0;

	for (int i = 0; i < NR_PAGES; i++)
		if (messages[i] > most)
			most = messages[i];
	return most;
}

/* Starts a victim and waits until it waits. Returns an exit code of kselftests. */
static int victim_start(void (*fn)(void))
{
	double end = now() + 10;
	int pidfd, status;

	memset(state, 0, sizeof(*state));
	memset(messages, 0, sizeof(messages));
	state->uffd = -1;
	victim = spawn(victim_main, fn);
	if (!wait_for(&state->uffd, 0, 5))
		return KSFT_FAIL;
	pidfd = syscall(__NR_pidfd_open, victim, 0);
	uffd = syscall(__NR_pidfd_getfd, pidfd, state->uffd, 0);
	close(pidfd);
	if (uffd < 0)
		return KSFT_FAIL;
	while (!most_messages()) {
		if (waitpid(victim, &status, WNOHANG) == victim)
			return WIFEXITED(status) ? WEXITSTATUS(status) : KSFT_FAIL;
		if (now() > end)
			return KSFT_FAIL;
		watch(0.02);
	}
	return KSFT_PASS;
}

/* Brings pages until the victim is gone. Returns whether it was done before. */
static bool victim_end(void)
{
	bool copied[NR_PAGES] = { false };
	double end = now() + 5;
	int status = -1;
	bool gone;

	state->stage = 2;
	do {
		for (int i = 0; i < NR_PAGES; i++) {
			if (!messages[i] || copied[i])
				continue;
			uffd_copy(uffd, state->area + i * page_size, source, page_size, 0);
			copied[i] = true;
		}
		watch(0.02);
		gone = waitpid(victim, &status, WNOHANG) == victim;
	} while (!gone && now() < end);
	if (!gone) {
		kill(victim, SIGKILL);
		reap(victim, 5);
	}
	close(uffd);
	return gone && WIFEXITED(status) && !WEXITSTATUS(status) && state->result == 8;
}

static long cpu_ms(void)
{
	struct timespec t = { 0 };
	clockid_t clock;

	if (!clock_getcpuclockid(victim, &clock))
		clock_gettime(clock, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Two statements: for a second the victim sleeps, and says nothing more. */
static void a_second(const char *what)
{
	long before = cpu_ms(), cpu, most;
	char name[64];

	watch(1);
	cpu = cpu_ms() - before;
	most = most_messages();
	snprintf(name, sizeof(name), "%s: CPU ms of 1000", what);
	measured(name, cpu);
	snprintf(name, sizeof(name), "%s: messages for one fault", what);
	measured(name, most);
	ksft_test_result(cpu < IDLE_MS, "%s: waits asleep\n", what);
	ksft_test_result(most == 1, "%s: one message for one fault\n", what);
}

/* Accounts for @n results if there is no victim. Returns true if there is none. */
static bool no_victim(int code, int n, const char *what, const char *lacking)
{
	if (code == KSFT_PASS)
		return false;
	while (n--) {
		if (code == KSFT_SKIP)
			ksft_test_result_skip("%s: %s\n", what, lacking);
		else
			ksft_test_result_fail("%s: no fault to be seen\n", what);
	}
	kill(victim, SIGKILL);
	reap(victim, 5);
	return true;
}

static void test_write(int sig)
{
	const char *what = sig ? "system call, signal" : "system call";

	if (no_victim(victim_start(in_write), 4, what, ""))
		return;
	if (sig)
		syscall(__NR_tgkill, victim, state->tid, sig);
	a_second(what);
	ksft_test_result(victim_end(), "%s: goes on when the page has come\n", what);
	ksft_test_result(state->handled[0] == !!sig, "%s: the handler ran\n", what);
}

static void test_worker(void)
{
	const char *what = "cancelled io_uring worker";

	if (no_victim(victim_start(in_worker), 3, what, "no io_uring"))
		return;
	state->stage = 1;
	if (!wait_for(&state->cancelled, 1, 2))
		ksft_print_msg("%s: no answer to the cancellation yet\n", what);
	a_second(what);
	ksft_test_result(victim_end(), "%s: goes on when the page has come\n", what);
}

static void test_frame(void)
{
	const char *what = "signal frame, other signal";

	if (no_victim(victim_start(in_frame), 4, what, ""))
		return;
	a_second(what);
	ksft_test_result(victim_end(), "%s: goes on when the pages have come\n", what);
	ksft_test_result(state->handled[0] == 1 && state->handled[1] == 1,
			 "%s: both handlers ran\n", what);
}

static void test_sequence(void)
{
	const char *what = "restartable sequence, signal";

	if (no_victim(victim_start(in_sequence), 4, what, "no rseq"))
		return;
	syscall(__NR_tgkill, victim, state->tid, SIGUSR1);
	a_second(what);
	ksft_test_result(victim_end(), "%s: goes on when the page has come\n", what);
	ksft_test_result(state->handled[0] == 1, "%s: the handler ran\n", what);
}

static bool is_stopped(double secs)
{
	double end = now() + secs;
	int status;

	do {
		if (waitpid(victim, &status, WNOHANG | __WALL) == victim)
			return WIFSTOPPED(status) && status >> 16 == PTRACE_EVENT_STOP;
		sleep_ms(1);
	} while (now() < end);
	return false;
}

static void bring_first(void)
{
	uffd_copy(uffd, state->area, source, page_size, 0);
}

static void test_ptrace(void)
{
	const char *what = "system call, tracer";
	bool early;

	if (no_victim(victim_start(in_write), 4, what, ""))
		return;
	if (ptrace(PTRACE_SEIZE, victim, 0, 0) || ptrace(PTRACE_INTERRUPT, victim, 0, 0))
		ksft_exit_fail_perror("ptrace");
	a_second(what);
	early = is_stopped(0);
	measured("system call, tracer: stopped before the page came", early);
	bring_first();
	ksft_test_result(early || is_stopped(3), "%s: stops when the page has come\n", what);
	ptrace(PTRACE_DETACH, victim, 0, 0);
	ksft_test_result(victim_end(), "%s: goes on after the stop\n", what);
}

static bool is_frozen(const char *group, double secs)
{
	double end = now() + secs;
	char path[128], buf[128];
	int fd;

	snprintf(path, sizeof(path), "%s/cgroup.events", group);
	do {
		ssize_t n = 0;

		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0) {
			n = read(fd, buf, sizeof(buf) - 1);
			close(fd);
		}
		buf[n > 0 ? n : 0] = 0;
		if (strstr(buf, "frozen 1"))
			return true;
		sleep_ms(1);
	} while (now() < end);
	return false;
}

static void test_freeze(void)
{
	const char *what = "system call, freezer";
	char group[64], path[128], pid[16];
	bool early;

	snprintf(group, sizeof(group), CGROUP "/uffd-busy-wait.%d", getpid());
	snprintf(path, sizeof(path), "%s/cgroup.freeze", group);
	if (access(CGROUP "/cgroup.controllers", F_OK) || mkdir(group, 0755) ||
	    access(path, F_OK)) {
		for (int i = 0; i < 4; i++)
			ksft_test_result_skip("%s: no cgroup v2 with a freezer at " CGROUP "\n",
					      what);
		rmdir(group);
		return;
	}
	if (!no_victim(victim_start(in_write), 4, what, "")) {
		snprintf(pid, sizeof(pid), "%d", victim);
		snprintf(path, sizeof(path), "%s/cgroup.procs", group);
		if (knob_write(path, pid))
			ksft_exit_fail_perror("cgroup.procs");
		snprintf(path, sizeof(path), "%s/cgroup.freeze", group);
		knob_write(path, "1");
		a_second(what);
		early = is_frozen(group, 0);
		measured("system call, freezer: frozen before the page came", early);
		bring_first();
		ksft_test_result(early || is_frozen(group, 3),
				 "%s: frozen when the page has come\n", what);
		knob_write(path, "0");
		ksft_test_result(victim_end(), "%s: goes on after that\n", what);
	}
	for (int i = 0; i < 100 && rmdir(group) && errno == EBUSY; i++)
		sleep_ms(10);
}

static void test_kill(int sig)
{
	const char *what = sig ? "system call, signal, SIGKILL" : "system call, SIGKILL";
	double begun;
	int code;

	if (no_victim(victim_start(in_write), 1, what, ""))
		return;
	if (sig) {
		syscall(__NR_tgkill, victim, state->tid, sig);
		sleep_ms(50);
	}
	begun = now();
	kill(victim, SIGKILL);
	code = reap(victim, 2);
	ksft_test_result(code == 256 + SIGKILL, "%s: ends\n", what);
	measured("ms until SIGKILL has ended it", (now() - begun) * 1000);
	close(uffd);
}

static void test_load(void)
{
	const char *what = "load in user mode";

	if (no_victim(victim_start(in_load), 3, what, ""))
		return;
	syscall(__NR_tgkill, victim, state->tid, SIGUSR1);
	ksft_test_result(wait_for(&state->handled[0], 1, 3),
			 "%s: a signal is handled before the page comes\n", what);
	if (ptrace(PTRACE_SEIZE, victim, 0, 0) || ptrace(PTRACE_INTERRUPT, victim, 0, 0))
		ksft_exit_fail_perror("ptrace");
	ksft_test_result(is_stopped(3), "%s: a tracer stops it before the page comes\n", what);
	ptrace(PTRACE_DETACH, victim, 0, 0);
	ksft_test_result(victim_end(), "%s: goes on when the page has come\n", what);
}

int main(void)
{
	begin(60);
	ksft_set_plan(4 + 4 + 3 + 4 + 4 + 4 + 4 + 2 + 3);
	state = shared(sizeof(*state));
	source = anon(page_size);
	memset(source, 0, page_size);

	test_write(0);
	test_write(SIGUSR1);
	test_worker();
	test_frame();
	test_sequence();
	test_ptrace();
	test_freeze();
	test_kill(0);
	test_kill(SIGUSR1);
	test_load();

	ksft_finished();
}
