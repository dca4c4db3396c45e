// SPDX-License-Identifier: GPL-2.0

//! The accesses on arm64.

use std::arch::global_asm;

// A page of zeros, executed, is an undefined instruction.
global_asm!(
    ".arch_extension lse",
    ".globl uffd_load, uffd_load8, uffd_store, uffd_store8, uffd_add, uffd_exec",
    ".globl uffd_end, uffd_recover",
    "uffd_load: ldrb w1, [x0]; mov w0, #0; ret",
    "uffd_load8: ldr x1, [x0]; mov w0, #0; ret",
    "uffd_store: mov w1, #0x5a; strb w1, [x0]; mov w0, #0; ret",
    "uffd_store8: mov x1, #0x5a; str x1, [x0]; mov w0, #0; ret",
    "uffd_add: mov w1, #1; ldaddal w1, w2, [x0]; mov w0, #0; ret",
    "uffd_exec: br x0",
    "uffd_end:",
    "uffd_recover: mov w0, #1; ret",
);

/// What a page to execute holds: `mov w0, #0; ret`.
pub const CODE: [u8; 8] = [0x00, 0x00, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6];

/// Returns the register that points to the instruction.
pub fn instruction(context: &mut libc::ucontext_t) -> &mut u64 {
    &mut context.uc_mcontext.pc
}
