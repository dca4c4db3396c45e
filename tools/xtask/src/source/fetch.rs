// SPDX-License-Identifier: GPL-2.0

//! Fetching the source of the kernel.

use crate::{patches::VERSION, ui::Ui};
use anyhow::{bail, Context, Result};
use sha2::{Digest, Sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

const TARBALL: &str = "linux_6.18.15.orig.tar.xz";
const SHA256: &str = "fdf4c4d487c95b17a41cb38003faef86669e532a44fe702eb31a3390b6a60cca";
/// The version of Debian's package that has the same tarball.
const DEBIAN_VERSION: &str = "linux=6.18.15-1~bpo13+1";
const KERNEL_ORG: &str = "https://cdn.kernel.org/pub/linux/kernel/v6.x/linux-6.18.15.tar.xz";

/// Names directories that may already have the tarball.
pub const DISTFILES: &str = "UFFD_DISTFILES";

fn check_sum(path: &Path) -> Result<()> {
    let mut hash = Sha256::new();
    io::copy(&mut fs::File::open(path)?, &mut hash)?;
    let sum = format!("{:x}", hash.finalize());
    if sum != SHA256 {
        bail!(
            "{} is not the source of Linux {VERSION}: its SHA-256 is {sum}, and should be \
             {SHA256}. Remove it and try again.",
            path.display()
        );
    }
    Ok(())
}

/// Finds the tarball, or fetches it.
pub fn tarball(ui: &Ui, cache: &Path) -> Result<PathBuf> {
    if let Some(directories) = std::env::var_os(DISTFILES) {
        for directory in std::env::split_paths(&directories) {
            let path = directory.join(TARBALL);
            if path.exists() {
                check_sum(&path)?;
                return Ok(path);
            }
        }
    }
    let path = cache.join(TARBALL);
    if path.exists() {
        check_sum(&path)?;
        return Ok(path);
    }

    let part = cache.join(format!("{TARBALL}.part"));
    let _ = fs::remove_file(&part);
    let from_debian = ui.run(
        "source",
        "Fetching the kernel source from the Debian mirror of this machine",
        Command::new("sh")
            .args(["-c", include_str!("../../scripts/fetch-debian.sh"), "fetch"])
            .arg(&part)
            .args([DEBIAN_VERSION, TARBALL, SHA256]),
    );
    if let Err(err) = from_debian {
        ui.note(&format!("no source from a Debian mirror: {err:#}"));
        ui.run(
            "source",
            "Fetching the kernel source from kernel.org",
            Command::new("curl")
                .args([
                    "--fail",
                    "--location",
                    "--silent",
                    "--show-error",
                    "--output",
                ])
                .arg(&part)
                .arg(KERNEL_ORG),
        )
        .with_context(|| {
            format!(
                "the source of Linux {VERSION} cannot be fetched. Without a network, put \
                 {TARBALL} into a directory and name that in {DISTFILES}, or name a kernel tree \
                 with --kdir."
            )
        })?;
    }
    check_sum(&part)?;
    fs::rename(&part, &path)?;
    Ok(path)
}
