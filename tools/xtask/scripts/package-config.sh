#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes a configuration from the user's own: Kconfig adds what that does not name.
# This tool sets src, build, out, toolchain (arguments of make) and suffix (of the release's name).
# shellcheck disable=SC2154
set -e
mkdir -p "$build"/linux
cd "$src"
# shellcheck disable=SC2086 # There are several arguments in it.
make $toolchain rustavailable
cp "$out"/wanted.config "$build"/linux/.config
# shellcheck disable=SC2086
make $toolchain O="$build"/linux olddefconfig
# A tree may have files that add to the name.
# shellcheck disable=SC2086
release=$(make -s $toolchain O="$build"/linux LOCALVERSION="$suffix" kernelrelease)
[[ $release =~ ^[a-z0-9.+-]+$ ]] || { echo "illegal package name: $release"; exit 1; }
cp "$build"/linux/.config "$out"/config
