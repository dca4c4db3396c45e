// SPDX-License-Identifier: GPL-2.0

//! Builds the C code that looks at page tables, with a model of those.

use std::{env, fs, path::PathBuf};

/// The headers that the files include. The model stands for all of them.
const HEADERS: [&str; 9] = [
    "mm", "mm_types", "pagemap", "pgtable", "rmap", "shmem_fs", "swap", "swapops", "xarray",
];

fn main() {
    println!("cargo::rustc-check-cfg=cfg(CONFIG_DEBUG_ATOMIC_SLEEP)");
    println!("cargo::rustc-check-cfg=cfg(CONFIG_PER_VMA_LOCK)");
    println!("cargo::rustc-cfg=CONFIG_PER_VMA_LOCK");

    let headers = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    fs::create_dir_all(headers.join("linux")).expect("the directory is cargo's");
    for name in HEADERS {
        let header = headers.join(format!("linux/{name}.h"));
        fs::write(header, "#include <model.h>\n").expect("the directory is cargo's");
    }
    let sources = [
        "src/model.h",
        "../../../include/linux/rust_filemap.h",
        "../../../include/linux/rust_pgtable.h",
        "../../../mm/rust_filemap.c",
        "../../../mm/rust_pgtable.c",
        "../../../mm/rust_pgtable.h",
    ];
    for source in sources {
        println!("cargo::rerun-if-changed={source}");
    }
    cc::Build::new()
        .include("src")
        .include(headers)
        .include("../../../include")
        .flag("-std=gnu11")
        .flag("-fms-extensions")
        .file("../../../mm/rust_filemap.c")
        .file("../../../mm/rust_pgtable.c")
        .warnings(false)
        .compile("rust_pgtable");
}
