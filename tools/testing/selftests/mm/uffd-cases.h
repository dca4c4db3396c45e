/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the programs share that look at one promise of userfaultfd each:
 * uffd-busy-wait, uffd-changing, uffd-close-fork, uffd-copy-large,
 * uffd-copy-retry, uffd-eexist, uffd-fill-races, uffd-fill-rivals,
 * uffd-hugetlb-races, uffd-hugetlb-wp, uffd-map-limit, uffd-markers,
 * uffd-move-huge-zero, uffd-move-pinned, uffd-move-races, uffd-move-threads,
 * uffd-special.
 *
 * Whatever may hang runs in a process of its own, which is killed when its
 * time is up. So the first process always comes back, and can put settings of
 * the system back to what they were.
 */
#ifndef _MM_UFFD_CASES_H
#define _MM_UFFD_CASES_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>

#include "../kselftest.h"

#define MISSING	UFFDIO_REGISTER_MODE_MISSING
#define WP	UFFDIO_REGISTER_MODE_WP
#define MINOR	UFFDIO_REGISTER_MODE_MINOR

/* What a process did that had to be killed, and one that survived that. */
#define CHILD_HUNG	(-1)
#define CHILD_UNKILLABLE (-2)

static size_t page_size;

/* Numbers that say more than pass or fail, in a form that scripts can read. */
static inline void measured(const char *name, long value)
{
	ksft_print_msg("measure: %s = %ld\n", name, value);
}

static inline double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static inline void sleep_ms(long n)
{
	struct timespec t = { n / 1000, n % 1000 * 1000000 };

	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* Waits until a counter has reached a value. */
static inline bool wait_for(atomic_int *counter, int value, double secs)
{
	double end = now() + secs;

	while (*counter < value) {
		if (now() > end)
			return false;
		sleep_ms(1);
	}
	return true;
}

/* Settings of the system. */
struct knob {
	const char *path;
	char old[64];
};

static struct knob knobs[8];
static int nr_knobs;

static inline int knob_read(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *from, *to;
	ssize_t n;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	close(fd);
	if (n < 0)
		return -EIO;
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	/* If one of several words is chosen, it stands in brackets. */
	from = strchr(buf, '[');
	to = from ? strchr(from, ']') : NULL;
	if (to) {
		*to = 0;
		memmove(buf, from + 1, to - from);
	}
	return 0;
}

static inline int knob_write(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (write(fd, value, strlen(value)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static inline void knobs_restore(void)
{
	while (nr_knobs) {
		nr_knobs--;
		knob_write(knobs[nr_knobs].path, knobs[nr_knobs].old);
	}
}

/* Changes a setting until the program ends. */
static inline int knob_set(const char *path, const char *value)
{
	struct knob *knob = &knobs[nr_knobs];
	int ret;

	if (nr_knobs == ARRAY_SIZE(knobs))
		return -ENOSPC;
	knob->path = path;
	ret = knob_read(path, knob->old, sizeof(knob->old));
	if (ret)
		return ret;
	ret = knob_write(path, value);
	if (!ret)
		nr_knobs++;
	return ret;
}

static inline void out_of_time(int sig)
{
	static const char text[] = "Bail out! Out of time\n";

	knobs_restore();
	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(KSFT_FAIL);
	_exit(KSFT_FAIL);
}

/* Begins a program with a limit of its time. */
static inline void begin(unsigned int secs)
{
	int fd;

	page_size = sysconf(_SC_PAGESIZE);
	ksft_print_header();
	if (geteuid())
		ksft_exit_skip("must be run as root\n");
	fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		ksft_exit_skip("no userfaultfd: %s\n", strerror(errno));
	close(fd);
	atexit(knobs_restore);
	signal(SIGALRM, out_of_time);
	alarm(secs);
}

/* Waits for a process. Returns its exit code, or why there is none. */
static inline int reap(pid_t pid, double secs)
{
	double end = now() + secs;
	bool killed = false;
	int status;

	for (;;) {
		pid_t ret = waitpid(pid, &status, WNOHANG | __WALL);

		if (ret < 0)
			return CHILD_UNKILLABLE;
		if (ret == pid && !WIFSTOPPED(status))
			break;
		if (now() > end) {
			if (killed)
				return CHILD_UNKILLABLE;
			killed = true;
			kill(pid, SIGKILL);
			end = now() + 5;
		}
		sleep_ms(1);
	}
	if (killed)
		return CHILD_HUNG;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Starts a process that ends with this one. */
static inline pid_t spawn(int (*fn)(void *), void *arg)
{
	pid_t pid = fork();

	if (pid < 0)
		ksft_exit_fail_perror("fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		signal(SIGALRM, SIG_DFL);
		nr_knobs = 0;
		_exit(fn(arg));
	}
	return pid;
}

static inline int in_child(int (*fn)(void *), void *arg, double secs)
{
	return reap(spawn(fn, arg), secs);
}

/* A fork with nothing of the C library about it, whose child ends at once. */
static inline void fork_and_wait(uint64_t flags)
{
	struct clone_args args = { .flags = flags, .exit_signal = SIGCHLD };
	long pid = syscall(__NR_clone3, &args, sizeof(args));

	if (!pid)
		syscall(__NR_exit_group, 0);
	if (pid > 0)
		waitpid(pid, NULL, 0);
}

static inline pthread_t start(void *(*fn)(void *), void *arg)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, fn, arg))
		ksft_exit_fail_msg("pthread_create failed\n");
	return thread;
}

static inline char *map(size_t len, int flags, int fd)
{
	char *p = mmap(NULL, len, PROT_READ | PROT_WRITE, flags, fd, 0);

	if (p == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
	return p;
}

static inline char *anon(size_t len)
{
	return map(len, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

/* Memory that child processes have in common with their parent. */
static inline void *shared(size_t len)
{
	return map(len, MAP_SHARED | MAP_ANONYMOUS, -1);
}

/* Private memory at a multiple of @align. */
static inline char *anon_aligned(size_t len, size_t align)
{
	char *p = anon(len + align);

	return (char *)(((uintptr_t)p + align - 1) & ~(align - 1));
}

static inline int memfd(size_t len, unsigned int flags)
{
	int fd = memfd_create("uffd", MFD_CLOEXEC | flags);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, len)) {
		close(fd);
		return -ENOSPC;
	}
	return fd;
}

/* The size of transparent huge pages, or 0 if there are none. */
static inline size_t thp_size(void)
{
	char buf[64];

	if (knob_read("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size",
		      buf, sizeof(buf)))
		return 0;
	return strtoul(buf, NULL, 10);
}

/* A number of /proc/meminfo. */
static inline long meminfo_of(const char *name)
{
	FILE *f = fopen("/proc/meminfo", "re");
	size_t len = strlen(name);
	char line[128];
	long value = -1;

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && line[len] == ':')
			value = atol(line + len + 1);
	if (f)
		fclose(f);
	return value;
}

/* The size of huge pages of hugetlbfs if some are free, or 0. */
static inline size_t hugetlb_size(long pages)
{
	if (meminfo_of("HugePages_Free") - meminfo_of("HugePages_Rsvd") < pages)
		return 0;
	return meminfo_of("Hugepagesize") << 10;
}

/* A descriptor, or -EINVAL if the kernel does not have all the features. */
static inline int uffd_open_with(int flags, uint64_t features)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | flags);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, UFFDIO_API, &api)) {
		close(fd);
		return -EINVAL;
	}
	return fd;
}

static inline int uffd_open(uint64_t features)
{
	int fd = uffd_open_with(O_NONBLOCK, features);

	if (fd < 0)
		ksft_exit_fail_msg("userfaultfd with features %#llx: %s\n",
				   (unsigned long long)features, strerror(-fd));
	return fd;
}

/* The following return 0 or a number of bytes, or -errno. */
static inline long uffd_register(int fd, const void *p, size_t len, uint64_t mode)
{
	struct uffdio_register reg = {
		.range = { .start = (uintptr_t)p, .len = len },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_REGISTER, &reg) ? -errno : 0;
}

static inline void must_register(int fd, const void *p, size_t len, uint64_t mode)
{
	long ret = uffd_register(fd, p, len, mode);

	if (ret)
		ksft_exit_fail_msg("UFFDIO_REGISTER: %s\n", strerror(-ret));
}

static inline long uffd_unregister(int fd, const void *p, size_t len)
{
	struct uffdio_range range = { .start = (uintptr_t)p, .len = len };

	return ioctl(fd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

static inline long uffd_wake(int fd, const void *p, size_t len)
{
	struct uffdio_range range = { .start = (uintptr_t)p, .len = len };

	return ioctl(fd, UFFDIO_WAKE, &range) ? -errno : 0;
}

/* @field gets what the kernel wrote into the structure. */
static inline long uffd_copy_field(int fd, void *dst, const void *src, size_t len,
				   uint64_t mode, int64_t *field)
{
	struct uffdio_copy copy = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = len,
		.mode = mode,
	};
	long ret = ioctl(fd, UFFDIO_COPY, &copy) ? -errno : copy.copy;

	*field = copy.copy;
	return ret;
}

static inline long uffd_copy(int fd, void *dst, const void *src, size_t len, uint64_t mode)
{
	int64_t field;

	return uffd_copy_field(fd, dst, src, len, mode, &field);
}

static inline long uffd_zeropage(int fd, void *dst, size_t len, uint64_t mode)
{
	struct uffdio_zeropage zero = {
		.range = { .start = (uintptr_t)dst, .len = len },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_ZEROPAGE, &zero) ? -errno : zero.zeropage;
}

static inline long uffd_continue(int fd, void *dst, size_t len, uint64_t mode)
{
	struct uffdio_continue cont = {
		.range = { .start = (uintptr_t)dst, .len = len },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_CONTINUE, &cont) ? -errno : cont.mapped;
}

static inline long uffd_poison(int fd, void *dst, size_t len, uint64_t mode)
{
	struct uffdio_poison poison = {
		.range = { .start = (uintptr_t)dst, .len = len },
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_POISON, &poison) ? -errno : poison.updated;
}

static inline long uffd_move(int fd, void *dst, void *src, size_t len, uint64_t mode)
{
	struct uffdio_move move = {
		.dst = (uintptr_t)dst,
		.src = (uintptr_t)src,
		.len = len,
		.mode = mode,
	};

	return ioctl(fd, UFFDIO_MOVE, &move) ? -errno : move.move;
}

static inline long uffd_wp(int fd, void *dst, size_t len)
{
	struct uffdio_writeprotect wp = {
		.range = { .start = (uintptr_t)dst, .len = len },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &wp) ? -errno : 0;
}

/* Waits for a message. */
static inline bool uffd_read(int fd, struct uffd_msg *msg, double secs)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	double end = now() + secs;

	while (read(fd, msg, sizeof(*msg)) != sizeof(*msg)) {
		if (now() >= end)
			return false;
		poll(&pollfd, 1, 20);
	}
	return true;
}

/* How many threads wait in faults, or -1. */
static inline long uffd_waiting(int fd)
{
	char path[64], line[128];
	long total = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "total: %ld", &total) == 1)
			break;
	if (f)
		fclose(f);
	return total;
}

static inline bool wait_waiting(int fd, long want, double secs)
{
	double end = now() + secs;

	while (uffd_waiting(fd) != want) {
		if (now() > end)
			return false;
		sleep_ms(1);
	}
	return true;
}

/* What /proc/self/pagemap says about a page. */
static inline uint64_t pagemap_entry(const void *p)
{
	static int fd = -1;
	uint64_t entry = 0;

	if (fd < 0)
		fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (pread(fd, &entry, sizeof(entry), (uintptr_t)p / page_size * sizeof(entry)) !=
	    sizeof(entry))
		return 0;
	return entry;
}

static inline bool present(const void *p)
{
	return pagemap_entry(p) >> 63;
}

/* Neither present nor swapped. */
static inline bool empty(const void *p)
{
	return !(pagemap_entry(p) >> 62);
}

static inline char load(const char *p)
{
	return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void store(char *p, char c)
{
	__atomic_store_n(p, c, __ATOMIC_RELAXED);
}

static inline const char *name_of(long ret)
{
	return ret < 0 ? strerror(-ret) : "success";
}

#endif /* _MM_UFFD_CASES_H */
