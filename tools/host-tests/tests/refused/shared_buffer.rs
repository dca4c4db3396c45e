// SPDX-License-Identifier: GPL-2.0

//! A buffer has what was found out about the pages of one move.

use kernel::mm::{
    locked::AnonPair,
    relocation::{Buffer, Relocation},
};

fn relocations<'v, 'b>(vmas: AnonPair<'v>, buffer: &'b mut Buffer) -> Option<Relocation<'v, 'b>> {
    let mut first = vmas.relocation(0, 0, 0x1000, buffer)?;
    let second = vmas.relocation(0x1000, 0x2000, 0x3000, buffer)?;
    first.advance(1);
    Some(second)
}

fn main() {}
