// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the macros of the kernel crate.

use proc_macro::TokenStream;

/// Makes KUnit tests ordinary ones.
#[proc_macro_attribute]
pub fn kunit_tests(_suite: TokenStream, module: TokenStream) -> TokenStream {
    let mut item: TokenStream = "#[cfg(test)]".parse().expect("an attribute");
    item.extend(module);
    item
}
