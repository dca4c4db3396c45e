// SPDX-License-Identifier: GPL-2.0

//! Child processes with a time limit.

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::process::ExitStatusExt,
    },
    process::{self, ExitStatus},
    time::{Duration, Instant},
};

/// A child process. It is killed when this is dropped, and when its parent ends.
pub struct Child(libc::pid_t);

impl Child {
    /// Makes a child that calls `run` and ends with the status that `run` returns.
    ///
    /// The caller must be the only thread, so that the child inherits no lock that is held.
    pub fn start(run: impl FnOnce() -> i32) -> io::Result<Self> {
        let parent = process::id();
        // SAFETY: There is one thread, so all memory is in a consistent state in the child.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let status = end_with(parent).map_or(1, |()| run());
                // SAFETY: It never returns. Memory, descriptors and threads end with the process.
                unsafe { libc::_exit(status) }
            }
            pid => Ok(Self(pid)),
        }
    }

    pub fn id(&self) -> libc::pid_t {
        self.0
    }

    /// Waits until the child has ended.
    pub fn wait(self) -> io::Result<ExitStatus> {
        let mut status = 0;
        // SAFETY: The pointer is valid.
        let pid = unsafe { libc::waitpid(self.0, &mut status, 0) };
        std::mem::forget(self);
        match pid {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(ExitStatus::from_raw(status)),
        }
    }

    /// Reads what the child writes to a pipe, and waits until it has ended. If the child leads a
    /// process group, the rest of the group is killed then.
    ///
    /// The child is killed when `limit` is over. There is no status in this case.
    pub fn output(
        self,
        mut pipe: File,
        limit: Duration,
    ) -> io::Result<(Vec<u8>, Option<ExitStatus>)> {
        // SAFETY: No pointers are involved.
        let pidfd = match unsafe { libc::syscall(libc::SYS_pidfd_open, self.0, 0) } {
            -1 => return Err(io::Error::last_os_error()),
            // SAFETY: The descriptor is new, and this is its only owner.
            fd => unsafe { OwnedFd::from_raw_fd(fd as RawFd) },
        };
        let fds = [pipe.as_raw_fd(), pidfd.as_raw_fd()];
        let start = Instant::now();
        let (mut output, mut chunk) = (Vec::new(), [0; 65536]);
        let mut killed = false;
        loop {
            let left = limit.saturating_sub(start.elapsed());
            let watched = if killed { &fds[..1] } else { &fds[..] };
            let ready = first_ready(watched, left.as_millis() as i32);
            if ready == Some(0) {
                match pipe.read(&mut chunk) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => output.extend_from_slice(&chunk[..length]),
                }
            } else if killed {
                break;
            } else if ready.is_some() || left.is_zero() {
                self.kill();
                killed = true;
            }
        }
        // A child that has closed its end of the pipe is about to end by itself.
        first_ready(&fds[1..], 1000);
        self.kill();
        let status = self.wait()?;
        Ok((output, (start.elapsed() < limit).then_some(status)))
    }

    /// Kills the child, and its process group if it leads one.
    fn kill(&self) {
        // SAFETY: No pointers are involved. The child was not waited for, so it has its number.
        unsafe {
            libc::kill(-self.0, libc::SIGKILL);
            libc::kill(self.0, libc::SIGKILL);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        // SAFETY: The status is not asked for.
        unsafe { libc::waitpid(self.0, std::ptr::null_mut(), 0) };
    }
}

/// Has the kernel kill this process when its parent ends. Fails if `parent` has ended already.
pub fn end_with(parent: u32) -> io::Result<()> {
    // SAFETY: No pointers are involved.
    let now = unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::getppid()
    };
    match now as u32 == parent {
        true => Ok(()),
        false => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

/// Waits for the first of some descriptors that has something to read. Returns its index.
pub fn first_ready(fds: &[RawFd], milliseconds: i32) -> Option<usize> {
    let mut entries: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: *fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // SAFETY: The array is as long as is said.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as u64, milliseconds) };
    entries.iter().position(|entry| entry.revents != 0)
}
