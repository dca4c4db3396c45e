/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the tracepoints of userfaultfd and the Rust code that calls them share.
 */
#ifndef _LINUX_USERFAULTFD_TRACE_H
#define _LINUX_USERFAULTFD_TRACE_H

#include <linux/jump_label.h>

/* Why a thread goes on that slept, or was about to. */
enum uffd_trace_why {
	UFFD_TRACE_RESOLVED,	/* the waker gave it what it needs */
	UFFD_TRACE_WOKEN,	/* it was woken to look again */
	UFFD_TRACE_INTERRUPTED,	/* a signal is pending */
	UFFD_TRACE_UNNEEDED,	/* it found that it need not sleep */
	UFFD_TRACE_READ,	/* its event was read */
	UFFD_TRACE_ABANDONED,	/* its event will not be read */
};

/* Rust can use a static key that is in a structure. */
struct uffd_trace_keys {
	/* On if a tracepoint is that tells the time; threads note it then. */
	struct static_key_false timed;
};

extern struct uffd_trace_keys uffd_trace_keys;
int uffd_trace_reg(void);
void uffd_trace_unreg(void);

#endif /* _LINUX_USERFAULTFD_TRACE_H */
