// SPDX-License-Identifier: GPL-2.0

//! What all subcommands share: the places of files, and how guests run.

use crate::{
    builder::Builder,
    config::Arch,
    guest::{self, Accel},
    lab::{self, Lab, Recipe},
    source::Source,
    ui::Ui,
};
use anyhow::{bail, Context, Result};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use std::{
    cell::OnceCell,
    fs::{self, File},
    path::{Path, PathBuf},
};

pub struct Session {
    pub ui: Ui,
    /// The repository.
    pub repo: PathBuf,
    /// The directory of everything that takes long to make.
    pub cache: PathBuf,
    /// `target/kernel`
    pub results: PathBuf,
    /// Whether to use the tools of this machine, and no lab.
    pub host_tools: bool,
    /// The user's own kernel tree.
    pub kdir: Option<PathBuf>,
    accel: OnceCell<Accel>,
    claim: OnceCell<Flock<File>>,
}

impl Session {
    pub fn new(verbose: bool, host_tools: bool, kdir: Option<PathBuf>) -> Result<Self> {
        // The alias in .cargo/config.toml works below the repository only.
        let repo = fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            .context("the repository is not where it was when this tool was built")?;
        let cache = dirs::cache_dir()
            .context("there is no home directory for a cache; set XDG_CACHE_HOME")?
            .join("userfaultfd-rust");
        Ok(Self {
            ui: Ui::new(verbose, repo.join("target/logs"))?,
            results: repo.join("target/kernel"),
            repo,
            cache,
            host_tools,
            kdir,
            accel: OnceCell::new(),
            claim: OnceCell::new(),
        })
    }

    /// Keeps other runs of this tool from using the cache until this one ends. Waits for a run that
    /// does: it would build from another tree.
    fn claim_cache(&self) -> Result<()> {
        if self.claim.get().is_some() {
            return Ok(());
        }
        fs::create_dir_all(&self.cache)?;
        let file = File::create(self.cache.join("lock"))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, err)| {
            if err == Errno::EWOULDBLOCK {
                let cache = self.cache.display();
                self.ui.note(&format!(
                    "another run uses {cache}: waiting for its end; XDG_CACHE_HOME names another place"
                ));
            }
            Flock::lock(file, FlockArg::LockExclusive)
        });
        let lock = lock
            .map_err(|(_, err)| err)
            .context("cannot lock the cache")?;
        let _ = self.claim.set(lock);
        Ok(())
    }

    /// Makes a root, if it is not there already.
    pub fn root(&self, recipe: &Recipe) -> Result<Lab> {
        self.claim_cache()?;
        lab::ensure(&self.ui, &self.cache, recipe)
    }

    pub fn lab(&self) -> Result<Lab> {
        if self.host_tools {
            lab::ensure_host_tools(&self.ui, lab::HOST_TOOLS)?;
            for line in lab::host_versions()?.lines() {
                self.ui.note(line);
            }
            return Ok(Lab::Host);
        }
        self.root(&lab::LAB)
    }

    pub fn source(&self) -> Result<Source> {
        self.claim_cache()?;
        match &self.kdir {
            Some(kdir) => Source::from_kdir(&self.ui, &self.cache, kdir, &self.repo),
            None => Source::pristine(&self.ui, &self.cache),
        }
    }

    /// Makes the lab, and a source tree with the series applied.
    pub fn builder(&self) -> Result<Builder<'_>> {
        self.builder_for(Arch::X86)
    }

    /// The same for an architecture: each has a lab of its own.
    pub fn builder_for(&self, arch: Arch) -> Result<Builder<'_>> {
        let lab = match arch {
            Arch::X86 => self.lab()?,
            Arch::Arm64 if self.host_tools => bail!("for arm64 there is no --host-tools"),
            Arch::Arm64 => self.root(&lab::LAB_ARM64)?,
        };
        self.builder_in(lab, arch)
    }

    /// The same in a lab that is there.
    pub fn builder_in(&self, lab: Lab, arch: Arch) -> Result<Builder<'_>> {
        let source = self.source()?;
        let tree_id = source.prepare(&self.ui, &self.repo)?;
        source.check_tree(&self.repo)?;
        Ok(Builder {
            session: self,
            arch,
            lab,
            source,
            tree_id,
        })
    }

    /// Returns the accelerator of guests of this machine's architecture. It takes a boot to find
    /// out, so the result is kept.
    pub fn accel(&self, lab: &Lab, kernel: &Path) -> Result<Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let accel = guest::choose_accel(&self.ui, lab, kernel, &self.share("probe", &[])?)?;
        Ok(*self.accel.get_or_init(|| accel))
    }

    /// Makes the directory that a guest shares, with copies of directories in it.
    pub fn share(&self, name: &str, directories: &[&Path]) -> Result<PathBuf> {
        let share = self.results.join("guest").join(name);
        let _ = fs::remove_dir_all(&share);
        fs::create_dir_all(&share)?;
        for directory in directories {
            let into = share.join(directory.file_name().context("a directory has a name")?);
            fs::create_dir_all(&into)?;
            for entry in fs::read_dir(directory)? {
                let entry = entry?;
                if entry.file_name() != "key" {
                    fs::copy(entry.path(), into.join(entry.file_name()))?;
                }
            }
        }
        Ok(share)
    }
}
