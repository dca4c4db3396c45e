#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Boots a kernel with virtme-ng, and with the lab as its root.
# This tool sets build and accel, which has arguments of virtme-ng.
# shellcheck disable=SC2154
# virtme-ng ends the guest with a command that the lab may not have.
command -v poweroff >/dev/null || ln -s busybox /usr/bin/poweroff
# shellcheck disable=SC2086 # There may be several arguments in it, or none.
exec vng --run "$build"/bzImage $accel --force-9p --cpus 2 --memory 4G
