// SPDX-License-Identifier: GPL-2.0

//! A snapshot of a guest that runs while QEMU takes it: the memory is write-protected, and QEMU
//! saves a page before the guest writes to it.

use super::{
    guest::{self, SIGNS},
    machine::{Config, Machine, Start},
};
use crate::tap::Tap;
use anyhow::{anyhow, ensure, Context, Result};
use serde_json::json;
use std::{
    fs::File,
    io::{self, Read},
    ops::RangeInclusive,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::{self, Receiver, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

pub const NAME: &str = "background-snapshot";

/// How much of the snapshot is saved before the guest is watched.
const FIRST_BYTES: u64 = 1 << 20;
/// How fast the rest is saved, in bytes per second: slower than the guest writes.
const BYTES_PER_SECOND: u64 = 16 << 20;
/// The guest must write in so many sixteenths of its memory while the snapshot is taken.
const SIGNS_DURING_SNAPSHOT: usize = SIGNS / 4;

/// Takes a snapshot of a guest, and starts another from it.
pub fn run(tap: &Tap, config: &Config, rounds: usize) -> Result<()> {
    let mut original = Machine::start(config, "original", Start::Boot)?;
    let snapshot = config.dir.join("snapshot");
    let signs = take(tap, config, &mut original, &snapshot, rounds)
        .map_err(|err| anyhow!("{err:#}\n{}", original.diagnosis()))?;
    drop(original);

    let mut copy = Machine::start(config, "copy", Start::Incoming)?;
    load(&mut copy, &snapshot, signs, rounds)
        .map_err(|err| anyhow!("{err:#}\n{}", copy.diagnosis()))
}

/// Takes a snapshot, and checks that the guest wrote during the snapshot and continues after it.
/// Returns how many signs the guest may have given when the snapshot was taken.
fn take(
    tap: &Tap,
    config: &Config,
    machine: &mut Machine,
    path: &Path,
    rounds: usize,
) -> Result<RangeInclusive<usize>> {
    // After this round, the guest has filled all memory and checks it.
    machine.wait_round()?;
    let started = Instant::now();
    machine.wait_round()?;
    let round = started.elapsed();

    machine.set_capabilities(&["background-snapshot"])?;
    let socket = config.dir.join("migration");
    let saver = Saver::start(&socket, path, config.limit)?;
    let earliest = machine.signs()?;
    let uri = format!("unix:{}", socket.display());
    machine.execute("migrate", json!({ "uri": uri }))?;
    machine.wait_status("active")?;
    // QEMU saves the state that the guest has while it is stopped.
    machine.wait_stop_and_resume()?;
    let latest = machine.signs()?;

    // The rest of the memory stays write-protected until the saver reads more from the socket. So
    // the guest cannot finish more than its current round. Without the protection it would.
    saver.wait_first_bytes(config.limit)?;
    thread::sleep((3 * round).max(Duration::from_secs(1)));
    let waiting = machine.signs()?;
    ensure!(
        waiting / SIGNS <= latest / SIGNS + 1,
        "the guest is not stopped by write protection: {latest} signs at the start, {waiting} when \
         it should wait"
    );

    let size = saver.take_the_rest(|| machine.wait_status("completed"))?;
    let signs = machine.signs()? - latest;
    ensure!(
        signs >= SIGNS_DURING_SNAPSHOT,
        "the guest wrote too little during the snapshot: {signs} sixteenths"
    );
    machine.wait_run_state("running")?;
    let pages = guest::area(config.memory_mib) / guest::PAGE;
    let writes = signs as u64 * pages / SIGNS as u64;
    tap.measure(&format!("{NAME}: writes meanwhile"), writes, "pages");
    tap.measure(&format!("{NAME}: size"), size >> 10, "KiB");
    for (what, path) in [("downtime", "/downtime"), ("time", "/total-time")] {
        let value = machine.migration_number(path)?;
        tap.measure(&format!("{NAME}: {what}"), value, "ms");
    }
    for _ in 0..rounds {
        machine.wait_round()?;
    }
    Ok(earliest..=latest)
}

/// Loads a snapshot, and checks that the guest continues at the point of the snapshot.
fn load(
    machine: &mut Machine,
    path: &Path,
    signs: RangeInclusive<usize>,
    rounds: usize,
) -> Result<()> {
    machine.set_capabilities(&[])?;
    let uri = format!("file:{}", path.display());
    machine.execute("migrate-incoming", json!({ "uri": uri }))?;
    machine.wait_status("completed")?;
    machine.wait_run_state("running")?;
    machine.continues_one_of(signs)?;
    for _ in 0..rounds {
        machine.wait_round()?;
    }
    Ok(())
}

/// Saves what QEMU writes to a socket, in another thread: a little at first, and the rest when the
/// caller asks for it.
struct Saver {
    thread: JoinHandle<io::Result<u64>>,
    first_bytes: Receiver<()>,
    rest: Sender<()>,
}

impl Saver {
    fn start(socket: &Path, path: &Path, limit: Duration) -> Result<Self> {
        let listener = UnixListener::bind(socket)?;
        let mut file = File::create_new(path)?;
        let (first_bytes_sender, first_bytes) = mpsc::channel();
        let (rest, rest_receiver) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(limit))?;
            let first = io::copy(&mut (&mut stream).take(FIRST_BYTES), &mut file)?;
            // If there is no receiver any more, the caller has failed and does not need the rest.
            if first_bytes_sender.send(()).is_err() || rest_receiver.recv().is_err() {
                return Ok(first);
            }
            Ok(first + copy_slowly(&mut stream, &mut file)?)
        });
        Ok(Self {
            thread,
            first_bytes,
            rest,
        })
    }

    /// Waits until the first bytes have been saved.
    fn wait_first_bytes(&self, limit: Duration) -> Result<()> {
        self.first_bytes
            .recv_timeout(limit)
            .context("the snapshot does not begin")
    }

    /// Saves the rest until `wait` returns, and returns the size of the snapshot.
    fn take_the_rest(self, wait: impl FnOnce() -> Result<()>) -> Result<u64> {
        self.rest.send(()).context("the snapshot is not saved")?;
        wait()?;
        let size = self.thread.join().expect("it does not panic")?;
        Ok(size)
    }
}

/// Copies to the end, so slowly that the guest has the time to write in between.
fn copy_slowly(stream: &mut UnixStream, file: &mut File) -> io::Result<u64> {
    const STEPS_PER_SECOND: u64 = 100;
    let mut all = 0;
    loop {
        let step = BYTES_PER_SECOND / STEPS_PER_SECOND;
        let copied = io::copy(&mut stream.take(step), file)?;
        if copied == 0 {
            return Ok(all);
        }
        all += copied;
        thread::sleep(Duration::from_secs(1) / STEPS_PER_SECOND as u32);
    }
}
