// SPDX-License-Identifier: GPL-2.0

//! The permission to create a descriptor.
//!
//! A descriptor that handles faults of the kernel, for example in the middle of a system call, lets
//! its owner stop the kernel at a point that the owner chooses. So `userfaultfd(2)` creates one
//! only for a process with `CAP_SYS_PTRACE`, or if `vm.unprivileged_userfaultfd` is 1; other
//! processes have to ask for `UFFD_USER_MODE_ONLY`. `/dev/userfaultfd` creates one for every
//! process that may open the device.

use crate::file::{NewDescriptor, SHARED_FLAGS};
use kernel::{
    built_in, c_str,
    cred::{capable, Capability},
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    prelude::*,
    sysctl::BoolSysctl,
    uapi,
    userfaultfd::{abi, Context, ContextOwner},
};

/// `vm.unprivileged_userfaultfd`
pub(crate) static UNPRIVILEGED: BoolSysctl =
    BoolSysctl::new(c_str!("unprivileged_userfaultfd"), built_in!());

/// The flag of a descriptor that handles faults of user mode only.
pub(crate) const USER_MODE_ONLY: u32 = uapi::UFFD_USER_MODE_ONLY;

static_assert!(SHARED_FLAGS & USER_MODE_ONLY == 0);

/// Creates a descriptor for the address space of the current task, if the task may do so.
///
/// `flags` is a combination of `O_CLOEXEC`, `O_NONBLOCK` and [`USER_MODE_ONLY`].
///
/// # Errors
///
/// As in `userfaultfd(2)`: `EPERM` without the permission, and those of [`create`].
#[doc(alias = "userfaultfd_syscall_allowed")]
pub(crate) fn create_checked(flags: u32) -> Result<u32> {
    let allowed =
        flags & USER_MODE_ONLY != 0 || capable(Capability::SYS_PTRACE) || UNPRIVILEGED.get();
    if !allowed {
        return Err(EPERM);
    }
    create(flags)
}

/// Creates a descriptor for the address space of the current task.
///
/// # Errors
///
/// `EINVAL` for unknown flags, `ENOMEM`, `EMFILE`, `ENFILE`, or the error of the LSM hook.
#[doc(alias = "new_userfaultfd")]
fn create(flags: u32) -> Result<u32> {
    if flags & !(SHARED_FLAGS | USER_MODE_ONLY) != 0 {
        return Err(EINVAL);
    }
    let task = current!();
    let context = Context::new(task.mm().ok_or(EINVAL)?, flags, 0)?;
    let new = NewDescriptor::reserve(flags, None)?;
    Ok(new.install_nowait(ContextOwner::new(context)))
}

/// `/dev/userfaultfd`
pub(crate) struct Device;

#[vtable]
impl MiscDevice for Device {
    type Ptr = ();

    const NOOP_LLSEEK: bool = true;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result {
        Ok(())
    }

    /// Implements `USERFAULTFD_IOC_NEW`, whose argument is the flags. The permission to open the
    /// device is enough.
    fn ioctl((): (), _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != abi::NEW {
            return Err(EINVAL);
        }
        // CAST: The argument is an `int`; C ignores the upper half as well.
        create(arg as u32).map(|fd| fd as isize)
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl((): (), file: &File, cmd: u32, arg: usize) -> Result<isize> {
        Self::ioctl((), file, cmd, arg)
    }
}
