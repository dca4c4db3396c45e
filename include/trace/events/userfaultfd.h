/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Tracepoints of userfaultfd. The administrator's guide describes them.
 *
 * Addresses and lengths are in bytes, times in nanoseconds. "ctx" is the struct
 * userfaultfd_ctx. Fields have types of C, which tracers know without BTF.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM userfaultfd

#if !defined(_TRACE_USERFAULTFD_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_USERFAULTFD_H

#include <linux/tracepoint.h>
#include <linux/userfaultfd.h>
#include <linux/userfaultfd_trace.h>

TRACE_DEFINE_ENUM(UFFD_TRACE_RESOLVED);
TRACE_DEFINE_ENUM(UFFD_TRACE_WOKEN);
TRACE_DEFINE_ENUM(UFFD_TRACE_INTERRUPTED);
TRACE_DEFINE_ENUM(UFFD_TRACE_UNNEEDED);
TRACE_DEFINE_ENUM(UFFD_TRACE_READ);
TRACE_DEFINE_ENUM(UFFD_TRACE_ABANDONED);

#define show_uffd_event(event)						\
	__print_symbolic(event,						\
		{ UFFD_EVENT_PAGEFAULT,	"pagefault" },			\
		{ UFFD_EVENT_FORK,	"fork" },			\
		{ UFFD_EVENT_REMAP,	"remap" },			\
		{ UFFD_EVENT_REMOVE,	"remove" },			\
		{ UFFD_EVENT_UNMAP,	"unmap" })

#define show_uffd_fault(flags)						\
	__print_symbolic(flags,						\
		{ 0,				"missing" },		\
		{ UFFD_PAGEFAULT_FLAG_WRITE,	"missing|write" },	\
		{ UFFD_PAGEFAULT_FLAG_WP,	"wp" },			\
		{ UFFD_PAGEFAULT_FLAG_WP |				\
		  UFFD_PAGEFAULT_FLAG_WRITE,	"wp|write" },		\
		{ UFFD_PAGEFAULT_FLAG_MINOR,	"minor" },		\
		{ UFFD_PAGEFAULT_FLAG_MINOR |				\
		  UFFD_PAGEFAULT_FLAG_WRITE,	"minor|write" })

#define show_uffd_operation(nr)						\
	__print_symbolic(nr,						\
		{ _UFFDIO_WAKE,		"wake" },			\
		{ _UFFDIO_COPY,		"copy" },			\
		{ _UFFDIO_ZEROPAGE,	"zeropage" },			\
		{ _UFFDIO_MOVE,		"move" },			\
		{ _UFFDIO_WRITEPROTECT,	"writeprotect" },		\
		{ _UFFDIO_CONTINUE,	"continue" },			\
		{ _UFFDIO_POISON,	"poison" })

#define show_uffd_why(why)						\
	__print_symbolic(why,						\
		{ UFFD_TRACE_RESOLVED,	"resolved" },			\
		{ UFFD_TRACE_WOKEN,	"woken" },			\
		{ UFFD_TRACE_INTERRUPTED, "interrupted" },		\
		{ UFFD_TRACE_UNNEEDED,	"unneeded" },			\
		{ UFFD_TRACE_READ,	"read" },			\
		{ UFFD_TRACE_ABANDONED,	"abandoned" })

DECLARE_EVENT_CLASS(userfaultfd_ctx,
	TP_PROTO(const void *ctx),
	TP_ARGS(ctx),
	TP_STRUCT__entry(
		__field(const void *, ctx)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
	),
	TP_printk("ctx=%p", __entry->ctx)
);

DEFINE_EVENT(userfaultfd_ctx, userfaultfd_create,
	TP_PROTO(const void *ctx),
	TP_ARGS(ctx)
);

DEFINE_EVENT(userfaultfd_ctx, userfaultfd_release,
	TP_PROTO(const void *ctx),
	TP_ARGS(ctx)
);

TRACE_EVENT(userfaultfd_register,
	TP_PROTO(const void *ctx, u64 start, u64 len, u64 mode, int ret),
	TP_ARGS(ctx, start, len, mode, ret),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, start)
		__field(unsigned long long, len)
		__field(unsigned long long, mode)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->start = start;
		__entry->len = len;
		__entry->mode = mode;
		__entry->ret = ret;
	),
	TP_printk("ctx=%p start=0x%llx len=0x%llx mode=%s ret=%d",
		  __entry->ctx, __entry->start, __entry->len,
		  __print_flags(__entry->mode, "|",
			{ UFFDIO_REGISTER_MODE_MISSING, "missing" },
			{ UFFDIO_REGISTER_MODE_WP, "wp" },
			{ UFFDIO_REGISTER_MODE_MINOR, "minor" }),
		  __entry->ret)
);

TRACE_EVENT(userfaultfd_unregister,
	TP_PROTO(const void *ctx, u64 start, u64 len, int ret),
	TP_ARGS(ctx, start, len, ret),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, start)
		__field(unsigned long long, len)
		__field(int, ret)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->start = start;
		__entry->len = len;
		__entry->ret = ret;
	),
	TP_printk("ctx=%p start=0x%llx len=0x%llx ret=%d",
		  __entry->ctx, __entry->start, __entry->len, __entry->ret)
);

/* A thread is about to sleep in a fault. */
TRACE_EVENT_FN(userfaultfd_fault,
	TP_PROTO(const void *ctx, u64 address, u64 flags),
	TP_ARGS(ctx, address, flags),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, address)
		__field(unsigned long long, flags)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->address = address;
		__entry->flags = flags;
	),
	TP_printk("ctx=%p address=0x%llx flags=%s", __entry->ctx,
		  __entry->address, show_uffd_fault(__entry->flags)),
	uffd_trace_reg, uffd_trace_unreg
);

/* The thread goes on: it repeats the access, or takes the fault again. */
TRACE_EVENT_FN(userfaultfd_fault_end,
	TP_PROTO(const void *ctx, u64 address, u64 flags,
		 enum uffd_trace_why why, u64 slept),
	TP_ARGS(ctx, address, flags, why, slept),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, address)
		__field(unsigned long long, flags)
		__field(unsigned long long, slept)
		__field(unsigned int, why)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->address = address;
		__entry->flags = flags;
		__entry->why = why;
		__entry->slept = slept;
	),
	TP_printk("ctx=%p address=0x%llx flags=%s why=%s slept=%llu",
		  __entry->ctx, __entry->address,
		  show_uffd_fault(__entry->flags),
		  show_uffd_why(__entry->why), __entry->slept),
	uffd_trace_reg, uffd_trace_unreg
);

/* A thread is about to wait until its event is read. */
TRACE_EVENT_FN(userfaultfd_event,
	TP_PROTO(const void *ctx, unsigned int event, u64 start, u64 end),
	TP_ARGS(ctx, event, start, end),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, start)
		__field(unsigned long long, end)
		__field(unsigned int, event)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->event = event;
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("ctx=%p event=%s start=0x%llx end=0x%llx", __entry->ctx,
		  show_uffd_event(__entry->event), __entry->start,
		  __entry->end),
	uffd_trace_reg, uffd_trace_unreg
);

/* The thread goes on. */
TRACE_EVENT_FN(userfaultfd_event_end,
	TP_PROTO(const void *ctx, unsigned int event, enum uffd_trace_why why,
		 u64 slept),
	TP_ARGS(ctx, event, why, slept),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, slept)
		__field(unsigned int, event)
		__field(unsigned int, why)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->event = event;
		__entry->why = why;
		__entry->slept = slept;
	),
	TP_printk("ctx=%p event=%s why=%s slept=%llu", __entry->ctx,
		  show_uffd_event(__entry->event),
		  show_uffd_why(__entry->why), __entry->slept),
	uffd_trace_reg, uffd_trace_unreg
);

/* A message was delivered. "tid" is the thread that it is about. */
TRACE_EVENT_FN(userfaultfd_read,
	TP_PROTO(const void *ctx, unsigned int event, u64 address, int tid,
		 u64 queued),
	TP_ARGS(ctx, event, address, tid, queued),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, address)
		__field(unsigned long long, queued)
		__field(unsigned int, event)
		__field(int, tid)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->event = event;
		__entry->address = address;
		__entry->tid = tid;
		__entry->queued = queued;
	),
	TP_printk("ctx=%p event=%s address=0x%llx tid=%d queued=%llu",
		  __entry->ctx, show_uffd_event(__entry->event),
		  __entry->address, __entry->tid, __entry->queued),
	uffd_trace_reg, uffd_trace_unreg
);

/* An operation on a range is done. "done" is in bytes, or an error. */
TRACE_EVENT(userfaultfd_resolve,
	TP_PROTO(const void *ctx, unsigned int operation, u64 start, u64 len,
		 s64 done, u64 woken),
	TP_ARGS(ctx, operation, start, len, done, woken),
	TP_STRUCT__entry(
		__field(const void *, ctx)
		__field(unsigned long long, start)
		__field(unsigned long long, len)
		__field(long long, done)
		__field(unsigned long long, woken)
		__field(unsigned int, operation)
	),
	TP_fast_assign(
		__entry->ctx = ctx;
		__entry->operation = operation;
		__entry->start = start;
		__entry->len = len;
		__entry->done = done;
		__entry->woken = woken;
	),
	TP_printk("ctx=%p operation=%s start=0x%llx len=0x%llx done=%lld woken=%llu",
		  __entry->ctx, show_uffd_operation(__entry->operation),
		  __entry->start, __entry->len, __entry->done, __entry->woken)
);

#endif /* _TRACE_USERFAULTFD_H */

/* This part must be outside protection */
#include <trace/define_trace.h>
