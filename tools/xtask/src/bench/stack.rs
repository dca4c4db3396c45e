// SPDX-License-Identifier: GPL-2.0

//! How much stack the operations on pages take, from the objects of a build.

use crate::config::Impl;
use anyhow::{Context, Result};
use regex::Regex;
use std::collections::{BTreeMap, BTreeSet};

/// The operations, with the function of each implementation that does it.
const OPERATIONS: &[(&str, &str, &str)] = &[
    ("COPY", "7resolve3run*UffdioCopy", "mfill_atomic_copy"),
    (
        "ZEROPAGE",
        "7resolve3run*UffdioZeropage",
        "mfill_atomic_zeropage",
    ),
    (
        "CONTINUE",
        "7resolve3run*UffdioContinue",
        "mfill_atomic_continue",
    ),
    ("POISON", "7resolve3run*UffdioPoison", "mfill_atomic_poison"),
    ("MOVE", "7resolve3run*UffdioMove", "move_pages"),
    (
        "WRITEPROTECT",
        "7resolve12writeprotect",
        "mwriteprotect_range",
    ),
];

/// What begins and ends an operation, and is not part of it: wake-ups, traces, and answers that
/// are errors.
const OTHERS: &[&str] = &["wake", "trace", "failed", "existing", "panic"];

/// Returns the objects that have the code.
pub fn objects(imp: Impl) -> &'static str {
    match imp {
        Impl::Rust => {
            "fs/userfaultfd/userfaultfd.o rust/kernel.o mm/userfaultfd_shim.o mm/rust_filemap.o \
             mm/rust_folio.o mm/rust_hugetlb.o mm/rust_move.o mm/rust_pgtable.o mm/rust_rmap.o \
             mm/rust_thp.o"
        }
        Impl::C => "fs/userfaultfd.o mm/userfaultfd.o",
    }
}

/// Functions: their frames, in bytes, and what they call.
#[derive(Default)]
struct Functions {
    frames: BTreeMap<String, u64>,
    calls: BTreeMap<String, BTreeSet<String>>,
}

impl Functions {
    /// Reads what `objdump -dr --no-show-raw-insn` prints.
    fn parse(text: &str) -> Result<Self> {
        let head = Regex::new(r"^[0-9a-f]+ <(.+)>:$")?;
        let room = Regex::new(r"\bsub +\$0x([0-9a-f]+),%rsp")?;
        let reloc = Regex::new(r"R_X86_64_(?:PLT32|PC32)\s+(\S+?)-0x4$")?;
        let near = Regex::new(r"\b(?:call|jmp)\s+[0-9a-f]+ <([^+>]+)>")?;
        let mut functions = Self::default();
        let (mut name, mut count) = (String::new(), 0);
        for line in text.lines() {
            if let Some(found) = head.captures(line) {
                name = found[1].to_string();
                count = 0;
                // A section is none: functions jump there for what is patched at boot.
                if !name.starts_with('.') {
                    // The return address.
                    functions.frames.insert(name.clone(), 8);
                }
                continue;
            }
            count += 1;
            let Some(frame) = functions.frames.get_mut(&name) else {
                continue;
            };
            // The beginning of a function saves registers and makes room.
            if count < 20 {
                if line.contains("\tpush ") {
                    *frame += 8;
                }
                if let Some(found) = room.captures(line) {
                    *frame += u64::from_str_radix(&found[1], 16)?;
                }
            }
            for called in [&reloc, &near] {
                if let Some(found) = called.captures(line) {
                    let calls = functions.calls.entry(name.clone()).or_default();
                    calls.insert(found[1].to_string());
                }
            }
        }
        Ok(functions)
    }

    /// Returns the function of a name, or one whose name has all parts of it, between asterisks.
    fn named(&self, name: &str) -> Result<&str> {
        let has_all = |of: &&str| name.split('*').all(|part| of.contains(part));
        let mut names = self.frames.keys().map(String::as_str);
        let found = names.clone().find(|of| *of == name);
        found
            .or_else(|| names.find(has_all))
            .with_context(|| format!("there is no function {name}"))
    }

    /// Returns the frame of a function, and of the deepest chain of functions that it calls.
    fn depth(&self, name: &str, callers: &mut Vec<String>) -> u64 {
        callers.push(name.to_string());
        let calls = self.calls.get(name).into_iter().flatten();
        let deepest = calls
            .filter(|called| self.frames.contains_key(*called))
            .filter(|called| !OTHERS.iter().any(|other| called.contains(other)))
            .filter(|called| !callers.contains(called))
            .cloned()
            .collect::<Vec<_>>()
            .iter()
            .map(|called| self.depth(called, callers))
            .max();
        callers.pop();
        self.frames[name] + deepest.unwrap_or(0)
    }
}

/// Returns how much stack each operation takes at most in the code of an implementation, in bytes:
/// from the entry of its ioctl on.
pub fn operations(imp: Impl, text: &str) -> Result<Vec<(String, u64)>> {
    let functions = Functions::parse(text)?;
    let ioctl = functions.named(match imp {
        Impl::Rust => "10DescriptorE5ioctl",
        Impl::C => "userfaultfd_ioctl",
    })?;
    let of = |(name, rust, c): &(&str, &str, &str)| {
        let function = functions.named(match imp {
            Impl::Rust => rust,
            Impl::C => c,
        })?;
        let bytes = functions.frames[ioctl] + functions.depth(function, &mut Vec::new());
        Ok((format!("stack of UFFDIO_{name}"), bytes))
    };
    OPERATIONS.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
0000000000000000 <ioctl>:
   0:\tpush   %rbx
   1:\tcall   6 <ioctl+0x6>
\t\t\t2: R_X86_64_PLT32\tcopy-0x4
0000000000000010 <copy>:
  10:\tsub    $0x20,%rsp
  11:\tcall   16 <copy+0x6>
\t\t\t12: R_X86_64_PLT32\tsmall-0x4
  16:\tcall   40 <large>
  17:\tcall   50 <wake_all>
  18:\tcall   50 <copy>
0000000000000030 <small>:
  30:\tjmp    0 <.altinstr_aux>
0000000000000040 <large>:
  40:\tpush   %rbx
  41:\tpush   %rbp
  42:\tcall   47 <large+0x7>
\t\t\t43: R_X86_64_PLT32\tof_another_object-0x4
0000000000000050 <wake_all>:
  50:\tsub    $0x1000,%rsp
0000000000000000 <.altinstr_aux>:
   0:\tsub    $0x1000,%rsp
";

    #[test]
    fn the_deepest_chain_counts() {
        let functions = Functions::parse(TEXT).unwrap();
        assert_eq!(functions.depth("ioctl", &mut Vec::new()), 16 + 40 + 24);
        assert_eq!(functions.depth("copy", &mut Vec::new()), 40 + 24);
        assert_eq!(functions.named("c*py").unwrap(), "copy");
        assert!(functions.named("move").is_err());
    }
}
