// SPDX-License-Identifier: GPL-2.0

//! The instructions of a program, and the lines that its debug info says they are of.

use anyhow::{Context, Result};
use gimli::{
    AttributeValue, Dwarf, DwarfSections, EndianSlice, LineProgramHeader, LittleEndian, UnitRef,
};
use iced_x86::{Decoder, DecoderOptions};
use object::{Object, ObjectSection, SectionKind};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write,
    fs,
    ops::Range,
    path::Path,
};

/// The bytes of a section with debug info.
type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// A line of a file: the place of the file in a list, and the number of the line.
pub type Line = (usize, u32);

/// The instructions of some files in a program, wherever the compiler put them.
#[derive(Default)]
pub struct Code {
    /// The address of each instruction, with all lines that it is of.
    pub instructions: BTreeMap<u64, BTreeSet<Line>>,
}

/// The longest way from the beginning of a block that QEMU translates to its end: a block does not
/// go beyond a page.
const BLOCK: u64 = 4096;

impl Code {
    /// Reads the debug info of a program about `files`, which are relative paths.
    ///
    /// An instruction is of the line that the line table has for it. If it was inlined, it is also
    /// of the lines of the calls that it was inlined for.
    pub fn read(program: &Path, files: &[String]) -> Result<Self> {
        let data =
            fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
        let object = object::File::parse(&data[..])?;
        let sections = DwarfSections::load(|id| -> Result<_> {
            Ok(match object.section_by_name(id.name()) {
                Some(section) => section.uncompressed_data()?,
                None => Cow::Borrowed(&[][..]),
            })
        })?;
        let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        let mut code = Self::default();
        for (range, line) in ranges_of_lines(&dwarf, files)? {
            for address in instructions(&object, &range)? {
                code.instructions.entry(address).or_default().insert(line);
            }
        }
        Ok(code)
    }

    /// Returns ranges of addresses for QEMU's `-dfilter`. A block is logged if its beginning is in
    /// a range, so the ranges begin early. They are few, and may have other code in them.
    pub fn ranges(&self) -> String {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &address in self.instructions.keys() {
            let first = address.saturating_sub(BLOCK);
            match ranges.last_mut() {
                Some((_, last)) if first <= *last + BLOCK => *last = address,
                _ => ranges.push((first, address)),
            }
        }
        let mut text = String::new();
        for (first, last) in ranges {
            let comma = if text.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{first:#x}..{last:#x}");
        }
        text
    }

    /// Returns the lines that have instructions.
    pub fn lines(&self) -> BTreeSet<Line> {
        self.instructions.values().flatten().copied().collect()
    }

    /// Returns the lines of which at least one instruction is in `ran`.
    pub fn lines_that_ran(&self, ran: &HashSet<u64>) -> BTreeSet<Line> {
        let ran = self.instructions.iter().filter(|(at, _)| ran.contains(at));
        ran.flat_map(|(_, lines)| lines).copied().collect()
    }
}

/// Returns the ranges of addresses that the debug info has for lines of `files`.
fn ranges_of_lines(dwarf: &Dwarf<Bytes>, files: &[String]) -> Result<Vec<(Range<u64>, Line)>> {
    let mut ranges = Vec::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let unit = unit.unit_ref(dwarf);
        let Some(program) = &unit.line_program else {
            continue;
        };
        let wanted = wanted_files(unit, program.header(), files)?;
        if !wanted.is_empty() {
            add_rows(unit, &wanted, &mut ranges)?;
            add_inlined_calls(unit, &wanted, &mut ranges)?;
        }
    }
    Ok(ranges)
}

/// Returns those of `files` that a unit has, by their numbers there.
fn wanted_files<'a>(
    unit: UnitRef<Bytes<'a>>,
    header: &LineProgramHeader<Bytes<'a>>,
    files: &[String],
) -> Result<BTreeMap<u64, usize>> {
    let text = |value| -> Result<Cow<str>> { Ok(unit.attr_string(value)?.to_string_lossy()) };
    let mut wanted = BTreeMap::new();
    // Before DWARF 5, numbers begin at 1.
    for number in 0..=header.file_names().len() as u64 {
        let Some(entry) = header.file(number) else {
            continue;
        };
        let mut path = text(entry.path_name())?.into_owned();
        if let Some(directory) = entry.directory(header) {
            path = format!("{}/{path}", text(directory)?);
        }
        let is_same = |file: &String| {
            let rest = path.strip_suffix(&file[..]);
            rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
        };
        if let Some(index) = files.iter().position(is_same) {
            wanted.insert(number, index);
        }
    }
    Ok(wanted)
}

/// Adds the rows of the line table of a unit.
fn add_rows(
    unit: UnitRef<Bytes>,
    wanted: &BTreeMap<u64, usize>,
    ranges: &mut Vec<(Range<u64>, Line)>,
) -> Result<()> {
    let program = unit.line_program.clone().context("there is a line table")?;
    let mut rows = program.rows();
    // A row is about the addresses up to the next one.
    let mut before: Option<(u64, Line)> = None;
    while let Some((_, row)) = rows.next_row()? {
        if let Some((start, line)) = before.take() {
            ranges.push((start..row.address(), line));
        }
        // Line 0 is of instructions that are of no line.
        let line = row.line().map(|line| line.get() as u32);
        let file = wanted.get(&row.file_index());
        if let (Some(line), Some(&file), false) = (line, file, row.end_sequence()) {
            before = Some((row.address(), (file, line)));
        }
    }
    Ok(())
}

/// Adds the calls of a unit that were inlined.
fn add_inlined_calls(
    unit: UnitRef<Bytes>,
    wanted: &BTreeMap<u64, usize>,
    ranges: &mut Vec<(Range<u64>, Line)>,
) -> Result<()> {
    let mut entries = unit.entries();
    while let Some((_, entry)) = entries.next_dfs()? {
        if entry.tag() != gimli::DW_TAG_inlined_subroutine {
            continue;
        }
        let Some(AttributeValue::FileIndex(file)) = entry.attr_value(gimli::DW_AT_call_file)?
        else {
            continue;
        };
        let line = entry.attr_value(gimli::DW_AT_call_line)?;
        let line = line.and_then(|line| line.udata_value()).unwrap_or(0) as u32;
        let Some(&file) = wanted.get(&file).filter(|_| line != 0) else {
            continue;
        };
        let mut parts = unit.die_ranges(entry)?;
        while let Some(part) = parts.next()? {
            ranges.push((part.begin..part.end, (file, line)));
        }
    }
    Ok(())
}

/// Returns the addresses of the instructions in a range, which begins with one. A function that the
/// linker left out is in no section, and has none.
fn instructions(object: &object::File, range: &Range<u64>) -> Result<Vec<u64>> {
    let is_in = |section: &object::Section| {
        let end = section.address() + section.size();
        section.kind() == SectionKind::Text && section.address() <= range.start && range.end <= end
    };
    let Some(section) = object.sections().find(is_in) else {
        return Ok(Vec::new());
    };
    let from_start = |address| (address - section.address()) as usize;
    let bytes = &section.data()?[from_start(range.start)..from_start(range.end)];
    let decoder = Decoder::with_ip(64, bytes, range.start, DecoderOptions::NONE);
    Ok(decoder.into_iter().map(|found| found.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_begin_early_and_are_few() {
        let at = [0x10_0000, 0x10_0004, 0x10_1800, 0x20_0000];
        let code = Code {
            instructions: at.map(|at| (at, BTreeSet::new())).into(),
        };
        assert_eq!(code.ranges(), "0xff000..0x101800,0x1ff000..0x200000");
    }

    #[test]
    fn one_instruction_is_enough_for_a_line() {
        let lines = |list: &[u32]| list.iter().map(|line| (0, *line)).collect::<BTreeSet<_>>();
        let code = Code {
            instructions: [(1, lines(&[7])), (2, lines(&[7, 8])), (3, lines(&[9]))].into(),
        };
        assert_eq!(code.lines(), lines(&[7, 8, 9]));
        assert_eq!(code.lines_that_ran(&[2].into()), lines(&[7, 8]));
    }

    #[inline(always)]
    fn inlined() -> u32 {
        std::hint::black_box(line!())
    }

    /// The debug info of this program has the lines of this test.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn lines_of_inlined_calls_count() -> Result<()> {
        let (inside, call) = (inlined(), line!());
        let read = |file: &str| Code::read(&std::env::current_exe()?, &[file.to_string()]);
        let code = read("tools/xtask/src/coverage/code.rs")?;
        let both = BTreeSet::from([(0, inside), (0, call)]);
        assert!(code.instructions.values().any(|lines| *lines == both));
        assert!(read("xtask/src/no.rs")?.instructions.is_empty());
        Ok(())
    }
}
