// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask doctor`: says what this machine has and what is missing.

use crate::{
    lab::{self, Lab},
    Session,
};
use anyhow::{bail, Result};
use std::{fmt::Display, fs, process::Command};

fn say(name: &str, value: impl Display) {
    println!("{name:20} {value}");
}

fn yes_or_no(value: bool) -> &'static str {
    if value {
        "yes"
    } else {
        "no"
    }
}

pub fn doctor(session: &Session) -> Result<()> {
    let mut missing = Vec::new();
    let lab_tool = (!session.host_tools).then_some(&lab::LAB_TOOL);
    for &(program, package) in lab::HOST_TOOLS.iter().chain(lab_tool) {
        if lab::has(program) {
            say(program, "yes");
        } else {
            say(program, format!("missing (package {package})"));
            missing.push(package);
        }
    }
    say("root", yes_or_no(lab::is_root()));
    if !lab::is_root() {
        let works = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "true"])
            .status()
            .is_ok_and(|status| status.success());
        say("user namespaces", yes_or_no(works));
    }
    let host_versions = lab::host_versions();
    match &host_versions {
        Ok(_) => say("--host-tools", "yes"),
        Err(err) => say("--host-tools", format!("no: {err}")),
    }
    fs::create_dir_all(&session.cache)?;
    let root = session.cache.join("lab");
    let made = root.join("etc/lab-versions").exists();
    say("lab", if made { "made" } else { "not made yet" });
    say("cache", session.cache.display());
    if let Err(err) = lab::require_space(&session.cache, 20) {
        say("space", err);
    }
    let kernel = session.results.join("rust");
    let (lab, usable) = if session.host_tools {
        (Lab::Host, host_versions.is_ok())
    } else {
        (Lab::Root(root), made)
    };
    if usable && kernel.join("bzImage").exists() {
        session.accel(&lab, &kernel)?;
    } else {
        say("KVM", "known once a kernel is built");
    }
    if !missing.is_empty() {
        bail!(
            "tools are missing: `cargo xtask run` installs them as root, or says how; packages: {}",
            missing.join(" ")
        );
    }
    if session.host_tools && host_versions.is_err() {
        bail!("--host-tools needs other tools, see above");
    }
    Ok(())
}
