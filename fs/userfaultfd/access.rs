// SPDX-License-Identifier: GPL-2.0

//! Who may create a descriptor, and how.
//!
//! A descriptor that handles faults of the kernel, for example in the middle of a system call,
//! lets its owner stop the kernel at a point of his choice. So `userfaultfd(2)` gives one to those
//! with `CAP_SYS_PTRACE`, or to everybody where `vm.unprivileged_userfaultfd` is 1; others have to
//! ask for `UFFD_USER_MODE_ONLY`. `/dev/userfaultfd` gives one to all who may open it.

use crate::{context::Context, file};
use kernel::{
    built_in, c_str,
    cred::{capable, Capability},
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    prelude::*,
    sysctl::BoolSysctl,
    uapi,
    userfaultfd::uapi::NEW,
};

/// `vm.unprivileged_userfaultfd`
pub(crate) static UNPRIVILEGED: BoolSysctl =
    BoolSysctl::new(c_str!("unprivileged_userfaultfd"), built_in!());

/// Handle the faults of user mode only.
pub(crate) const USER_MODE_ONLY: u32 = uapi::UFFD_USER_MODE_ONLY;

/// Creates a descriptor for the address space of the current task, if it has the right to.
///
/// `flags` is a combination of `O_CLOEXEC`, `O_NONBLOCK` and [`USER_MODE_ONLY`].
///
/// # Errors
///
/// As in `userfaultfd(2)`: `EPERM` without the right, and then those of [`create`].
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
/// `EINVAL` for unknown flags, `ENOMEM`, `EMFILE`, `ENFILE`, or what the LSM answers.
fn create(flags: u32) -> Result<u32> {
    if flags & !(file::SHARED_FLAGS | USER_MODE_ONLY) != 0 {
        return Err(EINVAL);
    }
    let task = current!();
    let context = Context::new(task.mm().ok_or(EINVAL)?, flags, 0)?;
    Ok(file::NewDescriptor::reserve(flags, None)?.install_nowait(context))
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

    /// Implements `USERFAULTFD_IOC_NEW`, whose argument is the flags. The right to open the node
    /// is all that is asked for.
    fn ioctl((): (), _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != NEW {
            return Err(EINVAL);
        }
        // CAST: The argument is an int; what is above it was never looked at.
        create(arg as u32).map(|fd| fd as isize)
    }

    #[cfg(CONFIG_COMPAT)]
    fn compat_ioctl((): (), file: &File, cmd: u32, arg: usize) -> Result<isize> {
        Self::ioctl((), file, cmd, arg)
    }
}
