// SPDX-License-Identifier: GPL-2.0

//! Descriptors: making and installing one, read, poll, fdinfo.

use crate::ioctl;
use kernel::{
    built_in,
    built_in::BuiltIn,
    c_str,
    fs::{
        anon_inode::{AnonInodeFile, Borrowed, UnboundFile},
        file::{flags, FileDescriptorReservation},
        File, Kiocb, LocalFile,
    },
    iov::IovIterDest,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::poll_queue::{events, PollQueue},
    task::{cond_resched, Sleepable},
    uaccess::UserPtr,
    userfaultfd::{
        message::{Message, SIZE},
        supported,
        waitset::Receipt,
        Context, ContextOwner,
    },
};

/// The flags of `open(2)` that a descriptor can be created with.
pub(crate) const SHARED_FLAGS: u32 = flags::O_CLOEXEC | flags::O_NONBLOCK;

/// The operations of a descriptor.
pub(crate) struct Descriptor;

/// A descriptor that lacks its context, and is not installed yet.
pub(crate) struct NewDescriptor {
    fd: FileDescriptorReservation,
    file: UnboundFile<Descriptor>,
}

impl NewDescriptor {
    /// Reserves a number and creates a file, for a context with `flags`.
    ///
    /// `on_behalf_of` is the descriptor that the new one comes from.
    ///
    /// # Errors
    ///
    /// `EMFILE`, `ENFILE`, `ENOMEM`, or the error of the LSM hook. May sleep.
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
    fn install(self, context: ContextOwner) -> u32 {
        let number = self.number();
        self.fd.fd_install(self.file.bind(context));
        number
    }

    /// Like [`NewDescriptor::install`], for a descriptor that honours `IOCB_NOWAIT`.
    pub(crate) fn install_nowait(mut self, context: ContextOwner) -> u32 {
        self.file.set_nowait();
        self.install(context)
    }
}

/// Reads one message.
///
/// The message leaves the inbox when it was copied, so it is not lost if the buffer is bad, or if
/// there is no descriptor for the child of a fork.
#[inline(always)]
fn read_message(
    context: &Context,
    nonblocking: bool,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
) -> Result {
    let copied = context.waiters().receive(nonblocking, |message| {
        if iov.copy_to_iter_full_nofault(&message.encode()) {
            Receipt::Delivered(true)
        } else {
            Receipt::Kept(false)
        }
    })?;
    if copied == Some(true) {
        return Ok(());
    }
    read_message_slow(context, nonblocking, file, iov)
}

/// Like [`read_message`], for a message that could not be copied at once.
#[cold]
fn read_message_slow(
    context: &Context,
    nonblocking: bool,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
) -> Result {
    let mut buffer = Buffer::default();
    loop {
        let missing = context.waiters().receive(nonblocking, |message| {
            let message = message.encode();
            if iov.copy_to_iter_full_nofault(&message) {
                Receipt::Delivered(None)
            } else {
                Receipt::Kept(Some(message))
            }
        })?;
        match missing {
            Some(None) => return Ok(()),
            Some(Some(message)) => {
                // This may sleep, and the wake-up for the message may have been this thread's.
                context.waiters().pass_on();
                buffer.fault_in(iov, &message)?;
            }
            None => {
                // The fork made the buffer read-only if it belongs to the process that forked. Make
                // it present before a descriptor is reserved, because readers compete for these.
                if !buffer.was_tried {
                    // This may sleep as well.
                    context.waiters().pass_on();
                    buffer.fault_in(iov, &[0; SIZE])?;
                }
                if read_fork(context, file, iov, &mut buffer)? {
                    return Ok(());
                }
            }
        }
    }
}

/// What was done to make a buffer present.
#[derive(Default)]
struct Buffer {
    /// Set if the buffer was made present without writing to it. This is tried once: if it does not
    /// help, because the copy fails for another reason, writing shows the error.
    was_tried: bool,
}

impl Buffer {
    /// Makes the buffer present that a message could not be copied to. May sleep.
    ///
    /// # Errors
    ///
    /// `EFAULT` if the buffer cannot be written to, `ERESTARTSYS` if a fatal signal is pending.
    fn fault_in(&mut self, iov: &mut IovIterDest<'_>, message: &[u8; SIZE]) -> Result {
        // A process that takes the buffer away again and again must not keep the thread from dying.
        if current!().fatal_signal_pending() {
            return Err(ERESTARTSYS);
        }
        cond_resched();
        if core::mem::replace(&mut self.was_tried, true) {
            iov.fault_in_with(message)
        } else {
            iov.fault_in(SIZE);
            Ok(())
        }
    }
}

/// Reads the next message if it is about a fork, and installs the descriptor that it names.
///
/// Returns false if the next message is not about a fork any more.
#[cold]
#[doc(alias = "resolve_userfault_fork")]
fn read_fork(
    context: &Context,
    file: &LocalFile,
    iov: &mut IovIterDest<'_>,
    buffer: &mut Buffer,
) -> Result<bool> {
    loop {
        let Some(claim) = context.waiters().claim_fork() else {
            // Another reader was faster, and there may be another message.
            return Ok(false);
        };
        let new = match NewDescriptor::reserve(context.flags(), Some(file)) {
            Ok(new) => new,
            Err(err) => {
                claim.defer();
                return Err(err);
            }
        };
        let message = Message::Fork { ufd: new.number() }.encode();
        match claim.deliver(|| iov.copy_to_iter_full_nofault(&message)) {
            Some(Ok(child)) => {
                new.install(child);
                return Ok(true);
            }
            // The process that forks is gone.
            None => return Ok(false),
            Some(Err(claim)) => {
                // Another reader that claims the event needs room for a descriptor.
                drop(new);
                drop(claim);
            }
        }
        // Fault in the buffer before claiming the event again. If the buffer is registered with
        // this userfaultfd, another reader has to read this event before pages can be filled, so
        // it must stay visible until then.
        buffer.fault_in(iov, &message)?;
    }
}

impl AnonInodeFile for Descriptor {
    const BUILT_IN: BuiltIn = built_in!();
    const NAME: &'static CStr = c_str!("[userfaultfd]");

    type Data = ContextOwner;

    fn flush(context: Borrowed<'_, Self>) {
        context.waiters().note_close();
    }

    #[doc(alias = "userfaultfd_read_iter")]
    #[inline]
    fn read_iter(kiocb: Kiocb<'_, ContextOwner>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let context = kiocb.file();
        if !context.is_initialized() {
            return Err(EINVAL);
        }

        // The thread waits for the first message only.
        let mut nonblocking = kiocb.is_nonblocking();
        let mut read = 0;
        loop {
            let result = if iov.len() < SIZE {
                Err(EINVAL)
            } else {
                read_message(&context, nonblocking, kiocb.raw_file(), iov)
            };
            match result {
                Ok(()) => read += SIZE,
                Err(_) if read != 0 => return Ok(read),
                Err(err) => return Err(err),
            }
            nonblocking = true;
        }
    }

    #[inline]
    fn poll_queue(context: Borrowed<'_, Self>) -> &PollQueue {
        context.get().waiters().pollers()
    }

    #[doc(alias = "userfaultfd_poll")]
    #[inline]
    fn poll(context: Borrowed<'_, Self>, file: &File, requested: u32) -> u32 {
        // A message may be gone before it is read, and `read()` may block then. So this is an error
        // for a blocking descriptor.
        if !context.is_initialized() || file.flags() & flags::O_NONBLOCK == 0 {
            return events::ERR;
        }
        let mut ready = 0;
        if context.waiters().is_readable() {
            ready |= events::IN;
        }
        if requested & events::OUT != 0 {
            context.waiters().want_out();
            if !context.mmap_changing() {
                // Operations do not return `EAGAIN`.
                ready |= events::OUT;
            }
        }
        ready
    }

    #[inline]
    fn ioctl(
        context: Borrowed<'_, Self>,
        cmd: u32,
        arg: usize,
        sleep: &mut Sleepable,
    ) -> Result<isize> {
        ioctl::dispatch(context, cmd, UserPtr::from_addr(arg), sleep).map(|()| 0)
    }

    #[doc(alias = "userfaultfd_show_fdinfo")]
    fn show_fdinfo(context: Borrowed<'_, Self>, m: &SeqFile) {
        let counters = context.waiters().counters();
        seq_print!(
            m,
            "pending:\t{}\ntotal:\t{}\nAPI:\t{:x}:{:x}:{:x}\n",
            counters.pending,
            counters.total,
            supported::API,
            context.features(),
            supported::API_IOCTLS | supported::RANGE_IOCTLS,
        );
        // C has no more than this.
        let [eexist, eagain, enoent] = context.failures().counts();
        seq_print!(
            m,
            "missing:\t{}\nwp:\t{}\nminor:\t{}\nread:\t{}\nwoken:\t{}\n",
            counters.missing,
            counters.write_protected,
            counters.minor,
            counters.read,
            counters.woken,
        );
        seq_print!(
            m,
            "EEXIST:\t{}\nEAGAIN:\t{}\nENOENT:\t{}\nlongest_ms:\t{}\n",
            eexist,
            eagain,
            enoent,
            context.waiters().longest_wait(),
        );
    }
}
