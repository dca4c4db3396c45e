// SPDX-License-Identifier: GPL-2.0
/*
 * The tracepoints of the Rust implementation of userfaultfd.
 */

#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include <trace/events/userfaultfd.h>

struct uffd_trace_keys uffd_trace_keys = {
	.timed = STATIC_KEY_FALSE_INIT,
};

/* A tracepoint that tells the time is switched on. */
int uffd_trace_reg(void)
{
	static_branch_inc(&uffd_trace_keys.timed);
	return 0;
}

/* It is switched off. */
void uffd_trace_unreg(void)
{
	static_branch_dec(&uffd_trace_keys.timed);
}
