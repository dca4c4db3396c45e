// SPDX-License-Identifier: GPL-2.0

//! Who may have a userfaultfd, by which way, and what it is good for.

use crate::{
    memory::{getrandom, Area, Names},
    poll::poll_fd,
    process::{drop_ptrace, set_limit, wait},
    sys::{
        descriptor_flags, errno_name, lseek, mmap_file, new_descriptor, open, read, write,
        write_file, Answer, PAGE,
    },
    touch::{catch_signals, load},
    transcript::{Case, Transcript},
    uffd::{describe, fault_of, Uffd, API, FEATURES, IOC_NEW, MISSING},
};
use linux_raw_sys::general::*;
use std::{
    ffi::CStr,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
};

const SYSCTL: &str = "/proc/sys/vm/unprivileged_userfaultfd";
const NODE: &CStr = c"/dev/userfaultfd";
const NODE_PATH: &str = "/dev/userfaultfd";
const OTHER_USER: u32 = 65534;
const GROUP: u32 = 12345;

/// A kind of user who wants a userfaultfd.
struct Who {
    name: &'static str,
    become_them: fn(),
}

/// Becomes another user, with one more group. All capabilities go.
fn become_user(groups: &[u32]) {
    // SAFETY: The list is as long as is said.
    unsafe {
        assert_eq!(libc::setgroups(groups.len(), groups.as_ptr()), 0);
        assert_eq!(libc::setresgid(OTHER_USER, OTHER_USER, OTHER_USER), 0);
        assert_eq!(libc::setresuid(OTHER_USER, OTHER_USER, OTHER_USER), 0);
    }
    // After that a process is not to be looked at, and its files in /proc are root's.
    // SAFETY: No pointers are involved.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
}

/// Becomes another user, and keeps one capability.
fn become_user_with_ptrace() {
    // SAFETY: No pointers are involved.
    unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1) };
    become_user(&[]);
    const CAP_SYS_PTRACE: u32 = 19;
    // The capability is still permitted.
    let header: [u32; 2] = [0x2008_0522, 0];
    let bit = 1u32 << CAP_SYS_PTRACE;
    let data: [u32; 6] = [bit, bit, 0, 0, 0, 0];
    // SAFETY: The structures are what version 3 of the call expects.
    let answer = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    assert_eq!(answer, 0, "capset");
}

/// An instruction of a filter of system calls.
const fn instruction(code: u16, skip_otherwise: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code,
        jt: 0,
        jf: skip_otherwise,
        k,
    }
}

/// The instructions: load a word of what is known of the call, go on if it is a number, return.
const LOAD: u16 = 0x20;
const IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

const FAIL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENETDOWN as u32;

/// Has system calls of userfaultfd(2) fail.
fn forbid_the_call() {
    filter_calls(&[
        instruction(LOAD, 0, 0),
        instruction(IF_EQUAL, 1, libc::SYS_userfaultfd as u32),
        instruction(RETURN, 0, FAIL),
        instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

/// Has the ioctl of the device fail.
fn forbid_the_ioctl() {
    // The offset of the second argument: after the number, the architecture, and two long words.
    const SECOND_ARGUMENT: u32 = 24;
    filter_calls(&[
        instruction(LOAD, 0, 0),
        instruction(IF_EQUAL, 3, libc::SYS_ioctl as u32),
        instruction(LOAD, 0, SECOND_ARGUMENT),
        instruction(IF_EQUAL, 1, IOC_NEW),
        instruction(RETURN, 0, FAIL),
        instruction(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ]);
}

fn filter_calls(filter: &[libc::sock_filter]) {
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: The program is as long as is said.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program),
            0
        );
    }
}

fn new_user_namespace() {
    // SAFETY: No pointers are involved.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWUSER) }, 0, "unshare");
}

const WHO: &[Who] = &[
    Who {
        name: "root",
        become_them: || {},
    },
    Who {
        name: "root without CAP_SYS_PTRACE",
        become_them: drop_ptrace,
    },
    Who {
        name: "root of a user namespace",
        become_them: new_user_namespace,
    },
    Who {
        name: "user",
        become_them: || become_user(&[]),
    },
    Who {
        name: "user in the group",
        become_them: || become_user(&[GROUP]),
    },
    Who {
        name: "user with CAP_SYS_PTRACE",
        become_them: become_user_with_ptrace,
    },
    Who {
        name: "user in a user namespace",
        become_them: || {
            become_user(&[]);
            new_user_namespace();
        },
    },
    Who {
        name: "root with seccomp",
        become_them: forbid_the_call,
    },
    Who {
        name: "root with seccomp of the ioctl",
        become_them: forbid_the_ioctl,
    },
    Who {
        name: "user with seccomp",
        become_them: || {
            become_user(&[]);
            forbid_the_call();
        },
    },
];

const FLAGS: &[(&str, i32)] = &[
    ("0", 0),
    ("user_mode_only", UFFD_USER_MODE_ONLY as i32),
    ("cloexec", libc::O_CLOEXEC),
    ("nonblock", libc::O_NONBLOCK),
    (
        "all",
        UFFD_USER_MODE_ONLY as i32 | libc::O_CLOEXEC | libc::O_NONBLOCK,
    ),
    ("2", 2),
    ("append", libc::O_APPEND),
    ("-1", -1),
];

/// A descriptor from the device that was opened.
fn from_opened(device: &OwnedFd, flags: i64) -> Result<Uffd, Answer> {
    // SAFETY: The call returns a new descriptor, or an error.
    let fd = unsafe { new_descriptor(libc::ioctl(device.as_raw_fd(), IOC_NEW as _, flags)) };
    fd.map(Uffd).map_err(|errno| Answer(Err(errno)))
}

/// A descriptor from the device.
fn from_device(flags: i64, mode: i32) -> Result<Uffd, Answer> {
    let device = open(NODE, mode).map_err(|errno| Answer(Err(errno)))?;
    from_opened(&device, flags)
}

/// What a descriptor is good for.
fn use_of(uffd: &Uffd) -> String {
    let (status, descriptor) = descriptor_flags(uffd.fd());
    let called = uffd.call(&API, &[u64::from(UFFD_API), 0]);
    let mut text = format!("status {status:#o} flags {descriptor} api {called}");
    let area = Area::anon(0, 4);
    let source = Area::anon(1, 1);
    let names = Names::new(&[("area", &area)]);
    text.push_str(&format!(
        " register {}",
        uffd.register(area.start, area.len, MISSING)
    ));
    let (start, its) = (area.start, names.clone());
    type Fault = Box<dyn FnOnce() -> String + Send>;
    let faults: [(&str, Fault); 2] = [
        ("user", Box::new(move || load(start, &its))),
        (
            "kernel",
            Box::new(move || getrandom(start + PAGE).to_string()),
        ),
    ];
    for (name, fault) in faults {
        let thread = std::thread::spawn(fault);
        while !thread.is_finished() {
            if uffd.fdinfo().starts_with("pending: 0") {
                std::thread::yield_now();
                continue;
            }
            // poll() of a blocking descriptor is an error; there is a message, so read() is not.
            if let Ok(message) = uffd.read() {
                text.push_str(&format!(" {}", describe(&message, &names)));
                let address = fault_of(&message).expect("it is a fault").address;
                uffd.copy(address & !(PAGE - 1), source.start, PAGE, 0);
            }
        }
        let answer = thread.join().expect("no panic");
        text.push_str(&format!(" {name} fault: {answer}"));
    }
    text
}

/// Runs something as a kind of user, in a process of its own.
fn done_by(log: &mut Transcript, who: &Who, run: impl FnOnce(&mut Transcript)) {
    let child = log.fork(|log| {
        (who.become_them)();
        run(log);
    });
    assert_eq!(wait(child, 0), 0, "{} did not end as they should", who.name);
}

/// What a descriptor is good for, or why there is none.
fn use_or_error(created: Result<Uffd, Answer>) -> String {
    match created {
        Ok(uffd) => use_of(&uffd),
        Err(answer) => answer.to_string(),
    }
}

/// Tries every way, with every flag, as a kind of user.
fn attempts(log: &mut Transcript, who: &Who, state: &str) {
    catch_signals();
    type Way = fn(i32) -> Result<Uffd, Answer>;
    let ways: [(&str, Way); 2] = [
        ("syscall", Uffd::create),
        ("device", |flags| from_device(flags.into(), libc::O_RDWR)),
    ];
    done_by(log, who, |log| {
        for (way, create) in ways {
            for (name, flags) in FLAGS {
                let answer = use_or_error(create(*flags));
                log.record(format!("{state},{way},{name}"), answer);
            }
            for (feature, name) in FEATURES {
                let answer = match create(UFFD_USER_MODE_ONLY as i32) {
                    Ok(uffd) => uffd
                        .call(&API, &[u64::from(UFFD_API), *feature])
                        .to_string(),
                    Err(answer) => answer.to_string(),
                };
                log.record(format!("{state},{way},feature {name}"), answer);
            }
        }
    });
}

/// Sets who may open the device.
fn set_node(mode: u32, group: u32) {
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(NODE_PATH, permissions).expect("root may do that");
    std::os::unix::fs::chown(NODE_PATH, Some(0), Some(group)).expect("root may do that");
}

fn ask_who(log: &mut Transcript, who: &Who) {
    for sysctl in ["0", "1"] {
        write_file(SYSCTL, sysctl);
        for (mode, group) in [(0o600, 0), (0o660, GROUP), (0o666, 0)] {
            set_node(mode, group);
            attempts(log, who, &format!("sysctl={sysctl},node={mode:o}"));
        }
    }
    write_file(SYSCTL, "0");
    set_node(0o600, 0);
}

/// The sysctl as a file.
fn sysctl(log: &mut Transcript) {
    let read = || std::fs::read_to_string(SYSCTL).unwrap_or_default();
    log.record("default", read().trim());
    let metadata = std::fs::metadata(SYSCTL).expect("there is the sysctl");
    log.record("mode", format!("{:o}", metadata.permissions().mode()));
    for value in [
        "1",
        "0",
        "2",
        "-1",
        "abc",
        "",
        " 1",
        "1 0",
        "01",
        "4294967297",
    ] {
        let answer = write_file(SYSCTL, value);
        log.record(
            format!("write {value:?}"),
            format!("{answer}, {}", read().trim()),
        );
    }
    write_file(SYSCTL, "0");
    let child = log.fork(|log| {
        become_user(&[]);
        log.record("write by a user", write_file(SYSCTL, "1"));
    });
    assert_eq!(wait(child, 0), 0, "the user did not end as it should");
}

/// The device as a file.
fn device(log: &mut Transcript) {
    let metadata = std::fs::metadata(NODE_PATH).expect("there is the device");
    log.record(
        "node",
        format!(
            "{:o} character {} major {} uid {} gid {}",
            metadata.permissions().mode(),
            metadata.file_type().is_char_device(),
            libc::major(metadata.rdev()),
            metadata.uid(),
            metadata.gid()
        ),
    );
    let uevent = std::fs::read_to_string("/sys/class/misc/userfaultfd/uevent").unwrap_or_default();
    for line in uevent.lines().filter(|line| !line.starts_with("MINOR")) {
        log.record(
            format!("uevent {}", line.split('=').next().unwrap_or("")),
            line,
        );
    }
    for (name, mode) in [
        ("read", libc::O_RDONLY),
        ("write", libc::O_WRONLY),
        ("both", libc::O_RDWR),
        ("path", libc::O_PATH),
        ("nonblock", libc::O_RDWR | libc::O_NONBLOCK),
        ("directory", libc::O_DIRECTORY),
    ] {
        for (flag_name, flags) in [
            ("0", 0i64),
            ("2^32", 1 << 32),
            ("2^32+2", (1 << 32) + 2),
            ("-1", -1),
        ] {
            let answer = use_or_error(from_device(flags, mode));
            log.record(format!("open {name},flags {flag_name}"), answer);
        }
    }
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open(NODE_PATH)
        .expect("root may open it");
    let fd: RawFd = device.as_raw_fd();
    let mut buffer = [0u8; 64];
    for request in [
        0,
        IOC_NEW + 1,
        IOC_NEW | 8 << 16,
        IOC_NEW | 1 << 30,
        API.request(),
        libc::FIONBIO as u32,
        libc::FIONREAD as u32,
        u32::MAX,
    ] {
        // SAFETY: The buffer is longer than all arguments of these.
        let answer = Answer::of(unsafe { libc::ioctl(fd, request as _, buffer.as_mut_ptr()) });
        log.record(format!("ioctl {request:#x}"), answer);
    }
    log.record("read", read(fd, &mut buffer[..32]));
    log.record("write", write(fd, &buffer[..32]));
    log.record("lseek", lseek(fd, libc::SEEK_END));
    log.record("mmap", mmap_file(fd, libc::MAP_SHARED));
    log.record("poll", format!("{:#x}", poll_fd(fd, -1, 0)));
    log.record("mkdir", {
        let error = std::fs::create_dir(NODE_PATH).expect_err("it is there");
        errno_name(error.raw_os_error().unwrap_or(0))
    });
}

/// A device that its group can only read, and one that root has opened for another user.
fn opened_by(log: &mut Transcript, who: &Who) {
    catch_signals();
    set_node(0o640, GROUP);
    for (name, mode) in [
        ("read", libc::O_RDONLY),
        ("write", libc::O_WRONLY),
        ("both", libc::O_RDWR),
    ] {
        done_by(log, who, |log| {
            let answer = use_or_error(from_device(0, mode));
            log.record(format!("node=640,{name}"), answer);
        });
    }
    set_node(0o600, 0);
    let device = open(NODE, libc::O_RDWR).expect("root may open it");
    for (name, flags) in FLAGS {
        done_by(log, who, |log| {
            let answer = use_or_error(from_opened(&device, (*flags).into()));
            log.record(format!("inherited,{name}"), answer);
        });
    }
}

/// Limits on descriptors.
fn limits(log: &mut Transcript) {
    for limit in [0u64, 3, 4, 5] {
        let child = log.fork(|log| {
            // SAFETY: Nothing that is used here has this number.
            unsafe { libc::close_range(3, 3, 0) };
            set_limit(libc::RLIMIT_NOFILE, limit, limit);
            for way in ["syscall", "device"] {
                let created = match way {
                    "syscall" => Uffd::create(0),
                    _ => from_device(0, libc::O_RDWR),
                };
                log.record(
                    format!("nofile={limit},{way}"),
                    created.map_or_else(|answer| answer.to_string(), |_| "created".into()),
                );
            }
        });
        assert_eq!(wait(child, 0), 0, "with {limit} descriptors");
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("access/sysctl", sysctl),
        Case::new("access/device", device),
        Case::new("access/limits", limits),
    ];
    for who in WHO {
        cases.push(Case::new(format!("access/{}", who.name), move |log| {
            ask_who(log, who)
        }));
        cases.push(Case::new(
            format!("access/{}/opened", who.name),
            move |log| opened_by(log, who),
        ));
    }
    cases
}
