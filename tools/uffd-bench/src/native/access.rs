// SPDX-License-Identifier: GPL-2.0

//! Whether and how this process may use userfaultfd.

use crate::uffd::Way;
use anyhow::{bail, Result};
use std::{fs, io, path::Path};

/// What tells why userfaultfd cannot be used.
struct Refusal {
    /// The errors of the system call: for all faults, and for those of user mode only.
    any: i32,
    user: i32,
    /// Whether a filter of system calls is installed.
    filtered: bool,
    /// Whether the kernel has the setting for unprivileged processes, so it has userfaultfd.
    has_setting: bool,
}

impl Refusal {
    /// Says what to do.
    fn advice(&self) -> String {
        const ELSEWHERE: &str =
            "run this outside of the container, or with `--security-opt seccomp=unconfined`";
        let error = io::Error::from_raw_os_error(self.user);
        match (self.any, self.user) {
            (libc::ENOSYS, _) if !self.has_setting => {
                "the running kernel has no userfaultfd: boot one with CONFIG_USERFAULTFD=y".into()
            }
            (libc::ENOSYS | libc::EPERM | libc::EACCES, libc::ENOSYS | libc::EPERM | libc::EACCES)
                if self.filtered =>
            {
                format!("a filter of system calls (seccomp) forbids userfaultfd: {ELSEWHERE}")
            }
            // Kernels before 5.11 do not know UFFD_USER_MODE_ONLY.
            (libc::EPERM, libc::EINVAL) => "this kernel lets only root use userfaultfd: run this as \
                                            root, or allow it with `sysctl -w \
                                            vm.unprivileged_userfaultfd=1`"
                .into(),
            (_, libc::EPERM | libc::EACCES) => format!(
                "a security module forbids userfaultfd ({error}): look at `dmesg | grep -i denied`, \
                 and allow it there"
            ),
            (_, libc::EMFILE | libc::ENFILE) => {
                format!("no userfaultfd can be opened ({error}): raise the limit with `ulimit -n`")
            }
            (_, libc::ENOMEM) => {
                format!("no userfaultfd can be opened ({error}): end other programs")
            }
            _ => format!("no userfaultfd can be opened: {error}: look at `dmesg`"),
        }
    }
}

/// Finds out how userfaultfds can be opened, with as many faults as possible.
pub fn choose() -> Result<Way> {
    let open = |way: Way| match way.open(libc::O_CLOEXEC) {
        Ok(_) => None,
        Err(err) => Some(err.raw_os_error().unwrap_or(0)),
    };
    let Some(any) = open(Way::SystemCall) else {
        return Ok(Way::SystemCall);
    };
    if open(Way::Device).is_none() {
        return Ok(Way::Device);
    }
    let Some(user) = open(Way::UserMode) else {
        return Ok(Way::UserMode);
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let refusal = Refusal {
        any,
        user,
        filtered: status.lines().any(|line| line == "Seccomp:\t2"),
        has_setting: Path::new("/proc/sys/vm/unprivileged_userfaultfd").exists(),
    };
    bail!(refusal.advice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_advice() {
        for (any, user, filtered, has_setting, word) in [
            (
                libc::ENOSYS,
                libc::ENOSYS,
                false,
                false,
                "CONFIG_USERFAULTFD",
            ),
            // The filter of a container, on a kernel without it.
            (
                libc::ENOSYS,
                libc::ENOSYS,
                true,
                false,
                "CONFIG_USERFAULTFD",
            ),
            (libc::ENOSYS, libc::ENOSYS, true, true, "seccomp"),
            (libc::EPERM, libc::EPERM, true, true, "seccomp"),
            (libc::EPERM, libc::EPERM, false, true, "security module"),
            (libc::EPERM, libc::EINVAL, false, true, "sysctl"),
            (libc::EPERM, libc::EINVAL, true, true, "sysctl"),
            (libc::EMFILE, libc::EMFILE, false, true, "ulimit"),
            (libc::EIO, libc::EIO, false, true, "dmesg"),
        ] {
            let refusal = Refusal {
                any,
                user,
                filtered,
                has_setting,
            };
            let advice = refusal.advice();
            assert!(advice.contains(word), "{any} {user}: {advice}");
            assert!(!advice.contains('\n'));
        }
    }
}
