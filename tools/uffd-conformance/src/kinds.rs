// SPDX-License-Identifier: GPL-2.0

//! Kinds of memory that a range of addresses can be of.

use crate::{
    inspect::{mappings, pagemap},
    memory::{
        fill_with, madvise, mlock, mseal, slot_start, write_byte, Area, GIGANTIC, HUGE,
        MADV_GUARD_INSTALL, RW,
    },
    process::run_on,
    sys::{
        errno, errno_name, errno_of, fcntl, ftruncate, new_descriptor, open, write_file, Answer,
        PAGE,
    },
};
use linux_raw_sys::general::fsconfig_command::{self, FSCONFIG_CMD_CREATE, FSCONFIG_SET_STRING};
use std::{
    ffi::CStr,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    ptr,
    time::Duration,
};

/// How many pages an area of a kind has.
pub const PAGES: usize = 32;
const HUGE_PAGES: usize = 4;

/// Makes an area at a slot, or fails with an errno.
type Make = fn(usize) -> Result<Area, i32>;

/// What is special about a kind.
#[derive(Copy, Clone, PartialEq)]
pub enum Trait {
    /// This process cannot write to its pages.
    ReadOnly,
    /// There are no questions about pages that were read before. Of the kinds that cannot be
    /// written to, one is enough.
    Unread,
    /// Pages can be in a file only, and not in the page table.
    Cached,
    /// That file can be mapped once more.
    Aliased,
    /// Pages can be moved out of it and into it.
    Movable,
    /// Its pages are moved between areas of this kind only, because of their flags.
    Apart,
    /// Its pages are there before a test touches them.
    Filled,
    /// They are on the swap disk then.
    Swapped,
    /// The tests do not know what is in its pages.
    Foreign,
    Hugetlb,
    /// It is made of transparent huge pages.
    Thp,
    /// It has one page, and hardly more are to be had.
    Gigantic,
}
use Trait::*;

/// A kind of memory.
#[derive(Copy, Clone)]
pub struct Kind {
    pub name: &'static str,
    traits: &'static [Trait],
    pub make: Make,
}

impl Kind {
    pub fn is(&self, which: Trait) -> bool {
        self.traits.contains(&which)
    }

    /// Makes an area of a kind that is there on every kernel.
    pub fn area(&self, slot: usize) -> Area {
        (self.make)(slot)
            .unwrap_or_else(|errno| panic!("no {} memory: {}", self.name, errno_name(errno)))
    }
}

const fn kind(name: &'static str, traits: &'static [Trait], make: Make) -> Kind {
    Kind { name, traits, make }
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

fn private(slot: usize) -> Result<Area, i32> {
    anonymous(slot, RW, libc::MAP_PRIVATE)
}

/// A memfd of a size.
pub fn memfd(flags: u32, len: usize) -> Result<OwnedFd, i32> {
    uffd_guest::memfd(c"uffd-conformance", flags, len).map_err(errno_of)
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
    hugetlb_reserved(slot, page, pages, flags | libc::MAP_NORESERVE)
}

/// The pages are taken out of what others can have when they are mapped.
fn hugetlb_reserved(slot: usize, page: usize, pages: usize, flags: i32) -> Result<Area, i32> {
    let size = (page.trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32;
    Area::map(
        slot,
        pages * page,
        page,
        RW,
        flags | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size,
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
        // SAFETY: Both are strings, or null pointers if the command has none.
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
    // SAFETY: The string is valid. The call returns a new descriptor, or an error.
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
    let area = private(slot)?;
    area.write();
    swap_out(&area);
    Ok(area)
}

/// The directory of the settings.
pub const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Says which large folios copies may use for memory that is advised to have them, or that all is
/// as the kernel has it by itself. The C kernel does not know the last of the settings.
pub fn choose_folios(sizes: &[usize]) {
    for (size, by_itself) in [(64, "never"), (2048, "inherit")] {
        let value = match (sizes, sizes.contains(&size)) {
            ([], _) => by_itself,
            (_, true) => "madvise",
            (_, false) => "never",
        };
        let answer = write_file(&format!("{THP}/hugepages-{size}kB/enabled"), value);
        assert!(answer.is_ok(), "no folios of {size} kB: {answer}");
    }
    let path = format!("{THP}/userfaultfd_copy");
    if Path::new(&path).exists() {
        let value = u8::from(!sizes.is_empty()).to_string();
        let answer = write_file(&path, &value);
        assert!(answer.is_ok(), "large folios are not chosen: {answer}");
    }
}

/// Has every page of an area that is present go to the swap disk.
pub fn swap_out(area: &Area) {
    swap_out_pages(area.start, area.pages());
}

/// The same for some pages.
pub fn swap_out_pages(start: usize, pages: usize) {
    for round in 0..4000 {
        // Pages that another processor has noted for later are found on that one only.
        run_on(Some(round % 2));
        madvise(start, pages * PAGE, libc::MADV_PAGEOUT);
        run_on(None);
        if (0..pages).all(|page| pagemap(start + page * PAGE).starts_with('S')) {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("pages are not swapped out in time")
}

/// Anonymous memory whose pages are all the same one.
fn merged(slot: usize) -> Result<Area, i32> {
    let area = private(slot)?;
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

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind("anon", &[Movable], private),
    kind("anon-shared", &[Cached], |slot| {
        anonymous(slot, RW, libc::MAP_SHARED)
    }),
    kind("anon-prot-none", &[ReadOnly, Unread], |slot| {
        anonymous(slot, libc::PROT_NONE, libc::MAP_PRIVATE)
    }),
    kind("anon-read-only", &[ReadOnly], |slot| {
        anonymous(slot, libc::PROT_READ, libc::MAP_PRIVATE)
    }),
    kind("anon-exec", &[Apart], |slot| {
        anonymous(slot, RW | libc::PROT_EXEC, libc::MAP_PRIVATE)
    }),
    kind("anon-noreserve", &[Apart], |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
    }),
    kind("anon-growsdown", &[Apart], |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN)
    }),
    kind("anon-stack", &[], |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_STACK)
    }),
    kind("anon-locked", &[Apart], |slot| {
        let area = private(slot)?;
        mlock(area.start, area.len, libc::MLOCK_ONFAULT).0?;
        Ok(area)
    }),
    kind("anon-mlocked", &[Apart, Filled], |slot| {
        let area = private(slot)?;
        mlock(area.start, area.len, 0).0?;
        Ok(area)
    }),
    kind("anon-dontfork", &[], |slot| {
        advised(private(slot)?, libc::MADV_DONTFORK)
    }),
    kind("anon-wipeonfork", &[], |slot| {
        advised(private(slot)?, libc::MADV_WIPEONFORK)
    }),
    kind("anon-thp", &[Movable, Thp, Filled], |slot| {
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
    kind("anon-ksm", &[Filled], merged),
    kind("anon-swapped", &[Filled, Swapped], swapped),
    kind("anon-droppable", &[], |slot| {
        const MAP_DROPPABLE: i32 = 0x08;
        anonymous(slot, RW, MAP_DROPPABLE)
    }),
    kind("anon-guard", &[ReadOnly, Unread], |slot| {
        advised(private(slot)?, MADV_GUARD_INSTALL)
    }),
    kind("anon-soft-dirty", &[Filled], |slot| {
        let area = private(slot)?;
        area.write();
        write_file("/proc/self/clear_refs", "4");
        Ok(area)
    }),
    kind("anon-sealed", &[], |slot| {
        let area = private(slot)?;
        mseal(area.start, area.len).0?;
        Ok(area)
    }),
    kind("shmem", &[Cached, Aliased], |slot| {
        shmem(slot, RW, libc::MAP_SHARED)
    }),
    kind("shmem-private", &[], |slot| {
        shmem(slot, RW, libc::MAP_PRIVATE)
    }),
    kind("shmem-read-only", &[ReadOnly, Unread], |slot| {
        shmem(slot, libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("shmem-prot-none", &[ReadOnly, Unread], |slot| {
        shmem(slot, libc::PROT_NONE, libc::MAP_SHARED)
    }),
    kind("shmem-sealed-write", &[ReadOnly, Unread], |slot| {
        sealed(slot, libc::F_SEAL_WRITE, libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("shmem-private-sealed-write", &[], |slot| {
        sealed(slot, libc::F_SEAL_WRITE, RW, libc::MAP_PRIVATE)
    }),
    kind("shmem-sealed-future-write", &[ReadOnly, Unread], |slot| {
        let seals = libc::F_SEAL_FUTURE_WRITE;
        sealed(slot, seals, libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("shmem-sealed-shrink", &[], |slot| {
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        sealed(slot, seals, RW, libc::MAP_SHARED)
    }),
    kind("shmem-sysv", &[], |slot| {
        // SAFETY: shmat() fails if something is mapped there. The segment goes with the process.
        unsafe {
            let id = libc::shmget(libc::IPC_PRIVATE, PAGES * PAGE, libc::IPC_CREAT | 0o600);
            if id < 0 {
                return Err(errno());
            }
            let start = slot_start(slot);
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
    kind("hugetlb", &[Hugetlb], |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_PRIVATE)
    }),
    kind("hugetlb-reserved", &[Hugetlb], |slot| {
        hugetlb_reserved(slot, HUGE, HUGE_PAGES, libc::MAP_PRIVATE)
    }),
    kind("hugetlb-shared", &[Hugetlb, Cached], |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_SHARED)
    }),
    kind("hugetlb-memfd", &[Hugetlb, Cached, Aliased], |slot| {
        hugetlb_memfd(slot, libc::MAP_SHARED)
    }),
    kind("hugetlb-memfd-private", &[Hugetlb], |slot| {
        hugetlb_memfd(slot, libc::MAP_PRIVATE)
    }),
    kind("hugetlb-gigantic", &[Hugetlb, Gigantic], |slot| {
        hugetlb(slot, GIGANTIC, 1, libc::MAP_PRIVATE)
    }),
    kind("file-read", &[ReadOnly, Unread, Foreign], |slot| {
        file(slot, c"/proc/self/exe", libc::PROT_READ, libc::MAP_SHARED)
    }),
    kind("file-private", &[Foreign], |slot| {
        file(slot, c"/proc/self/exe", RW, libc::MAP_PRIVATE)
    }),
    kind("file-shared", &[Cached], |slot| {
        // One in /tmp would be shared memory.
        let len = PAGES * PAGE;
        let file = new_file(c"ramfs", &[], len)?;
        Area::map(slot, len, PAGE, RW, libc::MAP_SHARED, Some(file))
    }),
    kind("zero-private", &[], |slot| {
        file(slot, c"/dev/zero", RW, libc::MAP_PRIVATE)
    }),
    kind("secretmem", &[], |slot| {
        // SAFETY: The call returns a new descriptor, or an error.
        let file = unsafe { new_descriptor(libc::syscall(libc::SYS_memfd_secret, 0) as i32)? };
        let len = PAGES * PAGE;
        ftruncate(&file, len);
        Area::map(slot, len, PAGE, RW, libc::MAP_SHARED, Some(file))
    }),
    kind("vdso", &[ReadOnly, Unread], |_| of_the_kernel("[vdso]")),
    kind("vvar", &[ReadOnly, Unread], |_| of_the_kernel("[vvar]")),
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
