// SPDX-License-Identifier: GPL-2.0
/*
 * userfaultfd from a 32-bit program: register, fault, read, copy, wake.
 *
 * The structures of the interface are the same for 32-bit and 64-bit
 * programs, so a 32-bit program goes through the compat ioctl entry with
 * nothing but its pointers widened. Build it with -m32; it also works
 * without.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../kselftest.h"

#define NR_PAGES 3

static char *area;
static size_t page_size;

static uint64_t address(const void *p)
{
	return (uintptr_t)p;
}

static void *touch(void *unused)
{
	for (int i = 0; i < NR_PAGES; i++) {
		if (__atomic_load_n(area + i * page_size, __ATOMIC_RELAXED) != 'a' + i)
			return "wrong contents";
	}
	return NULL;
}

/* Creates a descriptor, through the device if @device is set. */
static int create(bool device)
{
	int dev, fd;

	if (!device)
		return syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return dev;
	fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	close(dev);
	return fd;
}

/* Waits for the fault on page @i and resolves it. Returns what went wrong. */
static const char *resolve(int fd, char *source, int i)
{
	struct pollfd pollfd = { .fd = fd, .events = POLLIN };
	struct uffdio_copy copy = { .mode = UFFDIO_COPY_MODE_DONTWAKE };
	struct uffdio_range range = { 0 };
	struct uffd_msg msg;

	if (poll(&pollfd, 1, 10000) != 1 ||
	    read(fd, &msg, sizeof(msg)) != sizeof(msg))
		return "no message";
	if (msg.event != UFFD_EVENT_PAGEFAULT ||
	    msg.arg.pagefault.address != address(area + i * page_size))
		return "wrong message";

	memset(source, 'a' + i, page_size);
	copy.src = address(source);
	copy.dst = msg.arg.pagefault.address;
	copy.len = page_size;
	if (ioctl(fd, UFFDIO_COPY, &copy) || copy.copy != (int64_t)page_size)
		return "copy failed";

	range.start = copy.dst;
	range.len = page_size;
	if (ioctl(fd, UFFDIO_WAKE, &range))
		return "wake failed";
	return NULL;
}

/* Returns what went wrong. */
static const char *check(bool device)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	const char *problem;
	pthread_t thread;
	void *result;
	char *source;
	int fd;

	fd = create(device);
	if (fd < 0)
		return "create failed";
	if (ioctl(fd, UFFDIO_API, &api))
		return "handshake failed";
	area = mmap(NULL, NR_PAGES * page_size, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	source = mmap(NULL, page_size, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (area == MAP_FAILED || source == MAP_FAILED)
		return "no memory";
	reg.range.start = address(area);
	reg.range.len = NR_PAGES * page_size;
	if (ioctl(fd, UFFDIO_REGISTER, &reg))
		return "register failed";
	if (pthread_create(&thread, NULL, touch, NULL))
		return "no thread";

	for (int i = 0; i < NR_PAGES; i++) {
		problem = resolve(fd, source, i);
		if (problem)
			return problem;
	}
	pthread_join(thread, &result);
	close(fd);
	return result;
}

int main(void)
{
	page_size = sysconf(_SC_PAGESIZE);

	ksft_print_header();
	ksft_set_plan(2);
	for (int device = 0; device < 2; device++) {
		const char *problem = check(device);

		if (problem)
			ksft_print_msg("%s\n", problem);
		ksft_test_result(!problem, "%s, %zu-bit pointers\n",
				 device ? "device" : "system call",
				 sizeof(void *) * 8);
	}
	ksft_finished();
}
