// SPDX-License-Identifier: GPL-2.0

//! userfaultfd: page faults handled in user space.
//!
//! A process registers VMAs with a [context](kernel::userfaultfd::Context), which it holds as a
//! file descriptor. A thread that faults there is put to sleep, and a message about the fault
//! appears on the descriptor. The monitor reads it and resolves the fault with an ioctl, which
//! wakes the thread. A monitor that manages another process also reads about its forks, moves and
//! removals of memory.
//!
//! | module | |
//! |---|---|
//! | [`operations`] | the calls from mm and the system call, on one screen |
//! | [`fault`] | page faults |
//! | [`event`] | forks, moves and removals |
//! | [`access`] | the permission to create a descriptor |
//! | [`file`] | descriptors: making and installing one, read, poll, fdinfo |
//! | [`ioctl`] | the handshake, and the dispatch to the other operations |
//! | [`features`] | negotiation of features |
//! | [`register`] | registration of VMAs |
//! | [`range`] | checks of ranges of addresses |
//! | [`resolve`] | operations on pages, and wake-ups |
//! | [`fill`] | filling pages |
//! | [`relocate`] | moving pages |
//! | [`protect`] | write protection |
//!
//! This is the policy. The mechanism is in [`kernel::userfaultfd`]: all calls into C, and all that
//! threads share, which is in [`kernel::userfaultfd::waitset`]. See
//! `Documentation/mm/userfaultfd-rust.rst` for the design and the lock order.

use kernel::{
    c_str,
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
};

mod access;
mod event;
mod fault;
mod features;
mod file;
mod fill;
mod fill_huge;
mod ioctl;
mod operations;
mod protect;
mod register;
mod relocate;
mod resolve;

module! {
    type: Userfaultfd,
    name: "userfaultfd",
    description: "Page faults handled in user space",
    license: "GPL",
}

/// The implementation, which has the device.
struct Userfaultfd {
    _device: Pin<KBox<MiscDeviceRegistration<access::Device>>>,
}

impl kernel::Module for Userfaultfd {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // userfaultfd(2) works without everything below the caches, so failures there are only
        // logged.
        kernel::userfaultfd::create_caches()
            .inspect_err(|err| pr_err!("no memory for contexts: {err:?}\n"))?;
        if let Err(err) = access::UNPRIVILEGED.register(c_str!("vm")) {
            pr_err!("no vm.unprivileged_userfaultfd: {err:?}\n");
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
