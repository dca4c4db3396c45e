// SPDX-License-Identifier: GPL-2.0

//! Descriptors, and memory that is registered with them.

use anyhow::{ensure, Context, Result};
use clap::ValueEnum;
use linux_raw_sys::{general as uapi, ioctl};
use serde::Serialize;
use std::{
    fmt, fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
    sync::{
        atomic::{AtomicUsize, Ordering},
        OnceLock,
    },
};
use uffd_guest::{memfd, Mmap, RW};

pub use uapi::uffd_msg as Message;
pub use uffd_guest::PAGE;

/// The address of the next mapping. Fixed addresses make runs repeatable.
static NEXT: AtomicUsize = AtomicUsize::new(0x10_0000_0000);

/// The distance of memory that is mapped at fixed addresses, in bytes.
const SPACING: usize = 4 << 30;

// The crate `linux-raw-sys` has most requests, but not these.
const UFFDIO_MOVE: u32 = request::<uapi::uffdio_move>(uapi::_UFFDIO_MOVE);
const UFFDIO_POISON: u32 = request::<uapi::uffdio_poison>(uapi::_UFFDIO_POISON);

/// `_IO(USERFAULTFD_IOC, 0)`
const USERFAULTFD_IOC_NEW: u32 = uapi::USERFAULTFD_IOC << 8;

/// `_IOWR(UFFDIO, number, T)`
const fn request<T>(number: u32) -> u32 {
    (3 << 30) | ((size_of::<T>() as u32) << 16) | (uapi::UFFDIO << 8) | number
}

/// What memory is backed by.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backing {
    Anon,
    Shmem,
    Hugetlb,
}

impl Backing {
    /// The size of a page, in bytes.
    pub fn page(self) -> usize {
        match self {
            Self::Hugetlb => 2 << 20,
            _ => PAGE,
        }
    }
}

/// A mapping that lasts as long as the process.
#[derive(Copy, Clone)]
pub struct Memory {
    pub start: usize,
    /// In pages of `backing`.
    pub pages: usize,
    pub backing: Backing,
    /// Another mapping of the same pages, for memory that is shared.
    pub alias: Option<usize>,
}

fn check(ret: i32) -> io::Result<i32> {
    match ret {
        -1 => Err(io::Error::last_os_error()),
        ret => Ok(ret),
    }
}

/// Maps memory at the next fixed address.
fn map(len: usize, flags: i32, file: Option<BorrowedFd>) -> io::Result<usize> {
    let address = NEXT.fetch_add(SPACING.max(len.next_power_of_two()), Ordering::Relaxed);
    let mapping = Mmap::new(Some(address), len, RW, flags | libc::MAP_NORESERVE, file)?;
    Ok(mapping.leak() as usize)
}

impl Memory {
    /// Maps fresh memory.
    pub fn new(backing: Backing, pages: usize) -> Result<Self> {
        let len = pages * backing.page();
        let hugetlb = match backing {
            Backing::Anon => {
                let start = map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None)?;
                return Ok(Self {
                    start,
                    pages,
                    backing,
                    alias: None,
                });
            }
            Backing::Shmem => 0,
            Backing::Hugetlb => libc::MFD_HUGETLB,
        };
        let file = memfd(c"uffd-bench", hugetlb, len)?;
        Ok(Self {
            start: map(len, libc::MAP_SHARED, Some(file.as_fd()))?,
            pages,
            backing,
            alias: Some(map(len, libc::MAP_SHARED, Some(file.as_fd()))?),
        })
    }

    /// Returns a part of this memory.
    pub fn part(&self, first: usize, pages: usize) -> Self {
        debug_assert!(first + pages <= self.pages);
        let offset = first * self.backing.page();
        Self {
            start: self.start + offset,
            pages,
            alias: self.alias.map(|alias| alias + offset),
            ..*self
        }
    }

    /// Applies `MADV_*` to all of this memory.
    pub fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: There are no references to a `Memory`.
        check(unsafe { libc::madvise(ptr::without_provenance_mut(self.start), self.len(), advice) })
            .map(drop)
    }

    /// In bytes.
    pub fn len(&self) -> usize {
        self.pages * self.backing.page()
    }

    /// Returns the address of a page.
    pub fn page(&self, index: usize) -> usize {
        debug_assert!(index < self.pages);
        self.start + index * self.backing.page()
    }

    /// Returns whether the mapping at `start`, which is this memory or its alias, has huge pages.
    pub fn has_huge_pages(start: usize) -> Result<bool> {
        let smaps = fs::read_to_string("/proc/self/smaps")?;
        let mapping = format!("{start:x}-");
        let lines = smaps.lines().skip_while(|line| !line.starts_with(&mapping));
        let mut sizes = lines.take_while(|line| !line.starts_with("VmFlags"));
        Ok(sizes.any(|line| {
            let huge = ["AnonHugePages:", "ShmemPmdMapped:"];
            huge.iter().any(|name| line.starts_with(name)) && !line.ends_with(" 0 kB")
        }))
    }

    /// Writes to all pages at `start`, which is this memory or its alias.
    pub fn populate(&self, start: usize) {
        for page in 0..self.pages {
            write(start + page * self.backing.page());
        }
    }
}

/// Writes to memory at an address.
pub fn write(address: usize) {
    // SAFETY: All addresses are in a `Memory`, which is never unmapped and has no references.
    unsafe { ptr::without_provenance_mut::<u8>(address).write_volatile(1) };
}

/// Reads memory at an address.
pub fn read(address: usize) {
    // SAFETY: As for `write()`.
    unsafe { ptr::without_provenance::<u8>(address).read_volatile() };
}

/// Has the kernel write to memory at an address, and returns whether it could.
pub fn kernel_can_write(address: usize) -> bool {
    // SAFETY: As for `write()`.
    unsafe { libc::syscall(libc::SYS_getcpu, address, 0, 0) == 0 }
}

/// How memory is accessed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    Read,
    Write,
}

impl Access {
    /// Accesses memory at an address.
    pub fn touch(self, address: usize) {
        match self {
            Self::Read => read(address),
            Self::Write => write(address),
        }
    }
}

/// How a fault is resolved.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    Copy,
    Zeropage,
    Continue,
    Writeprotect,
    Move,
    Poison,
}

impl Resolution {
    /// The faults that this resolves.
    pub fn register_mode(self) -> u32 {
        match self {
            Self::Continue => uapi::UFFDIO_REGISTER_MODE_MINOR,
            Self::Writeprotect => uapi::UFFDIO_REGISTER_MODE_WP,
            _ => uapi::UFFDIO_REGISTER_MODE_MISSING,
        }
    }
}

/// Events that a descriptor is to report.
pub const EVENTS: u32 = uapi::UFFD_FEATURE_EVENT_FORK
    | uapi::UFFD_FEATURE_EVENT_REMAP
    | uapi::UFFD_FEATURE_EVENT_REMOVE
    | uapi::UFFD_FEATURE_EVENT_UNMAP;

/// How userfaultfds are opened.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// With `userfaultfd(2)`.
    SystemCall,
    /// With `/dev/userfaultfd`, which may be allowed where the system call is not.
    Device,
    /// With `userfaultfd(2)`, for faults of user mode only: no privilege is needed for these.
    UserMode,
}

/// How this process does it; the system call if nothing was said.
pub static WAY: OnceLock<Way> = OnceLock::new();

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SystemCall => "userfaultfd(2)",
            Self::Device => "/dev/userfaultfd",
            Self::UserMode => "userfaultfd(2) with UFFD_USER_MODE_ONLY",
        })
    }
}

impl Way {
    /// Opens a userfaultfd with flags `O_*`.
    pub fn open(self, flags: i32) -> io::Result<OwnedFd> {
        let mut device = fs::File::options();
        // SAFETY: No pointers are involved.
        let fd = check(unsafe {
            match self {
                Self::SystemCall => libc::syscall(libc::SYS_userfaultfd, flags) as i32,
                Self::UserMode => {
                    let flags = flags | uapi::UFFD_USER_MODE_ONLY as i32;
                    libc::syscall(libc::SYS_userfaultfd, flags) as i32
                }
                Self::Device => {
                    let device = device.read(true).write(true).open("/dev/userfaultfd")?;
                    libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW.into(), flags)
                }
            }
        })?;
        // SAFETY: The descriptor is new, and this is its only owner.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// A userfaultfd.
pub struct Uffd(OwnedFd);

impl Uffd {
    /// Opens a userfaultfd with features `UFFD_FEATURE_*`.
    pub fn new(nonblocking: bool, features: u32) -> Result<Self> {
        let flags = libc::O_CLOEXEC | if nonblocking { libc::O_NONBLOCK } else { 0 };
        let uffd = Self(WAY.get().unwrap_or(&Way::SystemCall).open(flags)?);
        uffd.enable(features)?;
        Ok(uffd)
    }

    /// Chooses features. Returns all those that the kernel has.
    fn enable(&self, features: u32) -> io::Result<u64> {
        let mut api = uapi::uffdio_api {
            api: uapi::UFFD_API.into(),
            features: features.into(),
            ioctls: 0,
        };
        self.ioctl(ioctl::UFFDIO_API, &mut api)?;
        Ok(api.features)
    }

    /// Returns all features that the kernel has, if these can be used.
    pub fn features(wanted: u32) -> Result<u64> {
        let uffd = Self(
            WAY.get()
                .unwrap_or(&Way::SystemCall)
                .open(libc::O_CLOEXEC)?,
        );
        uffd.enable(wanted).context("UFFDIO_API")
    }

    pub fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }

    fn ioctl<T>(&self, request: u32, arg: &mut T) -> io::Result<()> {
        // SAFETY: Each request is called with its own structure.
        check(unsafe { libc::ioctl(self.raw(), request.into(), ptr::from_mut(arg)) }).map(drop)
    }

    /// Registers memory, with `UFFDIO_REGISTER_MODE_*`.
    pub fn register(&self, memory: &Memory, mode: u32) -> Result<()> {
        let mut register = uapi::uffdio_register {
            range: range(memory.start, memory.len()),
            mode: mode.into(),
            ioctls: 0,
        };
        self.ioctl(ioctl::UFFDIO_REGISTER, &mut register)?;
        Ok(())
    }

    /// Resolves faults in a range. Copied and moved pages come from `source`.
    pub fn resolve(
        &self,
        how: Resolution,
        start: usize,
        len: usize,
        source: usize,
    ) -> io::Result<()> {
        let (dst, src, bytes) = (start as u64, source as u64, len as u64);
        match how {
            Resolution::Copy => self.ioctl(
                ioctl::UFFDIO_COPY,
                &mut uapi::uffdio_copy {
                    dst,
                    src,
                    len: bytes,
                    mode: 0,
                    copy: 0,
                },
            ),
            Resolution::Zeropage => self.ioctl(
                ioctl::UFFDIO_ZEROPAGE,
                &mut uapi::uffdio_zeropage {
                    range: range(start, len),
                    mode: 0,
                    zeropage: 0,
                },
            ),
            Resolution::Continue => self.ioctl(
                ioctl::UFFDIO_CONTINUE,
                &mut uapi::uffdio_continue {
                    range: range(start, len),
                    mode: 0,
                    mapped: 0,
                },
            ),
            Resolution::Writeprotect => self.protect(start, len, false),
            Resolution::Move => self.ioctl(
                UFFDIO_MOVE,
                &mut uapi::uffdio_move {
                    dst,
                    src,
                    len: bytes,
                    mode: 0,
                    move_: 0,
                },
            ),
            Resolution::Poison => self.ioctl(
                UFFDIO_POISON,
                &mut uapi::uffdio_poison {
                    range: range(start, len),
                    mode: 0,
                    updated: 0,
                },
            ),
        }
    }

    /// Protects pages against writing, or lifts the protection.
    pub fn protect(&self, start: usize, len: usize, enable: bool) -> io::Result<()> {
        let mode = u64::from(enable);
        let mut request = uapi::uffdio_writeprotect {
            range: range(start, len),
            mode,
        };
        self.ioctl(ioctl::UFFDIO_WRITEPROTECT, &mut request)
    }

    /// Copies a page to each page of a range, and wakes no thread.
    pub fn copy_dontwake(&self, start: usize, pages: usize, source: usize) -> io::Result<()> {
        for page in 0..pages {
            self.ioctl(
                ioctl::UFFDIO_COPY,
                &mut uapi::uffdio_copy {
                    dst: (start + page * PAGE) as u64,
                    src: source as u64,
                    len: PAGE as u64,
                    mode: uapi::UFFDIO_COPY_MODE_DONTWAKE.into(),
                    copy: 0,
                },
            )?;
        }
        Ok(())
    }

    /// Wakes the threads that sleep in a range.
    pub fn wake(&self, start: usize, len: usize) -> io::Result<()> {
        self.ioctl(ioctl::UFFDIO_WAKE, &mut range(start, len))
    }

    /// Reads messages, and returns how many.
    pub fn read(&self, messages: &mut [Message]) -> io::Result<usize> {
        // SAFETY: A message is plain data.
        let ret = unsafe {
            libc::read(
                self.raw(),
                messages.as_mut_ptr().cast(),
                size_of_val(messages),
            )
        };
        match ret {
            -1 => Err(io::Error::last_os_error()),
            bytes => Ok(bytes as usize / size_of::<Message>()),
        }
    }

    /// Reads all messages of a descriptor that does not block, and returns how many there were.
    pub fn drain(&self, messages: &mut [Message]) -> Result<usize> {
        let mut all = 0;
        loop {
            match self.read(messages) {
                Ok(some) => all += some,
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(all),
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// Room for messages.
pub fn messages(count: usize) -> Vec<Message> {
    // SAFETY: A message is plain data.
    vec![unsafe { std::mem::zeroed() }; count]
}

/// Returns the address of a fault.
pub fn fault_address(message: &Message) -> Result<usize> {
    ensure!(
        u32::from(message.event) == uapi::UFFD_EVENT_PAGEFAULT,
        "expected a fault, got event {}",
        message.event
    );
    // SAFETY: The message is about a fault.
    Ok(unsafe { message.arg.pagefault.address } as usize)
}

fn range(start: usize, len: usize) -> uapi::uffdio_range {
    uapi::uffdio_range {
        start: start as u64,
        len: len as u64,
    }
}
