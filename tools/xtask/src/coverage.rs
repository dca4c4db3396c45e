// SPDX-License-Identifier: GPL-2.0

//! `cargo xtask coverage`: which lines of the implementation in Rust the tests run.
//!
//! All suites of `cargo xtask test` run on a kernel with debug info. QEMU logs each block of
//! instructions when it translates it, which is just before it runs for the first time. So nothing
//! is added to the kernel.
//!
//! - The files that count are those with code that the series adds to the kernel.
//! - A line of them counts if the debug info of the kernel has an instruction for it, in any
//!   function: code is inlined, and there may be several copies of it. It counts as well if it has
//!   a call that was inlined. So comments do not count, nor does what the compiler did, found to be
//!   impossible, or merged with another line.
//! - A line ran if one of its instructions did, in any copy.
//! - Of a function that runs where it was inlined, a copy that nothing calls does not count.
//! - Addresses in the log are those of `vmlinux`, because a kernel that is not relocatable has no
//!   KASLR.
//! - If an exception occurs in the middle of a block, the log has its end as well.
//! - The kernel has no KUnit. So its tests do not count, and nothing that only they run.

mod code;
mod list;

use crate::{
    config::{Flavour, Impl, Kernel},
    guest::TRACE,
    source::overlay,
    test::{self, guests::Guests},
    ui, Session,
};
use anyhow::{bail, Context, Result};
use code::{Code, Line};
use comfy_table::Table;
use list::{List, Place, LIST};
use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{BufRead, BufReader},
    path::Path,
    time::Instant,
};

#[derive(clap::Args)]
pub struct Options {
    /// Take the results of the last run, after an edit of the list.
    #[arg(long)]
    last: bool,
}

/// How many of the lines have to run, in percent.
const LEAST: f64 = 97.0;

/// The file with the addresses of the instructions that ran, in the directory of the kernel.
const RAN: &str = "ran";

/// The file with entries for lines that are not listed, in the directory of the kernel.
const DRAFT: &str = "not-listed.toml";

pub fn coverage(session: &Session, options: &Options) -> Result<()> {
    let start = Instant::now();
    let builder = session.builder()?;
    let kernel = Kernel {
        imp: Impl::Rust,
        flavour: Flavour::Coverage,
    };
    let image = builder.kernel(kernel)?;
    let files = files(&session.repo)?;
    let mut code = session.ui.step("Reading the debug info", |_| {
        Code::read(&image.join("vmlinux"), &files)
    })?;

    let key = fs::read_to_string(image.join("key"))?;
    let mut problems = Vec::new();
    let ran = if options.last {
        load(&image.join(RAN), &key)?
    } else {
        let guests = Guests::new(&builder, kernel, 1)?.traced(code.ranges());
        let results = test::run(&guests, false)?;
        let mut ran = HashSet::new();
        for share in &results.shares {
            let trace = File::open(share.join(TRACE)).context("QEMU wrote no log")?;
            ran.extend(addresses(BufReader::new(trace), &code)?);
        }
        store(&image.join(RAN), &key, &ran)?;
        problems = test::show(&[results]);
        ran
    };

    code.leave_unused_copies(&ran);
    let coverage = Coverage::new(&files, &code, &ran);
    println!("\n{}\n", coverage.table());
    problems.extend(coverage.report(&session.repo, &image.join(DRAFT))?);
    println!("total time: {}", ui::duration(start.elapsed()));
    println!("{}", coverage.total.summary());
    test::refuse(&problems)
}

/// Lists the files with code that the series adds to the kernel.
fn files(repo: &Path) -> Result<Vec<String>> {
    let mut files: Vec<String> = overlay::overlay(repo)?.into_iter().collect();
    files.retain(|file| {
        let is_code = [".rs", ".c", ".h"].iter().any(|end| file.ends_with(end));
        is_code && !file.starts_with("tools/")
    });
    Ok(files)
}

/// Reads the addresses of instructions of the kernel from a log of QEMU.
fn addresses(log: impl BufRead, code: &Code) -> Result<HashSet<u64>> {
    let mut ran = HashSet::new();
    for line in log.lines() {
        let line = line?;
        if line.starts_with("OBJD") {
            bail!("this QEMU cannot disassemble: it was built without capstone");
        }
        // The second line of a long instruction has an address where none begins.
        let address = address(&line).filter(|at| code.instructions.contains_key(at));
        ran.extend(address);
    }
    if ran.is_empty() {
        bail!("no instruction of the implementation in Rust is in the log of QEMU");
    }
    Ok(ran)
}

fn address(line: &str) -> Option<u64> {
    let (address, _) = line.strip_prefix("0x")?.split_once(':')?;
    u64::from_str_radix(address, 16).ok()
}

/// Keeps the addresses of the instructions that ran, with the key of the kernel.
fn store(path: &Path, key: &str, ran: &HashSet<u64>) -> Result<()> {
    let mut text = format!("{key}\n");
    for address in ran {
        text += &format!("{address:x}\n");
    }
    Ok(fs::write(path, text)?)
}

fn load(path: &Path, key: &str) -> Result<HashSet<u64>> {
    let text = fs::read_to_string(path).context("there was no run yet")?;
    let mut lines = text.lines();
    if lines.next() != Some(key) {
        bail!("the last run was of another kernel");
    }
    lines
        .map(|line| Ok(u64::from_str_radix(line, 16)?))
        .collect()
}

/// How many there are, and how many of them ran.
#[derive(Copy, Clone, Default)]
struct Count {
    all: usize,
    ran: usize,
}

impl Count {
    fn add(&mut self, ran: bool) {
        self.all += 1;
        self.ran += usize::from(ran);
    }

    fn percent(self) -> f64 {
        100.0 * self.ran as f64 / self.all.max(1) as f64
    }

    fn cells(self) -> [String; 3] {
        let percent = format!("{:.1}", self.percent());
        [self.all.to_string(), self.ran.to_string(), percent]
    }
}

/// What ran of a file, or of all.
#[derive(Copy, Clone, Default)]
struct Counts {
    lines: Count,
    instructions: Count,
}

impl Counts {
    fn cells(self) -> impl Iterator<Item = String> {
        let cells = [self.lines.cells(), self.instructions.cells()];
        cells.into_iter().flatten()
    }

    /// A line about all of it.
    fn summary(self) -> String {
        format!(
            "coverage: {:.1} % of {} lines, {:.1} % of {} instructions",
            self.lines.percent(),
            self.lines.all,
            self.instructions.percent(),
            self.instructions.all
        )
    }
}

struct Coverage<'a> {
    files: &'a [String],
    by_file: Vec<Counts>,
    total: Counts,
    /// All lines in order, with whether they ran.
    lines: Vec<(Line, bool)>,
}

impl<'a> Coverage<'a> {
    fn new(files: &'a [String], code: &Code, ran: &HashSet<u64>) -> Self {
        let mut by_file = vec![Counts::default(); files.len()];
        let mut total = Counts::default();
        for (address, lines) in &code.instructions {
            let ran = ran.contains(address);
            // An instruction that was inlined may be of several files.
            let of: BTreeSet<usize> = lines.iter().map(|(file, _)| *file).collect();
            of.iter()
                .for_each(|file| by_file[*file].instructions.add(ran));
            total.instructions.add(ran);
        }
        let lines_that_ran = code.lines_that_ran(ran);
        let lines: Vec<(Line, bool)> = code
            .lines()
            .into_iter()
            .map(|line| (line, lines_that_ran.contains(&line)))
            .collect();
        for ((file, _), ran) in &lines {
            by_file[*file].lines.add(*ran);
            total.lines.add(*ran);
        }
        Self {
            files,
            by_file,
            total,
            lines,
        }
    }

    /// A row for each file that has code of its own in the kernel.
    fn table(&self) -> Table {
        let header = ["file", "lines", "ran", "%", "instructions", "ran", "%"];
        let mut table = ui::table(header);
        let rows = self.files.iter().map(|file| &file[..]).zip(&self.by_file);
        for (name, counts) in rows.chain([("all", &self.total)]) {
            if counts.lines.all != 0 {
                table.add_row([name.to_string()].into_iter().chain(counts.cells()));
            }
        }
        table
    }

    /// Prints the lines that never ran, each with its reason. Returns the problems.
    ///
    /// Entries for those that are not listed go to the file `draft`.
    fn report(&self, repo: &Path, draft: &Path) -> Result<Vec<String>> {
        let sources = self.files.iter().map(|file| {
            let source = fs::read_to_string(repo.join(file));
            source.with_context(|| format!("cannot read {file}"))
        });
        let sources = sources.collect::<Result<Vec<String>>>()?;
        let never = self.lines.iter().filter(|(_, ran)| !ran);
        let never =
            never.map(|((file, line), _)| list::place(&self.files[*file], &sources[*file], *line));
        let never = never.collect::<Result<Vec<Place>>>()?;
        let list = List::read(repo)?;
        let (reasons, stale) = list.reasons(&never);

        for (range, index) in ranges(&self.lines, &reasons) {
            let Place { file, function, .. } = &never[index];
            let reason = reasons[index].unwrap_or("not listed");
            println!("never ran: {file}:{range} ({function}): {reason}");
        }
        let mut problems = Vec::new();
        let unlisted = never.iter().zip(&reasons).filter(|(_, r)| r.is_none());
        let unlisted: Vec<&Place> = unlisted.map(|(place, _)| place).collect();
        fs::write(draft, List::draft(unlisted.iter().copied())?)?;
        if !unlisted.is_empty() {
            println!("entries for {LIST}, without reasons: {}", draft.display());
        }
        for place in unlisted {
            problems.push(format!("{place}: never ran, and is not in {LIST}"));
        }
        for place in stale {
            problems.push(format!("{place}: is in {LIST}, and ran"));
        }
        let percent = self.total.lines.percent();
        if percent < LEAST {
            problems.push(format!(
                "{percent:.1} % of the lines ran, and {LEAST} % should"
            ));
        }
        Ok(problems)
    }
}

/// Joins lines that never ran if none of the lines between them did, and their reasons are the
/// same. Returns the numbers of the lines, and the place of the first among those that never ran.
fn ranges(lines: &[(Line, bool)], reasons: &[Option<&str>]) -> Vec<(String, usize)> {
    let mut ranges: Vec<(Line, u32, usize)> = Vec::new();
    let mut index = 0;
    let mut joins = false;
    for &((file, line), ran) in lines {
        if ran {
            joins = false;
            continue;
        }
        match ranges.last_mut() {
            Some(((other, _), last, first))
                if joins && *other == file && reasons[*first] == reasons[index] =>
            {
                *last = line;
            }
            _ => ranges.push(((file, line), line, index)),
        }
        joins = true;
        index += 1;
    }
    let text = |first: u32, last: u32| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let texts = ranges
        .into_iter()
        .map(|((_, first), last, index)| (text(first, last), index));
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        let of = |lines: &[Line]| lines.iter().copied().collect::<BTreeSet<_>>();
        Code {
            instructions: [
                (0xffff_ffff_8100_0000, of(&[(0, 5)])),
                (0xffff_ffff_8100_0004, of(&[(0, 6), (1, 9)])),
            ]
            .into(),
            ..Default::default()
        }
    }

    const LOG: &str = "----------------\nIN: uffd_shim_copy\n\
                       0xffffffff81000004:  48 b8 00 00 00 00 00 00  movabsq  $1, %rax\n\
                       0xffffffff8100000c:  00 80\n\n";

    #[test]
    fn the_log_has_addresses_of_instructions() -> Result<()> {
        let ran = addresses(LOG.as_bytes(), &code())?;
        assert_eq!(ran, [0xffff_ffff_8100_0004].into());
        assert!(addresses(&b"OBJD-T: 48b8\n"[..], &code()).is_err());
        assert!(addresses(&b"0xffffffff8100000c:  c3  retq\n"[..], &code()).is_err());
        Ok(())
    }

    #[test]
    fn files_and_all_of_them_are_counted() -> Result<()> {
        let files = ["a.rs".to_string(), "b.rs".to_string()];
        let ran = addresses(LOG.as_bytes(), &code())?;
        let coverage = Coverage::new(&files, &code(), &ran);
        let counts = |counts: &Counts| counts.cells().collect::<Vec<_>>().join(" ");
        assert_eq!(counts(&coverage.by_file[0]), "2 1 50.0 2 1 50.0");
        assert_eq!(counts(&coverage.by_file[1]), "1 1 100.0 1 1 100.0");
        assert_eq!(counts(&coverage.total), "3 2 66.7 2 1 50.0");
        Ok(())
    }

    #[test]
    fn lines_are_joined_if_none_between_them_ran() {
        let lines = [
            ((0, 5), false),
            ((0, 7), false),
            ((0, 8), true),
            ((0, 9), false),
            ((0, 10), false),
            ((1, 11), false),
        ];
        let reasons = [Some("a"), Some("a"), Some("a"), Some("b"), Some("b")];
        let found = ranges(&lines, &reasons);
        let text: Vec<String> = found
            .iter()
            .map(|(text, at)| format!("{text} {at}"))
            .collect();
        assert_eq!(text, ["5-7 0", "9 2", "10 3", "11 4"]);
    }

    #[test]
    fn a_run_is_of_one_kernel() -> Result<()> {
        let path = std::env::temp_dir().join(format!("xtask-ran-{}", std::process::id()));
        let ran = [1, 0xffff].into();
        store(&path, "key", &ran)?;
        assert_eq!(load(&path, "key")?, ran);
        assert!(load(&path, "other").is_err());
        Ok(fs::remove_file(&path)?)
    }
}
