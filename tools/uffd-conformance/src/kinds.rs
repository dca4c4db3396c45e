// SPDX-License-Identifier: GPL-2.0

//! Kinds of memory that a range of addresses can be of.

use crate::{
    inspect::{mappings, pagemap},
    memory::{
        fill_with, mlock, mseal, slot_start, write_byte, Area, GIGANTIC, HUGE, MADV_GUARD_INSTALL,
        RW,
    },
    process::run_on,
    sys::{errno, errno_name, fcntl, ftruncate, new_descriptor, open, write_file, Answer, PAGE},
};
use linux_raw_sys::general::fsconfig_command::{self, FSCONFIG_CMD_CREATE, FSCONFIG_SET_STRING};
use std::{
    ffi::CStr,
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    time::Duration,
};

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
    /// Whether there are questions about pages that were read. Of the kinds that cannot be written
    /// to, one is enough.
    pub read: bool,
    /// Whether this process can write to pages.
    pub writable: bool,
    /// Whether pages can be in a file only, and not in the page table.
    pub cached: bool,
    /// Whether that file can be mapped once more.
    pub aliased: bool,
    /// Whether pages can be moved out of it and into it.
    pub movable: bool,
    /// Whether its pages are moved between areas of this kind only, because of their flags.
    pub apart: bool,
    /// What its pages are before a test touches them.
    pub made: Made,
    /// Whether its pages are of hugetlb.
    pub hugetlb: bool,
    /// Whether the contents of its pages are not up to the tests.
    pub foreign: bool,
    /// Whether it is made of transparent huge pages.
    pub thp: bool,
    /// Whether there is hardly more than one page of it.
    pub gigantic: bool,
}

/// What the pages of new memory are.
#[derive(Copy, Clone, PartialEq)]
pub enum Made {
    Empty,
    Present,
    Swapped,
}

impl Kind {
    const fn read_only(mut self) -> Self {
        self.writable = false;
        self
    }

    const fn untouched(mut self) -> Self {
        self.read = false;
        self.read_only()
    }

    const fn cached(mut self) -> Self {
        self.cached = true;
        self
    }

    const fn aliased(mut self) -> Self {
        self.aliased = true;
        self.cached()
    }

    const fn movable(mut self) -> Self {
        self.movable = true;
        self
    }

    const fn apart(mut self) -> Self {
        self.apart = true;
        self
    }

    const fn made(mut self, made: Made) -> Self {
        self.made = made;
        self
    }

    const fn hugetlb(mut self) -> Self {
        self.hugetlb = true;
        self
    }

    const fn foreign(mut self) -> Self {
        self.foreign = true;
        self
    }

    const fn thp(mut self) -> Self {
        self.thp = true;
        self
    }

    const fn gigantic(mut self) -> Self {
        self.gigantic = true;
        self
    }

    /// Makes an area of a kind that is there on every kernel.
    pub fn area(&self, slot: usize) -> Area {
        (self.make)(slot)
            .unwrap_or_else(|errno| panic!("no {} memory: {}", self.name, errno_name(errno)))
    }
}

const fn kind(name: &'static str, make: Make) -> Kind {
    Kind {
        name,
        make,
        read: true,
        writable: true,
        cached: false,
        aliased: false,
        movable: false,
        apart: false,
        made: Made::Empty,
        hugetlb: false,
        foreign: false,
        thp: false,
        gigantic: false,
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

/// All kinds.
pub const KINDS: &[Kind] = &[
    kind("anon", |slot| anonymous(slot, RW, libc::MAP_PRIVATE)).movable(),
    kind("anon-shared", |slot| anonymous(slot, RW, libc::MAP_SHARED)).cached(),
    kind("anon-prot-none", |slot| {
        anonymous(slot, libc::PROT_NONE, libc::MAP_PRIVATE)
    })
    .untouched(),
    kind("anon-read-only", |slot| {
        anonymous(slot, libc::PROT_READ, libc::MAP_PRIVATE)
    })
    .read_only(),
    kind("anon-exec", |slot| {
        anonymous(slot, RW | libc::PROT_EXEC, libc::MAP_PRIVATE)
    })
    .apart(),
    kind("anon-noreserve", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_NORESERVE)
    })
    .apart(),
    kind("anon-growsdown", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_GROWSDOWN)
    })
    .apart(),
    kind("anon-stack", |slot| {
        anonymous(slot, RW, libc::MAP_PRIVATE | libc::MAP_STACK)
    }),
    kind("anon-locked", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mlock(area.start, area.len, libc::MLOCK_ONFAULT).0?;
        Ok(area)
    })
    .apart(),
    kind("anon-mlocked", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mlock(area.start, area.len, 0).0?;
        Ok(area)
    })
    .apart()
    .made(Made::Present),
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
    })
    .movable()
    .thp()
    .made(Made::Present),
    kind("anon-ksm", merged).made(Made::Present),
    kind("anon-swapped", swapped).made(Made::Swapped),
    kind("anon-droppable", |slot| {
        const MAP_DROPPABLE: i32 = 0x08;
        anonymous(slot, RW, MAP_DROPPABLE)
    }),
    kind("anon-guard", |slot| {
        advised(anonymous(slot, RW, libc::MAP_PRIVATE)?, MADV_GUARD_INSTALL)
    })
    .untouched(),
    kind("anon-soft-dirty", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        area.write();
        write_file("/proc/self/clear_refs", "4");
        Ok(area)
    })
    .made(Made::Present),
    kind("anon-sealed", |slot| {
        let area = anonymous(slot, RW, libc::MAP_PRIVATE)?;
        mseal(area.start, area.len).0?;
        Ok(area)
    }),
    kind("shmem", |slot| shmem(slot, RW, libc::MAP_SHARED)).aliased(),
    kind("shmem-private", |slot| shmem(slot, RW, libc::MAP_PRIVATE)),
    kind("shmem-read-only", |slot| {
        shmem(slot, libc::PROT_READ, libc::MAP_SHARED)
    })
    .untouched(),
    kind("shmem-prot-none", |slot| {
        shmem(slot, libc::PROT_NONE, libc::MAP_SHARED)
    })
    .untouched(),
    kind("shmem-sealed-write", |slot| {
        sealed(slot, libc::F_SEAL_WRITE, libc::PROT_READ, libc::MAP_SHARED)
    })
    .untouched(),
    kind("shmem-private-sealed-write", |slot| {
        sealed(slot, libc::F_SEAL_WRITE, RW, libc::MAP_PRIVATE)
    }),
    kind("shmem-sealed-future-write", |slot| {
        let seals = libc::F_SEAL_FUTURE_WRITE;
        sealed(slot, seals, libc::PROT_READ, libc::MAP_SHARED)
    })
    .untouched(),
    kind("shmem-sealed-shrink", |slot| {
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
        sealed(slot, seals, RW, libc::MAP_SHARED)
    }),
    kind("shmem-sysv", |slot| {
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
    kind("hugetlb", |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_PRIVATE)
    })
    .hugetlb(),
    kind("hugetlb-shared", |slot| {
        hugetlb(slot, HUGE, HUGE_PAGES, libc::MAP_SHARED)
    })
    .hugetlb()
    .cached(),
    kind("hugetlb-memfd", |slot| {
        hugetlb_memfd(slot, libc::MAP_SHARED)
    })
    .hugetlb()
    .aliased(),
    kind("hugetlb-memfd-private", |slot| {
        hugetlb_memfd(slot, libc::MAP_PRIVATE)
    })
    .hugetlb(),
    kind("hugetlb-gigantic", |slot| {
        hugetlb(slot, GIGANTIC, 1, libc::MAP_PRIVATE)
    })
    .hugetlb()
    .gigantic(),
    kind("file-read", |slot| {
        file(slot, c"/proc/self/exe", libc::PROT_READ, libc::MAP_SHARED)
    })
    .untouched()
    .foreign(),
    kind("file-private", |slot| {
        file(slot, c"/proc/self/exe", RW, libc::MAP_PRIVATE)
    })
    .foreign(),
    kind("file-shared", |slot| {
        // One in /tmp would be shared memory.
        let len = PAGES * PAGE;
        let file = new_file(c"ramfs", &[], len)?;
        Area::map(slot, len, PAGE, RW, libc::MAP_SHARED, Some(file))
    })
    .cached(),
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
    kind("vdso", |_| of_the_kernel("[vdso]")).untouched(),
    kind("vvar", |_| of_the_kernel("[vvar]")).untouched(),
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
