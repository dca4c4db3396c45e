// SPDX-License-Identifier: GPL-2.0

//! Small git repositories for a try.

use crate::{
    git::{self, git},
    ui::output,
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

/// A small git repository for trying something. It is removed with its value.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("userfaultfd-rust-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let scratch = Self(path);
        git::run(&scratch.0, "init --quiet")?;
        Ok(scratch)
    }

    pub fn write(&self, file: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.0.join(file);
        fs::create_dir_all(path.parent().context("no directory")?)?;
        Ok(fs::write(path, contents)?)
    }

    pub fn commit(&self, subject: &str) -> Result<()> {
        git::run(&self.0, "add --force --all")?;
        output(git(&self.0).args(["commit", "--quiet", "--allow-empty", "-m", subject]))?;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
