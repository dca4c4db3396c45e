#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the directories that the series touches, at one commit and with one setting of an option.
# This tool sets src, build, out, option, and the arguments of make: toolchain and checks.
# shellcheck disable=SC2154
set -e
cd "$src"
if ! cmp -s "$out/wanted.config" "$build/wanted.config"; then
	# shellcheck disable=SC2086 # There are several arguments in it.
	KCONFIG_ALLCONFIG="$out/wanted.config" make $toolchain O="$build" allnoconfig >/dev/null
	cp "$out/wanted.config" "$build/wanted.config"
fi
# shellcheck disable=SC2086 # It is an option with its argument.
scripts/config --file "$build/.config" $option
# shellcheck disable=SC2086 # There are several arguments in them.
{
	make $toolchain O="$build" olddefconfig >/dev/null
	make $toolchain O="$build" -j"$(nproc)" $checks rust/ fs/ mm/
}
sha256sum "$build/fs/userfaultfd.o" "$build/mm/userfaultfd.o" 2>/dev/null > "$out/objects" || true
if [ -e "$build/fs/userfaultfd/userfaultfd.o" ] && [ "$option" = "--enable USERFAULTFD_RUST" ]; then
	# Nothing is linked. What Rust, its C side and the rest of mm call of each other has to be in
	# an object of this build; the archives do not have those that are left from others.
	set -o pipefail
	cd "$build"
	symbols() {
		llvm-nm-19 "$1" --just-symbol-name --quiet fs/built-in.a mm/built-in.a rust/built-in.a
	}
	symbols --undefined-only |
		grep -E '^(rust|uffd|userfaultfd|single_hugepage_flag)_' | sort -u > "$out/called"
	symbols --defined-only | sort -u > "$out/defined"
	if ! comm -23 "$out/called" "$out/defined" | tee "$out/missing" | cmp -s - /dev/null; then
		echo "no object has: $(tr '\n' ' ' < "$out/missing")"
		exit 1
	fi
fi
