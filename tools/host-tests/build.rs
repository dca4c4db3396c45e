// SPDX-License-Identifier: GPL-2.0

//! Builds the red-black tree of the kernel, as the kernel's own tools do.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=UFFD_KERNEL");
    let Some(kernel) = env::var_os("UFFD_KERNEL").map(PathBuf::from) else {
        panic!("UFFD_KERNEL names no kernel source; `cargo xtask test --host` sets it");
    };
    cc::Build::new()
        .include(kernel.join("tools/include"))
        .file(kernel.join("tools/lib/rbtree.c"))
        .warnings(false)
        .compile("rbtree");
}
