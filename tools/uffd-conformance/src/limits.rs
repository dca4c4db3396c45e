// SPDX-License-Identifier: GPL-2.0

//! Every ioctl with its arguments at and around their limits.

use crate::{
    book::{Book, Case},
    memory::{kind_of, Area, Names},
    sys::{self, Answer, PAGE},
    uffd::{self, Call, Uffd, API, COPY, IOC_TYPE, MOVE, RANGE_CALLS, REGISTER, UNREGISTER, WAKE},
};
use linux_raw_sys::general::*;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub const MISSING: u64 = UFFDIO_REGISTER_MODE_MISSING as u64;
pub const WP: u64 = UFFDIO_REGISTER_MODE_WP as u64;
pub const MINOR: u64 = UFFDIO_REGISTER_MODE_MINOR as u64;

/// All features of Linux 6.18.
pub const FEATURES: &[(u64, &str)] = &[
    (UFFD_FEATURE_PAGEFAULT_FLAG_WP as u64, "pagefault_flag_wp"),
    (UFFD_FEATURE_EVENT_FORK as u64, "event_fork"),
    (UFFD_FEATURE_EVENT_REMAP as u64, "event_remap"),
    (UFFD_FEATURE_EVENT_REMOVE as u64, "event_remove"),
    (UFFD_FEATURE_MISSING_HUGETLBFS as u64, "missing_hugetlbfs"),
    (UFFD_FEATURE_MISSING_SHMEM as u64, "missing_shmem"),
    (UFFD_FEATURE_EVENT_UNMAP as u64, "event_unmap"),
    (UFFD_FEATURE_SIGBUS as u64, "sigbus"),
    (UFFD_FEATURE_THREAD_ID as u64, "thread_id"),
    (UFFD_FEATURE_MINOR_HUGETLBFS as u64, "minor_hugetlbfs"),
    (UFFD_FEATURE_MINOR_SHMEM as u64, "minor_shmem"),
    (UFFD_FEATURE_EXACT_ADDRESS as u64, "exact_address"),
    (UFFD_FEATURE_WP_HUGETLBFS_SHMEM as u64, "wp_hugetlbfs_shmem"),
    (UFFD_FEATURE_WP_UNPOPULATED as u64, "wp_unpopulated"),
    (UFFD_FEATURE_POISON as u64, "poison"),
    (UFFD_FEATURE_WP_ASYNC as u64, "wp_async"),
    (UFFD_FEATURE_MOVE as u64, "move"),
];

const PAGES: usize = 16;
const SIZE: usize = PAGES * PAGE;
const TASK_SIZE: usize = 0x7fff_ffff_f000;
/// vm.mmap_min_addr is not changed by the tests.
const MMAP_MIN_ADDR: usize = 65536;

/// Addresses: a name, and the value for an area that starts at `base`.
fn starts(base: usize) -> Vec<(&'static str, usize)> {
    vec![
        ("0", 0),
        ("1", 1),
        ("page-1", PAGE - 1),
        ("page", PAGE),
        ("mmap_min_addr", MMAP_MIN_ADDR),
        ("area-page", base - PAGE),
        ("area", base),
        ("area+1", base + 1),
        ("area+page-1", base + PAGE - 1),
        ("area+page", base + PAGE),
        ("area_end-page", base + SIZE - PAGE),
        ("area_end-1", base + SIZE - 1),
        ("area_end", base + SIZE),
        ("task_size-page", TASK_SIZE - PAGE),
        ("task_size", TASK_SIZE),
        ("task_size+page", TASK_SIZE + PAGE),
        ("2^63", 1 << 63),
        ("-page", PAGE.wrapping_neg()),
        ("-1", usize::MAX),
    ]
}

/// Lengths: a name, and the value for a start.
fn lengths(start: usize) -> Vec<(&'static str, usize)> {
    vec![
        ("0", 0),
        ("1", 1),
        ("page-1", PAGE - 1),
        ("page", PAGE),
        ("page+1", PAGE + 1),
        ("2page", 2 * PAGE),
        ("area", SIZE),
        ("area+page", SIZE + PAGE),
        ("task_size", TASK_SIZE),
        ("to_task_size", TASK_SIZE.wrapping_sub(start)),
        (
            "past_task_size",
            TASK_SIZE.wrapping_sub(start).wrapping_add(PAGE),
        ),
        ("2^63", 1 << 63),
        ("overflow", start.wrapping_neg()),
        ("-page", PAGE.wrapping_neg()),
        ("-1", usize::MAX),
    ]
}

/// Values of a field of bits.
const MODES: [u64; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 1 << 31, 1 << 63, u64::MAX];

/// What most questions are about: a registered area, and another one to take pages from.
struct Scene {
    uffd: Uffd,
    area: Area,
    source: Area,
}

impl Scene {
    fn new(mode: u64) -> Self {
        let scene = Self {
            uffd: Uffd::new(0),
            area: Area::anon(0, PAGES),
            source: Area::anon(1, PAGES),
        };
        if mode != 0 {
            assert!(scene
                .uffd
                .register(scene.area.start, SIZE, mode)
                .answer
                .is_ok());
        }
        scene.source.write();
        scene
    }

    /// Calls, writes down what came of it, and makes the scene what it was.
    fn ask(&self, book: &mut Book, question: String, call: &Call, inputs: &[u64], mode: u64) {
        let called = self.uffd.call(call, inputs);
        book.ask(question, &called);
        if called.answer.is_ok() || called.last as i64 > 0 {
            self.uffd.range(&UNREGISTER, self.area.start, SIZE, 0);
            self.area.madvise(libc::MADV_DONTNEED);
            if mode != 0 {
                self.uffd.register(self.area.start, SIZE, mode);
            }
            self.source.write();
        }
    }
}

/// The inputs of a call for a range, with a mode.
fn inputs(call: &Call, start: usize, other: usize, len: usize, mode: u64) -> Vec<u64> {
    let all = if call.name == COPY.name || call.name == MOVE.name {
        vec![start as u64, other as u64, len as u64, mode]
    } else {
        vec![start as u64, len as u64, mode]
    };
    all[..call.inputs].to_vec()
}

/// A mode that has a chance for a call.
fn good_mode(call: &Call) -> u64 {
    if call.name == REGISTER.name {
        MISSING
    } else {
        0
    }
}

fn ranges(book: &mut Book, call: &'static Call) {
    let registered = if call.name == REGISTER.name {
        0
    } else {
        MISSING | WP
    };
    let scene = Scene::new(registered);
    for (name, start) in starts(scene.area.start) {
        for (len_name, len) in lengths(start) {
            scene.ask(
                book,
                format!("start={name},len={len_name}"),
                call,
                &inputs(call, start, scene.source.start, len, good_mode(call)),
                registered,
            );
        }
    }
}

/// The second address of those calls that have two.
fn sources(book: &mut Book, call: &'static Call) {
    let scene = Scene::new(MISSING);
    for (name, src) in starts(scene.source.start) {
        for (len_name, len) in [
            ("1", 1),
            ("page", PAGE),
            ("2page", 2 * PAGE),
            ("area", SIZE),
        ] {
            scene.ask(
                book,
                format!("src={name},len={len_name}"),
                call,
                &[scene.area.start as u64, src as u64, len as u64, 0],
                MISSING,
            );
        }
    }
    // The two ranges overlap. What is missing cannot be copied from: nobody would bring it.
    if call.name != MOVE.name {
        return;
    }
    for pages in [0, 1, 2, PAGES - 1] {
        let src = scene.area.start + pages * PAGE;
        scene.ask(
            book,
            format!("src=area+{pages}page,len=2page"),
            call,
            &[scene.area.start as u64, src as u64, 2 * PAGE as u64, 0],
            MISSING,
        );
    }
}

fn modes(book: &mut Book, call: &'static Call) {
    for registered in [0, MISSING, WP, MISSING | WP] {
        let scene = Scene::new(registered);
        for mode in MODES {
            scene.ask(
                book,
                format!("registered={registered},mode={mode:#x}"),
                call,
                &inputs(call, scene.area.start, scene.source.start, PAGE, mode),
                registered,
            );
        }
    }
}

/// Arguments that are not, or not all, memory.
fn pointers(book: &mut Book, call: &'static Call, after_api: bool) {
    let uffd = if after_api {
        Uffd::new(0)
    } else {
        Uffd::create(libc::O_NONBLOCK).expect("userfaultfd(2) works")
    };
    let area = Area::anon(0, PAGES);
    let source = Area::anon(1, PAGES);
    if after_api && call.name != REGISTER.name {
        uffd.register(area.start, SIZE, MISSING | WP);
    }
    let state = if after_api { "after" } else { "before" };
    for (name, pointer) in [
        ("null", 0),
        ("1", 1),
        ("unmapped", area.start - PAGE),
        ("task_size", TASK_SIZE),
        ("non_canonical", 1 << 62),
        ("kernel", 0xffff_8880_0000_0000),
        ("-1", usize::MAX),
    ] {
        let answer = uffd.raw(call.request(), pointer);
        book.ask(format!("{state},argument={name}"), answer);
    }

    // Two pages of which the second cannot be read, or not be written, and an argument of which
    // the first fields are in the first page.
    let values = if call.name == API.name {
        vec![u64::from(UFFD_API), 0]
    } else {
        inputs(call, area.start, source.start, PAGE, good_mode(call))
    };
    for (protection_name, protection) in [("none", libc::PROT_NONE), ("read", libc::PROT_READ)] {
        for first in 0..=call.fields.len() {
            let pages = Area::anon(2, 2);
            let argument = call.argument(&values);
            let pointer = pages.start + PAGE - 8 * first;
            // SAFETY: Both pages are mapped and hold nothing else; the call may go wrong in the
            // second one.
            let answer = unsafe {
                std::ptr::copy_nonoverlapping(
                    argument.as_ptr(),
                    pointer as *mut u64,
                    argument.len(),
                );
                libc::mprotect((pages.start + PAGE) as _, PAGE, protection);
                let answer = uffd.raw(call.request(), pointer);
                libc::mprotect((pages.start + PAGE) as _, PAGE, libc::PROT_READ);
                answer
            };
            let mut after = argument.clone();
            // SAFETY: As above; the pages can be read.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    pointer as *const u64,
                    after.as_mut_ptr(),
                    after.len(),
                );
            }
            book.ask(
                format!("{state},fields={first},then={protection_name}"),
                format!("{answer}{}", call.changes(&argument, &after)),
            );
            if call.name != API.name {
                area.madvise(libc::MADV_DONTNEED);
                source.write();
            }
        }
    }
}

/// Numbers of ioctls that are or are not known.
fn numbers(book: &mut Book, after_api: bool) {
    let uffd = if after_api {
        Uffd::new(0)
    } else {
        Uffd::create(libc::O_NONBLOCK).expect("userfaultfd(2) works")
    };
    let state = if after_api { "after" } else { "before" };
    let mut buffer = [0u64; 16];
    for kind in [IOC_TYPE, IOC_TYPE + 1, 0] {
        for number in (0..0x12).chain([0x3e, 0x3f, 0x40, 0xff]) {
            for direction in 0..4u32 {
                for size in [0u32, 8, 16, 24, 32, 40, 48] {
                    let request = direction << 30 | size << 16 | kind << 8 | number;
                    // What is known is asked for elsewhere. Of other kinds, one form is enough.
                    let known = RANGE_CALLS
                        .iter()
                        .chain([&&API])
                        .any(|call| call.request() == request);
                    if known || kind != IOC_TYPE && (direction != 3 || size != 24) {
                        continue;
                    }
                    buffer.fill(0);
                    let answer = uffd.raw(request, buffer.as_mut_ptr() as usize);
                    book.ask(format!("{state},request={request:#x}"), answer);
                }
            }
        }
    }
    // Numbers that the file layer knows.
    for (name, request) in [
        ("fioclex", libc::FIOCLEX as u32),
        ("fionclex", libc::FIONCLEX as u32),
        ("fionbio", libc::FIONBIO as u32),
        ("fioasync", libc::FIOASYNC as u32),
        ("fionread", libc::FIONREAD as u32),
        ("fioqsize", 0x5460),
        ("figetbsz", 2),
        ("tcgets", 0x5401),
    ] {
        buffer.fill(0);
        let answer = uffd.raw(request, buffer.as_mut_ptr() as usize);
        book.ask(
            format!("{state},{name}"),
            format!("{answer} {:#x}", buffer[0]),
        );
    }
}

/// The handshake: versions, and each feature.
fn handshake(book: &mut Book, privileged: bool) {
    if !privileged {
        sys::drop_ptrace();
    }
    let flags = libc::O_NONBLOCK
        | if privileged {
            0
        } else {
            UFFD_USER_MODE_ONLY as i32
        };
    let create = || Uffd::create(flags).expect("userfaultfd(2) works");
    let who = if privileged {
        "privileged"
    } else {
        "unprivileged"
    };
    for api in [
        0,
        1,
        0xa9,
        u64::from(UFFD_API),
        0xab,
        1 << 32 | 0xaa,
        u64::MAX,
    ] {
        for features in [0, 1, 1 << 40] {
            let uffd = create();
            let called = uffd.call(&API, &[api, features]);
            book.ask(format!("{who},api={api:#x},features={features:#x}"), called);
            let called = uffd.call(&API, &[u64::from(UFFD_API), 0]);
            book.ask(
                format!("{who},api={api:#x},features={features:#x},again"),
                called,
            );
        }
    }
    for bit in 0..64 {
        let uffd = create();
        let called = uffd.call(&API, &[u64::from(UFFD_API), 1 << bit]);
        book.ask(format!("{who},bit={bit}"), called);
        book.ask(format!("{who},bit={bit},fdinfo"), uffd.fdinfo());
        let called = uffd.call(&API, &[u64::from(UFFD_API), 0]);
        book.ask(format!("{who},bit={bit},again"), called);
    }
    for (index, (first, first_name)) in FEATURES.iter().enumerate() {
        for (second, second_name) in &FEATURES[index + 1..] {
            let uffd = create();
            let called = uffd.call(&API, &[u64::from(UFFD_API), first | second]);
            book.ask(format!("{who},{first_name}+{second_name}"), called);
        }
    }
    let all: u64 = FEATURES.iter().map(|(bit, _)| bit).sum();
    for (name, features) in [("all", all), ("all+1", all + 1), ("max", u64::MAX)] {
        let uffd = create();
        let called = uffd.call(&API, &[u64::from(UFFD_API), features]);
        book.ask(format!("{who},features={name}"), called);
    }
}

/// What can be registered after a handshake with each of the features.
fn registration(book: &mut Book, kind: &'static str) {
    let area = Area::basic(kind_of(kind), 0);
    for (feature, name) in [&[(0, "none")], FEATURES].concat() {
        for mode in 0..8 {
            let uffd = Uffd::new(feature);
            let called = uffd.register(area.start, area.len, mode);
            book.ask(format!("{name},mode={mode}"), called);
        }
    }
}

/// All calls of a descriptor, each on memory that another process may have had.
fn every_call(book: &mut Book, name: &str, uffd: &Uffd, area: usize, source: usize) {
    for call in RANGE_CALLS {
        let called = uffd.call(call, &inputs(call, area, source, PAGE, good_mode(call)));
        book.ask(format!("{name},{}", call.name), called);
        let called = uffd.call(call, &inputs(call, area + 1, source, PAGE, good_mode(call)));
        book.ask(format!("{name},{},unaligned", call.name), called);
        let called = uffd.call(call, &inputs(call, area, source, 0, good_mode(call)));
        book.ask(format!("{name},{},empty", call.name), called);
        let called = uffd.call(call, &inputs(call, area, source, PAGE, 1 << 62));
        book.ask(format!("{name},{},mode", call.name), called);
    }
    book.ask(format!("{name},fdinfo"), uffd.fdinfo());
    book.ask(format!("{name},poll"), format!("{:#x}", uffd.poll(0)));
    let answer = uffd.read().map_or_else(|answer| answer, |_| Answer(Ok(32)));
    book.ask(format!("{name},read"), answer);
}

/// The descriptor in a child, while the parent is there and after it has gone.
fn other_process(book: &mut Book) {
    let (read, mut write) = crate::book::pipe();
    let (mut told, tell) = crate::book::pipe();
    // SAFETY: This process has one thread. So have those that it forks.
    let parent = unsafe { libc::fork() };
    if parent == 0 {
        drop(read);
        let scene = Scene::new(MISSING | WP);
        // SAFETY: As above. No pointers are involved.
        let parent = unsafe { libc::getpid() };
        // SAFETY: As above.
        let child = unsafe { libc::fork() };
        if child != 0 {
            // Ends when the child has asked.
            let mut byte = [0];
            drop(tell);
            let _ = std::io::Read::read(&mut told, &mut byte);
            // SAFETY: Nothing of this process is needed any more.
            unsafe { libc::_exit(0) };
        }
        drop(told);
        every_call(
            book,
            "of the parent",
            &scene.uffd,
            scene.area.start,
            scene.source.start,
        );
        drop(tell);
        // The parent's memory goes when it ends.
        // SAFETY: No pointers are involved.
        while unsafe { libc::getppid() } == parent {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        every_call(
            book,
            "of one that is gone",
            &scene.uffd,
            scene.area.start,
            scene.source.start,
        );
        book.flush();
        let _ = std::io::Write::write(&mut write, &[1]);
        // SAFETY: As above.
        unsafe { libc::_exit(0) };
    }
    drop(write);
    drop(tell);
    drop(told);
    let mut byte = [0];
    let mut read = read;
    let _ = std::io::Read::read(&mut read, &mut byte);
}

/// The descriptor after exec, when the memory that it was for is gone.
fn exec(book: &mut Book) {
    book.flush();
    let scene = Scene::new(MISSING | WP);
    let fd = scene.uffd.fd();
    // SAFETY: No pointers are involved.
    unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
    let output = std::process::Command::new("/proc/self/exe")
        .args(["--after-exec", &fd.to_string()])
        .output()
        .expect("this program can be run");
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some((question, answer)) = line.split_once(" = ") {
            book.ask(question, answer);
        }
    }
}

/// The other side of [`exec`].
pub fn after_exec(fd: i32) {
    // SAFETY: The descriptor was inherited for this purpose.
    let uffd = Uffd(unsafe { OwnedFd::from_raw_fd(fd) });
    let area = Area::anon(0, PAGES);
    let case = Case::new("exec", move |book| {
        every_call(book, "call", &uffd, area.start, area.start + PAGE);
        // A new descriptor is for the memory of this program.
        let own = Uffd::new(0);
        book.ask("own", own.register(area.start, area.len, MISSING));
    });
    let (text, problem) = case.run();
    for line in text.lines() {
        println!("{}", line.trim_start_matches("exec/"));
    }
    assert_eq!(problem, None);
}

/// Closed descriptors, and ones that are of something else.
fn not_a_userfaultfd(book: &mut Book) {
    let other = std::fs::File::open("/dev/null").expect("there is /dev/null");
    for call in RANGE_CALLS.iter().chain([&&API]) {
        let mut argument = call.argument(&[]);
        for (name, fd) in [("closed", 999), ("null", other.as_raw_fd()), ("-1", -1)] {
            // SAFETY: The argument is as long as the call says.
            let answer =
                Answer::of(unsafe { libc::ioctl(fd, call.request() as _, argument.as_mut_ptr()) });
            book.ask(format!("{name},{}", call.name), answer);
        }
    }
}

/// What userfaultfd(2) makes of its flags.
fn flags(book: &mut Book) {
    for (name, flags) in [
        ("0", 0),
        ("cloexec", libc::O_CLOEXEC),
        ("nonblock", libc::O_NONBLOCK),
        ("cloexec|nonblock", libc::O_CLOEXEC | libc::O_NONBLOCK),
        ("user_mode_only", UFFD_USER_MODE_ONLY as i32),
        (
            "user_mode_only|nonblock",
            UFFD_USER_MODE_ONLY as i32 | libc::O_NONBLOCK,
        ),
        ("2", 2),
        ("4", 4),
        ("append", libc::O_APPEND),
        ("direct", libc::O_DIRECT),
        ("path", libc::O_PATH),
        ("-1", -1),
    ] {
        match Uffd::create(flags) {
            Err(answer) => book.ask(name, answer),
            Ok(uffd) => {
                // SAFETY: No pointers are involved.
                let (status, close) = unsafe {
                    (
                        libc::fcntl(uffd.fd(), libc::F_GETFL),
                        libc::fcntl(uffd.fd(), libc::F_GETFD),
                    )
                };
                book.ask(name, format!("created, status {status:#o}, flags {close}"));
            }
        }
    }
    // Higher bits are not looked at, because the argument is an int.
    // SAFETY: No pointers are involved.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, 1i64 << 32) };
    book.ask(
        "2^32",
        if fd >= 0 {
            "created".into()
        } else {
            Answer::of(fd).to_string()
        },
    );
}

/// Two descriptors, and one area.
fn two_descriptors(book: &mut Book) {
    let area = Area::anon(0, PAGES);
    let source = Area::anon(1, PAGES);
    source.write();
    let names = Names::new(&[("area", &area), ("source", &source)]);
    let (first, second) = (Uffd::new(0), Uffd::new(0));
    book.ask("first", first.register(area.start, SIZE, MISSING | WP));
    for mode in 1..4 {
        book.ask(
            format!("second,mode={mode}"),
            second.register(area.start, SIZE, mode),
        );
        book.ask(
            format!("second,part,mode={mode}"),
            second.register(area.start + PAGE, PAGE, mode),
        );
    }
    for call in RANGE_CALLS.iter().skip(2) {
        let called = second.call(call, &inputs(call, area.start, source.start, PAGE, 0));
        book.ask(format!("second,{}", call.name), called);
    }
    book.ask(
        "second,unregister",
        second.range(&UNREGISTER, area.start, SIZE, 0),
    );
    book.ask("flags", crate::memory::vm_flags(area.start, &names));
    for mode in 1..8 {
        book.ask(
            format!("first again,mode={mode}"),
            first.register(area.start, SIZE, mode),
        );
        book.ask(
            format!("flags after mode={mode}"),
            crate::memory::vm_flags(area.start, &names),
        );
    }
    book.ask(
        "first,part",
        first.range(&UNREGISTER, area.start + PAGE, PAGE, 0),
    );
    book.ask(
        "second,free part",
        second.register(area.start + PAGE, PAGE, MISSING),
    );
    book.ask("second,all", second.register(area.start, SIZE, MISSING));
    for page in 0..3 {
        book.ask(
            format!("flags of page {page}"),
            crate::memory::vm_flags(area.at(page), &names),
        );
    }
    drop(first);
    book.ask(
        "flags after close",
        crate::memory::vm_flags(area.start, &names),
    );
    book.ask(
        "second,all after close",
        second.register(area.start, SIZE, MISSING),
    );
    book.ask("wake", second.range(&WAKE, area.start, SIZE, 0));
    drop(second);
    book.ask(
        "flags after all closed",
        crate::memory::vm_flags(area.start, &names),
    );
}

pub fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new("limits/flags", flags),
        Case::new("limits/not a userfaultfd", not_a_userfaultfd),
        Case::new("limits/other process", other_process),
        Case::new("limits/exec", exec),
        Case::new("limits/two descriptors", two_descriptors),
    ];
    for call in RANGE_CALLS {
        cases.push(Case::new(format!("limits/{}/range", call.name), |book| {
            ranges(book, call)
        }));
        if call.inputs > 2 {
            cases.push(Case::new(format!("limits/{}/mode", call.name), |book| {
                modes(book, call)
            }));
        }
        if call.inputs > 3 {
            cases.push(Case::new(format!("limits/{}/src", call.name), |book| {
                sources(book, call)
            }));
        }
    }
    for call in RANGE_CALLS.into_iter().chain([&uffd::API]) {
        for after in [false, true] {
            cases.push(Case::new(
                format!("limits/{}/pointer/{after}", call.name),
                move |book| pointers(book, call, after),
            ));
        }
    }
    for after in [false, true] {
        cases.push(Case::new(format!("limits/numbers/{after}"), move |book| {
            numbers(book, after)
        }));
    }
    for privileged in [false, true] {
        cases.push(Case::new(format!("limits/api/{privileged}"), move |book| {
            handshake(book, privileged)
        }));
    }
    for kind in crate::memory::BASIC {
        cases.push(Case::new(format!("limits/features/{kind}"), |book| {
            registration(book, kind)
        }));
    }
    cases
}
