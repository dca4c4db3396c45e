#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# Fetches the tarball of Debian's source package with lists of its own, from the mirror that the
# machine is set up for. Arguments: destination, package and version, file, SHA-256.
set -e
# shellcheck disable=SC2016 # apt-get replaces it.
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep debian |
	grep -v security | head -n 1)
test -n "$mirror"
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
echo "deb-src $mirror trixie-backports main" > "$dir/sources.list"
apt() {
	apt-get -o Dir::Etc::SourceList="$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" "$@"
}
apt update
uri=$(apt source --print-uris "$2" | sed -n "s/^'\([^']*$3\)'.*/\1/p")
test -n "$uri"
/usr/lib/apt/apt-helper download-file "$uri" "$1" "SHA256:$4"
