// SPDX-License-Identifier: GPL-2.0

//! The handler, which fills the pages.

use super::{Case, Measures, Reading};
use crate::support::{self, check, poll, readable, PAGE};
use anyhow::{bail, ensure, Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{recvmsg, ControlMessageOwned, MsgFlags},
};
use std::{
    fs::File,
    io::IoSliceMut,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc,
    time::Duration,
};
use uffd_guest::Mmap;
use userfaultfd::{Error, Event, EventBuffer, FaultKind, Uffd};

/// How many pages the handler fills at a time, and how many if they are huge.
const TOGETHER: usize = 8;
const TOGETHER_HUGE: usize = 2;

/// How long the handler waits before it retries an ioctl that failed with EAGAIN, if the kernel
/// does not report by POLLOUT when a retry can succeed.
const RETRY: Duration = Duration::from_millis(1);

/// A region of the owner's memory.
struct Region {
    /// Its address in the owner.
    start: usize,
    size: usize,
    /// Its offset in the file.
    offset: usize,
    page_size: usize,
    /// Whether there is a zero page of this size.
    zero_page: bool,
    /// Which pages the balloon gave back.
    removed: Vec<bool>,
}

/// The handler's state.
struct Handler {
    uffd: Uffd,
    regions: Vec<Region>,
    file: FileMapping,
    /// How many pages are filled at a time.
    together: usize,
    /// How long it waits before it fills the first page.
    delay: Option<Duration>,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    faults: u64,
    copied: u64,
    zeroed: u64,
    removals: u64,
    eagain: u64,
    partial: u64,
    exists: u64,
}

/// The result of an attempt to fill pages.
enum Made {
    /// So many bytes were filled.
    Bytes(usize),
    /// The first page is present already.
    Exists,
    /// EAGAIN: the handler has to read the event of a removal first.
    Later,
}

/// Serves an owner until it closes its socket.
pub fn serve(listener: &UnixListener, file: &Path, case: &Case) -> Result<Measures> {
    let (stream, _) = listener.accept()?;
    let (uffd, text) = receive(&stream)?;
    let handler = Handler {
        uffd,
        regions: parse_regions(&text)?,
        file: FileMapping::new(file)?,
        together: if case.reading == Reading::Many {
            TOGETHER
        } else {
            1
        },
        delay: case.delay,
        counters: Counters::default(),
    };
    let counters = match case.reading {
        Reading::Blocking => handler.serve_blocking(&stream)?,
        Reading::One => handler.serve_polling(&stream, 1)?,
        Reading::Many => handler.serve_polling(&stream, 64)?,
    };
    ensure!(counters.faults > 0, "there were no faults");
    Ok(vec![
        ("faults".into(), counters.faults),
        ("pages from the file".into(), counters.copied),
        ("zero pages".into(), counters.zeroed),
        ("remove events".into(), counters.removals),
        ("EAGAIN".into(), counters.eagain),
        ("partial copies".into(), counters.partial),
        ("EEXIST".into(), counters.exists),
    ])
}

/// Receives the userfaultfd and the description of the memory.
fn receive(stream: &UnixStream) -> Result<(Uffd, Vec<u8>)> {
    let mut text = vec![0; 65536];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let len = message.bytes;
    let fd = message
        .cmsgs()?
        .find_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
            _ => None,
        })
        .context("there is no descriptor in the message")?;
    text.truncate(len);
    // SAFETY: It is a new descriptor, and this is its only owner.
    Ok((unsafe { Uffd::from_raw_fd(fd) }, text))
}

fn parse_regions(text: &[u8]) -> Result<Vec<Region>> {
    let regions: Vec<serde_json::Value> = serde_json::from_slice(text)?;
    regions
        .iter()
        .map(|region| {
            let number = |name: &str| {
                let number = region[name]
                    .as_u64()
                    .with_context(|| format!("no {name}"))?;
                Ok::<usize, anyhow::Error>(usize::try_from(number)?)
            };
            let (size, page_size) = (number("size")?, number("page_size")?);
            Ok(Region {
                start: number("base_host_virt_addr")?,
                size,
                offset: number("offset")?,
                page_size,
                zero_page: region["zero_page"] == true,
                removed: vec![false; size / page_size],
            })
        })
        .collect()
}

impl Handler {
    /// Handles faults in a thread that sleeps in read(), until the owner has ended.
    fn serve_blocking(mut self, stream: &UnixStream) -> Result<Counters> {
        // The thread ends with the process, because it cannot be told to end while it sleeps. It
        // sends a message for each fault.
        let (sender, receiver) = mpsc::channel();
        let owner = stream.try_clone()?;
        std::thread::spawn(move || {
            let err = match self.serve_reading(&sender) {
                Ok(()) => anyhow::anyhow!("no more events"),
                Err(err) => err,
            };
            if !has_ended(&owner, &err) {
                support::abandon(err);
            }
        });
        while !readable(&[stream], Duration::from_secs(1))?[0] {}
        Ok(receiver.try_iter().fold(Counters::default(), |mut all, _| {
            all.faults += 1;
            all.copied += 1;
            all
        }))
    }

    fn serve_reading(&mut self, handled: &mpsc::Sender<()>) -> Result<()> {
        while let Some(event) = self.uffd.read_event()? {
            let Event::Pagefault { addr, .. } = event else {
                bail!("unexpected: {event:?}");
            };
            ensure!(self.make(addr as usize)?, "EAGAIN, and nothing is removed");
            if handled.send(()).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Handles faults and removals until the owner has ended, some messages at a time.
    fn serve_polling(mut self, stream: &UnixStream, messages: usize) -> Result<Counters> {
        let mut buffer = EventBuffer::new(messages);
        let mut waiting: Vec<usize> = Vec::new();
        // Whether the kernel reports by POLLOUT that no removal is under way. Nothing is removed
        // yet.
        let tells = poll(&[(&self.uffd, libc::POLLOUT)], Duration::ZERO)?[0] != 0;
        loop {
            let (events, limit) = match (waiting.is_empty(), tells) {
                (true, _) => (libc::POLLIN, Duration::from_secs(1)),
                (false, true) => (libc::POLLIN | libc::POLLOUT, Duration::from_secs(1)),
                (false, false) => (libc::POLLIN, RETRY),
            };
            let ready = poll(&[(&self.uffd, events), (stream, libc::POLLIN)], limit)?;
            if ready[1] != 0 {
                return Ok(self.counters);
            }
            if ready[0] & libc::POLLIN != 0 {
                waiting.extend(self.read(&mut buffer, messages > 1)?);
            }
            if tells && events & libc::POLLOUT != 0 && ready[0] & libc::POLLOUT == 0 {
                continue;
            }
            // If the handler cannot fill one page during a removal, it cannot fill the others.
            while let Some(&address) = waiting.last() {
                match self.make(address) {
                    Ok(true) => waiting.pop(),
                    Ok(false) => {
                        self.counters.eagain += 1;
                        break;
                    }
                    Err(err) if has_ended(stream, &err) => return Ok(self.counters),
                    Err(err) => return Err(err),
                };
            }
        }
    }

    /// Reads one batch of messages, or all messages if `all` is set. Returns the faults.
    ///
    /// Removals are recorded before any page is filled, because the balloon continues as soon as
    /// the message is read. The handler could otherwise fill a removed page from the file.
    fn read(&mut self, buffer: &mut EventBuffer, all: bool) -> Result<Vec<usize>> {
        let mut faults = Vec::new();
        loop {
            let events: Vec<_> = self.uffd.read_events(buffer)?.collect::<Result<_, _>>()?;
            let end = events.is_empty() || !all;
            for event in events {
                match event {
                    Event::Pagefault {
                        kind: FaultKind::Missing,
                        addr,
                        ..
                    } => {
                        faults.push(addr as usize);
                    }
                    Event::Remove { start, end } => self.remove(start as usize, end as usize)?,
                    event => bail!("unexpected: {event:?}"),
                }
            }
            if end {
                self.counters.faults += faults.len() as u64;
                return Ok(faults);
            }
        }
    }

    /// Records that pages are to be zero from now on.
    fn remove(&mut self, start: usize, end: usize) -> Result<()> {
        self.counters.removals += 1;
        let (region, first) = self.find(start)?;
        let region = &mut self.regions[region];
        let count = (end - start) / region.page_size;
        region
            .removed
            .get_mut(first..first + count)
            .context("a removal beyond a region")?
            .fill(true);
        Ok(())
    }

    /// Finds the region and the page of an address.
    fn find(&self, address: usize) -> Result<(usize, usize)> {
        self.regions
            .iter()
            .enumerate()
            .find_map(|(number, region)| {
                let offset = address.checked_sub(region.start)?;
                (offset < region.size).then_some((number, offset / region.page_size))
            })
            .with_context(|| format!("{address:#x} is in no region"))
    }

    /// Fills the page of an address, and perhaps the pages after it. Returns `false` if the caller
    /// has to retry.
    fn make(&mut self, address: usize) -> Result<bool> {
        if let Some(delay) = self.delay.take() {
            std::thread::sleep(delay);
        }
        let (number, wanted) = self.find(address)?;
        let region = &self.regions[number];
        let page_size = region.page_size;
        // One ioctl fills pages of one kind. Zero pages are filled one by one, because the crate
        // does not tell how many there are after an error.
        let zero = region.removed[wanted];
        let together = match zero && region.zero_page {
            true => 1,
            false if page_size > PAGE => self.together.min(TOGETHER_HUGE),
            false => self.together,
        };
        let last = region.removed.len().min(wanted + together);
        let end = (wanted + 1..last)
            .find(|page| region.removed[*page] != zero)
            .unwrap_or(last);
        let mut page = wanted;
        while page < end {
            match self.attempt(&self.regions[number], page, end, zero)? {
                Made::Bytes(len) => {
                    ensure!(len > 0 && len % page_size == 0, "{len} bytes were made");
                    let pages = len / page_size;
                    self.counters.partial += u64::from(page + pages < end);
                    match zero {
                        true => self.counters.zeroed += pages as u64,
                        false => self.counters.copied += pages as u64,
                    }
                    page += pages;
                }
                Made::Exists => {
                    self.counters.exists += 1;
                    // A thread may have faulted before the page was present. Wake it.
                    let start = self.regions[number].start + page * page_size;
                    self.uffd.wake(start as *mut _, page_size)?;
                    page += 1;
                }
                // No thread waits for the pages after the first, so only the first is retried.
                Made::Later => return Ok(page > wanted),
            }
        }
        Ok(true)
    }

    /// Fills pages from the first one on.
    fn attempt(&self, region: &Region, first: usize, end: usize, zero: bool) -> Result<Made> {
        let start = (region.start + first * region.page_size) as *mut _;
        let len = (end - first) * region.page_size;
        if zero && region.zero_page {
            // SAFETY: The memory belongs to the owner, which accepts any page of the handler.
            return match unsafe { self.uffd.zeropage(start, len, true) } {
                Ok(len) => Ok(Made::Bytes(len)),
                Err(Error::ZeropageFailed(errno)) => made_none(errno as i32, "UFFDIO_ZEROPAGE"),
                Err(err) => Err(err).context("UFFDIO_ZEROPAGE"),
            };
        }
        let source = match zero {
            true => self.file.zeros(len),
            false => self.file.at(region.offset + first * region.page_size, len),
        };
        // SAFETY: The source is long enough. The destination is as above.
        match unsafe { self.uffd.copy(source.cast(), start, len, true) } {
            Ok(len) => Ok(Made::Bytes(len)),
            // The field `copy` is -EAGAIN if the kernel copied nothing.
            Err(Error::PartiallyCopied(len)) if (len as isize) <= 0 => Ok(Made::Later),
            Err(Error::PartiallyCopied(len)) => Ok(Made::Bytes(len)),
            Err(Error::CopyFailed(errno)) => made_none(errno as i32, "UFFDIO_COPY"),
            Err(err) => Err(err).context("UFFDIO_COPY"),
        }
    }
}

/// Returns true if an ioctl failed because the owner has ended: it closes its socket before its
/// memory goes away. The handler may be about to fill pages then for which no thread waits.
fn has_ended(owner: &UnixStream, err: &anyhow::Error) -> bool {
    let errno = err.downcast_ref::<Errno>();
    matches!(errno, Some(Errno::ENOENT | Errno::ESRCH))
        && readable(&[owner], Duration::ZERO).is_ok_and(|ready| ready[0])
}

/// Returns what an error means.
fn made_none(errno: i32, what: &'static str) -> Result<Made> {
    match Errno::from_raw(errno) {
        Errno::EEXIST => Ok(Made::Exists),
        Errno::EAGAIN => Ok(Made::Later),
        errno => Err(errno).context(what),
    }
}

/// The file, mapped, with zeros behind it.
struct FileMapping {
    memory: Mmap,
    /// The length of the file.
    len: usize,
}

/// The most zeros that are copied at a time, in bytes.
const ZEROS: usize = TOGETHER_HUGE << 21;

impl FileMapping {
    fn new(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let len = usize::try_from(file.metadata()?.len())?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let memory = Mmap::new(None, len + ZEROS, libc::PROT_READ, flags, None).context("mmap")?;
        let (start, flags) = (memory.start().cast(), libc::MAP_PRIVATE | libc::MAP_FIXED);
        // SAFETY: The new mapping replaces a part of `memory`, to which there are no references.
        let start = unsafe { libc::mmap(start, len, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        check("mmap", start as i64)?;
        Ok(Self { memory, len })
    }

    /// What is at an offset of the file.
    fn at(&self, offset: usize, len: usize) -> *const u8 {
        assert!(offset + len <= self.len);
        self.memory.start().wrapping_add(offset)
    }

    /// Zeros.
    fn zeros(&self, len: usize) -> *const u8 {
        assert!(len <= ZEROS);
        self.memory.start().wrapping_add(self.len)
    }
}
