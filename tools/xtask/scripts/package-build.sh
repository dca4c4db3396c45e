#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the packages of a kernel, without the one of its debug info.
# This tool sets src, build, out, toolchain (arguments of make) and suffix (of the release's name).
# shellcheck disable=SC2154
set -e
export LOCALVERSION=$suffix KDEB_PKGVERSION KBUILD_BUILD_USER=user KBUILD_BUILD_HOST=localhost
export DEB_BUILD_PROFILES=pkg.linux-upstream.nokerneldbg KDEB_CHANGELOG_DIST=unstable
KDEB_PKGVERSION=$(make -s -C "$src" kernelversion)-1
rm -f "$build"/*.deb
# shellcheck disable=SC2086 # There are several arguments in it.
make -C "$src" $toolchain O="$build"/linux -j"$(nproc)" bindeb-pkg
cp "$build"/linux-image-*.deb "$out"
# Without modules there are no headers to build more.
for headers in "$build"/linux-headers-*.deb; do
	test ! -e "$headers" || cp "$headers" "$out"
done
# What was said about the configuration has to be true.
cmp "$out"/config "$build"/linux/.config
cp "$build"/linux/include/config/kernel.release "$out"/release
