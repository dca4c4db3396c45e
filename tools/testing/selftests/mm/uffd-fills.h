/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What uffd-fill-races and uffd-fill-rivals share, and uffd-move-races in part:
 * memory that is filled, one fill and its answer, and what is in the pages
 * afterwards. What is wrong is said and counted.
 */
#ifndef _MM_UFFD_FILLS_H
#define _MM_UFFD_FILLS_H

#include "uffd-cases.h"
#include <setjmp.h>
#include <stdarg.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

#define NR_FILLERS	2
#define NR_TABLES	3	/* page tables that it needs */

/* Contents of the page with number 0. */
#define COPIED		0x5546464443000000ULL
#define IN_FILE		0x5546464446000000ULL

enum memory { ANON, PRIVATE, SHARED, NR_MEMORIES };

enum fill { ZERO, POISON, COPY, ABSENT, NR_FILLS, MIXED = NR_FILLS, NR_MIXES };

static const char * const fills[] = {
	"ZEROPAGE", "POISON", "COPY", "COPY of an absent page", "mixed",
};

struct race {
	const char *name;
	enum memory memory;
	/* Changes the page tables once. */
	void (*step)(void);
	bool vanishes;	/* fills may find no memory, or a part of it */
	bool shrinks;	/* fills may find the end of the file */
	bool in_file;	/* the file has contents */
	bool huge;	/* pages may be huge */
	bool swap;	/* pages are swapped out */
	bool wp;	/* pages are write-protected */
};

static const struct race *race;

/* Copies use large folios for private memory, if the kernel can do that. */
static bool large;

/*
 * All mappings that change are in one part of the address space, so that their
 * page tables hold nothing else.
 */
static size_t table_size, size, arena_size;
static long nr_pages;
static char *arena, *area, *away, *absent[NR_FILLERS];
static char *source;
static int absent_fd, fd, uffd, pagemap_fd;
static __u64 *entries;

static atomic_long wrong, calls, partial, again, exists, vanished, beyond;
static __thread unsigned int seed = 1;

/* Says what is wrong, but not too often. */
static inline void __printf(1, 2) complain(const char *fmt, ...)
{
	char text[160];
	va_list args;

	if (atomic_fetch_add(&wrong, 1) >= 8)
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	ksft_print_msg("%s\n", text);
}

static inline long below(long limit)
{
	return rand_r(&seed) % limit;
}

static inline char *page(long i)
{
	return area + i * page_size;
}

static inline __u64 *first_word(char *p)
{
	return (__u64 *)p;
}

static inline __u64 *last_word(char *p)
{
	return (__u64 *)(p + page_size) - 1;
}

static inline void write_pages(char *p, __u64 contents)
{
	for (long i = 0; i < nr_pages; i++) {
		*first_word(p + i * page_size) = contents + i;
		*last_word(p + i * page_size) = contents + i;
	}
}

/* Memory that another mapping or nothing was in the place of. */
static inline void map_at(char *p, size_t len, int prot, int flags, int file)
{
	if (mmap(p, len, prot, MAP_FIXED | flags, file, 0) != p)
		ksft_exit_fail_perror("mmap");
}

static inline void map_area(void)
{
	int flags = race->memory == SHARED ? MAP_SHARED : MAP_PRIVATE;

	if (race->memory == ANON)
		flags |= MAP_ANONYMOUS;
	map_at(area, size, PROT_READ | PROT_WRITE, flags, fd);
	if (race->huge || (large && race->memory == ANON))
		madvise(area, size, MADV_HUGEPAGE);
}

static inline void register_area(void)
{
	long ret = uffd_register(uffd, area, size,
				 race->wp ? MISSING | WP : MISSING);

	if (ret)
		complain("UFFDIO_REGISTER: %s", strerror(-ret));
}

static inline void map_all(void)
{
	map_area();
	register_area();
	for (int i = 0; i < NR_FILLERS; i++)
		map_at(absent[i], size, PROT_READ, MAP_SHARED, absent_fd);
}

/* Now nothing in the arena has page tables. */
static inline void unmap_all(void)
{
	map_at(arena, arena_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

static inline int new_file(void)
{
	int file = memfd(size, 0);

	if (file < 0)
		ksft_exit_fail_msg("no memfd\n");
	return file;
}

static inline void write_file(int file, __u64 contents, bool huge)
{
	char *view = map(size, MAP_SHARED, file);

	if (huge)
		madvise(view, size, MADV_HUGEPAGE);
	write_pages(view, contents);
	if (huge)
		madvise(view, size, MADV_COLLAPSE);
	munmap(view, size);
}

static inline __u64 features_of(const struct race *r)
{
	__u64 features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_POISON;

	if (r->memory != ANON)
		features |= UFFD_FEATURE_MISSING_SHMEM;
	if (r->wp)
		features |= r->memory == ANON ? UFFD_FEATURE_WP_UNPOPULATED :
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM;
	return features;
}

/* There is a page table between these, which stays empty. */
static inline char *part(int n)
{
	return arena + table_size + n * (size + table_size);
}

static inline void make_memory(void)
{
	arena = anon_aligned(arena_size, table_size);
	unmap_all();
	area = part(0);
	away = part(1);
	for (int i = 0; i < NR_FILLERS; i++)
		absent[i] = part(2 + i);
	source = anon(size);
	write_pages(source, COPIED);
	absent_fd = new_file();
	write_file(absent_fd, COPIED, false);
	fd = new_file();
	if (race->in_file)
		write_file(fd, IN_FILE, true);
	entries = calloc(nr_pages, sizeof(*entries));
	pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (!entries || pagemap_fd < 0)
		ksft_exit_fail_perror("pagemap");
	uffd = uffd_open(features_of(race));
}

/* Is this answer to be expected? */
static inline bool is_documented(int err)
{
	switch (err) {
	case EAGAIN:
		again++;
		return true;
	case EEXIST:
		exists++;
		return true;
	case ENOENT:
		vanished++;
		return race->vanishes;
	case EFAULT:
		beyond++;
		return race->shrinks;
	default:
		return false;
	}
}

/* Looks at an answer. Returns the number of bytes, or -errno. */
static inline long judge(enum fill how, int err, int64_t field, long len)
{
	calls++;
	if (!err && field == len)
		return len;
	if (err == EAGAIN && field > 0 && field < len &&
	    !(field & (page_size - 1))) {
		partial++;
		return field;
	}
	if (!err || field != -err || !is_documented(err))
		complain("%s: %s, and the field is %lld", fills[how],
			 err ? strerror(err) : "success", (long long)field);
	return err ? -err : -EIO;
}

/* Fills pages. The field is never 0 afterwards. */
static inline long fill(int n, enum fill how, long at, long pages, __u64 mode)
{
	char *from = (how == ABSENT ? absent[n] : source) + at * page_size;
	struct uffdio_range range = {
		.start = (uintptr_t)page(at),
		.len = pages * page_size,
	};
	struct uffdio_zeropage zero = { .range = range };
	struct uffdio_poison poison = { .range = range };
	struct uffdio_copy copy = {
		.dst = range.start,
		.src = (uintptr_t)from,
		.len = range.len,
		.mode = mode,
	};
	int err;

	switch (how) {
	case ZERO:
		err = ioctl(uffd, UFFDIO_ZEROPAGE, &zero) ? errno : 0;
		return judge(how, err, zero.zeropage, range.len);
	case POISON:
		err = ioctl(uffd, UFFDIO_POISON, &poison) ? errno : 0;
		return judge(how, err, poison.updated, range.len);
	default:
		if (how == ABSENT)
			madvise(from, range.len, MADV_DONTNEED);
		err = ioctl(uffd, UFFDIO_COPY, &copy) ? errno : 0;
		return judge(how, err, copy.copy, range.len);
	}
}

/* Contents that the page may have if it was filled so. */
static inline bool is_right(enum fill how, long i, __u64 value)
{
	if (race->in_file && value == IN_FILE + i)
		return true;
	if ((how == ZERO || how == MIXED) && !value)
		return true;
	return how != ZERO && value == COPIED + i;
}

/* What happens if a page is read. */
static __thread sigjmp_buf back;
static __thread atomic_int signal_code;

static inline void on_signal(int sig, siginfo_t *info, void *context)
{
	signal_code = info->si_code;
	siglongjmp(back, sig);
}

static inline int load_word(const __u64 *p, __u64 *value)
{
	int sig = sigsetjmp(back, 0);

	if (!sig)
		*value = __atomic_load_n(p, __ATOMIC_RELAXED);
	return sig;
}

static inline void catch_signals(void)
{
	struct sigaction action = {
		.sa_sigaction = on_signal,
		.sa_flags = SA_SIGINFO | SA_NODEFER,
	};

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
}

/* Reads a page, which is filled in this way or not at all. */
static inline void check_page(enum fill how, long i, bool filled)
{
	__u64 *words[] = { first_word(page(i)), last_word(page(i)) };
	__u64 value = 0;
	int sig;

	for (int n = 0; n < 2; n++) {
		sig = load_word(words[n], &value);
		if (sig) {
			/* Poison is not read here. */
			if (filled || (sig == SIGBUS &&
				       signal_code != BUS_ADRERR))
				complain("%s: page %ld: signal %d, code %d",
					 fills[how], i, sig, signal_code);
			return;
		}
		if (!is_right(how, i, value))
			complain("%s: page %ld has %#llx", fills[how], i,
				 (unsigned long long)value);
	}
}

/* Gets the entries of pages from @first on. */
static inline void read_entries(long first)
{
	ssize_t len = (nr_pages - first) * sizeof(*entries);
	off_t at = (uintptr_t)page(first) / page_size * sizeof(*entries);

	if (pread(pagemap_fd, entries + first, len, at) != len)
		ksft_exit_fail_perror("pagemap");
}

static inline bool is_present(long i)
{
	return entries[i] >> 63;
}

static inline bool is_swap_or_marker(long i)
{
	return entries[i] >> 62 & 1;
}

/* Makes a hole in the file. Only this drops pages of shared memory. */
static inline void punch(long first, long pages)
{
	size_t len = pages * page_size;
	int ret;

	if (below(2))
		ret = madvise(page(first), len, MADV_REMOVE);
	else
		ret = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				first * page_size, len);
	if (ret)
		complain("hole: %s", strerror(errno));
}

/* Drops entries. Poison in shared memory stays if there is a hole. */
static inline void zap(long first, long pages)
{
	if (madvise(page(first), pages * page_size, MADV_DONTNEED))
		complain("MADV_DONTNEED: %s", strerror(errno));
}

static inline void drop(long first, long pages)
{
	if (race->memory == SHARED)
		punch(first, pages);
	zap(first, pages);
}

static inline void drop_absent(void)
{
	for (int i = 0; i < NR_FILLERS; i++)
		madvise(absent[i], size, MADV_DONTNEED);
}

static inline void drop_all(void)
{
	drop(0, nr_pages);
	drop_absent();
}

/* A part of the memory. */
static inline void some(long *first, long *pages)
{
	long table = nr_pages / NR_TABLES;

	switch (below(4)) {
	case 0:
		*first = 0;
		*pages = nr_pages;
		break;
	case 1:
		*first = below(NR_TABLES) * table;
		*pages = table;
		break;
	default:
		*first = below(nr_pages);
		*pages = 1 + below(nr_pages - *first);
		break;
	}
}

/* What takes long for each page is done for few. */
static inline long few(long pages)
{
	return pages < 64 ? pages : 64;
}

static inline void drop_some(void)
{
	long first, pages;

	some(&first, &pages);
	if (race->memory == SHARED)
		punch(first, few(pages));
	zap(first, pages);
}

#endif /* _MM_UFFD_FILLS_H */
