// SPDX-License-Identifier: GPL-2.0

//! What the compiler refuses of code that works on page tables.
//!
//! The types are those of the kernel, built with the stand-in for its crate. Each file in `refused`
//! breaks one rule. `accepted` keeps them all, so that none is refused for another reason.
//!
//! The messages are those of rustc 1.85 to 1.97. `TRYBUILD=overwrite` writes them anew; they must stay
//! errors of the rule that the file is about.

#[test]
fn wrong_uses_are_refused() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/accepted/*.rs");
    cases.compile_fail("tests/refused/*.rs");
}
