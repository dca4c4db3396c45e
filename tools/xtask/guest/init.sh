#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The first process of a test guest. The directory that the host shares is
# mounted over its own, and holds the job. Arguments: that directory, and the
# serial port for the job.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LC_ALL=C
out=$1 port=/dev/$2

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm /dev/hugepages
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t tmpfs run /run
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144 out "$out" || exit 1
ip link set lo up

# The console is for the kernel, the second port for the job.
stty -F "$port" raw -echo
exec </dev/null >"$port" 2>&1
echo "@@ ready $(uname -r) $(dmesg | grep -q 'userfaultfd: implemented in Rust' && echo rust || echo c)"
cd /tmp || exit 1
# shellcheck disable=SC1091 # The host writes it.
. "$out/job.sh"
echo "@@ finished"
sync
echo o > /proc/sysrq-trigger
# The first process must not end before the machine is off.
while :; do :; done
