#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
# Checks that a module that uses built_in!() does not compile.
# This tool sets src and build.
# shellcheck disable=SC2154
set -e
dir="$build/not-built-in"
mkdir -p "$dir"
echo 'obj-m := not_built_in.o' > "$dir/Makefile"
cat > "$dir/not_built_in.rs" <<'END'
// SPDX-License-Identifier: GPL-2.0
//! Not to be compiled.
use kernel::{alloc::kmem_cache::StaticKmemCache, prelude::*};
module! {
    type: NotBuiltIn,
    name: "not_built_in",
    description: "Not to be compiled",
    license: "GPL",
}
static CACHE: StaticKmemCache<u32> = StaticKmemCache::new(kernel::c_str!("x"), kernel::built_in!());
struct NotBuiltIn;
impl kernel::Module for NotBuiltIn {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        CACHE.create().map(|()| Self)
    }
}
END
if make -C "$src" LLVM=-19 O="$build" M="$dir" not_built_in.o > "$dir/log" 2>&1; then
	echo "a module can use built_in!()"; exit 1
fi
grep -q 'this is for code that is built into the kernel' "$dir/log" || { cat "$dir/log"; exit 1; }
