#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Makes the configuration if it has to change. Fails if an option is not as wanted, because it
# depends on another option.
# This tool sets src, build, out and toolchain (arguments of make).
# shellcheck disable=SC2154
set -e
cd "$src"
if ! cmp -s "$out/wanted.config" "$build/wanted.config"; then
	# shellcheck disable=SC2086 # There are several arguments in it.
	KCONFIG_ALLCONFIG="$out/wanted.config" make $toolchain O="$build" allnoconfig >/dev/null
	# The last line about an option counts.
	sed -n 's/^# \(CONFIG_[A-Za-z0-9_]*\) is not set$/\1=n/p; /^CONFIG_/p' "$out/wanted.config" |
		awk -F= '{ last[$1] = $0 } END { for (name in last) print last[name] }' > "$build/wanted"
	while read -r line; do
		name=${line%%=*}
		if [ "$line" = "$name=n" ]; then
			grep -q "^$name=" "$build/.config" || continue
		else
			grep -qxF "$line" "$build/.config" && continue
		fi
		echo "not possible: $line"; bad=1
	done < "$build/wanted"
	test -z "$bad"
	cp "$out/wanted.config" "$build/wanted.config"
fi
