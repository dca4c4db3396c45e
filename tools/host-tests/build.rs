// SPDX-License-Identifier: GPL-2.0

//! Builds the red-black tree of the kernel, as the kernel's own tools do.

use std::{env, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=UFFD_KERNEL");
    println!("cargo::rustc-check-cfg=cfg(rbtree)");
    println!("cargo::rustc-check-cfg=cfg(CONFIG_TRANSPARENT_HUGEPAGE)");
    // The stand-in for the kernel crate has it, too.
    println!("cargo::rustc-cfg=CONFIG_TRANSPARENT_HUGEPAGE");
    let Some(kernel) = env::var_os("UFFD_KERNEL").map(PathBuf::from) else {
        println!(
            "cargo::warning=tests that need a kernel source are left out; `cargo xtask test \
             --host` names one in UFFD_KERNEL"
        );
        return;
    };
    println!("cargo::rustc-cfg=rbtree");
    cc::Build::new()
        .include(kernel.join("tools/include"))
        .file(kernel.join("tools/lib/rbtree.c"))
        .warnings(false)
        .compile("rbtree");
}
