// SPDX-License-Identifier: GPL-2.0

//! What /proc says about memory of this process.

use crate::{
    memory::Names,
    process::this_process,
    sys::{bits, errno, errno_name, read_process, Answer, PAGE},
};
use std::{fmt::Display, ops::Range, os::unix::fs::FileExt};

/// The letters for bits of the page table: Present, Swapped, File, eXclusive, soft-Dirty,
/// Write-protected by userfaultfd, Guard.
const LETTERS: [(u32, char); 7] = [
    (63, 'P'),
    (62, 'S'),
    (61, 'F'),
    (56, 'X'),
    (55, 'D'),
    (57, 'W'),
    (58, 'G'),
];

/// What the pagemap of a process says of some pages that follow one another. There are fewer if the
/// address space ends before.
fn entries(process: libc::pid_t, address: usize, pages: usize) -> Vec<u64> {
    let path = format!("/proc/{process}/pagemap");
    let file = std::fs::File::open(path).expect("there is a pagemap");
    let mut bytes = vec![0; 8 * pages];
    let len = file.read_at(&mut bytes, (address / PAGE * 8) as u64);
    let entries = bytes[..len.unwrap_or(0)].chunks_exact(8);
    let entries = entries.map(|entry| entry.try_into().expect("eight bytes"));
    entries.map(u64::from_ne_bytes).collect()
}

/// The letters for the bits of an entry.
fn letters(entry: u64) -> String {
    let letters = LETTERS.iter().filter(|(bit, _)| entry >> bit & 1 != 0);
    let text: String = letters.map(|(_, letter)| *letter).collect();
    if text.is_empty() {
        "-".into()
    } else {
        text
    }
}

/// What the page table says of a page: [`LETTERS`].
pub fn pagemap(address: usize) -> String {
    let entries = entries(this_process(), address, 1);
    entries
        .first()
        .map_or("none".into(), |entry| letters(*entry))
}

/// What the page table says of pages that follow one another, and what else is to be said about
/// each, by its number and whether it is present. Those that are alike are counted.
pub fn pagemap_of<T: Display + PartialEq>(
    address: usize,
    pages: usize,
    more: impl Fn(usize, bool) -> T,
) -> String {
    pagemap_of_process(this_process(), address, pages, more)
}

/// The same of pages of a process.
pub fn pagemap_of_process<T: Display + PartialEq>(
    process: libc::pid_t,
    address: usize,
    pages: usize,
    more: impl Fn(usize, bool) -> T,
) -> String {
    let shown = LETTERS.iter().map(|(bit, _)| 1 << bit).sum::<u64>();
    let entries = entries(process, address, pages);
    let of = |page: usize| {
        let entry = entries[page];
        (entry & shown, more(page, entry >> 63 != 0))
    };
    let mut groups: Vec<(usize, (u64, T))> = Vec::new();
    for page in (0..entries.len()).map(of) {
        match groups.last_mut() {
            Some((count, last)) if *last == page => *count += 1,
            _ => groups.push((1, page)),
        }
    }
    let groups = groups
        .into_iter()
        .map(|(count, (entry, more))| format!("{count} {}{more}", letters(entry)));
    groups.collect::<Vec<_>>().join(", ")
}

/// Flags of physical pages that do not depend on luck.
const PAGE_FLAGS: [(u64, &str); 8] = [
    (1 << 3, "uptodate"),
    (1 << 4, "dirty"),
    (1 << 11, "mmap"),
    (1 << 12, "anon"),
    (1 << 14, "swapbacked"),
    (1 << 22, "thp"),
    (1 << 24, "zero"),
    (1 << 33, "mlocked"),
];

/// Flags of the page that is mapped at an address.
pub fn page_flags(address: usize) -> String {
    let entry = entries(this_process(), address, 1)
        .first()
        .copied()
        .unwrap_or(0);
    if entry >> 63 == 0 {
        return "-".into();
    }
    let frame = entry & ((1 << 55) - 1);
    let file = std::fs::File::open("/proc/kpageflags").expect("there are flags");
    let mut flags = [0; 8];
    file.read_exact_at(&mut flags, 8 * frame)
        .expect("the page has flags");
    let known = PAGE_FLAGS.iter().map(|(flag, _)| flag).sum::<u64>();
    bits(u64::from_ne_bytes(flags) & known, &PAGE_FLAGS)
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
    smaps_of(address, "AnonHugePages:")
}

/// What a line of smaps says about the mapping that begins at an address.
pub fn smaps_of(address: usize, name: &str) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").expect("there is smaps");
    smaps
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{address:x}-")))
        .find_map(|line| line.strip_prefix(name))
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
