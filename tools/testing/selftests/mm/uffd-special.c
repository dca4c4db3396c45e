// SPDX-License-Identifier: GPL-2.0
/*
 * Mappings that are not memory of the usual kind (VM_SPECIAL) cannot be
 * registered, in no mode: rings of io_uring and perf, the vdso. Memory of the
 * usual kinds can, also hugetlb, which has one of those flags, and what is mapped
 * below vm.mmap_min_addr by those who may do that. And a copy to hugetlb memory
 * that fails gives back the huge pages that it took, and the reservation.
 */
#include "uffd-cases.h"
#include <linux/io_uring.h>
#include <linux/perf_event.h>

static const struct {
	const char *name;
	uint64_t mode;
} modes[] = {
	{ "missing", MISSING },
	{ "wp", WP },
	{ "missing and wp", MISSING | WP },
	{ "minor", MINOR },
};

#define FEATURES (UFFD_FEATURE_MINOR_HUGETLBFS | UFFD_FEATURE_MINOR_SHMEM |	\
		  UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

/* All modes, without and with asynchronous write protection. */
#define NR_WAYS		(2 * ARRAY_SIZE(modes))

struct place {
	const char *name;
	const char *lacking;	/* why it is not here, or NULL */
	void *p;
	size_t len;
};

static struct place ring_place(void)
{
	struct place place = { .name = "io_uring ring", .len = page_size };
	struct io_uring_params params = { 0 };
	int ring = syscall(__NR_io_uring_setup, 8, &params);

	if (ring < 0) {
		place.lacking = "no io_uring";
		return place;
	}
	place.p = mmap(NULL, page_size, PROT_READ | PROT_WRITE, MAP_SHARED, ring,
		       IORING_OFF_SQ_RING);
	if (place.p == MAP_FAILED)
		place.lacking = "cannot be mapped";
	return place;
}

static struct place perf_place(void)
{
	struct place place = { .name = "perf ring", .len = 2 * page_size };
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.sample_period = 1000000,
	};
	int event = syscall(__NR_perf_event_open, &attr, 0, -1, -1, 0);

	if (event < 0) {
		place.lacking = "no perf events";
		return place;
	}
	place.p = mmap(NULL, place.len, PROT_READ | PROT_WRITE, MAP_SHARED, event, 0);
	if (place.p == MAP_FAILED)
		place.lacking = "cannot be mapped";
	return place;
}

/* A mapping of this process that has a name. */
static struct place named_place(const char *name)
{
	struct place place = { .name = name, .lacking = "no such mapping" };
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long from, to;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (!strstr(line, name) || sscanf(line, "%lx-%lx ", &from, &to) != 2)
			continue;
		place.p = (void *)from;
		place.len = to - from;
		place.lacking = NULL;
		break;
	}
	if (f)
		fclose(f);
	return place;
}

/* Registers in all ways. Counts those that have an answer. */
static int ways(const struct place *place, long answer)
{
	int count = 0;

	for (int async = 0; async < 2; async++) {
		for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
			int fd = uffd_open(FEATURES | (async ? UFFD_FEATURE_WP_ASYNC : 0));
			long ret = uffd_register(fd, place->p, place->len, modes[i].mode);

			if (ret == answer)
				count++;
			else
				ksft_print_msg("%s, %s%s: %s\n", place->name, modes[i].name,
					       async ? ", asynchronous" : "", name_of(ret));
			close(fd);
		}
	}
	return count;
}

static void test_special(struct place place)
{
	if (place.lacking) {
		ksft_test_result_skip("%s: %s\n", place.name, place.lacking);
		return;
	}
	ksft_test_result(ways(&place, -EINVAL) == NR_WAYS, "%s: EINVAL in all modes\n",
			 place.name);
}

static void test_usual(const char *name, void *p, size_t len)
{
	struct place place = { .name = name, .p = p, .len = len };

	if (!p)
		ksft_test_result_skip("%s: no such memory\n", name);
	else
		ksft_test_result(ways(&place, 0) == NR_WAYS, "%s: works in all modes\n", name);
}

/* Copies from what cannot be read. */
static void test_reservation(const char *name, int flags, size_t size)
{
	long available, reserved, available_then, reserved_then;
	char *dst, *source;
	int uffd, fd = -1;
	bool same;
	long ret;

	if (!size) {
		ksft_test_result_skip("%s: no huge pages\n", name);
		return;
	}
	if (!(flags & MAP_ANONYMOUS)) {
		fd = memfd(4 * size, MFD_HUGETLB);
		if (fd < 0) {
			ksft_test_result_skip("%s: no such memory\n", name);
			return;
		}
	}
	dst = map(4 * size, flags, fd);
	source = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uffd = uffd_open(UFFD_FEATURE_MISSING_HUGETLBFS);
	must_register(uffd, dst, 4 * size, MISSING);
	available = meminfo_of("HugePages_Free");
	reserved = meminfo_of("HugePages_Rsvd");
	ret = uffd_copy(uffd, dst, source, size, 0);
	available_then = meminfo_of("HugePages_Free");
	reserved_then = meminfo_of("HugePages_Rsvd");
	same = available_then == available && reserved_then == reserved;
	ksft_print_msg("%s: %s, %ld free, %ld reserved, then %ld and %ld\n", name, name_of(ret),
		       available, reserved, available_then, reserved_then);
	/* It works once the source can be read, from what was reserved. */
	mprotect(source, size, PROT_READ | PROT_WRITE);
	memset(source, 4, size);
	ksft_test_result(ret == -EFAULT && same &&
			 uffd_copy(uffd, dst, source, size, 0) == (long)size && load(dst) == 4,
			 "%s: a copy that fails costs nothing\n", name);
	close(uffd);
	munmap(dst, 4 * size);
	munmap(source, size);
	if (fd >= 0)
		close(fd);
}

/* Whether something may be there was decided when it was mapped. */
static void test_low(void)
{
	char *low = (char *)page_size;
	char min[32], *p, *source;
	int uffd;

	snprintf(min, sizeof(min), "%zu", 2 * page_size);
	if (knob_set("/proc/sys/vm/mmap_min_addr", min)) {
		ksft_test_result_skip("vm.mmap_min_addr cannot be set\n");
		return;
	}
	p = mmap(low, page_size, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != low) {
		ksft_test_result_skip("nothing can be mapped below vm.mmap_min_addr\n");
		return;
	}
	source = anon(page_size);
	memset(source, 4, page_size);
	uffd = uffd_open(0);
	ksft_test_result(!uffd_register(uffd, low, page_size, MISSING) &&
			 uffd_copy(uffd, low, source, page_size, 0) == (long)page_size &&
			 load(low) == 4,
			 "below vm.mmap_min_addr: can be registered and filled\n");
	close(uffd);
	munmap(low, page_size);
	munmap(source, page_size);
}

int main(void)
{
	int uffd, fd;
	size_t huge;

	begin(60);
	uffd = uffd_open_with(O_NONBLOCK, FEATURES | UFFD_FEATURE_WP_ASYNC);
	if (uffd < 0)
		ksft_exit_skip("not all features\n");
	close(uffd);
	ksft_set_plan(9);

	huge = hugetlb_size(4);
	test_special(ring_place());
	test_special(perf_place());
	test_special(named_place("[vdso]"));
	test_special(named_place("[vvar]"));

	fd = memfd(4 * page_size, 0);
	test_usual("shmem", fd < 0 ? NULL : map(4 * page_size, MAP_SHARED, fd), 4 * page_size);
	fd = huge ? memfd(2 * huge, MFD_HUGETLB) : -1;
	test_usual("hugetlb", fd < 0 ? NULL : map(2 * huge, MAP_SHARED, fd), 2 * huge);

	test_low();
	test_reservation("hugetlb, shared", MAP_SHARED, huge);
	test_reservation("hugetlb, private", MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, huge);

	ksft_finished();
}
