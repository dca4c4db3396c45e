#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Mounts the directories and enters the root. Arguments: root, src, build, out, command.
set -e
root=$1 src=$2 build=$3 out=$4
shift 4
mount --make-rprivate /
mount --bind "$src" "$root/src"
mount --bind "$build" "$root/build"
mount --bind "$out" "$root/out"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
exec chroot "$root" /usr/bin/env -i HOME=/tmp LC_ALL=C \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
