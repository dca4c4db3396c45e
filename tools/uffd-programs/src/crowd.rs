// SPDX-License-Identifier: GPL-2.0

//! Very many threads that sleep in faults of one userfaultfd, on several CPUs. Some get their
//! pages, and the others continue when the descriptor is closed. No thread may sleep forever, and
//! no CPU may be blocked so long that the kernel complains.

use crate::{
    support::{self, isolated, pattern, Mapping, Measures, PAGE, WORD},
    tap::Tap,
};
use anyhow::{ensure, Context, Result};
use std::{
    fs,
    os::fd::AsRawFd,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
    thread,
    time::{Duration, Instant},
};
use userfaultfd::{Event, EventBuffer, Uffd, UffdBuilder};

/// How many threads there are.
const THREADS: usize = 16_384;

/// One in so many gets its page.
const RESOLVED: usize = 64;

/// After this time a case counts as hung. Under emulation, a PREEMPT_RT guest takes a minute and a
/// half, and one with KASAN took over four minutes with two other guests beside it.
const LIMIT: Duration = Duration::from_secs(600);

/// How many messages are read at once.
const BATCH: usize = 256;

/// The limits that so many threads need.
const SETTINGS: &[(&str, usize)] = &[
    ("/proc/sys/kernel/threads-max", 65_536),
    ("/proc/sys/kernel/pid_max", 131_072),
    ("/proc/sys/vm/max_map_count", 262_144),
];

/// Runs all cases.
pub fn run(tap: &mut Tap) -> Result<()> {
    for (path, value) in SETTINGS {
        fs::write(path, value.to_string()).with_context(|| format!("cannot write {path}"))?;
    }
    for (name, read) in [("messages read", true), ("messages not read", false)] {
        let name = format!("crowd: {THREADS} threads, {name}");
        let began = Instant::now();
        let result = isolated(LIMIT, || gather(read));
        support::report_measures(tap, &name, began, &result);
        tap.test(&name, result.map(|_| ()));
    }
    Ok(())
}

/// Lets the threads sleep in faults, and wakes them.
fn gather(read: bool) -> Result<Measures> {
    let memory = Arc::new(Mapping::anonymous(THREADS * PAGE)?);
    let uffd = UffdBuilder::new()
        .close_on_exec(true)
        .non_blocking(true)
        .user_mode_only(false)
        .create()?;
    uffd.register(memory.at(0), memory.len())?;

    let awake = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let (memory, awake) = (memory.clone(), awake.clone());
            let body = move || {
                let word = memory.load(index * PAGE);
                awake.fetch_add(1, Ordering::Relaxed);
                word
            };
            Ok(thread::Builder::new().stack_size(16 << 10).spawn(body)?)
        })
        .collect::<Result<_>>()?;
    wait_until(|| Ok(asleep(&uffd)? == THREADS)).context("not all threads sleep")?;
    let gathering = began.elapsed();
    if read {
        read_all(&uffd, &memory)?;
    }

    let mut order: Vec<usize> = (0..THREADS).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let resolved = &order[..THREADS / RESOLVED];
    let source = Mapping::anonymous(PAGE)?;
    let began = Instant::now();
    for &page in resolved {
        source.store(0, pattern(page, 0, 0));
        // SAFETY: Both are mapped, and no thread has seen the page yet.
        unsafe { uffd.copy(source.at(0), memory.at(page * PAGE), PAGE, true)? };
    }
    let resolving = began.elapsed();
    wait_until(|| Ok(awake.load(Ordering::Relaxed) >= resolved.len()))
        .context("a thread sleeps that has its page")?;
    let left = asleep(&uffd)?;
    ensure!(
        left == THREADS - resolved.len(),
        "{left} threads sleep of {} that have no page",
        THREADS - resolved.len()
    );

    let began = Instant::now();
    drop(uffd);
    let closing = began.elapsed();
    wait_until(|| Ok(awake.load(Ordering::Relaxed) == THREADS))
        .context("a thread sleeps although the descriptor is closed")?;
    let mut expected = vec![0; THREADS];
    for &page in resolved {
        expected[page] = pattern(page, 0, 0);
    }
    for (page, thread) in threads.into_iter().enumerate() {
        let found = thread.join().ok().context("a thread panicked")?;
        let expected = expected[page];
        ensure!(
            found == expected,
            "page {page} has {found:#x} and not {expected:#x}"
        );
    }
    Ok(vec![
        ("gathering, us".into(), gathering.as_micros() as u64),
        ("resolving, us".into(), resolving.as_micros() as u64),
        ("closing, us".into(), closing.as_micros() as u64),
    ])
}

/// Returns how many threads sleep in faults, as fdinfo shows.
fn asleep(uffd: &Uffd) -> Result<usize> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", uffd.as_raw_fd()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("total:"));
    Ok(total.context("no total in fdinfo")?.trim().parse()?)
}

/// Waits until a condition is true.
fn wait_until(mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT / 3;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "it takes too long");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Reads the messages of all threads: one about each page.
fn read_all(uffd: &Uffd, memory: &Mapping) -> Result<()> {
    let mut buffer = EventBuffer::new(BATCH);
    let mut seen = vec![false; THREADS];
    loop {
        let mut any = false;
        for event in uffd.read_events(&mut buffer)? {
            let Event::Pagefault { addr, .. } = event? else {
                anyhow::bail!("a message that is not about a fault");
            };
            let offset = memory.offset(addr).context("an address elsewhere")?;
            ensure!(
                offset % PAGE < WORD,
                "not the address of a page: {offset:#x}"
            );
            ensure!(
                !seen[offset / PAGE],
                "two messages about page {}",
                offset / PAGE
            );
            seen[offset / PAGE] = true;
            any = true;
        }
        if !any {
            break;
        }
    }
    let missing = seen.iter().filter(|seen| !**seen).count();
    ensure!(missing == 0, "no message about {missing} pages");
    Ok(())
}
