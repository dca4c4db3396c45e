// SPDX-License-Identifier: GPL-2.0

//! Builds the C code that looks at page tables, with a model of those.

use std::{env, fs, path::PathBuf};

/// The headers that the files include. The model stands for all of them.
const HEADERS: [&str; 14] = [
    "internal",
    "linux/mutex",
    "linux/mm",
    "linux/mm_types",
    "linux/mmu_notifier",
    "linux/pagemap",
    "linux/pgtable",
    "linux/rmap",
    "linux/shmem_fs",
    "linux/swap",
    "linux/swapops",
    "linux/userfaultfd_k",
    "linux/xarray",
    "swap",
];

/// The files of mm.
const FILES: [&str; 5] = [
    "rust_filemap",
    "rust_hugetlb",
    "rust_move",
    "rust_pgtable",
    "rust_rmap",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(CONFIG_DEBUG_ATOMIC_SLEEP)");
    println!("cargo::rustc-check-cfg=cfg(CONFIG_PER_VMA_LOCK)");
    println!("cargo::rustc-check-cfg=cfg(CONFIG_MMU_NOTIFIER)");
    println!("cargo::rustc-check-cfg=cfg(CONFIG_TRANSPARENT_HUGEPAGE)");
    println!("cargo::rustc-cfg=CONFIG_PER_VMA_LOCK");
    println!("cargo::rustc-cfg=CONFIG_MMU_NOTIFIER");
    println!("cargo::rustc-cfg=CONFIG_TRANSPARENT_HUGEPAGE");

    let headers = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::create_dir_all(headers.join("linux")).expect("the directory is cargo's");
    let header = headers.join("linux/hugetlb.h");
    fs::write(header, "#include <model_hugetlb.h>\n").expect("the directory is cargo's");
    for name in HEADERS {
        let header = headers.join(format!("{name}.h"));
        fs::write(header, "#include <model.h>\n").expect("the directory is cargo's");
    }
    let sources = [
        "src/model.c",
        "src/model.h",
        "src/model_hugetlb.h",
        "../../../include/linux/rust_filemap.h",
        "../../../include/linux/rust_hugetlb.h",
        "../../../include/linux/rust_move.h",
        "../../../include/linux/rust_pgtable.h",
        "../../../include/linux/rust_rmap.h",
        "../../../mm/rust_pgtable.h",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    let mut build = cc::Build::new();
    for name in FILES {
        let source = format!("../../../mm/{name}.c");
        println!("cargo::rerun-if-changed={source}");
        build.file(source);
    }
    build
        .include("src")
        .include(headers)
        .include("../../../include")
        .flag("-std=gnu11")
        .flag("-fms-extensions")
        .file("src/model.c")
        .warnings(false)
        .compile("mm");
}
