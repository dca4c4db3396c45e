// SPDX-License-Identifier: GPL-2.0

//! A virtual machine: a QEMU process and its answers.

use super::{guest, qmp::Qmp};
use anyhow::{anyhow, bail, Context, Result};
use nix::sys::statfs::{statfs, HUGETLBFS_MAGIC};
use serde_json::{json, Value};
use std::{
    fs::{self, File},
    ops::RangeInclusive,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{self, Child, Command},
    thread,
    time::{Duration, Instant},
};
use uffd_guest::end_with;

/// What the memory of a virtual machine is made of.
#[derive(Clone, Copy, PartialEq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// A memfd, mapped shared, as for vhost-user.
    SharedMemfd,
    /// Huge pages of a file in hugetlbfs, mapped privately.
    Hugetlb,
    /// Huge pages of a memfd, mapped shared.
    SharedHugetlb,
}

/// Where hugetlbfs is mounted.
const HUGETLBFS: &str = "/dev/hugepages";

impl Backing {
    /// Fails if there is no such memory here.
    fn check(self) -> Result<()> {
        // If hugetlbfs is not mounted there, QEMU would make an ordinary file.
        if self == Self::Hugetlb
            && statfs(HUGETLBFS).context(HUGETLBFS)?.filesystem_type() != HUGETLBFS_MAGIC
        {
            bail!("hugetlbfs is not at {HUGETLBFS}");
        }
        Ok(())
    }

    /// The memory backend for QEMU, if it is not the default.
    fn object(self, memory_mib: usize) -> Option<String> {
        let kind = match self {
            Self::Anonymous => return None,
            Self::SharedMemfd => "memory-backend-memfd,share=on",
            Self::Hugetlb => &format!("memory-backend-file,mem-path={HUGETLBFS},share=off"),
            Self::SharedHugetlb => "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on",
        };
        Some(format!("{kind},id=memory,size={memory_mib}M"))
    }
}

/// What virtual machines are made of.
#[derive(Clone, Copy)]
pub struct Config<'a> {
    /// The program to run.
    pub qemu: &'a str,
    /// Where the files of the machines are.
    pub dir: &'a Path,
    pub backing: Backing,
    pub memory_mib: usize,
    /// How long anything may take.
    pub limit: Duration,
}

/// Whether a virtual machine boots, or waits for another's memory.
#[derive(Clone, Copy, PartialEq)]
pub enum Start {
    Boot,
    Incoming,
}

/// A process that is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running virtual machine.
pub struct Machine {
    name: &'static str,
    process: Process,
    qmp: Qmp,
    serial: PathBuf,
    stderr: PathBuf,
    limit: Duration,
    /// How many signs the guest had given before it came to this machine.
    signs_before: usize,
}

impl Machine {
    /// Starts a virtual machine, with a name that no other machine has in its directory.
    pub fn start(config: &Config, name: &'static str, start: Start) -> Result<Self> {
        config.backing.check()?;
        let serial = config.dir.join(format!("{name}.serial"));
        let stderr = config.dir.join(format!("{name}.stderr"));
        let image = config.dir.join("guest");
        fs::write(&image, guest::image())?;

        // QMP uses standard input and output, so that no socket has to be connected or removed.
        let (ours, theirs) = UnixStream::pair()?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(config.qemu);
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none"])
            .args(["-accel", "tcg", "-smp", "1"])
            .args(["-m", &format!("{}M", config.memory_mib)])
            .args(["-chardev", "stdio,id=qmp,signal=off"])
            .args(["-mon", "chardev=qmp,mode=control"])
            .args(["-serial", &format!("file:{}", serial.display())])
            .arg("-kernel")
            .arg(&image)
            .stdin(theirs.try_clone()?)
            .stdout(theirs)
            .stderr(File::create(&stderr)?);
        match config.backing.object(config.memory_mib) {
            Some(object) => {
                command.args(["-object", &object]);
                command.args(["-machine", "pc,memory-backend=memory"])
            }
            None => command.args(["-machine", "pc"]),
        };
        if start == Start::Incoming {
            command.args(["-incoming", "defer"]);
        }
        let parent = process::id();
        // SAFETY: The closure makes system calls only; it neither allocates nor takes locks.
        unsafe {
            command.pre_exec(move || end_with(parent));
        }
        let process = Process(command.spawn().context(config.qemu.to_owned())?);
        // The command holds their end of the connection, which would otherwise stay open.
        drop(command);

        let qmp = Qmp::new(ours, config.limit)
            .map_err(|err| anyhow!("{name}: {err:#}\n{}", tail(&stderr)))?;
        Ok(Self {
            name,
            process,
            qmp,
            serial,
            stderr,
            limit: config.limit,
            signs_before: 0,
        })
    }

    /// Runs a QMP command.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp
            .execute(command, arguments)
            .with_context(|| self.name)
    }

    /// Enables capabilities of migration, and events about migration.
    pub fn set_capabilities(&mut self, capabilities: &[&str]) -> Result<()> {
        let capabilities: Vec<_> = capabilities
            .iter()
            .chain(&["events"])
            .map(|name| json!({ "capability": name, "state": true }))
            .collect();
        let arguments = json!({ "capabilities": capabilities });
        self.execute("migrate-set-capabilities", arguments)?;
        Ok(())
    }

    /// Returns what QEMU reports about the migration.
    fn migration(&mut self) -> Result<Value> {
        self.execute("query-migrate", json!({}))
    }

    /// Returns a number about the migration, by its path in the answer.
    pub fn migration_number(&mut self, path: &str) -> Result<u64> {
        let migration = self.migration()?;
        migration
            .pointer(path)
            .and_then(Value::as_u64)
            .with_context(|| format!("{}: no {path} in {migration}", self.name))
    }

    /// Waits for an event that the migration is in this state. Earlier events do not count again.
    pub fn wait_status(&mut self, wanted: &str) -> Result<()> {
        let name = self.name;
        self.wait_event(wanted, |event| {
            if event["event"] != "MIGRATION" {
                return Ok(false);
            }
            let status = &event["data"]["status"];
            if status == "failed" {
                bail!("{name}: migration failed before it was {wanted}");
            }
            Ok(status == wanted)
        })
    }

    /// Waits for events that the guest stops and resumes. Earlier events do not count again.
    pub fn wait_stop_and_resume(&mut self) -> Result<()> {
        self.wait_event("stopped", |event| Ok(event["event"] == "STOP"))?;
        self.wait_event("resumed", |event| Ok(event["event"] == "RESUME"))
    }

    /// Waits for an event.
    fn wait_event(
        &mut self,
        what: &str,
        mut is_wanted: impl FnMut(&Value) -> Result<bool>,
    ) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        loop {
            let event = self
                .qmp
                .event(deadline)
                .with_context(|| format!("{}: before it was {what}", self.name))?
                .with_context(|| format!("{}: not {what} in time", self.name))?;
            if is_wanted(&event)? {
                return Ok(());
            }
        }
    }

    /// Waits until the virtual machine is in this state, such as `running`. It changes a little
    /// later than the status of the migration.
    pub fn wait_run_state(&mut self, wanted: &str) -> Result<()> {
        let what = format!("{}: run state {wanted}", self.name);
        wait_for(&what, self.limit, || {
            let status = self.execute("query-status", json!({}))?;
            Ok((status["status"] == wanted).then_some(()))
        })
    }

    /// Returns how much memory of the process is in huge pages.
    pub fn hugetlb_bytes(&self) -> Result<u64> {
        let path = format!("/proc/{}/smaps_rollup", self.process.0.id());
        let mut kib = 0;
        for line in fs::read_to_string(path)?.lines() {
            if let Some((_, size)) = line.split_once("_Hugetlb:") {
                kib += size.trim().trim_end_matches(" kB").parse::<u64>()?;
            }
        }
        Ok(kib << 10)
    }

    /// Checks the signs of the guest. Returns how many it has given, on this machine and before.
    pub fn signs(&self) -> Result<usize> {
        guest::check_signs(&fs::read_to_string(&self.serial)?, self.signs_before)
            .with_context(|| self.name)
    }

    /// Waits until the guest has given so many signs.
    fn wait_signs(&self, wanted: usize) -> Result<()> {
        let what = format!("{}: {wanted} signs", self.name);
        wait_for(&what, self.limit, || {
            Ok((self.signs()? >= wanted).then_some(()))
        })
    }

    /// Waits until the guest has checked and written all of its memory.
    pub fn wait_round(&self) -> Result<()> {
        self.wait_signs(self.signs()? + guest::SIGNS)
    }

    /// Records that the guest came from a machine on which it had given so many signs.
    pub fn continues(&mut self, signs_before: usize) {
        self.signs_before = signs_before;
    }

    /// Records that the guest came from a machine on which it had given one of these numbers of
    /// signs. The next signs tell which number.
    pub fn continues_one_of(&mut self, candidates: RangeInclusive<usize>) -> Result<()> {
        let what = format!("{}: first signs", self.name);
        // A whole round of signs has a letter in it, which tells the number of the round.
        let signs = wait_for(&what, self.limit, || {
            let signs = fs::read_to_string(&self.serial)?;
            Ok((signs.len() >= guest::SIGNS).then_some(signs))
        })?;
        self.signs_before = guest::signs_before(&signs, candidates).with_context(|| self.name)?;
        Ok(())
    }

    /// Returns what may explain a failure.
    pub fn diagnosis(&mut self) -> String {
        let migration = match self.migration() {
            Ok(migration) => migration.to_string(),
            Err(err) => format!("{err:#}"),
        };
        let (name, serial, stderr) = (self.name, tail(&self.serial), tail(&self.stderr));
        format!(
            "{name}: query-migrate: {migration}\n\
             {name}: serial port: {serial}\n\
             {name}: standard error: {stderr}"
        )
    }
}

/// Calls `ask` again and again until there is an answer.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not in time");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The end of a file.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(1500);
    String::from_utf8_lossy(&text[start..]).trim().to_owned()
}
