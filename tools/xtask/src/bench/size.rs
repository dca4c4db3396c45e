// SPDX-License-Identifier: GPL-2.0

//! The sizes of the implementations, from the objects of a build.

use super::{stack, Key, BUILD};
use crate::{
    builder::Builder,
    config::{Impl, Kernel},
    lab::Mounts,
    ui,
};
use anyhow::{ensure, Context, Result};
use std::collections::BTreeSet;

/// The name of the stack frames in the results.
pub const FRAMES: &str = "stack frame of a sleeping thread";

/// The function that is on the stack of a thread that sleeps in a fault, in either implementation.
const SLEEPS: &str = "<handle_userfault>";

/// The modules of `kernel::mm` that are for userfaultfd, as names of symbols have them.
const MM: &[&str] = &[
    "2mm6locked",
    "2mm5folio",
    "2mm7filemap",
    "2mm7pgtable",
    "2mm10relocation",
    "2mm4rmap",
    "2mm4swap",
    "2mm12mmu_notifier",
];

/// Returns the results for an implementation.
pub fn measure(builder: &Builder, imp: Impl) -> Result<Vec<(Key, f64)>> {
    let build = builder.build_tree(Kernel::plain(imp));
    let mounts = Mounts {
        src: &build,
        build: &build,
        out: &build,
    };
    let run = |command: &str, files: &str| {
        let script = format!("cd \"$build\" && {command} {files}");
        ui::output(&mut builder.lab.sh(&mounts, &[], &script))
    };
    let (text, data) = symbols(&run("readelf --syms --wide", stack::objects(imp))?)?;
    let frame = frame(
        &run("objdump -d --no-show-raw-insn", stack::objects(imp))?,
        SLEEPS,
    )?;
    let (all_text, all_data) = whole(&run("size", "vmlinux")?)?;
    let disassembly = run("objdump -dr --no-show-raw-insn", stack::objects(imp))?;
    let mut sizes = stack::operations(imp, &disassembly)?;
    sizes.extend(
        [
            ("text", text),
            ("data", data),
            ("text of the kernel", all_text),
            ("data of the kernel", all_data),
            (FRAMES, frame),
        ]
        .map(|(what, bytes)| (what.to_string(), bytes)),
    );
    let results = sizes.into_iter().map(|(what, bytes)| {
        let key = Key {
            mode: BUILD.into(),
            measure: "memory".into(),
            params: [("what".to_string(), what.into())].into(),
            unit: "bytes".into(),
        };
        (key, bytes as f64)
    });
    Ok(results.collect())
}

/// Returns the sizes of text, with constants, and of data that `size` prints for a file.
fn whole(text: &str) -> Result<(u64, u64)> {
    let numbers = text.lines().nth(1).context("no sizes")?;
    let mut numbers = numbers.split_whitespace().map(str::parse::<u64>);
    let mut next = || anyhow::Ok(numbers.next().context("too few sizes")??);
    Ok((next()?, next()?))
}

/// Adds up the sizes of functions and of objects. Leaves out unit tests, and the parts of the
/// `kernel` crate that are not about userfaultfd.
fn symbols(text: &str) -> Result<(u64, u64)> {
    let (mut functions, mut objects) = (0, 0);
    let (mut file, mut seen) = ("", BTreeSet::new());
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("File: ") {
            file = name;
        }
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, value, size, kind, _, _, section, name] = fields[..] else {
            continue;
        };
        let test = name.contains("5tests") || name.contains("kunit");
        let is_ours = name.contains("userfaultfd") || MM.iter().any(|module| name.contains(module));
        let other = file.ends_with("kernel.o") && !is_ours;
        // Functions that are the same share their address.
        if test || other || !seen.insert((file, section, value)) {
            continue;
        }
        match (kind, size.parse::<u64>()) {
            ("FUNC", Ok(size)) => functions += size,
            ("OBJECT", Ok(size)) => objects += size,
            _ => (),
        }
    }
    ensure!(functions != 0, "there are no functions in what was built");
    Ok((functions, objects))
}

/// Returns the size of the stack frame of a function, with its return address.
fn frame(text: &str, name: &str) -> Result<u64> {
    let subtracted = regex::Regex::new(r"sub +\$0x([0-9a-f]+),%rsp")?;
    let mut lines = text
        .lines()
        .skip_while(|line| !(line.ends_with(">:") && line.contains(name)));
    lines
        .next()
        .with_context(|| format!("there is no function {name}"))?;
    let mut frame = 8;
    // The beginning of a function saves registers and makes room.
    for line in lines.take(16) {
        if line.contains("call") {
            break;
        }
        if line.contains("push ") {
            frame += 8;
        }
        if let Some(found) = subtracted.captures(line) {
            frame += u64::from_str_radix(&found[1], 16)?;
        }
    }
    Ok(frame)
}
