// SPDX-License-Identifier: GPL-2.0

//! What /proc says about memory of this process.

use crate::{
    memory::Names,
    process::this_process,
    sys::{errno, errno_name, read_process, Answer, PAGE},
};
use std::ops::Range;

/// What the page table says of a page: Present, Swapped, File, eXclusive, soft-Dirty,
/// Write-protected by userfaultfd, Guard.
pub fn pagemap(address: usize) -> String {
    let mut entry = [0; 8];
    let file = std::fs::File::open("/proc/self/pagemap").expect("there is a pagemap");
    let offset = (address / PAGE * 8) as u64;
    if std::os::unix::fs::FileExt::read_at(&file, &mut entry, offset).unwrap_or(0) != 8 {
        return "none".into();
    }
    let entry = u64::from_ne_bytes(entry);
    let text: String = [
        (63, 'P'),
        (62, 'S'),
        (61, 'F'),
        (56, 'X'),
        (55, 'D'),
        (57, 'W'),
        (58, 'G'),
    ]
    .iter()
    .filter(|(bit, _)| entry >> bit & 1 != 0)
    .map(|(_, letter)| *letter)
    .collect();
    if text.is_empty() {
        "-".into()
    } else {
        text
    }
}

/// The first byte of a page that is present, without a fault that no thread resolves.
pub fn peek(address: usize) -> String {
    if !pagemap(address).starts_with('P') {
        return "?".into();
    }
    let mut byte = [0];
    match read_process(this_process(), address, &mut byte) {
        Answer(Ok(1)) => format!("{:#04x}", byte[0]),
        _ => errno_name(errno()),
    }
}

/// How much of the mapping at an address is in huge pages of anonymous memory.
pub fn huge_pages(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("there is smaps");
    smaps
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{address:x}-")))
        .find_map(|line| line.strip_prefix("AnonHugePages:"))
        .map_or("no mapping".into(), |text| text.trim().into())
}

/// A mapping of this process.
pub struct Mapping {
    pub start: usize,
    pub end: usize,
    /// What is mapped, or how it was named.
    pub name: String,
    flags: String,
}

impl Mapping {
    /// Its extent, and something about it.
    fn describe(&self, names: &Names, what: &str) -> String {
        format!(
            "{}..{} [{what}]",
            names.name(self.start as u64),
            names.name(self.end as u64)
        )
    }
}

/// The extent that the first line about a mapping begins with.
fn extent(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

/// All mappings of this process, in order.
pub fn mappings() -> Vec<Mapping> {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("there is smaps");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        if let Some((start, end)) = extent(line) {
            // Before the name there are the extent, the access, the offset, the device, the inode.
            let name: Vec<&str> = line.split_whitespace().skip(5).collect();
            mappings.push(Mapping {
                start,
                end,
                name: name.join(" "),
                flags: String::new(),
            });
        } else if let Some(flags) = line.strip_prefix("VmFlags:") {
            let mapping = mappings.last_mut().expect("flags are of a mapping");
            mapping.flags = flags.trim().into();
        }
    }
    mappings
}

/// The flags of the mapping at an address, and its extent.
pub fn vm_flags(address: usize, names: &Names) -> String {
    mappings()
        .iter()
        .find(|mapping| (mapping.start..mapping.end).contains(&address))
        .map_or("no mapping".into(), |mapping| {
            mapping.describe(names, &mapping.flags)
        })
}

/// The mappings in a range, with something about each.
fn within(range: &Range<usize>, names: &Names, what: impl Fn(&Mapping) -> &str) -> String {
    mappings()
        .iter()
        .filter(|mapping| mapping.start < range.end && range.start < mapping.end)
        .map(|mapping| mapping.describe(names, what(mapping)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The flags of all mappings in a range.
pub fn flags_within(range: &Range<usize>, names: &Names) -> String {
    within(range, names, |mapping| &mapping.flags)
}

/// The names of all mappings in a range.
pub fn names_within(range: &Range<usize>, names: &Names) -> String {
    within(range, names, |mapping| &mapping.name)
}
