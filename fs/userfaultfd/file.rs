// SPDX-License-Identifier: GPL-2.0

//! The descriptor: read, poll, release, fdinfo.

use crate::{
    access,
    context::Context,
    event::Event,
    ioctl,
    message::{self, Message},
};
use kernel::{
    c_str,
    fs::{
        anon_inode::{AnonInodeFile, UnboundFile},
        file::{flags, FileDescriptorReservation},
        File, Kiocb, LocalFile,
    },
    iov::IovIterDest,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::{
        aref::ARef,
        poll::{events, PollQueue},
    },
    task::cond_resched,
    uaccess::UserPtr,
    userfaultfd::{
        limits, vma,
        waitset::{EventId, Front, Receipt},
    },
};

/// The flags of `open(2)` that descriptors are created with.
pub(crate) const SHARED_FLAGS: u32 = flags::O_CLOEXEC | flags::O_NONBLOCK;

static_assert!(SHARED_FLAGS & access::USER_MODE_ONLY == 0);

/// A descriptor that is complete but for being installed.
pub(crate) struct NewDescriptor {
    context: ARef<Context>,
    fd: FileDescriptorReservation,
    file: UnboundFile<Context>,
}

impl NewDescriptor {
    /// Reserves a number and makes a file, for a context and with its flags.
    ///
    /// `on_behalf_of` is the descriptor that another one comes from.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`, or what the LSM answers. May sleep.
    pub(crate) fn reserve(
        context: ARef<Context>,
        on_behalf_of: Option<&LocalFile>,
    ) -> Result<Self> {
        let flags = flags::O_RDONLY | context.flags() & SHARED_FLAGS;
        Ok(Self {
            context,
            fd: FileDescriptorReservation::get_unused_fd_flags(flags)?,
            file: UnboundFile::create(flags, on_behalf_of)?,
        })
    }

    /// Returns the number.
    fn number(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Makes the descriptor visible to the process, and returns its number.
    fn install(self) -> u32 {
        let number = self.number();
        self.fd.fd_install(self.file.bind(self.context));
        number
    }

    /// Like [`NewDescriptor::install`], for a descriptor that honours `IOCB_NOWAIT`.
    pub(crate) fn install_nowait(mut self) -> u32 {
        self.file.set_nowait();
        self.install()
    }
}

/// What is to be done about the next message.
enum Step {
    /// It was copied.
    Done,
    /// It was copied, and the descriptor that it names is to be installed.
    DoneFork,
    /// It is about a fork, for which there has to be a descriptor first.
    Prepare,
    /// The buffer was not present.
    FaultIn,
}

/// Reads one message.
///
/// It leaves the inbox when it has been copied, so nothing is lost on a bad buffer, or where there
/// is no descriptor for the child of a fork.
fn read_message(
    context: &Context,
    nonblocking: bool,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
) -> Result {
    let delivered = context.waiters().receive(nonblocking, |front| {
        let message = match front {
            Front::Fault(fault) => Message::PageFault(*fault),
            Front::Event(_, Event::Plain(message)) => *message,
            Front::Event(_, Event::Fork(_)) => return Receipt::Left(false),
        };
        if iov.copy_to_iter_full_nofault(&message.encode()) {
            Receipt::Delivered(true)
        } else {
            Receipt::Left(false)
        }
    })?;
    if delivered {
        return Ok(());
    }
    // What follows may sleep, and the wake-up for the message that stays may have been ours.
    context.waiters().pass_on();
    read_message_slow(context, nonblocking, file, iov)
}

/// Like [`read_message`], for one that something has to be done for first.
#[cold]
fn read_message_slow(
    context: &Context,
    nonblocking: bool,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
) -> Result {
    let mut prepared: Option<(EventId, NewDescriptor)> = None;
    // What the next message is about, where something has to be done for it first.
    let mut wanted: Option<(EventId, ARef<Context>)> = None;
    let mut undelivered = [0; message::SIZE];

    loop {
        // The thread must not sleep with a descriptor that may never be needed.
        let received = context
            .waiters()
            .receive(nonblocking || prepared.is_some(), |front| {
                let (message, done) = match front {
                    Front::Fault(fault) => (Message::PageFault(*fault), Step::Done),
                    Front::Event(_, Event::Plain(message)) => (*message, Step::Done),
                    Front::Event(id, Event::Fork(child)) => match &prepared {
                        Some((for_id, new)) if *for_id == id => {
                            (Message::Fork { ufd: new.number() }, Step::DoneFork)
                        }
                        _ => {
                            wanted = Some((id, child.clone()));
                            return Receipt::Left(Step::Prepare);
                        }
                    },
                };
                let message = message.encode();
                if iov.copy_to_iter_full_nofault(&message) {
                    Receipt::Delivered(done)
                } else {
                    undelivered = message;
                    Receipt::Left(Step::FaultIn)
                }
            });
        let step = match received {
            Err(err) if err == EAGAIN && !nonblocking => {
                prepared = None;
                continue;
            }
            received => received?,
        };

        // As above. Somebody who takes away what is prepared here, again and again, must not keep
        // the thread from dying.
        if !matches!(step, Step::Done | Step::DoneFork) {
            context.waiters().pass_on();
            if current!().fatal_signal_pending() {
                return Err(ERESTARTSYS);
            }
        }
        match step {
            Step::Done => return Ok(()),
            Step::DoneFork => {
                if let Some((_, new)) = prepared {
                    new.install();
                }
                return Ok(());
            }
            Step::Prepare => {
                // One that is for another event goes first: there may be no room for two.
                drop(prepared.take());
                if let Some((id, child)) = wanted.take() {
                    let new = NewDescriptor::reserve(child, Some(file))
                        .inspect_err(|_| context.waiters().defer(id))?;
                    prepared = Some((id, new));
                }
            }
            Step::FaultIn => {
                cond_resched();
                iov.fault_in_with(&undelivered)?;
            }
        }
    }
}

impl AnonInodeFile for Context {
    const NAME: &'static CStr = c_str!("[userfaultfd]");

    fn release(context: ARef<Context>) {
        // No thread starts to sleep any more. Those that found the area registered before, and not
        // yet this, are behind the mmap lock that the next step takes.
        context.set_released();
        vma::release_all(&*context);
        context.waiters().wake_all();
    }

    #[inline]
    fn read_iter(kiocb: Kiocb<'_, ARef<Context>>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let context = kiocb.file();
        if !context.is_initialized() {
            return Err(EINVAL);
        }

        // Only the first message is waited for.
        let mut nonblocking = kiocb.is_nonblocking();
        let mut read = 0;
        loop {
            let result = if iov.len() < message::SIZE {
                Err(EINVAL)
            } else {
                read_message(context, nonblocking, kiocb.raw_file(), iov)
            };
            match result {
                Ok(()) => read += message::SIZE,
                Err(_) if read != 0 => return Ok(read),
                Err(err) => return Err(err),
            }
            nonblocking = true;
        }
    }

    fn poll_queue(&self) -> &PollQueue {
        self.waiters().pollers()
    }

    fn poll(&self, file: &File) -> u32 {
        // A message may be gone before it is read, so a blocking descriptor is of no use here.
        if !self.is_initialized() || file.flags() & flags::O_NONBLOCK == 0 {
            return events::ERR;
        }
        if self.waiters().is_readable() {
            events::IN
        } else {
            0
        }
    }

    #[inline]
    fn ioctl(&self, cmd: u32, arg: usize) -> Result<isize> {
        ioctl::dispatch(self, cmd, UserPtr::from_addr(arg)).map(|()| 0)
    }

    fn show_fdinfo(&self, m: &SeqFile) {
        let (pending, total) = self.waiters().count();
        seq_print!(
            m,
            "pending:\t{}\ntotal:\t{}\nAPI:\t{:x}:{:x}:{:x}\n",
            pending,
            total,
            limits::API,
            self.header().features(),
            limits::API_IOCTLS | limits::RANGE_IOCTLS,
        );
    }
}
