// SPDX-License-Identifier: GPL-2.0

//! How large the implementations are, from what was built.

use super::{Key, BUILD};
use crate::{
    kernel::{Impl, Kernel},
    lab::Mounts,
    ui, Session, Workshop,
};
use anyhow::{ensure, Context, Result};
use std::collections::BTreeSet;

/// How the stack frames are called in the results.
pub const FRAMES: &str = "stack frames of a sleeping thread";

/// Where the code is, and the functions that are on the stack of a thread that sleeps in a fault.
struct Objects {
    files: &'static str,
    frames: &'static [&'static str],
}

fn objects(imp: Impl) -> Objects {
    match imp {
        Impl::Rust => Objects {
            files: "fs/userfaultfd/userfaultfd.o mm/userfaultfd_shim.o rust/kernel.o",
            // The second is a part of a mangled name: the closure that sleeps.
            frames: &["<handle_userfault>", "5fault6handle0B"],
        },
        Impl::C => Objects {
            files: "fs/userfaultfd.o",
            frames: &["<handle_userfault>"],
        },
    }
}

/// Returns the results for an implementation.
pub fn measure(session: &Session, workshop: &Workshop, imp: Impl) -> Result<Vec<(Key, f64)>> {
    let build = session.cache.join("build").join(Kernel::plain(imp).name());
    let mounts = Mounts {
        src: &build,
        build: &build,
        out: &build,
    };
    let paths = workshop.lab.paths(&mounts);
    let objects = objects(imp);
    let run = |command: &str| {
        let script = format!("cd '{}' && {command} {}", paths.build, objects.files);
        ui::output(&mut workshop.lab.sh(&mounts, &script))
    };
    let (text, data) = symbols(&run("readelf --syms --wide")?)?;
    let stack = frames(&run("objdump -d --no-show-raw-insn")?, objects.frames)?;
    Ok([("text", text), ("data", data), (FRAMES, stack)]
        .map(|(what, bytes)| {
            let key = Key {
                mode: BUILD.into(),
                measure: "memory".into(),
                params: [("what".into(), what.into())].into(),
                unit: "bytes".into(),
            };
            (key, bytes as f64)
        })
        .into())
}

/// Adds up the sizes of functions and of objects, but for those of unit tests, and for those of
/// the `kernel` crate that have nothing to do with userfaultfd.
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
        let other = file.ends_with("kernel.o") && !name.contains("userfaultfd");
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

/// Adds up the stack frames of functions, with their return addresses.
fn frames(text: &str, names: &[&str]) -> Result<u64> {
    let subtracted = regex::Regex::new(r"sub +\$0x([0-9a-f]+),%rsp")?;
    let mut all = 0;
    for name in names {
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
        all += frame;
    }
    Ok(all)
}
