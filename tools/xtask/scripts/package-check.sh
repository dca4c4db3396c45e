#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The one service of the root in which the package is tried: writes down what runs, and restores the
# snapshot of a process with userfaultfd.
exec >/report 2>&1
echo "booted: $(uname -srv)"
echo "first process: $(cat /proc/1/comm); root: $(findmnt --noheadings --output SOURCE,FSTYPE /)"
echo "dmesg: $(dmesg | grep 'userfaultfd:')"
echo 128 > /proc/sys/vm/nr_hugepages
/usr/local/bin/uffd-programs snapshot > /tmp/snapshot 2>&1
echo "uffd-programs snapshot: exit $?: $(tail -n 1 /tmp/snapshot)"
echo "finished"
sync
