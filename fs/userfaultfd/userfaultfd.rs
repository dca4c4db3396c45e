// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: page faults handled in user space.
//!
//! A process registers parts of its address space with a [context](context::Context), which it
//! holds as a file descriptor. A thread that faults there is put to sleep, and a message about the
//! fault appears on the descriptor. Whoever reads it resolves the fault with an ioctl, which wakes
//! the thread. A monitor that manages another process also reads about its forks, moves and
//! removals of memory.
//!
//! | module | |
//! |---|---|
//! | [`access`] | who may create a descriptor, and how |
//! | [`context`] | what is behind a descriptor |
//! | [`message`] | what is read from it |
//! | [`fault`] | page faults |
//! | [`event`] | forks, moves and removals |
//! | [`file`] | read, poll, release, fdinfo |
//! | [`ioctl`] | the handshake, and the way to the other operations |
//! | [`features`] | which features a context gets |
//! | [`register`] | which areas are watched |
//! | [`range`] | which ranges of addresses make sense |
//! | [`resolve`] | operations on pages, and wake-ups |
//!
//! All that touches the C side is in [`kernel::userfaultfd`], and all that sleeping threads and
//! readers share in [`kernel::userfaultfd::waitset`], with the lock order. See
//! `Documentation/mm/userfaultfd-rust.rst` for the design.

use kernel::{
    c_str,
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
};

mod access;
mod context;
mod event;
mod fault;
mod features;
mod file;
mod ioctl;
mod message;
mod range;
mod register;
mod resolve;

module! {
    type: Userfaultfd,
    name: "userfaultfd",
    description: "Page faults handled in user space",
    license: "GPL",
}

/// What exists once: the device.
struct Userfaultfd {
    _device: Pin<KBox<MiscDeviceRegistration<access::Device>>>,
}

impl kernel::Module for Userfaultfd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // Contexts can be made as soon as there is a cache for them, so that comes behind the
        // others that they need. The system call does without what comes after that, so none of it
        // is fatal.
        event::FORKS
            .create()
            .and_then(|()| event::UNMAPS.create())
            .and_then(|()| context::CACHE.create())
            .inspect_err(|err| pr_err!("no memory for contexts: {err:?}\n"))?;
        if let Err(err) = access::UNPRIVILEGED.register(c_str!("vm")) {
            pr_err!("no vm.unprivileged_userfaultfd: {err:?}\n");
        }
        if let Err(err) = kernel::userfaultfd::announce_in_sysfs() {
            pr_err!("no /sys/kernel/mm/userfaultfd: {err:?}\n");
        }
        pr_info!("implemented in Rust\n");

        let device = MiscDeviceRegistration::register(MiscDeviceOptions {
            name: c_str!("userfaultfd"),
        });
        let device = KBox::pin_init(device, GFP_KERNEL)
            .inspect_err(|err| pr_err!("no /dev/userfaultfd: {err:?}\n"))?;
        Ok(Self { _device: device })
    }
}
