// SPDX-License-Identifier: GPL-2.0

//! A stand-in for the macros of the kernel crate.

use proc_macro::{Group, TokenStream, TokenTree};

/// Makes KUnit tests ordinary ones.
#[proc_macro_attribute]
pub fn kunit_tests(_suite: TokenStream, module: TokenStream) -> TokenStream {
    let mut item: TokenStream = "#[cfg(test)]".parse().expect("an attribute");
    item.extend(module);
    item
}

/// Leaves out `#[pin]`: what the stand-ins initialise may be moved.
#[proc_macro_attribute]
pub fn pin_data(_args: TokenStream, item: TokenStream) -> TokenStream {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in item {
        match token {
            TokenTree::Group(group) if group.to_string() == "[pin]" => {
                kept.pop();
            }
            TokenTree::Group(group) => {
                let stream = pin_data(TokenStream::new(), group.stream());
                kept.push(Group::new(group.delimiter(), stream).into());
            }
            token => kept.push(token),
        }
    }
    kept.into_iter().collect()
}
