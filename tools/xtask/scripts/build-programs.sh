#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Builds the programs of this repository that run in guests, static and without a network.
# Their dependencies were fetched outside.
# This tool sets src, build, out, programs and target.
# shellcheck disable=SC2154
set -e
read -ra names <<< "$programs"
packages=("${names[@]/#/--package=}")
cd "$src"
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --offline --locked \
	--target "$target" --target-dir "$build"/target \
	--config "source.crates-io.replace-with='vendored'" \
	--config "source.vendored.directory='$build/vendor'" \
	"${packages[@]}"
cd "$build/target/$target/release"
cp "${names[@]}" "$out"
