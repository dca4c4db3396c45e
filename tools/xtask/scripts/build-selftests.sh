#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds selftests of mm, which are the same for all kernels.
# This tool sets src, build, out, names and make (its arguments).
# shellcheck disable=SC2154
set -e
read -ra make <<< "$make"
read -ra targets <<< "$names"
targets=("${targets[@]/#/$build/mm/}")
mkdir -p "$build"/mm
make -s -C "$src" "${make[@]}" O="$build"/headers headers_install INSTALL_HDR_PATH="$build"/usr
make -C "$src"/tools/testing/selftests/mm "${make[@]}" OUTPUT="$build"/mm \
	KHDR_INCLUDES="-isystem $build/usr/include" -j"$(nproc)" "${targets[@]}"
cp "${targets[@]}" "$out"
