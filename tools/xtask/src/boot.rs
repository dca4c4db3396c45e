// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask boot`: boots a kernel with a shell.

use crate::{
    config::{Impl, Kernel},
    guest::Accel,
    lab::{self, Mounts},
    ui, Session,
};
use anyhow::{bail, Result};
use std::process::{Command, Stdio};

#[derive(clap::Args)]
pub struct Options {
    #[arg(long = "impl", value_enum, default_value = "rust")]
    imp: Impl,
    /// Boot a small initramfs with plain QEMU.
    #[arg(long)]
    initramfs: bool,
}

pub fn boot(session: &Session, options: &Options) -> Result<()> {
    let builder = session.builder()?;
    let kernel = builder.kernel(Kernel::plain(options.imp))?;
    let accel = session.accel(&builder.lab, &kernel)?;

    let share = session.share("boot", &[])?;
    let mounts = Mounts {
        src: &kernel,
        build: &kernel,
        out: &share,
    };
    let mut command = if options.initramfs {
        let accel = if accel == Accel::Kvm {
            "-accel kvm -cpu host"
        } else {
            "-accel tcg -cpu max"
        };
        let mut command = builder.lab.sh(
            &mounts,
            &[("accel", accel)],
            include_str!("../scripts/boot-initramfs.sh"),
        );
        command.stdin(Stdio::inherit());
        command
    } else if lab::has("vng") {
        let mut command = Command::new("vng");
        command.arg("--run").arg(kernel.join("bzImage"));
        if accel == Accel::Tcg {
            command.args(["--disable-kvm", "--disable-microvm"]);
        }
        command.args(["--force-9p", "--cpus", "2", "--memory", "4G"]);
        command
    } else {
        session
            .ui
            .note("virtme-ng is not on this machine: the lab is the guest's root");
        let accel = if accel == Accel::Tcg {
            "--disable-kvm --disable-microvm"
        } else {
            ""
        };
        builder.lab.sh(
            &mounts,
            &[("accel", accel)],
            include_str!("../scripts/boot-vng.sh"),
        )
    };
    let status = ui::spawn(&mut command)?.wait()?;
    if !status.success() {
        bail!("the guest ended with {status}");
    }
    Ok(())
}
