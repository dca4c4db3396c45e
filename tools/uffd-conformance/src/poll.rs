// SPDX-License-Identifier: GPL-2.0

//! Ways to wait for a descriptor.

use crate::sys::{errno, errno_name, Answer};
use io_uring::{opcode, types, IoUring};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

pub use uffd_guest::first_ready;

/// poll() on one descriptor.
pub fn poll_fd(fd: RawFd, events: i16, milliseconds: i32) -> i16 {
    let mut poll = libc::pollfd {
        fd,
        events,
        revents: 0,
    };
    // SAFETY: There is one entry.
    unsafe { libc::poll(&mut poll, 1, milliseconds) };
    poll.revents
}

/// An epoll instance with one descriptor.
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new(fd: RawFd, events: i32) -> Self {
        // SAFETY: The call returns a new descriptor, and the event is valid.
        unsafe {
            let epoll = OwnedFd::from_raw_fd(libc::epoll_create1(libc::EPOLL_CLOEXEC));
            let mut event = libc::epoll_event {
                events: events as u32,
                u64: 7,
            };
            let added = libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event);
            assert_eq!(added, 0, "epoll_ctl: {}", errno_name(errno()));
            Self(epoll)
        }
    }

    pub fn wait(&self, milliseconds: i32) -> String {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: There is room for one event.
        let answer = Answer::of(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), &mut event, 1, milliseconds)
        });
        let events = event.events;
        format!("{answer} {events:#x}")
    }
}

/// IORING_OP_POLL_ADD, given up if there is nothing at once.
pub fn ring_poll(fd: RawFd) -> String {
    let mut ring = IoUring::new(4).expect("there is io_uring");
    let poll = opcode::PollAdd::new(types::Fd(fd), (libc::POLLIN | libc::POLLOUT) as u32)
        .build()
        .user_data(1);
    // SAFETY: The request has no buffer.
    unsafe { ring.submission().push(&poll).expect("there is room") };
    ring.submit().expect("the request is taken");
    let result = ring.completion().next().map(|entry| entry.result());
    result.map_or("pending".into(), |result| result.to_string())
}

/// IOCB_CMD_POLL of aio, given up if there is nothing at once.
pub fn aio_poll(fd: RawFd) -> String {
    aio_poll_for(fd, 0)
}

/// IOCB_CMD_POLL of aio, given up after some seconds.
pub fn aio_poll_for(fd: RawFd, seconds: i64) -> String {
    #[repr(C)]
    #[derive(Default)]
    struct Iocb {
        data: u64,
        key: u32,
        flags: u32,
        opcode: u16,
        priority: i16,
        fd: u32,
        buf: u64,
        nbytes: u64,
        offset: i64,
        reserved: u64,
        iocb_flags: u32,
        resfd: u32,
    }
    const POLL: u16 = 5;
    let mut context = 0usize;
    let mut iocb = Iocb {
        opcode: POLL,
        fd: fd as u32,
        buf: libc::POLLIN as u64,
        ..Iocb::default()
    };
    let list = [std::ptr::from_mut(&mut iocb)];
    let mut event = [0u64; 4];
    let mut time = libc::timespec {
        tv_sec: seconds,
        tv_nsec: 0,
    };
    // SAFETY: All structures are what the calls expect, and live until the context is gone.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_io_setup, 1, &mut context), 0);
        let submitted = Answer::of(libc::syscall(
            libc::SYS_io_submit,
            context,
            1,
            list.as_ptr(),
        ));
        // It may be interrupted before it looks.
        let got = loop {
            let got = Answer::of(libc::syscall(
                libc::SYS_io_getevents,
                context,
                i64::from(seconds != 0),
                1,
                event.as_mut_ptr(),
                &mut time,
            ));
            if got != Answer(Err(libc::EINTR)) {
                break got;
            }
        };
        libc::syscall(libc::SYS_io_destroy, context);
        format!("{submitted}, {got} event {:#x}", event[2])
    }
}

/// select() on one descriptor, in some of the three sets. Returns the answer, and in which of the
/// sets the descriptor is then.
pub fn select(fd: RawFd, sets: [bool; 3], seconds: i64) -> (Answer, [bool; 3]) {
    let mut time = libc::timeval {
        tv_sec: seconds,
        tv_usec: 0,
    };
    // SAFETY: A set without descriptors is all zeros, and the descriptor is small enough for one.
    unsafe {
        let mut storage: [libc::fd_set; 3] = std::mem::zeroed();
        storage.iter_mut().for_each(|set| libc::FD_SET(fd, set));
        let mut pointers = [std::ptr::null_mut(); 3];
        for ((pointer, set), wanted) in pointers.iter_mut().zip(&mut storage).zip(sets) {
            if wanted {
                *pointer = set;
            }
        }
        let [read, write, except] = pointers;
        let answer = Answer::of(libc::select(fd + 1, read, write, except, &mut time));
        (answer, storage.map(|set| libc::FD_ISSET(fd, &set)))
    }
}
