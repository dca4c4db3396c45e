// SPDX-License-Identifier: GPL-2.0

//! What there is to say about a machine and its kernel.

use anyhow::{bail, Context, Result};
use serde::Serialize;
use std::{arch::x86_64::__cpuid, fs, thread::available_parallelism};

/// What is `None` is not known.
#[derive(Serialize)]
pub struct Machine {
    pub kernel: String,
    /// That of the kernel.
    pub compiler: Option<String>,
    /// Of userfaultfd: "rust" or "c".
    pub implementation: Option<&'static str>,
    pub architecture: &'static str,
    pub cpu: Option<String>,
    /// How many CPUs this process may use.
    pub cpus: usize,
    /// The hypervisor, or "none" if there is none that says so.
    pub hypervisor: String,
    pub clock: Option<String>,
    pub memory_mib: usize,
}

/// Returns a file without the end of its last line, if it can be read.
fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim_end().to_string())
}

/// Returns the compiler that `/proc/version` names, without who built the kernel.
fn compiler(version: &str) -> Option<&str> {
    let (_, rest) = version.split_once(") (")?;
    Some(rest.rsplit_once(") #")?.0)
}

/// Tells from the names of functions how userfaultfd is implemented.
fn implementation(symbols: &str) -> Option<&'static str> {
    let mut names = symbols.lines().filter_map(|line| line.split(' ').nth(2));
    names.find_map(|name| match name {
        "userfaultfd_wake_function" => Some("c"),
        name if name.starts_with("_R") && name.contains("11userfaultfd") => Some("rust"),
        _ => None,
    })
}

/// Returns a value of `/proc/cpuinfo` or `/proc/meminfo`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(found, _)| found.trim_end() == name)?;
    Some(value.trim())
}

/// Asks the CPU for the name of the hypervisor.
fn hypervisor() -> String {
    const PRESENT: u32 = 1 << 31;
    // SAFETY: Each CPU of this architecture has the instruction. If the bit is set, it has the
    // second leaf too.
    #[allow(unused_unsafe, reason = "newer compilers know that it is safe")]
    let leaf = unsafe {
        if __cpuid(1).ecx & PRESENT == 0 {
            return "none".into();
        }
        __cpuid(0x4000_0000)
    };
    let bytes = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    let name = String::from_utf8_lossy(bytes.as_flattened()).into_owned();
    name.trim_matches(['\0', ' ']).into()
}

impl Machine {
    pub fn new() -> Result<Self> {
        let version = read("/proc/version").context("cannot read /proc/version: mount /proc")?;
        let kernel = read("/proc/sys/kernel/osrelease");
        let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
        Ok(Self {
            kernel: kernel.context("cannot read /proc/sys: mount /proc")?,
            compiler: compiler(&version).map(str::to_string),
            implementation: implementation(&read("/proc/kallsyms").unwrap_or_default()),
            architecture: std::env::consts::ARCH,
            cpu: value(&cpuinfo, "model name").map(str::to_string),
            cpus: available_parallelism()?.get(),
            hypervisor: hypervisor(),
            clock: read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            memory_mib: Memory::now()?.total >> 20,
        })
    }
}

/// The memory of a machine, in bytes.
pub struct Memory {
    total: usize,
    available: usize,
    /// Free huge pages of 2 MiB.
    pub huge_pages: usize,
}

impl Memory {
    pub fn now() -> Result<Self> {
        let text = read("/proc/meminfo").context("cannot read /proc/meminfo: mount /proc")?;
        let number = |name: &str| {
            let number = value(&text, name)?.trim_end_matches(" kB");
            number.parse::<usize>().ok()
        };
        let bytes = |name| Some(number(name)? << 10);
        Ok(Self {
            total: bytes("MemTotal").context("/proc/meminfo has no MemTotal")?,
            available: bytes("MemAvailable").context("/proc/meminfo has no MemAvailable")?,
            huge_pages: match bytes("Hugepagesize") {
                Some(0x20_0000) => number("HugePages_Free").unwrap_or(0),
                _ => 0,
            },
        })
    }

    /// Fails if there is not so much memory for this process, in bytes.
    pub fn require(&self, wanted: usize) -> Result<()> {
        // The limit of the control group, if this is in a container: version 2 or 1.
        let limits = ["memory.max", "memory/memory.limit_in_bytes"];
        let limit = limits
            .iter()
            .find_map(|name| read(&format!("/sys/fs/cgroup/{name}"))?.parse().ok());
        let left = self.available.min(limit.unwrap_or(usize::MAX));
        if left < wanted {
            bail!(
                "{} MiB of memory are available, and {} are needed: end other programs, or say \
                 --memory {}",
                left >> 20,
                wanted >> 20,
                (left >> 21).max(32)
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_named_without_the_builder() {
        let debian = "Linux version 6.12.48+deb13-amd64 (debian-kernel@lists.debian.org) \
                      (x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0, GNU ld (GNU Binutils for \
                      Debian) 2.44) #1 SMP PREEMPT_DYNAMIC Debian 6.12.48-1 (2025-09-20)";
        assert_eq!(
            compiler(debian),
            Some(
                "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0, GNU ld (GNU Binutils for \
                 Debian) 2.44"
            )
        );
        assert_eq!(compiler("Linux"), None);
    }

    #[test]
    fn the_implementation_is_known_by_its_functions() {
        let c = "0000000000000000 t userfaultfd_ioctl\n\
                 0000000000000000 t userfaultfd_wake_function\n";
        let rust = "0000000000000000 t userfaultfd_ioctl\n\
                    0000000000000000 t _RNvNtCsaasQKHGmrTW_11userfaultfd4file9read_fork\n";
        assert_eq!(implementation(c), Some("c"));
        assert_eq!(implementation(rust), Some("rust"));
        assert_eq!(implementation(""), None);
    }

    #[test]
    fn too_little_memory_is_an_error_of_one_line() {
        let memory = Memory {
            total: 1 << 30,
            available: 100 << 20,
            huge_pages: 0,
        };
        assert!(memory.require(64 << 20).is_ok());
        let err = memory.require(256 << 20).map_err(|err| err.to_string());
        assert!(err.is_err_and(|err| err.contains("--memory 50") && !err.contains('\n')));
    }
}
