#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Sourced by jobs that run test suites.
# shellcheck disable=SC2154 # The first process sets out.

slab=/sys/kernel/slab/userfaultfd_ctx_cache

# contexts: print how many contexts there are, after a shrink of the slab that
# frees the objects that CPUs keep.
contexts() {
	echo 1 > "$slab/shrink"
	read -r count _ < "$slab/objects"
	echo "$count"
}

# suite NAME SECONDS COMMAND...: run a suite, with marks around its output that
# say how it ended, how long it took, and how many contexts there were before
# and after it.
suite() {
	name=$1 limit=$2
	shift 2
	echo "userfaultfd tests: suite $name" > /dev/kmsg
	before=$(contexts)
	read -r start _ < /proc/uptime
	echo "@@ begin $name"
	timeout -k 10 "$limit" "$@" </dev/null 2>&1
	code=$?
	after=$(contexts)
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ "$after" = "$before" ] && break
		sleep 0.2
		after=$(contexts)
	done
	read -r end _ < /proc/uptime
	echo
	echo "@@ end $name $code $start $end $before $after"
}

# retry NAME SECONDS COMMAND...: run a suite, and once more if it fails.
retry() {
	suite "$@"
	if [ "$code" != 0 ]; then
		echo "@@ again"
		suite "$@"
	fi
}

# conformance SECONDS PREFIX: ask the questions of the cases whose names begin
# with PREFIX, and leave the answers beside the console. Without restartable
# sequences, because the kernel kills a thread if it fails to write to theirs.
conformance() {
	# shellcheck disable=SC2016 # The inner shell expands it.
	suite conformance "$1" env GLIBC_TUNABLES=glibc.pthread.rseq=0 \
		sh -c 'uffd-conformance "$1" > /tmp/transcript.txt' conformance "$2"
	cp /tmp/transcript.txt "$out"
}

# lsm_veto: have a security module refuse what the suite tries to create.
lsm_veto() {
	mount -t selinuxfs selinuxfs /sys/fs/selinux || echo "@@ note no SELinux"
	suite "LSM veto" 60 python3 "$out/lsm.py" "$out/selinux.policy"
}

# hugepages KIB COUNT: reserve huge pages of a size.
hugepages() {
	dir=/sys/kernel/mm/hugepages/hugepages-${1}kB
	if ! [ -d "$dir" ]; then
		echo "@@ note no huge pages of $1 kB"
		return
	fi
	echo "$2" > "$dir/nr_hugepages"
	read -r have < "$dir/nr_hugepages"
	[ "$have" = "$2" ] || echo "@@ note only $have of $2 huge pages of $1 kB"
}

# swap MIB: swap to a compressed disk in memory.
swap() {
	echo "$1M" > /sys/block/zram0/disksize &&
	mkswap /dev/zram0 >/dev/null &&
	swapon /dev/zram0
}

# switch_of_copies: say if this kernel lacks the switch for copies into large
# folios, without which the suites would only see single pages.
switch_of_copies() {
	dmesg | grep -q 'userfaultfd: implemented in Rust' || return
	[ -d /sys/kernel/mm/transparent_hugepage ] || return
	[ -e /sys/kernel/mm/transparent_hugepage/userfaultfd_copy ] ||
		echo "@@ note no switch for copies into large folios"
}

# prepare: make the swap and the huge pages that the suites need.
prepare() {
	switch_of_copies
	swap 512 || echo "@@ note no swap"
	hugepages 2048 128
}

# prepare_all: also make a huge page of 1 GiB. The kernel's command line has to
# ask for it.
prepare_all() {
	prepare
	hugepages 1048576 1
}

# prepare_selftests: make what the selftests need, and enter their directory.
# One of them uses huge pages of each size that there is, of which arm64 has
# four. The kernel's command line asks for the two largest ones.
prepare_selftests() {
	prepare
	if [ -d /sys/kernel/mm/hugepages/hugepages-64kB ]; then
		hugepages 64 16
		hugepages 32768 2
		hugepages 1048576 1
	fi
	cp -r "$out"/selftests /tmp/selftests
	cd /tmp/selftests || echo "@@ note no selftests"
}

# prepare_programs: make what the programs of this repository need.
prepare_programs() {
	prepare_all
	PATH=$out/programs:$PATH
	cd /tmp || echo "@@ note no /tmp"
}
