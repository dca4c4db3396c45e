// SPDX-License-Identifier: GPL-2.0

//! The descriptor: read, poll, release, fdinfo.

use crate::{
    access,
    context::Context,
    event::{Event, EventKind},
    ioctl,
    message::{self, Message, PageFault},
};
use kernel::{
    built_in,
    built_in::BuiltIn,
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
        waitset::{Front, Receipt},
    },
};

/// The flags of `open(2)` that descriptors are created with.
pub(crate) const SHARED_FLAGS: u32 = flags::O_CLOEXEC | flags::O_NONBLOCK;

static_assert!(SHARED_FLAGS & access::USER_MODE_ONLY == 0);

/// A descriptor that is complete but for its context, and for being installed.
pub(crate) struct NewDescriptor {
    fd: FileDescriptorReservation,
    file: UnboundFile<Context>,
}

impl NewDescriptor {
    /// Reserves a number and makes a file, for a context that was made with `flags`.
    ///
    /// `on_behalf_of` is the descriptor that another one comes from.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`, or what the LSM answers. May sleep.
    pub(crate) fn reserve(flags: u32, on_behalf_of: Option<&LocalFile>) -> Result<Self> {
        let flags = flags::O_RDONLY | flags & SHARED_FLAGS;
        Ok(Self {
            fd: FileDescriptorReservation::get_unused_fd_flags(flags)?,
            file: UnboundFile::create(flags, on_behalf_of)?,
        })
    }

    /// Returns the number.
    fn number(&self) -> u32 {
        self.fd.reserved_fd()
    }

    /// Makes the descriptor visible to the process, and returns its number.
    fn install(self, context: ARef<Context>) -> u32 {
        let number = self.number();
        self.fd.fd_install(self.file.bind(context));
        number
    }

    /// Like [`NewDescriptor::install`], for a descriptor that honours `IOCB_NOWAIT`.
    pub(crate) fn install_nowait(mut self, context: ARef<Context>) -> u32 {
        self.file.set_nowait();
        self.install(context)
    }
}

/// Returns the message that is read about `front`, or nothing if a descriptor has to be made for
/// it.
#[inline(always)]
fn message_of(front: &Front<'_, PageFault, Event>) -> Option<Message> {
    match front {
        Front::Fault(fault) => Some(Message::PageFault(**fault)),
        Front::Event(event) => match event.kind() {
            EventKind::Fork(_) => None,
            EventKind::Changed(message) | EventKind::Removing(message) => Some(*message),
        },
    }
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
    let delivered = context
        .waiters()
        .receive(nonblocking, |front| match message_of(&front) {
            Some(message) if iov.copy_to_iter_full_nofault(&message.encode()) => {
                Receipt::Delivered(true)
            }
            _ => Receipt::Left(false),
        })?;
    if delivered {
        return Ok(());
    }
    read_message_slow(context, nonblocking, file, iov)
}

/// What came of the next message, where something may have to be done for it.
enum Step {
    /// It was copied.
    Delivered,
    /// It is about a fork, for which there has to be a descriptor first.
    Fork,
    /// The buffer was not present.
    FaultIn([u8; message::SIZE]),
}

/// Like [`read_message`], for one that could not be delivered at once.
#[cold]
fn read_message_slow(
    context: &Context,
    nonblocking: bool,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
) -> Result {
    let mut buffer = Buffer::default();
    loop {
        let step = context.waiters().receive(nonblocking, |front| {
            let Some(message) = message_of(&front) else {
                return Receipt::Left(Step::Fork);
            };
            let message = message.encode();
            if iov.copy_to_iter_full_nofault(&message) {
                Receipt::Delivered(Step::Delivered)
            } else {
                Receipt::Left(Step::FaultIn(message))
            }
        })?;
        match step {
            Step::Delivered => return Ok(()),
            Step::Fork => {
                if read_fork(context, file, iov, &mut buffer)? {
                    return Ok(());
                }
            }
            Step::FaultIn(message) => {
                // This may sleep, and the wake-up for the message that stays may have been ours.
                context.waiters().pass_on();
                buffer.fault_in(iov, &message)?;
            }
        }
    }
}

/// What was done to make a buffer present.
#[derive(Default)]
struct Buffer {
    /// Whether it was made present without being written to. That is tried once: if it does not
    /// help, because the copy fails for another reason, the error shows when it is written to.
    was_tried: bool,
}

impl Buffer {
    /// Makes the buffer present that a message could not be copied to. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if it cannot be written to, `ERESTARTSYS` if a fatal signal is pending.
    fn fault_in(&mut self, iov: &mut IovIterDest<'_>, message: &[u8; message::SIZE]) -> Result {
        // Somebody who takes the buffer away, again and again, must not keep the thread from dying.
        if current!().fatal_signal_pending() {
            return Err(ERESTARTSYS);
        }
        cond_resched();
        if core::mem::replace(&mut self.was_tried, true) {
            iov.fault_in_with(message)
        } else {
            iov.fault_in(message::SIZE);
            Ok(())
        }
    }
}

/// Reads the next message if it is about a fork, and makes the descriptor that it names.
///
/// Returns false if there is none, or not any more.
#[cold]
fn read_fork(
    context: &Context,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
    buffer: &mut Buffer,
) -> Result<bool> {
    let mut reserved = None;
    loop {
        let claimed = context.waiters().claim(|event| match event.kind() {
            EventKind::Fork(child) => Some(child.clone()),
            EventKind::Changed(_) | EventKind::Removing(_) => None,
        });
        let Some((claim, child)) = claimed else {
            // Somebody else came first, and there may be another message.
            return Ok(false);
        };
        let new = match reserved.take() {
            Some(new) => new,
            None => match NewDescriptor::reserve(context.flags(), Some(file)) {
                Ok(new) => new,
                Err(err) => {
                    claim.defer();
                    return Err(err);
                }
            },
        };
        let message = Message::Fork { ufd: new.number() }.encode();
        match claim.deliver(|| iov.copy_to_iter_full_nofault(&message)) {
            Some(true) => {
                new.install(child);
                return Ok(true);
            }
            // The process that forks is gone.
            None => return Ok(false),
            Some(false) => {}
        }
        // A fork makes the memory of the process that reads read-only, if it is that one. Whoever
        // brings the buffer may have to read this very event first, because nobody fills pages
        // before that. So it is not claimed meanwhile.
        buffer.fault_in(iov, &message)?;
        reserved = Some(new);
    }
}

impl AnonInodeFile for Context {
    const BUILT_IN: BuiltIn = built_in!();
    const NAME: &'static CStr = c_str!("[userfaultfd]");

    fn flush(&self) {
        self.waiters().look_again();
    }

    fn release(context: ARef<Context>) {
        // No thread starts to sleep any more. Those that found the area registered before, and not
        // yet this, are behind the mmap lock that the next step takes.
        context.waiters().set_released();
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

    fn poll(&self, file: &File, requested: u32) -> u32 {
        // A message may be gone before it is read, so a blocking descriptor is of no use here.
        if !self.is_initialized() || file.flags() & flags::O_NONBLOCK == 0 {
            return events::ERR;
        }
        let mut ready = 0;
        if self.waiters().is_readable() {
            ready |= events::IN;
        }
        if requested & events::OUT != 0 {
            self.waiters().want_out();
            if !self.header().mmap_changing() {
                // Operations do not answer `EAGAIN`.
                ready |= events::OUT;
            }
        }
        ready
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
