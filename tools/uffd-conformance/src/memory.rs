// SPDX-License-Identifier: GPL-2.0

//! Memory of the tests, and what can be done to it.

use crate::sys::{errno_of, iovec, new_descriptor, Answer, PAGE};
use std::{
    fs::File,
    ops::Range,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    ptr,
};
use uffd_guest::Mmap;

pub use uffd_guest::RW;

pub const MIB: usize = 1 << 20;
pub const HUGE: usize = 2 * MIB;
pub const GIGANTIC: usize = 1 << 30;

/// Where the memory of tests is mapped: far from everything else, at the same place in each run.
const BASE: usize = 0x1000_0000_0000;

/// How far apart areas are.
const APART: usize = 4 * GIGANTIC;

/// How many areas there may be, each with room to move to behind it.
const SLOTS: usize = 16;

/// Where the area of a slot is.
pub const fn slot_start(slot: usize) -> usize {
    BASE + slot * APART
}

/// Where nothing but memory of tests is, with room before the first area.
const REGION: Range<usize> = BASE - APART..BASE + SLOTS * APART;

/// Beyond this no process has memory, whatever the page tables.
const BEYOND: usize = 1 << 56;

/// A range that only tests use: nothing of Rust's is there, whatever is done to it.
fn of_tests(start: usize, len: usize) -> *mut libc::c_void {
    let is_within = REGION.contains(&start) && len <= REGION.end - start;
    assert!(is_within, "{start:#x} is not memory of the tests");
    start as _
}

/// The same, or a range in which no process has memory.
fn of_tests_or_none(start: usize, len: usize) -> *mut libc::c_void {
    match start {
        0 | BEYOND.. => start as _,
        _ => of_tests(start, len),
    }
}

/// madvise() on memory of the tests.
pub fn madvise(start: usize, len: usize, advice: i32) -> Answer {
    // SAFETY: Only tests use the range.
    Answer::of(unsafe { libc::madvise(of_tests(start, len), len, advice) })
}

/// Empties a page.
pub fn dontneed(page: usize) -> Answer {
    madvise(page, PAGE, libc::MADV_DONTNEED)
}

/// mprotect() on memory of the tests.
pub fn mprotect(start: usize, len: usize, protection: i32) -> Answer {
    // SAFETY: Only tests use the range.
    Answer::of(unsafe { libc::mprotect(of_tests(start, len), len, protection) })
}

/// munmap() on memory of the tests.
pub fn munmap(start: usize, len: usize) -> Answer {
    // SAFETY: Only tests use the range.
    Answer::of(unsafe { libc::munmap(of_tests(start, len), len) })
}

/// mlock2() on memory of the tests.
pub fn mlock(start: usize, len: usize, flags: u32) -> Answer {
    // SAFETY: Only tests use the range.
    Answer::of(unsafe { libc::mlock2(of_tests(start, len), len, flags) })
}

/// mincore() on memory of the tests: whether each page can be had without reading it from a disk.
/// There is no answer if some of them are not mapped.
pub fn mincore(start: usize, len: usize) -> Option<Vec<bool>> {
    let mut there = vec![0; len / PAGE];
    // SAFETY: There is room for a byte for each page.
    let got = unsafe { libc::mincore(of_tests(start, len), len, there.as_mut_ptr()) };
    (got == 0).then(|| there.iter().map(|byte| byte & 1 != 0).collect())
}

/// mseal() on memory of the tests.
pub fn mseal(start: usize, len: usize) -> Answer {
    const SYS_MSEAL: i64 = 462;
    // SAFETY: Only tests use the range.
    Answer::of(unsafe { libc::syscall(SYS_MSEAL, of_tests(start, len), len, 0) })
}

/// mremap() on memory of the tests. Returns the new address.
pub fn mremap(
    start: usize,
    old: usize,
    new: usize,
    flags: i32,
    to: usize,
) -> Result<usize, Answer> {
    let to = of_tests_or_none(to, new);
    // SAFETY: Only tests use both ranges; anywhere else the kernel takes what is free.
    let address = unsafe { libc::mremap(of_tests(start, old), old, new, flags, to) };
    match Answer::of_address(address) {
        Answer(Ok(_)) => Ok(address as usize),
        answer => Err(answer),
    }
}

/// Maps a file, or anonymous memory, over memory of the tests.
pub fn map_over(start: usize, len: usize, protection: i32, file: Option<&OwnedFd>) -> Answer {
    let (fd, flags) = match file {
        Some(file) => (file.as_raw_fd(), libc::MAP_SHARED),
        None => (-1, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS),
    };
    let flags = flags | libc::MAP_FIXED;
    // SAFETY: Only tests use the range.
    let address = unsafe { libc::mmap(of_tests(start, len), len, protection, flags, fd, 0) };
    Answer::of_address(address)
}

/// process_madvise() of this process on memory of the tests.
pub fn process_madvise(start: usize, len: usize, advice: i32) -> Answer {
    let vector = iovec(of_tests(start, len) as usize, len);
    // SAFETY: Only tests use the range. The descriptor is a new one.
    unsafe {
        let process = new_descriptor(libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) as i32)
            .expect("a process can be opened");
        let fd = process.as_raw_fd();
        Answer::of(libc::syscall(
            libc::SYS_process_madvise,
            fd,
            &vector,
            1,
            advice,
            0,
        ))
    }
}

/// Moves memory of the tests to a place.
pub fn move_to(start: usize, len: usize, to: usize) -> Answer {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = mremap(start, len, len, flags, to);
    moved.map_or_else(|answer| answer, |_| Answer(Ok(0)))
}

/// Writes a byte to memory of the tests.
pub fn write_byte(address: usize, byte: u8) {
    let pointer = of_tests(address, 1).cast::<u8>();
    // SAFETY: Only tests use the byte. If it is not mapped, the process gets a signal.
    unsafe { pointer.write_volatile(byte) };
}

/// Reads a byte from memory of the tests.
pub fn read_byte(address: usize) -> u8 {
    let pointer = of_tests(address, 1).cast::<u8>();
    // SAFETY: Only tests use the byte, and all values are valid. If it is not mapped, the process
    // gets a signal.
    unsafe { pointer.read_volatile() }
}

/// Fills memory of the tests with a byte.
pub fn fill_with(start: usize, len: usize, byte: u8) {
    // SAFETY: Only tests use the range. If it is not mapped, the process gets a signal.
    unsafe { ptr::write_bytes(of_tests(start, len).cast::<u8>(), byte, len) };
}

/// Copies bytes to memory of the tests.
pub fn write_bytes(address: usize, bytes: &[u8]) {
    let to = of_tests(address, bytes.len()).cast::<u8>();
    // SAFETY: Only tests use the range, so the bytes are elsewhere. If it is not mapped, the process
    // gets a signal.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Copies bytes from memory of the tests.
pub fn read_bytes(address: usize, bytes: &mut [u8]) {
    let from = of_tests(address, bytes.len()).cast::<u8>();
    // SAFETY: Only tests use the range, so the bytes are elsewhere. If it is not mapped, the process
    // gets a signal.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
}

/// read() into memory of the tests, or into none.
pub fn read_into(fd: RawFd, start: usize, len: usize) -> Answer {
    let buffer = of_tests_or_none(start, len);
    // SAFETY: Only tests use the range, and the kernel checks it.
    Answer::of(unsafe { libc::syscall(libc::SYS_read, fd, buffer, len) })
}

/// write() from memory of the tests.
pub fn write_from(fd: RawFd, start: usize, len: usize) -> Answer {
    // SAFETY: Only tests use the range, and the kernel checks it.
    Answer::of(unsafe { libc::write(fd, of_tests(start, len), len) })
}

/// process_vm_writev() to memory of the tests in a process.
pub fn write_process(process: libc::pid_t, address: usize, bytes: &[u8]) -> Answer {
    let local = iovec(bytes.as_ptr() as usize, bytes.len());
    let remote = iovec(of_tests(address, bytes.len()) as usize, bytes.len());
    // SAFETY: The local bytes are valid. Only tests use the remote ones, and the kernel checks them.
    Answer::of(unsafe { libc::process_vm_writev(process, &local, 1, &remote, 1, 0) })
}

/// Has the kernel write eight random bytes to memory of the tests. The function of the C library may
/// write them itself.
pub fn getrandom(address: usize) -> Answer {
    // SAFETY: Only tests use the range, and the kernel checks it.
    Answer::of(unsafe { libc::syscall(libc::SYS_getrandom, of_tests(address, 8), 8, 0) })
}

/// Names of places, by which addresses are written down.
#[derive(Clone, Default)]
pub struct Names(Vec<(&'static str, usize, usize)>);

impl Names {
    pub fn new(names: &[(&'static str, &Area)]) -> Self {
        Self(
            names
                .iter()
                .map(|(name, area)| (*name, area.start, area.len))
                .collect(),
        )
    }

    pub fn add(&mut self, name: &'static str, start: usize, len: usize) {
        self.0.push((name, start, len));
    }

    /// The name of an address: the place and the offset in it. The end of a place is still of it.
    pub fn name(&self, address: u64) -> String {
        let address = address as usize;
        let within = |last: bool| {
            self.0.iter().find(|(_, start, len)| {
                (*start..start + len).contains(&address) || last && address == start + len
            })
        };
        match within(false).or_else(|| within(true)) {
            Some((name, start, _)) => format!("{name}+{:#x}", address - start),
            // The address that the kernel chooses is different each time.
            None if address > BASE && !(BASE..REGION.end).contains(&address) => "somewhere".into(),
            None => format!("{address:#x}"),
        }
    }
}

/// A range of memory of the tests, which the kernel may have several VMAs for. It is unmapped when
/// this is dropped: after the descriptor that may report that.
pub struct Area {
    pub start: usize,
    pub len: usize,
    /// The size of its pages, in bytes.
    pub page: usize,
    /// The file that is mapped.
    pub file: Option<OwnedFd>,
}

impl Area {
    /// How many blocks of 512 bytes its file has, if there is one.
    pub fn blocks(&self) -> Option<u64> {
        let file = self.file.as_ref()?.try_clone();
        let file = File::from(file.expect("a descriptor can be doubled"));
        Some(file.metadata().expect("a file has a size").blocks())
    }

    /// The address of a page. Areas of few pages are used over and over.
    pub fn at(&self, page: usize) -> usize {
        self.start + page % self.pages() * self.page
    }

    pub fn pages(&self) -> usize {
        self.len / self.page
    }

    pub fn mprotect(&self, protection: i32) -> Answer {
        mprotect(self.start, self.len, protection)
    }

    /// Writes into each page.
    pub fn write(&self) {
        for page in 0..self.pages() {
            write_byte(self.at(page), (page as u8).wrapping_add(1));
        }
    }

    /// Reads from each page.
    pub fn read(&self) {
        for page in 0..self.pages() {
            read_byte(self.at(page));
        }
    }

    pub fn madvise(&self, advice: i32) -> Answer {
        // SAFETY: Only tests use the area, or it is of the kernel, which refuses this then.
        Answer::of(unsafe { libc::madvise(self.start as _, self.len, advice) })
    }

    /// Maps an area of a size at slot `slot`, with a hole around it.
    pub fn map(
        slot: usize,
        len: usize,
        page: usize,
        protection: i32,
        flags: i32,
        file: Option<OwnedFd>,
    ) -> Result<Self, i32> {
        Self::map_at(slot_start(slot), len, page, protection, flags, file)
    }

    /// Maps an area of a size at an address.
    fn map_at(
        start: usize,
        len: usize,
        page: usize,
        protection: i32,
        flags: i32,
        file: Option<OwnedFd>,
    ) -> Result<Self, i32> {
        let fd = file.as_ref().map(AsFd::as_fd);
        let mapping = Mmap::new(Some(start), len, protection, flags, fd).map_err(errno_of)?;
        // The area is unmapped as a range, because tests move and replace parts of the mapping.
        mapping.leak();
        Ok(Self {
            start,
            len,
            page,
            file,
        })
    }

    /// Private anonymous memory.
    pub fn anon(slot: usize, pages: usize) -> Self {
        Self::anon_at(slot_start(slot), pages)
    }

    /// Private anonymous memory at an address.
    pub fn anon_at(start: usize, pages: usize) -> Self {
        Self::map_at(
            start,
            pages * PAGE,
            PAGE,
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        )
        .expect("there is memory")
    }

    /// Maps the same file at another slot.
    pub fn alias(&self, slot: usize) -> Self {
        let file = self.file.as_ref().expect("there is a file to alias");
        let file = file.try_clone().expect("a descriptor can be doubled");
        Self::map(slot, self.len, self.page, RW, libc::MAP_SHARED, Some(file))
            .expect("the file can be mapped")
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // Memory of the kernel stays.
        if REGION.contains(&self.start) {
            munmap(self.start, self.len);
        }
    }
}

/// Advice that libc does not know yet.
pub const MADV_GUARD_INSTALL: i32 = 102;
pub const MADV_GUARD_REMOVE: i32 = 103;
