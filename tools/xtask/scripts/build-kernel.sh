#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds a kernel. Clippy makes the same objects as the compiler, with more warnings. Also makes a
# policy for SELinux that allows everything except the creation of anonymous inodes.
# This tool sets src, build and out.
# shellcheck disable=SC2154
set -e
make -C "$src" LLVM=-19 O="$build" CLIPPY=1 -j"$(nproc)" bzImage
cp "$build"/arch/x86/boot/bzImage "$build"/vmlinux "$out"
cp "$build"/.config "$out"/config
cd "$build"
scripts/selinux/mdp/mdp policy.conf file_contexts
sed -i 's/^allow base_t base_t:anon_inode \*;/allow base_t base_t:anon_inode { read write ioctl };/' \
	policy.conf
# The compiler of policies may not know all that this kernel does.
sed -i '/^policycap /d' policy.conf
grep -q 'anon_inode { read' policy.conf
checkpolicy -o "$out"/selinux.policy policy.conf
