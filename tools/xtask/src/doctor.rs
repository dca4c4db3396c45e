// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask doctor`: says what this machine has and what is missing.

use crate::{
    lab::{self, Lab},
    Session,
};
use anyhow::{bail, Result};
use std::{fs, process::Command};

pub fn doctor(session: &Session) -> Result<()> {
    let mut missing = Vec::new();
    let lab_tool = (!session.host_tools).then_some(&lab::LAB_TOOL);
    for &(program, package) in lab::HOST_TOOLS.iter().chain(lab_tool) {
        if lab::has(program) {
            println!("{program:20} yes");
        } else {
            println!("{program:20} missing (package {package})");
            missing.push(package);
        }
    }
    println!(
        "{:20} {}",
        "root",
        if lab::is_root() { "yes" } else { "no" }
    );
    if !lab::is_root() {
        let works = Command::new("unshare")
            .args(["--user", "--map-root-user", "--map-auto", "true"])
            .status()
            .is_ok_and(|status| status.success());
        println!(
            "{:20} {}",
            "user namespaces",
            if works { "yes" } else { "no" }
        );
    }
    let host_versions = lab::host_versions();
    match &host_versions {
        Ok(_) => println!("{:20} yes", "--host-tools"),
        Err(err) => println!("{:20} no: {err}", "--host-tools"),
    }
    fs::create_dir_all(&session.cache)?;
    let root = session.cache.join("lab");
    let made = root.join("etc/lab-versions").exists();
    println!(
        "{:20} {}",
        "lab",
        if made { "made" } else { "not made yet" }
    );
    println!("{:20} {}", "cache", session.cache.display());
    if let Err(err) = lab::require_space(&session.cache, 20) {
        println!("{:20} {err}", "space");
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
        println!("{:20} known once a kernel is built", "KVM");
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
