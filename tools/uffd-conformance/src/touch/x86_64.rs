// SPDX-License-Identifier: GPL-2.0

//! The accesses on x86-64.

use std::arch::global_asm;

// A page of zeros, executed, writes to where rax points.
global_asm!(
    ".globl uffd_load, uffd_load8, uffd_store, uffd_store8, uffd_add, uffd_exec",
    ".globl uffd_end, uffd_recover",
    "uffd_load: mov al, byte ptr [rdi]; xor eax, eax; ret",
    "uffd_load8: mov rax, qword ptr [rdi]; xor eax, eax; ret",
    "uffd_store: mov byte ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_store8: mov qword ptr [rdi], 0x5a; xor eax, eax; ret",
    "uffd_add: lock add dword ptr [rdi], 1; xor eax, eax; ret",
    "uffd_exec: xor eax, eax; jmp rdi",
    "uffd_end:",
    "uffd_recover: mov eax, 1; ret",
);

/// What a page to execute holds: `xor eax, eax; ret`.
pub const CODE: [u8; 3] = [0x31, 0xc0, 0xc3];

/// Returns the register that points to the instruction.
pub fn instruction(context: &mut libc::ucontext_t) -> &mut i64 {
    &mut context.uc_mcontext.gregs[libc::REG_RIP as usize]
}
