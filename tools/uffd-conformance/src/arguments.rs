// SPDX-License-Identifier: GPL-2.0

//! Every ioctl with its arguments at and around their limits.

use crate::{
    inspect::{flags_within, pagemap, vm_flags},
    kinds::{kind_of, memfd, BASIC},
    memory::{Area, Names, HUGE},
    process::{drop_ptrace, fork, pipe, wait},
    sys::{descriptor_flags, fcntl, Answer, PAGE},
    transcript::{Case, Transcript},
    uffd::{
        self, call_across, inputs, Call, Uffd, API, CONTINUE, FEATURES, IOC_TYPE, MINOR, MISSING,
        MOVE, RANGE_CALLS, REGISTER, UNREGISTER, WAKE, WP, WRITEPROTECT, WRITEPROTECT_WP,
    },
};
use linux_raw_sys::general::*;
use std::{
    io::Read,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    sync::LazyLock,
};
use uffd_guest::Mmap;

const PAGES: usize = 16;
const SIZE: usize = PAGES * PAGE;
/// Where user space ends with page tables of four levels, and of five.
const TASK_SIZE_4: usize = (1 << 47) - PAGE;
const TASK_SIZE_5: usize = (1 << 56) - PAGE;
/// vm.mmap_min_addr is not changed by the tests.
const MMAP_MIN_ADDR: usize = 65536;

/// Where user space ends on this machine. With five levels, pages can be mapped beyond the end that
/// four levels have.
static TASK_SIZE: LazyLock<usize> = LazyLock::new(|| {
    let (last, flags) = (TASK_SIZE_5 - PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    match Mmap::new(Some(last), PAGE, libc::PROT_NONE, flags, None) {
        Ok(_) => TASK_SIZE_5,
        Err(_) => TASK_SIZE_4,
    }
});

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
        ("2^47-page", TASK_SIZE_4),
        ("task_size-page", *TASK_SIZE - PAGE),
        ("task_size", *TASK_SIZE),
        ("task_size+page", *TASK_SIZE + PAGE),
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
        ("task_size", *TASK_SIZE),
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

/// Values of a field of bits: each bit alone, and the lowest ones with each other.
fn masks() -> impl Iterator<Item = u64> {
    (0..8).chain((3..64).map(|bit| 1 << bit)).chain([u64::MAX])
}

/// What most questions about a call are about: a registered area, and another one to take pages
/// from.
struct Subject {
    uffd: Uffd,
    call: &'static Call,
    area: Area,
    source: Area,
    /// For the call that maps what is in a file: the same file elsewhere.
    alias: Option<Area>,
    mode: u64,
}

impl Subject {
    fn new(call: &'static Call, mode: u64) -> Self {
        Self::with(Uffd::new(0), call, mode)
    }

    fn with(uffd: Uffd, call: &'static Call, mode: u64) -> Self {
        let area = if *call == CONTINUE {
            shared_area(0)
        } else {
            Area::anon(0, PAGES)
        };
        let alias = area.file.is_some().then(|| area.alias(2));
        let subject = Self {
            uffd,
            call,
            area,
            source: Area::anon(1, PAGES),
            alias,
            mode,
        };
        subject.begin();
        subject
    }

    /// Fills the pages that the call needs, and registers the area.
    fn begin(&self) {
        if let Some(alias) = &self.alias {
            alias.write();
        }
        if *self.call == WRITEPROTECT {
            self.area.write();
        }
        self.source.write();
        if self.mode != 0 {
            self.uffd.must_register(self.area.start, SIZE, self.mode);
        }
    }

    /// Calls, writes down what came of it, and makes the subject what it was.
    fn ask(&self, log: &mut Transcript, question: String, inputs: &[u64]) {
        let called = self.uffd.call(self.call, inputs);
        // Protection says nothing of what it did before an error.
        let partly = *self.call == WRITEPROTECT && called.answer != Answer(Err(libc::EINVAL));
        if called.did_something() || partly {
            log.record(question, format!("{called}; {}", self.pages()));
            self.reset();
        } else {
            log.record(question, called);
        }
    }

    fn reset(&self) {
        self.uffd.range(&UNREGISTER, self.area.start, SIZE, 0);
        self.area.madvise(libc::MADV_DONTNEED);
        self.begin();
    }

    fn pages(&self) -> String {
        let pages: Vec<String> = (0..PAGES).map(|page| pagemap(self.area.at(page))).collect();
        pages.join(" ")
    }

    /// The inputs of the call for a part of the area.
    fn inputs(&self, start: usize, len: usize, mode: u64) -> Vec<u64> {
        inputs(self.call, start, self.source.start, len, mode)
    }
}

/// Shared memory that is as long as the other areas.
fn shared_area(slot: usize) -> Area {
    let file = memfd(0, SIZE).expect("there are memfds");
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    Area::map(slot, SIZE, PAGE, protection, libc::MAP_SHARED, Some(file)).expect("there is memory")
}

/// A mode with which a call does something.
fn good_mode(call: &Call) -> u64 {
    match *call {
        REGISTER => MISSING,
        WRITEPROTECT => WRITEPROTECT_WP.into(),
        _ => 0,
    }
}

/// The mode of registration with which a call does something.
fn good_registration(call: &Call) -> u64 {
    match *call {
        REGISTER => 0,
        CONTINUE => MINOR | WP,
        _ => MISSING | WP,
    }
}

fn ranges(log: &mut Transcript, call: &'static Call) {
    let subject = Subject::new(call, good_registration(call));
    for (name, start) in starts(subject.area.start) {
        for (len_name, len) in lengths(start) {
            subject.ask(
                log,
                format!("start={name},len={len_name}"),
                &subject.inputs(start, len, good_mode(call)),
            );
        }
    }
}

/// The second address of those calls that have two.
fn sources(log: &mut Transcript, call: &'static Call) {
    let subject = Subject::new(call, MISSING);
    for (name, src) in starts(subject.source.start) {
        for (len_name, len) in [
            ("1", 1),
            ("page", PAGE),
            ("2page", 2 * PAGE),
            ("area", SIZE),
        ] {
            subject.ask(
                log,
                format!("src={name},len={len_name}"),
                &[subject.area.start as u64, src as u64, len as u64, 0],
            );
        }
    }
    // The two ranges overlap. A missing page cannot be copied from, because
    // no thread would fill it.
    if *call != MOVE {
        return;
    }
    for pages in [0, 1, 2, PAGES - 1] {
        let src = subject.area.at(pages);
        let last = PAGES.min(pages + 2);
        for page in pages..last {
            subject
                .uffd
                .copy(subject.area.at(page), subject.source.start, PAGE, 0);
        }
        subject.ask(
            log,
            format!("src=area+{pages}page,len=2page"),
            &[subject.area.start as u64, src as u64, 2 * PAGE as u64, 0],
        );
        subject.reset();
    }
}

fn modes(log: &mut Transcript, call: &'static Call) {
    let first = if *call == CONTINUE { MINOR } else { MISSING };
    for registered in [0, first, WP, first | WP] {
        let subject = Subject::new(call, registered);
        for mode in masks() {
            subject.ask(
                log,
                format!("registered={registered},mode={mode:#x}"),
                &subject.inputs(subject.area.start, PAGE, mode),
            );
        }
    }
}

/// Arguments that are not, or not all, memory.
fn pointers(log: &mut Transcript, call: &'static Call, after_api: bool) {
    let new = || {
        if after_api {
            Subject::new(call, good_registration(call))
        } else {
            let uffd = Uffd::create(libc::O_NONBLOCK).expect("userfaultfd(2) works");
            Subject::with(uffd, call, 0)
        }
    };
    let mut subject = new();
    let state = if after_api { "after" } else { "before" };
    for (name, pointer) in [
        ("null", 0),
        ("1", 1),
        ("unmapped", subject.area.start - PAGE),
        ("task_size", *TASK_SIZE),
        ("non_canonical", 1 << 62),
        ("kernel", 0xffff_8880_0000_0000),
        ("-1", usize::MAX),
    ] {
        let answer = subject.uffd.raw(call.request(), pointer);
        log.record(format!("{state},argument={name}"), answer);
    }

    // The second page cannot be read, or not be written.
    let values = if *call == API {
        vec![u64::from(UFFD_API), 0]
    } else {
        subject.inputs(subject.area.start, PAGE, good_mode(call))
    };
    for (protection_name, protection) in [("none", libc::PROT_NONE), ("read", libc::PROT_READ)] {
        for first in 0..=call.fields.len() {
            let protections = [libc::PROT_READ | libc::PROT_WRITE, protection];
            let called = call_across(&subject.uffd, call, &values, first, protections);
            let question = format!("{state},fields={first},then={protection_name}");
            log.record(
                &question,
                format!("{called}; {}", pagemap(subject.area.start)),
            );
            if *call == API {
                // Whether that was the handshake shows in what comes next.
                let again = subject.uffd.call(&API, &[u64::from(UFFD_API), 0]);
                log.record(format!("{question},again"), again);
                drop(subject);
                subject = new();
            } else if after_api {
                subject.reset();
            }
        }
    }
}

/// Memory of huge pages, maybe with small ones right before it and right after it.
struct HugeArea {
    uffd: Uffd,
    area: Area,
    beside: Vec<Area>,
    names: Names,
    /// All of that, and the hole around it.
    extent: std::ops::Range<usize>,
}

impl HugeArea {
    fn new(kind: &str, beside: bool) -> Self {
        let area = kind_of(kind).area(1);
        let extent = area.start - HUGE..area.start + area.len + HUGE;
        let mut huge = Self {
            uffd: Uffd::new(0),
            names: Names::new(&[("area", &area)]),
            area,
            beside: Vec::new(),
            extent,
        };
        if beside {
            let end = huge.area.start + huge.area.len;
            for (name, start) in [("before", huge.extent.start), ("after", end)] {
                huge.names.add(name, start, HUGE);
                huge.beside.push(Area::anon_at(start, HUGE / PAGE));
            }
        }
        huge
    }

    /// Registers all of it, and protects the huge pages that are not there yet.
    fn register(&self) {
        let small = self.beside.iter().map(|area| (area, MISSING | WP));
        for (area, mode) in small.chain([(&self.area, MISSING | WP | MINOR)]) {
            self.uffd.must_register(area.start, area.len, mode);
        }
        let (start, len) = (self.area.start, self.area.len);
        let called = self
            .uffd
            .range(&WRITEPROTECT, start, len, WRITEPROTECT_WP.into());
        assert!(called.answer.is_ok(), "cannot protect: {called}");
    }

    /// The mappings, and the huge pages.
    fn state(&self) -> String {
        let pages: Vec<String> = (0..self.area.pages())
            .map(|page| pagemap(self.area.at(page)))
            .collect();
        let flags = flags_within(&self.extent, &self.names);
        format!("{flags}; {}", pages.join(" "))
    }

    /// Ranges that begin or end inside huge pages, or do not: a name, the start and the end.
    fn ranges(&self) -> Vec<(String, usize, usize)> {
        let (start, end) = (self.area.start, self.area.start + self.area.len);
        let places = [
            ("-huge", start - HUGE),
            ("-page", start - PAGE),
            ("0", start),
            ("page", start + PAGE),
            ("huge", start + HUGE),
            ("huge+page", start + HUGE + PAGE),
            ("len-page", end - PAGE),
            ("len", end),
            ("len+page", end + PAGE),
        ];
        let mut ranges = Vec::new();
        for (index, (from, start)) in places.into_iter().enumerate() {
            for (to, end) in &places[index + 1..] {
                ranges.push((format!("{from}..{to}"), start, *end));
            }
        }
        ranges
    }
}

/// Which memory of huge pages is registered.
fn huge_ranges(log: &mut Transcript, kind: &'static str, beside: bool) {
    let ranges = HugeArea::new(kind, beside).ranges();
    for call in [&REGISTER, &UNREGISTER] {
        for (range, start, end) in &ranges {
            // Mappings of huge pages that were split are not joined again.
            let huge = HugeArea::new(kind, beside);
            if *call == UNREGISTER {
                huge.register();
            }
            let called = huge.uffd.range(call, *start, end - start, MISSING | WP);
            log.record(
                format!("{},{range}", call.name),
                format!("{called}; {}", huge.state()),
            );
        }
    }
}

/// What the other calls make of parts of huge pages.
fn huge_parts(log: &mut Transcript, kind: &'static str, beside: bool) {
    for call in RANGE_CALLS.into_iter().skip(2) {
        let huge = HugeArea::new(kind, beside);
        huge.register();
        // It stays empty, because none of it should get into a huge page.
        let source = Area::anon(2, (huge.extent.end - huge.extent.start) / PAGE);
        for (range, start, end) in huge.ranges() {
            let len = end - start;
            if (start | len) % HUGE == 0 {
                continue;
            }
            let inputs = inputs(call, start, source.start, len, good_mode(call));
            let called = huge.uffd.call(call, &inputs);
            log.record(
                format!("{},{range}", call.name),
                format!("{called}; {} {}", pagemap(start), pagemap(end - PAGE)),
            );
        }
        log.record(call.name, huge.state());
    }
}

/// Numbers of ioctls that are or are not known.
fn numbers(log: &mut Transcript, after_api: bool) {
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
                    log.record(format!("{state},request={request:#x}"), answer);
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
        log.record(
            format!("{state},{name}"),
            format!("{answer} {:#x}", buffer[0]),
        );
    }
}

/// The handshake: versions, and each feature.
fn handshake(log: &mut Transcript, privileged: bool) {
    if !privileged {
        drop_ptrace();
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
            log.record(format!("{who},api={api:#x},features={features:#x}"), called);
            let called = uffd.call(&API, &[u64::from(UFFD_API), 0]);
            log.record(
                format!("{who},api={api:#x},features={features:#x},again"),
                called,
            );
        }
    }
    for bit in 0..64 {
        let uffd = create();
        let called = uffd.call(&API, &[u64::from(UFFD_API), 1 << bit]);
        log.record(format!("{who},bit={bit}"), called);
        log.record(format!("{who},bit={bit},fdinfo"), uffd.fdinfo());
        let called = uffd.call(&API, &[u64::from(UFFD_API), 0]);
        log.record(format!("{who},bit={bit},again"), called);
    }
    for (index, (first, first_name)) in FEATURES.iter().enumerate() {
        for (second, second_name) in &FEATURES[index + 1..] {
            let uffd = create();
            let called = uffd.call(&API, &[u64::from(UFFD_API), first | second]);
            log.record(format!("{who},{first_name}+{second_name}"), called);
        }
    }
    let all: u64 = FEATURES.iter().map(|(bit, _)| bit).sum();
    for (name, features) in [("all", all), ("all+1", all + 1), ("max", u64::MAX)] {
        let uffd = create();
        let called = uffd.call(&API, &[u64::from(UFFD_API), features]);
        log.record(format!("{who},features={name}"), called);
    }
}

/// What can be registered after a handshake with each of the features.
fn registration(log: &mut Transcript, kind: &'static str) {
    let area = kind_of(kind).area(0);
    for (feature, name) in [&[(0, "none")], FEATURES].concat() {
        for mode in 0..8 {
            let uffd = Uffd::new(feature);
            let called = uffd.register(area.start, area.len, mode);
            log.record(format!("{name},mode={mode}"), called);
        }
    }
}

/// Memory that every call finds something to do in.
struct Places {
    area: Area,
    source: Area,
    /// Shared memory, of which the pages are in the file.
    shared: Area,
    /// The same file elsewhere.
    _alias: Area,
}

impl Places {
    fn new() -> Self {
        let shared = shared_area(2);
        let alias = shared.alias(3);
        alias.write();
        let area = Area::anon(0, PAGES);
        let source = Area::anon(1, PAGES);
        source.write();
        Self {
            area,
            source,
            shared,
            _alias: alias,
        }
    }

    fn register(&self, uffd: &Uffd) {
        for (area, mode) in [(&self.area, MISSING | WP), (&self.shared, MINOR)] {
            uffd.must_register(area.start, SIZE, mode);
        }
    }
}

/// All calls of a descriptor, each on a page of its own of memory that another process may have.
fn every_call(log: &mut Transcript, name: &str, uffd: &Uffd, places: &Places) {
    for (page, call) in RANGE_CALLS.into_iter().enumerate() {
        let area = if *call == CONTINUE {
            &places.shared
        } else {
            &places.area
        };
        let (start, src) = (area.at(page), places.source.at(page));
        let called = uffd.call(call, &inputs(call, start, src, PAGE, good_mode(call)));
        log.record(format!("{name},{}", call.name), called);
        let called = uffd.call(call, &inputs(call, start + 1, src, PAGE, good_mode(call)));
        log.record(format!("{name},{},unaligned", call.name), called);
        let called = uffd.call(call, &inputs(call, start, src, 0, good_mode(call)));
        log.record(format!("{name},{},empty", call.name), called);
        if call.inputs > 2 {
            let called = uffd.call(call, &inputs(call, start, src, PAGE, 1 << 62));
            log.record(format!("{name},{},mode", call.name), called);
        }
    }
    log.record(format!("{name},fdinfo"), uffd.fdinfo());
    log.record(format!("{name},poll"), uffd.poll_now());
    let answer = uffd.read().map_or_else(|answer| answer, |_| Answer(Ok(32)));
    log.record(format!("{name},read"), answer);
}

/// The descriptor in a child, while the parent is there and after it has gone.
fn other_process(log: &mut Transcript) {
    // The child of the child is waited for here too.
    // SAFETY: No pointers are involved.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let (mut begun, begin) = pipe();
    let (mut asked, end) = pipe();
    log.fork(|log| {
        let uffd = Uffd::new(0);
        let places = Places::new();
        places.register(&uffd);
        let parent = std::process::id();
        let mut begin = Some(begin);
        fork(|| {
            begin.take();
            let _ = begun.read(&mut [0]);
            every_call(log, "of the parent", &uffd, &places);
            drop(end);
            // The parent's memory goes when it ends.
            while std::os::unix::process::parent_id() == parent {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            every_call(log, "of one that is gone", &uffd, &places);
            log.flush();
        });
        // What the child has too could not be moved.
        places.source.write();
        begin.take();
        // Ends when the child has asked.
        let _ = asked.read(&mut [0]);
    });
    for _ in 0..2 {
        assert_eq!(wait(-1, 0), 0, "a child failed");
    }
}

/// This program, run for [`after_exec`].
fn this_program(fd: i32) -> std::process::Command {
    let mut command = std::process::Command::new("/proc/self/exe");
    command.args(["--after-exec", &fd.to_string()]);
    command
}

/// The descriptor after exec: of the process that it was made for, whose memory is gone, and of a
/// child of that.
fn exec(log: &mut Transcript) {
    log.flush();
    for by_child in [false, true] {
        let (mut reader, writer) = pipe();
        let pid = fork(|| {
            let uffd = Uffd::new(0);
            let places = Places::new();
            places.register(&uffd);
            fcntl(uffd.fd(), libc::F_SETFD, 0);
            // SAFETY: This program writes to no other descriptor here.
            unsafe { libc::dup2(writer.as_raw_fd(), 1) };
            let mut command = this_program(uffd.fd());
            if !by_child {
                panic!("cannot exec: {}", command.exec());
            }
            let status = command.status().expect("this program can be run");
            assert!(status.success(), "{status}");
        });
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("text");
        assert_eq!(wait(pid, 0), 0, "the child failed");
        for line in text.lines() {
            let (question, answer) = line.split_once(" = ").expect("an answer");
            log.record(format!("by a child={by_child},{question}"), answer);
        }
    }
}

/// The other side of [`exec`].
pub fn after_exec(fd: i32) {
    // SAFETY: The descriptor was inherited for this purpose.
    let uffd = Uffd(unsafe { OwnedFd::from_raw_fd(fd) });
    let case = Case::new("exec", move |log| {
        let places = Places::new();
        every_call(log, "call", &uffd, &places);
        // A new descriptor is for the memory of this program.
        let own = Uffd::new(0);
        log.record("own", own.register(places.area.start, SIZE, MISSING));
    });
    let (text, problem) = case.run();
    for line in text.lines() {
        println!("{}", line.trim_start_matches("exec/"));
    }
    assert_eq!(problem, None);
}

/// Closed descriptors, and ones that are of something else.
fn not_a_userfaultfd(log: &mut Transcript) {
    let other = std::fs::File::open("/dev/null").expect("there is /dev/null");
    for call in RANGE_CALLS.iter().chain([&&API]) {
        let mut argument = call.argument(&[]);
        for (name, fd) in [("closed", 999), ("null", other.as_raw_fd()), ("-1", -1)] {
            // SAFETY: The argument is as long as the call says.
            let answer =
                Answer::of(unsafe { libc::ioctl(fd, call.request() as _, argument.as_mut_ptr()) });
            log.record(format!("{name},{}", call.name), answer);
        }
    }
}

/// What userfaultfd(2) makes of its flags.
fn flags(log: &mut Transcript) {
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
            Err(answer) => log.record(name, answer),
            Ok(uffd) => {
                let (status, close) = descriptor_flags(uffd.fd());
                log.record(name, format!("created, status {status:#o}, flags {close}"));
            }
        }
    }
    // Higher bits are not looked at, because the argument is an int.
    // SAFETY: No pointers are involved.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, 1i64 << 32) };
    let answer = match Answer::of(fd) {
        Answer(Ok(_)) => "created".into(),
        answer => answer.to_string(),
    };
    log.record("2^32", answer);
}

/// Two descriptors, and one area.
fn two_descriptors(log: &mut Transcript) {
    let area = Area::anon(0, PAGES);
    let source = Area::anon(1, PAGES);
    source.write();
    let names = Names::new(&[("area", &area), ("source", &source)]);
    let (first, second) = (Uffd::new(0), Uffd::new(0));
    log.record("first", first.register(area.start, SIZE, MISSING | WP));
    for mode in 1..4 {
        log.record(
            format!("second,mode={mode}"),
            second.register(area.start, SIZE, mode),
        );
        log.record(
            format!("second,part,mode={mode}"),
            second.register(area.start + PAGE, PAGE, mode),
        );
    }
    for call in RANGE_CALLS.iter().skip(2) {
        let called = second.call(call, &inputs(call, area.start, source.start, PAGE, 0));
        log.record(format!("second,{}", call.name), called);
    }
    log.record(
        "second,unregister",
        second.range(&UNREGISTER, area.start, SIZE, 0),
    );
    log.record("flags", vm_flags(area.start, &names));
    for mode in 1..8 {
        log.record(
            format!("first again,mode={mode}"),
            first.register(area.start, SIZE, mode),
        );
        log.record(
            format!("flags after mode={mode}"),
            vm_flags(area.start, &names),
        );
    }
    log.record(
        "first,part",
        first.range(&UNREGISTER, area.start + PAGE, PAGE, 0),
    );
    log.record(
        "second,free part",
        second.register(area.start + PAGE, PAGE, MISSING),
    );
    log.record("second,all", second.register(area.start, SIZE, MISSING));
    for page in 0..3 {
        log.record(
            format!("flags of page {page}"),
            vm_flags(area.at(page), &names),
        );
    }
    drop(first);
    log.record("flags after close", vm_flags(area.start, &names));
    log.record(
        "second,all after close",
        second.register(area.start, SIZE, MISSING),
    );
    log.record("wake", second.range(&WAKE, area.start, SIZE, 0));
    drop(second);
    log.record("flags after all closed", vm_flags(area.start, &names));
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
        cases.push(Case::new(format!("limits/{}/range", call.name), |log| {
            ranges(log, call)
        }));
        if call.inputs > 2 {
            cases.push(Case::new(format!("limits/{}/mode", call.name), |log| {
                modes(log, call)
            }));
        }
        if call.inputs > 3 {
            cases.push(Case::new(format!("limits/{}/src", call.name), |log| {
                sources(log, call)
            }));
        }
    }
    for call in RANGE_CALLS.into_iter().chain([&uffd::API]) {
        for after in [false, true] {
            cases.push(Case::new(
                format!("limits/{}/pointer/{after}", call.name),
                move |log| pointers(log, call, after),
            ));
        }
    }
    for after in [false, true] {
        cases.push(Case::new(format!("limits/numbers/{after}"), move |log| {
            numbers(log, after)
        }));
    }
    for privileged in [false, true] {
        cases.push(Case::new(format!("limits/api/{privileged}"), move |log| {
            handshake(log, privileged)
        }));
    }
    for kind in ["hugetlb", "hugetlb-memfd"] {
        for (name, beside) in [("alone", false), ("beside small ones", true)] {
            cases.push(Case::new(
                format!("limits/huge ranges/{kind}/{name}"),
                move |log| huge_ranges(log, kind, beside),
            ));
            cases.push(Case::new(
                format!("limits/huge parts/{kind}/{name}"),
                move |log| huge_parts(log, kind, beside),
            ));
        }
    }
    for kind in BASIC {
        cases.push(Case::new(format!("limits/features/{kind}"), |log| {
            registration(log, kind)
        }));
    }
    cases
}
