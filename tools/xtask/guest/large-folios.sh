#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# POLICY COMMAND...: runs a program while anonymous memory may have large folios,
# all of it (always) or where the program advises it (madvise), and copies use
# them where the kernel can do that. Says how many were made.
thp=/sys/kernel/mm/transparent_hugepage

# choose POLICY COPIES: say which memory may have them.
choose() {
	echo "$1" > $thp/enabled
	echo "$1" > $thp/hugepages-64kB/enabled
	[ ! -e $thp/userfaultfd_copy ] || echo "$2" > $thp/userfaultfd_copy
}

# made: print how many huge pages and folios of 64 KiB there were.
made() {
	huge=$(sed -n 's/^thp_fault_alloc //p' /proc/vmstat)
	read -r small < $thp/hugepages-64kB/stats/anon_fault_alloc
	echo "$huge and $small"
}

if ! [ -d $thp/hugepages-64kB ]; then
	echo "1..0 # SKIP no transparent huge pages"
	exit 4
fi
policy=$1
shift
before=$(made)
choose "$policy" 1
"$@"
code=$?
choose madvise 0
echo never > $thp/hugepages-64kB/enabled
echo "# huge pages and folios of 64 KiB: $before before, $(made) after"
exit $code
