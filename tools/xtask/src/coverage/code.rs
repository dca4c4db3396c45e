// SPDX-License-Identifier: GPL-2.0

//! The instructions of a program, and the lines that its debug info says they are of.

use anyhow::{Context, Result};
use gimli::{
    AttributeValue, DebuggingInformationEntry, DwAt, Dwarf, DwarfSections, EndianSlice,
    LineProgramHeader, LittleEndian, UnitRef,
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
    /// The copies of functions: where each was declared, the addresses of its instructions, and
    /// whether it was inlined.
    pub copies: Vec<(Line, BTreeSet<u64>, bool)>,
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
        let found = find(&dwarf, files)?;
        let functions: BTreeMap<u64, u64> = found
            .functions
            .into_iter()
            .map(|range| (range.start, range.end))
            .collect();
        let is_padding = |address: &u64| {
            let function = functions.range(..=address).next_back();
            function.is_none_or(|(_, end)| address >= end)
        };
        for (range, line) in found.lines {
            let mut addresses = instructions(&object, &range)?;
            addresses.retain(|address| !is_padding(address));
            for address in addresses {
                code.instructions.entry(address).or_default().insert(line);
            }
        }
        for (ranges, line, is_inlined) in found.copies {
            let mut copy = BTreeSet::new();
            for range in ranges {
                copy.extend(code.instructions.range(range).map(|(address, _)| address));
            }
            code.copies.push((line, copy, is_inlined));
        }
        Ok(code)
    }

    /// Leaves out the copies of functions that no code runs although it runs another copy: those
    /// that the compiler made besides the inlined ones, and that nothing calls.
    pub fn leave_unused_copies(&mut self, ran: &HashSet<u64>) {
        let runs = |copy: &BTreeSet<u64>| copy.iter().any(|address| ran.contains(address));
        let used: HashSet<Line> = self
            .copies
            .iter()
            .filter(|(_, copy, _)| runs(copy))
            .map(|c| c.0)
            .collect();
        for (function, copy, is_inlined) in &self.copies {
            if !is_inlined && used.contains(function) && !runs(copy) {
                copy.iter().for_each(|address| {
                    self.instructions.remove(address);
                });
            }
        }
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

/// What the debug info has about some files.
#[derive(Default)]
struct Found {
    /// Ranges of addresses, with a line that they are of.
    lines: Vec<(Range<u64>, Line)>,
    /// The ranges of each copy of a function, with the line that declares it.
    copies: Vec<(Vec<Range<u64>>, Line, bool)>,
    /// The ranges of all functions, those of other files included. What is between them is padding.
    functions: Vec<Range<u64>>,
}

/// Reads the debug info about `files`.
fn find(dwarf: &Dwarf<Bytes>, files: &[String]) -> Result<Found> {
    let mut found = Found::default();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let unit = unit.unit_ref(dwarf);
        let Some(program) = &unit.line_program else {
            continue;
        };
        let wanted = wanted_files(unit, program.header(), files)?;
        if !wanted.is_empty() {
            add_rows(unit, &wanted, &mut found.lines)?;
            add_functions(unit, &wanted, &mut found)?;
        }
    }
    Ok(found)
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

/// Adds the functions of a unit, and the calls that were inlined.
fn add_functions(
    unit: UnitRef<Bytes>,
    wanted: &BTreeMap<u64, usize>,
    found: &mut Found,
) -> Result<()> {
    let mut entries = unit.entries();
    while let Some((_, entry)) = entries.next_dfs()? {
        let is_inlined = entry.tag() == gimli::DW_TAG_inlined_subroutine;
        if !is_inlined && entry.tag() != gimli::DW_TAG_subprogram {
            continue;
        }
        let mut ranges = Vec::new();
        let mut parts = unit.die_ranges(entry)?;
        while let Some(part) = parts.next()? {
            ranges.push(part.begin..part.end);
        }
        let wanted = |(file, line)| Some((*wanted.get(&file)?, line));
        if is_inlined {
            let call = line_of(entry, gimli::DW_AT_call_file, gimli::DW_AT_call_line)?;
            if let Some(call) = call.and_then(wanted) {
                found
                    .lines
                    .extend(ranges.iter().map(|range| (range.clone(), call)));
            }
        }
        if !is_inlined {
            found.functions.extend_from_slice(&ranges);
        }
        let declared = declared(unit, entry)?.and_then(wanted);
        if let (Some(declared), false) = (declared, ranges.is_empty()) {
            found.copies.push((ranges, declared, is_inlined));
        }
    }
    Ok(())
}

type Entry<'unit, 'data> = DebuggingInformationEntry<'unit, 'unit, Bytes<'data>>;

/// Returns the number of a file in a unit, and a line of it.
fn line_of(entry: &Entry, file: DwAt, line: DwAt) -> Result<Option<(u64, u32)>> {
    let Some(AttributeValue::FileIndex(file)) = entry.attr_value(file)? else {
        return Ok(None);
    };
    let line = entry.attr_value(line)?.and_then(|line| line.udata_value());
    let line = line.filter(|line| *line != 0);
    Ok(line.map(|line| (file, line as u32)))
}

/// Returns the line that declares a function, of which `entry` is a copy.
fn declared<'data>(
    unit: UnitRef<Bytes<'data>>,
    entry: &Entry<'_, 'data>,
) -> Result<Option<(u64, u32)>> {
    for link in [gimli::DW_AT_abstract_origin, gimli::DW_AT_specification] {
        if let Some(AttributeValue::UnitRef(offset)) = entry.attr_value(link)? {
            return declared(unit, &unit.unit.entry(offset)?);
        }
    }
    line_of(entry, gimli::DW_AT_decl_file, gimli::DW_AT_decl_line)
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
            ..Default::default()
        };
        assert_eq!(code.ranges(), "0xff000..0x101800,0x1ff000..0x200000");
    }

    #[test]
    fn one_instruction_is_enough_for_a_line() {
        let lines = |list: &[u32]| list.iter().map(|line| (0, *line)).collect::<BTreeSet<_>>();
        let code = Code {
            instructions: [(1, lines(&[7])), (2, lines(&[7, 8])), (3, lines(&[9]))].into(),
            ..Default::default()
        };
        assert_eq!(code.lines(), lines(&[7, 8, 9]));
        assert_eq!(code.lines_that_ran(&[2].into()), lines(&[7, 8]));
    }

    #[test]
    fn copies_that_nothing_calls_do_not_count() {
        let lines = |list: &[u32]| list.iter().map(|line| (0, *line)).collect::<BTreeSet<_>>();
        let at = [(1, 7), (2, 8), (3, 8), (4, 9), (5, 9), (6, 10)];
        let mut code = Code {
            instructions: at.map(|(at, line)| (at, lines(&[line]))).into(),
            // The second copy of the first function, the only one of another, and a branch that the
            // first function was inlined into.
            copies: vec![
                ((0, 6), [1].into(), true),
                ((0, 6), [2, 3].into(), false),
                ((0, 9), [4, 5].into(), false),
                ((0, 6), [6].into(), true),
            ],
        };
        code.leave_unused_copies(&[1].into());
        assert_eq!(code.lines(), lines(&[7, 9, 10]));
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
