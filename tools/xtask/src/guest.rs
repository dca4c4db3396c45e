// SPDX-License-Identifier: GPL-2.0

//! Guests: a kernel, a root, and a job.

use crate::{
    config::Arch,
    lab::{Lab, Mounts},
    ui::{self, Ui},
};
use anyhow::{bail, Context, Result};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// How long a guest may take until it runs its job.
const BOOT_TIME: Duration = Duration::from_secs(180);

/// The files of every guest, for its first process and for jobs.
const FILES: &[(&str, &str)] = &[
    ("init.sh", include_str!("../guest/init.sh")),
    ("lsm.py", include_str!("../guest/lsm.py")),
    ("large-folios.sh", include_str!("../guest/large-folios.sh")),
    ("stress-ng.sh", include_str!("../guest/stress-ng.sh")),
    ("suites.sh", include_str!("../guest/suites.sh")),
    ("uffd-trace.sh", include_str!("../guest/uffd-trace.sh")),
    ("uffd-trace", include_str!("../../uffd-trace/uffd-trace")),
    ("latency.bt", include_str!("../../uffd-trace/latency.bt")),
    ("slowest.bt", include_str!("../../uffd-trace/slowest.bt")),
    ("sleepers.bt", include_str!("../../uffd-trace/sleepers.bt")),
    ("rate.bt", include_str!("../../uffd-trace/rate.bt")),
    ("errors.bt", include_str!("../../uffd-trace/errors.bt")),
];

/// How a guest is started.
pub struct Guest<'a> {
    pub arch: Arch,
    pub lab: &'a Lab,
    /// The directory of the kernel.
    pub kernel: &'a Path,
    /// The directory that the guest shares, with all that the job needs.
    pub share: &'a Path,
    pub accel: Accel,
    /// Changes to the model of the CPUs.
    pub model: &'a str,
    pub cpus: u32,
    pub memory: &'a str,
    /// More of the kernel's command line.
    pub append: &'a str,
    /// Ranges of addresses. QEMU logs the code there that runs, in the file [`TRACE`]. Needs TCG.
    pub trace: Option<&'a str>,
}

/// The file with the code that ran, in the directory that the guest shares.
pub const TRACE: &str = "trace.log";

/// The output of a guest.
pub struct Outcome {
    /// The output of the job.
    pub output: String,
    /// The file with the output of the kernel.
    pub console: PathBuf,
}

/// The accelerator of QEMU.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Accel {
    Kvm,
    Tcg,
    /// TCG, with a clock in the guest that advances by a nanosecond for each instruction. For one
    /// CPU.
    Icount,
}

/// All features that QEMU can emulate, but no fast string instructions, because each byte of a
/// `rep movsb` counts as an instruction there. Without them, the kernel moves eight bytes at once.
const TCG_CPU: &str = "max,erms=off,fsrm=off,fsrs=off,fzrm=off";

/// A CPU of servers, which has atomic instructions and all sizes of pages.
const TCG_CPU_ARM64: &str = "neoverse-n1";

impl Accel {
    /// The arguments, with the model of the CPUs at the end.
    fn args(self, arch: Arch) -> String {
        let cpu = match arch {
            Arch::X86 => TCG_CPU,
            Arch::Arm64 => TCG_CPU_ARM64,
        };
        match self {
            Self::Kvm => "-accel kvm -cpu host".into(),
            Self::Tcg => format!("-accel tcg,thread=multi -cpu {cpu}"),
            Self::Icount => {
                format!("-accel tcg,thread=single -icount shift=0,sleep=off -cpu {cpu}")
            }
        }
    }
}

impl<'a> Guest<'a> {
    /// A guest for x86-64 with two CPUs and 4 GiB.
    pub fn new(lab: &'a Lab, kernel: &'a Path, share: &'a Path, accel: Accel) -> Self {
        Self {
            arch: Arch::X86,
            lab,
            kernel,
            share,
            accel,
            model: "",
            cpus: 2,
            memory: "4G",
            append: "",
            trace: None,
        }
    }

    /// The script that starts QEMU inside the lab. The console goes to a file, the job to the
    /// standard output. The root is the lab, or an initramfs if the lab is for other CPUs.
    fn script(&self) -> String {
        let mounts = self.mounts();
        let paths = self.lab.paths(&mounts);
        let out = paths.out;
        let (prepare, qemu, root, console, init) = match self.arch {
            Arch::X86 => (
                "",
                "qemu-system-x86_64",
                "-virtfs local,path=/,mount_tag=root,security_model=none,multidevs=remap,\
                 readonly=on"
                    .to_string(),
                "ttyS0 root=root rootfstype=9p \
                 rootflags=trans=virtio,version=9p2000.L,cache=loose,msize=262144 ro",
                format!("init=/bin/sh -- {out}/init.sh {out} ttyS1"),
            ),
            Arch::Arm64 => (
                include_str!("../scripts/initramfs.sh"),
                "qemu-system-aarch64 -machine virt",
                format!("-initrd '{out}/initramfs'"),
                "ttyAMA0",
                format!("-- {out} ttyAMA1"),
            ),
        };
        let trace = self.trace.map_or(String::new(), |ranges| {
            format!("-d in_asm -dfilter {ranges} -D '{out}/{TRACE}'")
        });
        format!(
            "{prepare}exec {qemu} {accel}{model} -smp {cpus} -m {memory} {trace} \
             -nodefaults -no-user-config -no-reboot -display none \
             -serial file:'{out}/console.log' -serial stdio {root} \
             -virtfs local,path='{out}',mount_tag=out,security_model=none,multidevs=remap \
             -kernel '{kernel}/{image}' \
             -append 'console={console} panic=-1 {append} {init}'",
            accel = self.accel.args(self.arch),
            model = self.model,
            cpus = self.cpus,
            memory = self.memory,
            kernel = paths.build,
            image = self.arch.image(),
            append = self.append,
        )
    }

    fn mounts(&self) -> Mounts<'_> {
        Mounts {
            src: self.kernel,
            build: self.kernel,
            out: self.share,
        }
    }

    fn command(&self) -> Command {
        self.lab.sh(&self.mounts(), &[], &self.script())
    }

    /// Boots, runs a job, and returns the output. Calls `watch` with each line as it comes.
    ///
    /// Fails if the guest does not come up, or does not end in time.
    pub fn run(&self, job: &str, limit: Duration, mut watch: impl FnMut(&str)) -> Result<Outcome> {
        fs::create_dir_all(self.share)?;
        for (name, contents) in FILES.iter().chain(&[("job.sh", job)]) {
            fs::write(self.share.join(name), contents)?;
        }
        let console = self.share.join("console.log");
        fs::write(&console, "")?;

        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(fs::File::create(self.share.join("qemu.log"))?);
        let mut child = ui::spawn(&mut command)?;
        let stdout = child.stdout.take().context("no output")?;
        let lines = lines_of(stdout);

        let mut log = fs::File::create(self.share.join("output.log"))?;
        let mut output = String::new();
        let start = Instant::now();
        let (mut ready, mut finished) = (false, false);
        loop {
            let deadline = if ready { limit } else { BOOT_TIME.min(limit) };
            let left = deadline.saturating_sub(start.elapsed());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    ready |= line.starts_with("@@ ready");
                    finished |= line == "@@ finished";
                    writeln!(log, "{line}")?;
                    output.push_str(&line);
                    output.push('\n');
                    watch(&line);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    child.wait()?;
                    let what = if ready {
                        "the guest did not finish in"
                    } else {
                        "the guest did not boot in"
                    };
                    bail!(
                        "{what} {}; the last lines of its console:\n{}",
                        ui::duration(deadline),
                        ui::tail(&console)?
                    );
                }
            }
        }
        child.wait()?;
        if !finished {
            bail!(
                "the guest ended before its job did; the last lines of its console:\n{}\n{}",
                ui::tail(&console)?,
                ui::tail(&self.share.join("qemu.log"))?
            );
        }
        Ok(Outcome { output, console })
    }
}

/// Reads lines in a thread, so that the caller can wait for them with a time limit.
fn lines_of(from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read != 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_string();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// Returns the version and the implementation that a guest printed.
pub fn ready(output: &str) -> Option<(&str, &str)> {
    let mut lines = output.lines();
    lines
        .find_map(|line| line.strip_prefix("@@ ready "))?
        .split_once(' ')
}

/// Finds out whether KVM runs this kernel, with a short boot under a time limit. KVM may be there
/// and accept a guest, and still not run it.
pub fn choose_accel(ui: &Ui, lab: &Lab, kernel: &Path, share: &Path) -> Result<Accel> {
    let usable = fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if !usable {
        ui.note("KVM is not there: guests run under TCG, which is slow");
        return Ok(Accel::Tcg);
    }
    let probe = Guest {
        memory: "1G",
        ..Guest::new(lab, kernel, share, Accel::Kvm)
    };
    match probe.run("", Duration::from_secs(20), |_| {}) {
        Ok(_) => {
            ui.note("KVM works: guests run with it");
            Ok(Accel::Kvm)
        }
        Err(_) => {
            ui.note("KVM is there but does not run a kernel: guests run under TCG, which is slow");
            Ok(Accel::Tcg)
        }
    }
}
