// SPDX-License-Identifier: GPL-2.0
/*
 * UFFDIO_MOVE of a part of a huge page that has another reference, so that it
 * cannot be split: it fails with EBUSY soon, so that the caller can copy
 * instead, because the reference may be held forever. The same for any page
 * that is pinned. A page that need not be split can be moved if the reference
 * is no pin.
 */
#include "uffd-cases.h"
#include <linux/io_uring.h>
#include <sys/uio.h>

#define ENABLED	"/sys/kernel/mm/transparent_hugepage/enabled"

enum holder { NOBODY, PIPE, RING, NR_HOLDERS };

static const char * const holders[] = {
	"none", "a pipe", "an io_uring buffer",
};

struct request {
	const char *name;
	size_t offset;		/* of what is moved, from what is held, in small pages */
	bool huge;
	bool whole;
};

static const struct request requests[] = {
	{ "a small page", 0, false, false },
	{ "a huge page", 0, true, true },
	{ "the part of a huge page that is held", 0, true, false },
	{ "another part of a huge page", 8, true, false },
};

/* What the process that asks tells. */
struct answer {
	enum holder holder;
	const struct request *request;
	bool held;
	bool huge;
	long ret;
	long us;
	bool there;		/* at the source, with its contents */
};

static size_t huge_size;

static bool hold(enum holder holder, char *p)
{
	struct io_uring_params params = { 0 };
	struct iovec iov = { p, page_size };
	int pipes[2], ring;

	switch (holder) {
	case PIPE:
		return !pipe(pipes) && vmsplice(pipes[1], &iov, 1, 0) > 0;
	case RING:
		ring = syscall(__NR_io_uring_setup, 4, &params);
		return ring >= 0 &&
		       !syscall(__NR_io_uring_register, ring, IORING_REGISTER_BUFFERS, &iov, 1);
	default:
		return true;
	}
}

/* Whether a page is part of a huge page that is mapped as one. */
static bool is_huge(const char *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long from, to;
	bool in = false;
	char line[256];
	long kb = 0;

	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			in = (uintptr_t)p >= from && (uintptr_t)p < to;
		else if (in && sscanf(line, "AnonHugePages: %ld", &kb) == 1)
			break;
	}
	if (f)
		fclose(f);
	return kb << 10 >= (long)huge_size;
}

static int ask(void *p)
{
	size_t size = huge_size ? huge_size : 16 * page_size;
	struct answer *answer = p;
	const struct request *request = answer->request;
	char *dst = anon_aligned(2 * size, size);
	char *src = anon_aligned(2 * size, size);
	char *from = src + request->offset * page_size;
	int uffd = uffd_open(UFFD_FEATURE_MOVE);
	double begun;

	if (huge_size)
		madvise(src, size, request->huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
	memset(src, 6, size);
	answer->huge = request->huge && is_huge(src);
	must_register(uffd, dst, size, MISSING);
	answer->held = hold(answer->holder, src);
	if (!answer->held)
		return 0;
	begun = now();
	answer->ret = uffd_move(uffd, dst, from, request->whole ? size : page_size, 0);
	answer->us = (now() - begun) * 1e6;
	answer->there = load(answer->ret < 0 ? from : dst) == 6;
	return 0;
}

static void test(enum holder holder, const struct request *request)
{
	struct answer *answer = shared(sizeof(*answer));
	char name[96];
	long expected;
	bool moves;
	int code;

	snprintf(name, sizeof(name), "%s, held by %s", request->name, holders[holder]);
	if (request->huge && !huge_size) {
		ksft_test_result_skip("%s: no transparent huge pages\n", name);
		return;
	}
	answer->holder = holder;
	answer->request = request;
	code = in_child(ask, answer, 3);
	if (code == CHILD_HUNG || code == CHILD_UNKILLABLE) {
		ksft_test_result_fail("%s: not back after 3 s%s\n", name,
				      code == CHILD_UNKILLABLE ? ", and not to be killed" : "");
	} else if (code) {
		ksft_test_result_fail("%s: ended with %d\n", name, code);
	} else if (!answer->held) {
		ksft_test_result_skip("%s: cannot be held so\n", name);
	} else if (request->huge && !answer->huge) {
		ksft_test_result_skip("%s: no huge page to be had\n", name);
	} else {
		moves = holder == NOBODY ||
			(holder == PIPE && (request->whole || !request->huge));
		expected = !moves ? -EBUSY :
			   request->whole ? (long)huge_size : (long)page_size;
		ksft_print_msg("%s: %s after %ld us\n", name, name_of(answer->ret), answer->us);
		ksft_test_result(answer->ret == expected && answer->there, "%s: %s\n", name,
				 moves ? "moved" : "EBUSY, and still there");
	}
	munmap(answer, sizeof(*answer));
}

int main(void)
{
	int uffd;

	begin(90);
	uffd = uffd_open_with(O_NONBLOCK, UFFD_FEATURE_MOVE);
	if (uffd < 0)
		ksft_exit_skip("no UFFDIO_MOVE\n");
	close(uffd);
	huge_size = thp_size();
	if (huge_size && knob_set(ENABLED, "madvise"))
		huge_size = 0;

	ksft_set_plan(NR_HOLDERS * ARRAY_SIZE(requests));
	for (int i = 0; i < NR_HOLDERS; i++)
		for (size_t k = 0; k < ARRAY_SIZE(requests); k++)
			test(i, &requests[k]);

	ksft_finished();
}
