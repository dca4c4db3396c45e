#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the directories that the series touches, at one commit and with one setting of the option.
# This tool sets src, build, out and option.
# shellcheck disable=SC2154
set -e
cd "$src"
if ! cmp -s "$out/wanted.config" "$build/wanted.config"; then
	KCONFIG_ALLCONFIG="$out/wanted.config" make LLVM=-19 O="$build" allnoconfig >/dev/null
	cp "$out/wanted.config" "$build/wanted.config"
fi
# shellcheck disable=SC2086 # It is an option with its argument.
scripts/config --file "$build/.config" $option
make LLVM=-19 O="$build" olddefconfig >/dev/null
make LLVM=-19 O="$build" -j"$(nproc)" W=1 C=1 CLIPPY=1 rust/ fs/ mm/
sha256sum "$build/fs/userfaultfd.o" "$build/mm/userfaultfd.o" 2>/dev/null > "$out/objects" || true
