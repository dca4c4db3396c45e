// SPDX-License-Identifier: GPL-2.0

//! The test suites of guests, and the jobs that run them.

use crate::{
    config::{Arch, Flavour, Impl},
    lab,
};

/// A suite of the kernel's selftests.
pub struct Suite {
    pub name: &'static str,
    /// The binary, and its arguments.
    pub command: &'static str,
    /// The time limit, in seconds on an ordinary kernel.
    pub seconds: u32,
}

const fn suite(name: &'static str, command: &'static str, seconds: u32) -> Suite {
    Suite {
        name,
        command,
        seconds,
    }
}

/// A suite that fails on the C kernel now and then, and what it prints then. In C,
/// UFFDIO_UNREGISTER wakes threads before it clears the VMA. So a thread may fault once more in
/// between, and the handler fills its page when the VMA is no longer registered. The
/// administrator's guide lists this difference.
pub const RACE_IN_C: (&str, &str) = ("uffd-unit-tests", "ERROR: UFFDIO_COPY error: -2 ");

/// What a guest prints before it runs a suite again, see `retry` in `guest/suites.sh`.
pub const AGAIN: &str = "@@ again";

/// Returns why tests of a suite fail on the C kernel.
pub fn reasons(suite: &str) -> Vec<&'static str> {
    let known = FAILS_IN_C.iter().filter(|(name, ..)| *name == suite);
    known.map(|(_, _, reason)| *reason).collect()
}

/// The suite that `run` shows.
pub const UNIT: Suite = suite("uffd-unit-tests", "uffd-unit-tests", 900);

/// All suites, in the order in which they are run.
pub const ALL: &[Suite] = &[
    UNIT,
    suite("uffd-stress anon", "uffd-stress anon 20 16", 120),
    suite("uffd-stress shmem", "uffd-stress shmem 20 16", 120),
    suite(
        "uffd-stress shmem-private",
        "uffd-stress shmem-private 20 16",
        120,
    ),
    suite("uffd-stress hugetlb", "uffd-stress hugetlb 64 32", 120),
    suite(
        "uffd-stress hugetlb-private",
        "uffd-stress hugetlb-private 64 32",
        120,
    ),
    suite("uffd-wp-mremap", "uffd-wp-mremap", 120),
    suite("pagemap_ioctl", "pagemap_ioctl", 240),
    suite("mkdirty", "mkdirty", 120),
    // It maps at fixed distances from an address that the kernel chose, so that it depends on the
    // layout of memory. Its data are random.
    suite("mremap_test", "mremap_test -p 1", 240),
    suite("guard-regions", "guard-regions", 120),
    suite("ksm_functional_tests", "ksm_functional_tests", 240),
    suite("hugepage-mremap", "hugepage-mremap", 120),
    suite("uffd-compat (32 bit)", "uffd-compat_32", 60),
    // For defects that the fixes of the base mend.
    suite("uffd-move-huge-zero", "uffd-move-huge-zero", 120),
    suite("uffd-special", "uffd-special", 60),
    suite("uffd-move-pinned", "uffd-move-pinned", 120),
    suite("uffd-move-threads", "uffd-move-threads", 180),
    suite("uffd-markers", "uffd-markers", 60),
    suite("uffd-copy-retry", "uffd-copy-retry", 180),
    suite("uffd-hugetlb-wp", "uffd-hugetlb-wp", 120),
    // For what must hold in races, on both.
    suite("uffd-copy-large", "uffd-copy-large", 180),
    suite("uffd-fill-races", "uffd-fill-races", 240),
    suite("uffd-fill-races large", "uffd-fill-races large", 240),
    suite("uffd-fill-rivals", "uffd-fill-rivals", 120),
    suite("uffd-fill-rivals large", "uffd-fill-rivals large", 120),
    suite("uffd-hugetlb-races", "uffd-hugetlb-races", 240),
    suite("uffd-move-races", "uffd-move-races", 240),
    // For defects of the C implementation, see `FAILS_IN_C`.
    suite("uffd-busy-wait", "uffd-busy-wait", 180),
    suite("uffd-changing", "uffd-changing", 180),
    suite("uffd-close-fork", "uffd-close-fork", 180),
    suite("uffd-map-limit", "uffd-map-limit", 60),
    suite("uffd-eexist", "uffd-eexist", 180),
];

/// Tests that fail on the C kernel: the suite, a pattern of their names, and why. Some depend on
/// luck, but of each entry at least one fails.
pub const FAILS_IN_C: &[(&str, &str, &str)] = &[
    (
        "uffd-busy-wait",
        ": (waits asleep|one message for one fault)$",
        "a signal that is pending keeps a fault of the kernel from sleeping",
    ),
    (
        "uffd-changing",
        "ready for output (before|when)|a fill works$|woken when it is over|(no|most two) EAGAIN|taken away",
        "operations fail until the thread that caused the event runs, and nothing tells when",
    ),
    (
        "uffd-close-fork",
        "fork goes on$|removal go on$|with forks: no thread hangs$",
        "a fork waits for a reader when only its own child has the descriptor",
    ),
    (
        "uffd-map-limit",
        "all or nothing$",
        "what a registration that fails has done stays",
    ),
    (
        "uffd-eexist",
        "says EEXIST wakes$|going on from there wakes|no thread is stranded$",
        "EEXIST wakes no thread",
    ),
];

/// The binaries that the kernel's own makefile builds.
pub fn binaries(arch: Arch) -> Vec<&'static str> {
    let flavour = match arch {
        Arch::X86 => Flavour::Plain,
        Arch::Arm64 => Flavour::Arm64,
    };
    let mut names: Vec<&str> = Plan::of(flavour)
        .selftests
        .iter()
        .filter_map(|suite| suite.command.split(' ').next())
        .collect();
    names.dedup();
    names
}

/// Programs that use userfaultfd.
pub const PROGRAMS: &[Suite] = &[
    suite("QEMU postcopy", "uffd-programs postcopy", 300),
    suite("CRIU lazy restore", "uffd-programs criu", 180),
    suite("snapshot restore", "uffd-programs snapshot", 90),
    suite("garbage collector", "uffd-programs gc", 90),
    // The same with large folios.
    suite(
        "QEMU postcopy large",
        "sh \"$out\"/large-folios.sh always uffd-programs postcopy",
        300,
    ),
    // Not with large folios everywhere, because CRIU loses memory then, on any kernel: it maps the
    // memory of the process beside its own before it registers it, and a large folio of the one
    // reaches into the other.
    suite(
        "CRIU lazy restore large",
        "sh \"$out\"/large-folios.sh madvise uffd-programs criu --large",
        180,
    ),
    suite(
        "snapshot restore large",
        "sh \"$out\"/large-folios.sh always uffd-programs snapshot",
        90,
    ),
    suite(
        "garbage collector large",
        "sh \"$out\"/large-folios.sh always uffd-programs gc",
        90,
    ),
    suite("very many threads", "uffd-programs crowd", 600),
    suite("stress-ng", "sh \"$out\"/stress-ng.sh", 60),
    suite(TRACE, "sh \"$out\"/uffd-trace.sh", 600),
];

/// The suite for the tracepoints, which are not in C. There it tests what works without them, and
/// skips the rest.
pub const TRACE: &str = "uffd-trace";

/// Returns true if the kernels are to give the same results in a suite.
pub fn is_comparable(suite: &str) -> bool {
    suite != TRACE
}

/// The suite whose answers are compared. They are in a file beside the console.
pub const CONFORMANCE: Suite = suite("conformance", "uffd-conformance", 900);

/// The file with the answers.
pub const TRANSCRIPT: &str = "transcript.txt";

/// The suite that needs a guest of its own, with SELinux.
pub const LSM: Suite = suite("LSM veto", "lsm.py", 60);

/// The addition to the kernel's command line for [`LSM`].
pub const LSM_APPEND: &str = "lsm=selinux";

/// The job that runs [`LSM`].
pub const LSM_JOB: &str = ". \"$out\"/suites.sh\nlsm_veto\n";

/// The suites of this repository, in the order in which they are run.
pub fn ours() -> impl Iterator<Item = &'static Suite> {
    PROGRAMS.iter().chain([&CONFORMANCE, &LSM])
}

/// All suites.
pub fn every() -> impl Iterator<Item = &'static Suite> {
    ALL.iter().chain(ours())
}

/// The suites that run on the kernels of a flavour, a list for each guest.
pub struct Plan {
    pub selftests: Vec<&'static Suite>,
    /// Programs, and [`CONFORMANCE`], or nothing.
    pub programs: Vec<&'static Suite>,
    /// [`LSM`], or nothing.
    pub lsm: Vec<&'static Suite>,
}

impl Plan {
    pub fn of(flavour: Flavour) -> Self {
        let runs = |suite: &&Suite| not_run(flavour, suite).is_none();
        let programs = PROGRAMS.iter().chain([&CONFORMANCE]);
        Self {
            selftests: ALL.iter().filter(runs).collect(),
            programs: programs.filter(runs).collect(),
            lsm: [&LSM].into_iter().filter(runs).collect(),
        }
    }

    /// The suites in the order in which they are run.
    pub fn all(&self) -> impl Iterator<Item = &'static Suite> + '_ {
        let lists = [&self.selftests, &self.programs, &self.lsm];
        lists.into_iter().flatten().copied()
    }
}

/// Suites that do not run on arm64, and why.
const NOT_ON_ARM64: &[(&str, &str)] = &[
    (
        "uffd-compat (32 bit)",
        "the lab makes no 32-bit programs for arm64",
    ),
    ("QEMU postcopy", "its virtual machines are for x86-64"),
    ("CRIU lazy restore", NO_DEBIAN),
    ("QEMU postcopy large", "its virtual machines are for x86-64"),
    ("CRIU lazy restore large", NO_DEBIAN),
    ("stress-ng", NO_DEBIAN),
    (TRACE, NO_DEBIAN),
    (LSM.name, NO_DEBIAN),
];
const NO_DEBIAN: &str = "the guest has no programs of Debian's but busybox";

/// Returns why a suite does not run on the kernels of a flavour, if it does not.
pub fn not_run(flavour: Flavour, suite: &Suite) -> Option<&'static str> {
    let named = |name: &str| name == suite.name;
    let ours = ours().any(|other| named(other.name));
    match flavour {
        Flavour::Plain | Flavour::Debug | Flavour::Rt | Flavour::Coverage | Flavour::Untraced => {
            None
        }
        Flavour::Gcc if !ours || named(CONFORMANCE.name) => None,
        Flavour::Gcc => Some("the selftests and the suite show what a compiler breaks"),
        Flavour::Arm64 => {
            let mut list = NOT_ON_ARM64.iter();
            let (_, reason) = list.find(|(name, _)| named(name))?;
            Some(reason)
        }
        Flavour::Arm64Pages64 if named(UNIT.name) => None,
        Flavour::Arm64Pages64 if ours => Some("it is made for pages of 4 KiB"),
        Flavour::Arm64Pages64 => Some("of the selftests, the unit tests show what pages change"),
    }
}

/// Returns how long suites may take, in seconds, with the boot.
pub fn limit(suites: &[&Suite]) -> u64 {
    300 + suites
        .iter()
        .map(|suite| u64::from(suite.seconds))
        .sum::<u64>()
}

/// The job that runs suites of the kernel. `slowness` multiplies their time limits.
pub fn job(suites: &[&Suite], slowness: u32, imp: Impl) -> String {
    let mut job = String::from(". \"$out\"/suites.sh\nprepare_selftests\n");
    for suite in suites {
        let races = imp == Impl::C && suite.name == RACE_IN_C.0;
        // busybox has linux64, and no setarch.
        job.push_str(&format!(
            "{} '{}' {} linux64 -R ./{}\n",
            if races { "retry" } else { "suite" },
            suite.name,
            suite.seconds * slowness,
            suite.command
        ));
    }
    job
}

/// Returns the addition to the kernel's command line for jobs that run selftests.
pub fn append(flavour: Flavour) -> &'static str {
    match flavour {
        // A huge page has 512 MiB otherwise.
        Flavour::Arm64Pages64 => "default_hugepagesz=2M",
        // Later on, memory may be too scattered for those of 32 MiB.
        Flavour::Arm64 => "hugepagesz=1G hugepages=1 hugepagesz=32M hugepages=2",
        _ => "",
    }
}

/// The addition to the kernel's command line for jobs that run [`CONFORMANCE`]: a page that the
/// kernel can reserve only at boot.
pub const GIGANTIC: &str = "hugepagesz=1G hugepages=1";

/// The beginning of jobs that run programs of this repository.
const PREPARE_PROGRAMS: &str = ". \"$out\"/suites.sh\nprepare_programs\n";

/// The job that runs programs, and [`CONFORMANCE`].
pub fn programs_job(suites: &[&Suite], long: bool, slowness: u32) -> String {
    let mut job = String::from(PREPARE_PROGRAMS);
    let factor = if long { 5 * slowness } else { slowness };
    for suite in suites {
        if suite.name == CONFORMANCE.name {
            job += &ask(slowness, "");
            continue;
        }
        let long = if long && suite.command.starts_with("uffd-") {
            " --long"
        } else {
            ""
        };
        job.push_str(&format!(
            "suite '{}' {} {}{long}\n",
            suite.name,
            suite.seconds * factor,
            suite.command
        ));
    }
    job
}

/// The job that runs [`CONFORMANCE`] with the cases whose names start with `prefix`.
pub fn conformance_job(prefix: &str, slowness: u32) -> String {
    PREPARE_PROGRAMS.to_string() + &ask(slowness, prefix)
}

fn ask(slowness: u32, prefix: &str) -> String {
    let seconds = CONFORMANCE.seconds * slowness;
    format!("conformance {seconds} {}\n", lab::quote(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(flavour: Flavour) -> Vec<&'static str> {
        Plan::of(flavour).all().map(|suite| suite.name).collect()
    }

    #[test]
    fn each_flavour_runs_what_it_can() {
        let all: Vec<&str> = every().map(|suite| suite.name).collect();
        assert_eq!(names(Flavour::Plain), all);
        assert_eq!(names(Flavour::Gcc).len(), ALL.len() + 1);
        assert_eq!(names(Flavour::Arm64Pages64), [UNIT.name]);
        let arm64 = names(Flavour::Arm64);
        for suite in ["garbage collector", "very many threads", CONFORMANCE.name] {
            assert!(arm64.contains(&suite));
        }
        // The list has no name that there is not.
        assert_eq!(arm64.len() + NOT_ON_ARM64.len(), all.len());
    }
}
