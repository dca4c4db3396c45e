// SPDX-License-Identifier: GPL-2.0

//! Kinds of memory that a range of addresses can be of.

use crate::{
    process::{run_on, this_process},
    sys::{
        errno, errno_name, fcntl, ftruncate, iovec, new_descriptor, open, read_process, write_file,
        Answer, PAGE,
    },
};
use linux_raw_sys::general::fsconfig_command::{self, FSCONFIG_CMD_CREATE, FSCONFIG_SET_STRING};
use std::{
    ffi::CStr,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
    time::Duration,
};

pub const MIB: usize = 1 << 20;
const HUGE: usize = 2 * MIB;
const GIGANTIC: usize = 1 << 30;

/// Where the memory of tests is mapped: far from everything else, at the same place in each run.
const BASE: usize = 0x1000_0000_0000;

/// How far apart areas are.
const APART: usize = 4 * GIGANTIC;

/// How many areas there may be, each with room to move to behind it.
const SLOTS: usize = 16;

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

/// The same, or where nothing can be.
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
    // SAFETY: As for `write_byte()`; all values are valid.
    unsafe { pointer.read_volatile() }
}

/// Fills memory of the tests with a byte.
pub fn fill_with(start: usize, len: usize, byte: u8) {
    // SAFETY: As for `write_byte()`.
    unsafe { ptr::write_bytes(of_tests(start, len).cast::<u8>(), byte, len) };
}

/// Copies bytes to memory of the tests.
pub fn write_bytes(address: usize, bytes: &[u8]) {
    let to = of_tests(address, bytes.len()).cast::<u8>();
    // SAFETY: As for `write_byte()`. The bytes are elsewhere.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
}

/// Copies bytes from memory of the tests.
pub fn read_bytes(address: usize, bytes: &mut [u8]) {
    let from = of_tests(address, bytes.len()).cast::<u8>();
    // SAFETY: As for `read_byte()`. The bytes are elsewhere.
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

/// Has the kernel write eight random bytes to memory of the tests.
pub fn getrandom(address: usize) -> Answer {
    // SAFETY: Only tests use the range, and the kernel checks it.
    Answer::of(unsafe { libc::getrandom(of_tests(address, 8), 8, 0) })
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
            // Where the kernel puts something is different each time.
            None if address > BASE && !(BASE..REGION.end).contains(&address) => "somewhere".into(),
            None => format!("{address:#x}"),
        }
    }
}

/// A mapping, which is gone when this is dropped: after the descriptor that may report that.
pub struct Area {
    pub start: usize,
    pub len: usize,
    /// The size of its pages, in bytes.
    pub page: usize,
    /// The file that is mapped.
    pub file: Option<OwnedFd>,
}

impl Area {
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
        Self::map_at(BASE + slot * APART, len, page, protection, flags, file)
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
        // SAFETY: Nothing is there, or the call fails.
        let address = unsafe {
            libc::mmap(
                start as _,
                len,
                protection,
                flags | libc::MAP_FIXED_NOREPLACE,
                file.as_ref().map_or(-1, AsRawFd::as_raw_fd),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(errno());
        }
        Ok(Self {
            start,
            len,
            page,
            file,
        })
    }

    /// Private anonymous memory.
    pub fn anon(slot: usize, pages: usize) -> Self {
        Self::anon_at(BASE + slot * APART, pages)
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

    /// Memory of a kind of [`BASIC`], which is there on every kernel.
    pub fn basic(kind: &Kind, slot: usize) -> Self {
        (kind.make)(slot).unwrap_or_else(|errno| {
            panic!("no memory of kind {}: {}", kind.name, errno_name(errno))
        })
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

/// The access of most memory.
pub const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// How many pages an area of a kind has.
pub const PAGES: usize = 32;
const HUGE_PAGES: usize = 4;

/// Makes an area at a slot, or fails with an errno.
type Make = fn(usize) -> Result<Area, i32>;

/// A kind of memory.
#[derive(Copy, Clone)]
pub struct Kind {
    pub name: &'static str,
    pub make: Make,
    /// Whether pages can be written by this process.
    pub writable: bool,
}

const fn kind(name: &'static str, make: Make) -> Kind {
    Kind {
        name,
        make,
        writable: true,
    }
}

const fn readable(name: &'static str, make: Make) -> Kind {
    Kind {
        name,
        make,
        writable: false,
    }
}

fn anonymous(slot: usize, protection: i32, flags: i32) -> Result<Area, i32> {
    Area::map(
        slot,
        PAGES * PAGE,
        PAGE,
        protection,
        flags | libc::MAP_ANONYMOUS,
        None,
    )
}

/// A memfd of a size.
pub fn memfd(flags: u32, len: usize) -> Result<OwnedFd, i32> {
    let flags = flags | libc::MFD_CLOEXEC;
    // SAFETY: The string is valid. The call returns a new descriptor, or an error.
    let file = unsafe { new_descriptor(libc::memfd_create(c"uffd-conformance".as_ptr(), flags))? };
    ftruncate(&file, len).0?;
    Ok(file)
}

fn shmem(slot: usize, protection: i32, flags: i32) -> Result<Area, i32> {
    let len = PAGES * PAGE;
    Area::map(slot, len, PAGE, protection, flags, Some(memfd(0, len)?))
}

fn sealed(slot: usize, seals: i32, protection: i32, flags: i32) -> Result<Area, i32> {
    let len = PAGES * PAGE;
    let file = memfd(libc::MFD_ALLOW_SEALING, len)?;
    fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals).0?;
    Area::map(slot, len, PAGE, protection, flags, Some(file))
}

fn hugetlb(slot: usize, page: usize, pages: usize, flags: i32) -> Result<Area, i32> {
    let size = (page.trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32;
    Area::map(
        slot,
        pages * page,
        page,
        RW,
        flags | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_NORESERVE | size,
        None,
    )
}

fn hugetlb_memfd(slot: usize, flags: i32) -> Result<Area, i32> {
    let len = HUGE_PAGES * HUGE;
    let file = memfd(libc::MFD_HUGETLB | libc::MFD_HUGE_2MB, len)?;
    Area::map(slot, len, HUGE, RW, flags | libc::MAP_NORESERVE, Some(file))
}

/// A file of a file system: this program, or one that was opened.
fn file(slot: usize, path: &CStr, protection: i32, flags: i32) -> Result<Area, i32> {
    let file = open(path, libc::O_RDONLY)?;
    Area::map(slot, PAGES * PAGE, PAGE, protection, flags, Some(file))
}

/// A file of a size, which can be written, in a new file system that is mounted nowhere and is gone
/// with it. Each option has a name and a value.
pub fn new_file(kind: &CStr, options: &[(&CStr, &CStr)], len: usize) -> Result<OwnedFd, i32> {
    // SAFETY: The string is valid. The call returns a new descriptor, or an error.
    let context =
        unsafe { new_descriptor(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 0) as i32)? };
    let configure = |command: fsconfig_command, name: Option<&CStr>, value: Option<&CStr>| {
        let [name, value] = [name, value].map(|text| text.map_or(ptr::null(), CStr::as_ptr));
        let (fd, command) = (context.as_raw_fd(), command as u32);
        // SAFETY: Both are strings, or nothing where the command has none.
        match unsafe { libc::syscall(libc::SYS_fsconfig, fd, command, name, value, 0) } {
            0 => Ok(()),
            _ => Err(errno()),
        }
    };
    for (name, value) in options {
        configure(FSCONFIG_SET_STRING, Some(name), Some(value))?;
    }
    configure(FSCONFIG_CMD_CREATE, None, None)?;
    // SAFETY: No pointers are involved. The call returns a new descriptor, or an error.
    let root = unsafe {
        let root = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), 0, 0);
        new_descriptor(root as i32)?
    };
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: As for the context.
    let file = unsafe {
        let file = libc::openat(root.as_raw_fd(), c"file".as_ptr(), flags, 0o600);
        new_descriptor(file)?
    };
    ftruncate(&file, len).0?;
    Ok(file)
}

/// Memory that was there when the program began.
fn of_the_kernel(name: &str) -> Result<Area, i32> {
    let mappings = mappings();
    let mut found = mappings.iter().filter(|mapping| mapping.name == name);
    let mapping = found.next().ok_or(libc::ENOENT)?;
    Ok(Area {
        start: mapping.start,
        len: mapping.end - mapping.start,
        page: PAGE,
        file: None,
    })
}

fn advised(area: Area, advice: i32) -> Result<Area, i32> {
    area.madvise(advice).0?;
    Ok(area)
}

/// Anonymous memory of which every page is on the swap disk.
fn swapped(slot: usize) -> Result<Area, i32> {
    let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
    area.write();
    swap_out(&area);
    Ok(area)
}

/// Has every page of an area that is present go to the swap disk.
pub fn swap_out(area: &Area) {
    for round in 0..4000 {
        // Pages that another processor has noted for later are found on that one only.
        run_on(Some(round % 2));
        area.madvise(libc::MADV_PAGEOUT);
        run_on(None);
        if (0..area.pages()).all(|page| pagemap(area.at(page)).starts_with('S')) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("pages are not swapped out in time")
}

/// Anonymous memory whose pages are all the same one.
fn merged(slot: usize) -> Result<Area, i32> {
    let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
    fill_with(area.start, area.len, 0x77);
    merge(&area).0?;
    Ok(area)
}

/// Has all pages of an area, whose contents are the same, become one.
pub fn merge(area: &Area) -> Answer {
    let advised = area.madvise(libc::MADV_MERGEABLE);
    if !advised.is_ok() {
        return advised;
    }
    for (name, value) in [
        ("sleep_millisecs", "1"),
        ("pages_to_scan", "2000"),
        ("run", "1"),
    ] {
        write_file(&format!("/sys/kernel/mm/ksm/{name}"), value);
    }
    let mut result = None;
    for _ in 0..10_000 {
        let merging = std::fs::read_to_string("/proc/self/ksm_merging_pages").unwrap_or_default();
        if merging.trim().parse() == Ok(PAGES) {
            result = Some(());
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    write_file("/sys/kernel/mm/ksm/run", "0");
    result.expect("pages are merged in time");
    advised
}

const MADV_GUARD_INSTALL: i32 = 102;

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind("anon", |slot| anonymous(slot, RW, libc::MAP_PRIVATE)),
    kind("anon-shared", |slot| anonymous(slot, RW, libc::MAP_SHARED)),
    readable("anon-prot-none", |slot| {
        anonymous(slot, libc::PROT_NONE, libc::MAP_PRIVATE)
    }),
    readable("anon-read-only", |slot| {
        anonymous(slot, libc::PROT_READ, libc::MAP_PRIVATE)
    }),
    kind("anon-exec", |slot| {
        anonymous(slot, RW | libc::PROT_EXEC, libc::MAP_PRIVATE)
    }),
    kind("anon-noreserve", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
    }),
    kind("anon-growsdown", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN)
    }),
    kind("anon-stack", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_STACK)
    }),
    kind("anon-locked", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mlock(area.start, area.len, libc::MLOCK_ONFAULT).0?;
        Ok(area)
    }),
    kind("anon-mlocked", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mlock(area.start, area.len, 0).0?;
        Ok(area)
    }),
    kind("anon-dontfork", |slot| {
        advised(anonymous(slot, RW, libc::MAP_PRIVATE)?, libc::MADV_DONTFORK)
    }),
    kind("anon-wipeonfork", |slot| {
        advised(
            anonymous(slot, RW, libc::MAP_PRIVATE)?,
            libc::MADV_WIPEONFORK,
        )
    }),
    kind("anon-thp", |slot| {
        let area = Area::map(
            slot,
            2 * HUGE,
            PAGE,
            RW,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            None,
        )?;
        let area = advised(area, libc::MADV_HUGEPAGE)?;
        for page in [area.start, area.start + HUGE] {
            write_byte(page, 1);
        }
        Ok(area)
    }),
    kind("anon-ksm", merged),
    kind("anon-swapped", swapped),
    kind("anon-droppable", |slot| {
        const MAP_DROPPABLE: i32 = 0x08;
        anonymous(slot, RW, MAP_DROPPABLE)
    }),
    readable("anon-guard", |slot| {
        advised(anonymous(slot, RW, libc::MAP_PRIVATE)?, MADV_GUARD_INSTALL)
    }),
    kind("anon-soft-dirty", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        area.write();
        write_file("/proc/self/clear_refs", "4");
        Ok(area)
    }),
    kind("anon-sealed", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mseal(area.start, area.len).0?;
        Ok(area)
    }),
    kind("shmem", |slot| shmem(slot, RW, libc::MAP_SHARED)),
    kind("shmem-private", |slot| shmem(slot, RW, libc::MAP_PRIVATE)),
    readable("shmem-read-only", |slot| {
        shmem(slot, libc::PROT_READ, libc::MAP_SHARED)
    }),
    readable("shmem-prot-none", |slot| {
        shmem(slot, libc::PROT_NONE, libc::MAP_SHARED)
    }),
    readable("shmem-sealed-write", |slot| {
        sealed(slot, libc::F_SEAL_WRITE, libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("shmem-private-sealed-write", |slot| {
        sealed(slot, libc::F_SEAL_WRITE, RW, libc::MAP_PRIVATE)
    }),
    readable("shmem-sealed-future-write", |slot| {
        let seals = libc::F_SEAL_FUTURE_WRITE;
        sealed(slot, seals, libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("shmem-sealed-shrink", |slot| {
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        sealed(slot, seals, RW, libc::MAP_SHARED)
    }),
    kind("shmem-sysv", |slot| {
        // SAFETY: The segment is attached where nothing is, and goes with the process.
        unsafe {
            let id = libc::shmget(libc::IPC_PRIVATE, PAGES * PAGE, libc::IPC_CREAT | 0o600);
            if id < 0 {
                return Err(errno());
            }
            let start = BASE + slot * APART;
            let address = libc::shmat(id, start as _, 0);
            libc::shmctl(id, libc::IPC_RMID, ptr::null_mut());
            if address as usize != start {
                return Err(errno());
            }
            Ok(Area {
                start,
                len: PAGES * PAGE,
                page: PAGE,
                file: None,
            })
        }
    }),
    kind("hugetlb", |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_PRIVATE)
    }),
    kind("hugetlb-shared", |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_SHARED)
    }),
    kind("hugetlb-memfd", |slot| {
        hugetlb_memfd(slot, libc::MAP_SHARED)
    }),
    kind("hugetlb-memfd-private", |slot| {
        hugetlb_memfd(slot, libc::MAP_PRIVATE)
    }),
    kind("hugetlb-gigantic", |slot| {
        hugetlb(slot, GIGANTIC, 1, libc::MAP_PRIVATE)
    }),
    readable("file-read", |slot| {
        file(slot, c"/proc/self/exe", libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("file-private", |slot| {
        file(slot, c"/proc/self/exe", RW, libc::MAP_PRIVATE)
    }),
    kind("file-shared", |slot| {
        // One in /tmp would be shared memory.
        let len = PAGES * PAGE;
        let file = new_file(c"ramfs", &[], len)?;
        Area::map(slot, len, PAGE, RW, libc::MAP_SHARED, Some(file))
    }),
    kind("zero-private", |slot| {
        file(slot, c"/dev/zero", RW, libc::MAP_PRIVATE)
    }),
    kind("secretmem", |slot| {
        // SAFETY: The call returns a new descriptor, or an error.
        let file = unsafe { new_descriptor(libc::syscall(libc::SYS_memfd_secret, 0) as i32)? };
        let len = PAGES * PAGE;
        ftruncate(&file, len);
        Area::map(slot, len, PAGE, RW, libc::MAP_SHARED, Some(file))
    }),
    readable("vdso", |_| of_the_kernel("[vdso]")),
    readable("vvar", |_| of_the_kernel("[vvar]")),
];

/// The kinds that a userfaultfd is made for.
pub const BASIC: &[&str] = &[
    "anon",
    "shmem",
    "shmem-private",
    "hugetlb",
    "hugetlb-shared",
];

/// The kind of a name.
pub fn kind_of(name: &str) -> &'static Kind {
    KINDS
        .iter()
        .find(|kind| kind.name == name)
        .expect("the kind is in the table")
}

/// What the page table says of a page: Present, Swapped, File, eXclusive, soft-Dirty,
/// Write-protected by userfaultfd, Guard.
pub fn pagemap(address: usize) -> String {
    let mut entry = [0; 8];
    let file = std::fs::File::open("/proc/self/pagemap").expect("there is a pagemap");
    let offset = (address / PAGE * 8) as u64;
    if std::os::unix::fs::FileExt::read_at(&file, &mut entry, offset).unwrap_or(0) != 8 {
        return "none".into();
    }
    let entry = u64::from_ne_bytes(entry);
    let text: String = [
        (63, 'P'),
        (62, 'S'),
        (61, 'F'),
        (56, 'X'),
        (55, 'D'),
        (57, 'W'),
        (58, 'G'),
    ]
    .iter()
    .filter(|(bit, _)| entry >> bit & 1 != 0)
    .map(|(_, letter)| *letter)
    .collect();
    if text.is_empty() {
        "-".into()
    } else {
        text
    }
}

/// The first byte of a page that is present, without a fault that nobody handles.
pub fn peek(address: usize) -> String {
    if !pagemap(address).starts_with('P') {
        return "?".into();
    }
    let mut byte = [0];
    match read_process(this_process(), address, &mut byte) {
        Answer(Ok(1)) => format!("{:#04x}", byte[0]),
        _ => errno_name(errno()),
    }
}

/// How much of the mapping at an address is in huge pages of anonymous memory.
pub fn huge_pages(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("there is smaps");
    smaps
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{address:x}-")))
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .map_or("no mapping".into(), |text| text.trim().into())
}

/// A mapping of this process.
struct Mapping {
    start: usize,
    end: usize,
    /// What is mapped, or how it was named.
    name: String,
    flags: String,
}

impl Mapping {
    /// Its extent, and something about it.
    fn describe(&self, names: &Names, what: &str) -> String {
        format!(
            "{}..{} [{what}]",
            names.name(self.start as u64),
            names.name(self.end as u64)
        )
    }
}

/// The extent that the first line about a mapping begins with.
fn extent(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// All mappings of this process, in order.
fn mappings() -> Vec<Mapping> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("there is smaps");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some((start, end)) = extent(line) {
            // Before the name there are the extent, the access, the offset, the device, the inode.
            let name: Vec<&str> = line.split_whitespace().skip(5).collect();
            mappings.push(Mapping {
                start,
                end,
                name: name.join(" "),
                flags: String::new(),
            });
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let mapping = mappings.last_mut().expect("flags are of a mapping");
            mapping.flags = flags.trim().into();
        }
    }
    mappings
}

/// The flags of the mapping at an address, and its extent.
pub fn vm_flags(address: usize, names: &Names) -> String {
    mappings()
        .iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&address))
        .map_or("no mapping".into(), |mapping| {
            mapping.describe(names, &mapping.flags)
        })
}

/// The mappings in a range, with something about each.
fn within(range: &Range<usize>, names: &Names, what: impl Fn(&Mapping) -> &str) -> String {
    mappings()
        .iter()
        .filter(|mapping| mapping.start < range.end && range.start < mapping.end)
        .map(|mapping| mapping.describe(names, what(mapping)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The flags of all mappings in a range.
pub fn flags_within(range: &Range<usize>, names: &Names) -> String {
    within(range, names, |mapping| &mapping.flags)
}

/// The names of all mappings in a range.
pub fn names_within(range: &Range<usize>, names: &Names) -> String {
    within(range, names, |mapping| &mapping.name)
}
