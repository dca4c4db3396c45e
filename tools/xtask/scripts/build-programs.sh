#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the programs of this repository that run in guests, static and without a network.
# Their dependencies were fetched outside.
# This tool sets src, build, out and programs.
# shellcheck disable=SC2154
set -e
read -ra names <<< "$programs"
packages=("${names[@]/#/--package=}")
cd "$src"
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --offline --locked \
	--target x86_64-unknown-linux-gnu --target-dir "$build"/target \
	--config "source.crates-io.replace-with='vendored'" \
	--config "source.vendored.directory='$build/vendor'" \
	"${packages[@]}"
cd "$build"/target/x86_64-unknown-linux-gnu/release
cp "${names[@]}" "$out"
