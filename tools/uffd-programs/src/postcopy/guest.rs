// SPDX-License-Identifier: GPL-2.0

//! The program that runs in the virtual machines, and what it writes to the serial port.

use anyhow::{bail, Result};
use std::{arch::global_asm, ops::RangeInclusive, slice};

// Assembled by rustc itself, so that no other tool is needed to build this.
global_asm!(include_str!("guest.S"), options(att_syntax));

/// Signs of life on the serial port for each round over the memory.
pub const SIGNS: usize = 16;
/// Size of a page.
pub const PAGE: u64 = 4096;

/// The program, as `qemu-system-x86_64 -kernel` takes it.
pub fn image() -> &'static [u8] {
    extern "C" {
        static postcopy_guest_start: u8;
        static postcopy_guest_end: u8;
    }
    let (start, end) = (
        &raw const postcopy_guest_start,
        &raw const postcopy_guest_end,
    );
    // SAFETY: These are the start and the end of a part of one section that is never written.
    unsafe { slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// How much memory the program checks and writes in a virtual machine of this size.
pub fn area(memory_mib: usize) -> u64 {
    // The program leaves out the first MiB. The firmware has tables at the end of the memory.
    let bytes = ((memory_mib as u64 - 1) << 20) - 1;
    1 << bytes.ilog2()
}

/// The sign that the program gives as its `index`th.
fn sign(index: usize) -> char {
    if index % SIGNS != SIGNS - 1 {
        return '.';
    }
    // The remainder is below 26.
    char::from(b'a' + (index / SIGNS % 26) as u8)
}

/// Checks signs of a program that had given `before` signs when it came to this machine. Returns
/// how many it has given now. Fails if the program found a wrong page, or if signs are missing,
/// repeated or out of order.
pub fn check_signs(signs: &str, before: usize) -> Result<usize> {
    if let Some((_, wrong)) = signs.split_once('X') {
        bail!("the guest found wrong data (address, expected, found):{wrong}");
    }
    let expected: String = (before..).map(sign).take(signs.len()).collect();
    if signs != expected {
        bail!("the guest lost its place: it said {signs:?}, not {expected:?}");
    }
    Ok(before + signs.len())
}

/// Returns how many signs the program had given before these, if it is one of `candidates`.
pub fn signs_before(signs: &str, candidates: RangeInclusive<usize>) -> Result<usize> {
    let mut result = check_signs(signs, *candidates.start()).map(|_| *candidates.start());
    for before in candidates {
        if result.is_ok() {
            break;
        }
        result = check_signs(signs, before).map(|_| before);
    }
    result
}
