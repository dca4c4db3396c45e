#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds a kernel. Clippy makes the same objects as the compiler, with more warnings. Also makes a
# policy for SELinux that allows everything except the creation of anonymous inodes.
# This tool sets src, build, out, toolchain (arguments of make), arch, image and untraced.
# shellcheck disable=SC2154
set -e
if [ -n "$untraced" ]; then
	# Rust code has no tracepoints then. No object depends on this file.
	# shellcheck disable=SC2086 # There are several arguments in it.
	make -C "$src" $toolchain O="$build" syncconfig
	sed -i '/CONFIG_TRACEPOINTS/d' "$build"/include/generated/rustc_cfg
	rm -f "$build"/rust/kernel.o "$build"/fs/userfaultfd/*.o
fi
# shellcheck disable=SC2086 # There are several arguments in it.
make -C "$src" $toolchain O="$build" CLIPPY=1 -j"$(nproc)" "$image"
if grep -qx CONFIG_USERFAULTFD_RUST=y "$build/.config"; then
	# This one is called from other files, and defined in another file, too.
	echo uffd_wp_range > "$out/c-expected"
	{
		sed -nE 's/^[a-z].*[ *]([a-z_0-9]+)\(.*/\1/p; s/^([a-z_0-9]+)\(.*/\1/p' "$src/mm/userfaultfd.c"
		printf '%s\n' move_pages_huge_pmd hugetlb_mfill_atomic_pte shmem_mfill_atomic_pte
	} | sort -u > "$out/c-functions"
	nm "$build/vmlinux" | awk '{ print $3 }' | sort -u | comm -12 "$out/c-functions" - > "$out/c-found"
	echo "of $(wc -l < "$out/c-functions") functions of the C code, vmlinux has:"
	cat "$out/c-found"
	cmp "$out/c-expected" "$out/c-found"
fi
cp "$build/arch/$arch/boot/$image" "$build"/vmlinux "$out"
cp "$build"/.config "$out"/config
cd "$build"
scripts/selinux/mdp/mdp policy.conf file_contexts
sed -i 's/^allow base_t base_t:anon_inode \*;/allow base_t base_t:anon_inode { read write ioctl };/' \
	policy.conf
# The compiler of policies may not know all that this kernel does.
sed -i '/^policycap /d' policy.conf
grep -q 'anon_inode { read' policy.conf
checkpolicy -o "$out"/selinux.policy policy.conf
