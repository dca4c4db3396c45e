#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks a tree that has the series, and the patches in $out/fixes and $out/patches.
# This tool sets src, out, new (the new files) and touched (all files).
# shellcheck disable=SC2154
fail=
cd "$src" || exit
echo "== checkpatch"
for patch in "$out"/fixes/*.patch "$out"/patches/*.patch; do
	test -e "$patch" || continue
	# Tracepoints are written in this way in the whole tree.
	tracepoints=
	if grep -q '^+++ b/include/trace/events/' "$patch"; then
		tracepoints=,OPEN_ENDED_LINE,PARENTHESIS_ALIGNMENT
	fi
	# The ignored types are about lines that submitters add, about lists of files, and about
	# commits of mainline, which this tree does not have.
	scripts/checkpatch.pl --strict --no-tree --terse --no-summary --show-types \
		--ignore MISSING_SIGN_OFF,NO_AUTHOR_SIGN_OFF,FILE_PATH_CHANGES,NOT_UNIFIED_DIFF,GIT_COMMIT_ID$tracepoints \
		"$patch" || fail=1
done
echo "== rustfmt"
for file in $(echo "$touched" | tr ' ' '\n' | grep '\.rs$'); do
	rustfmt --check --edition 2021 --config-path .rustfmt.toml --config skip_children=true "$file" 2>/dev/null ||
		{ rustfmt --check --edition 2021 "$file" || { echo "not formatted: $file"; fail=1; }; }
done
echo "== kernel-doc"
for file in $(echo "$new" | tr ' ' '\n' | grep '\.[ch]$'); do
	scripts/kernel-doc.py -none -Wall "$file" || fail=1
done
echo "== SPDX"
for file in $new; do
	head -n 2 "$file" | grep -q 'SPDX-License-Identifier: GPL-2.0' ||
		{ echo "no SPDX line: $file"; fail=1; }
done
echo "== bindings and unsafe code"
if grep -rnwE --include='*.rs' 'bindings|unsafe' fs/userfaultfd; then
	echo "fs/userfaultfd names the bindings, or has unsafe code"; fail=1
fi
echo "== objects"
# Prints if make would build userfaultfd.o of a directory. The second argument sets the option.
builds_c() {
	# shellcheck disable=SC2016 # make expands it.
	make -s -f "$1/Makefile" srctree=. CONFIG_USERFAULTFD=y ${2:+CONFIG_USERFAULTFD_RUST=y} \
		--eval 'list: ; @echo $(obj-y)' list | tr ' ' '\n' | grep -x 'userfaultfd\.o'
}
for dir in fs mm; do
	builds_c "$dir" > /dev/null || { echo "$dir/userfaultfd.o is not built without the option"; fail=1; }
	! builds_c "$dir" rust || { echo "$dir/userfaultfd.o is built with the option"; fail=1; }
done
echo "== size"
for patch in "$out"/patches/*.patch; do
	awk -v name="$(basename "$patch")" '
		/^\+\+\+ / { doc = $2 ~ /^b\/Documentation\// || $2 ~ /\.rst$/; comment = 0; next }
		doc || !/^\+/ { next }
		{ sub(/^\+[ \t]*/, "") }
		comment { if (/\*\//) comment = 0; next }
		/^\/\*/ { if (!/\*\//) comment = 1; next }
		/^$/ || /^\/\// { next }
		{ lines++ }
		END { if (lines > 500) { print name ": " lines " lines of code"; exit 1 } }
	' "$patch" || fail=1
done
for file in $(echo "$new" | tr ' ' '\n' | grep '\.rs$'); do
	lines=$(wc -l < "$file")
	[ "$lines" -le 600 ] || { echo "$file: $lines lines"; fail=1; }
done
test -z "$fail"
