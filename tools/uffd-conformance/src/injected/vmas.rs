// SPDX-License-Identifier: GPL-2.0

//! Ranges that are registered and unregistered, for which VMAs are split.

use super::{Failing, Question};
use crate::{
    inspect::{flags_within, pagemap_of},
    kinds::kind_of,
    ledger::Ledger,
    memory::{mprotect, Names},
    sys::PAGE,
    uffd::{
        inputs, Call, Uffd, MINOR, MISSING, REGISTER, UNREGISTER, WAKE, WP, WRITEPROTECT,
        WRITEPROTECT_WP,
    },
};

/// Which part of the area a call is for.
#[derive(Copy, Clone, PartialEq)]
enum Part {
    Whole,
    /// A VMA is split twice.
    Middle,
    /// A VMA is split, another one is not, and a third one is.
    Several,
}

const PARTS: [(Part, &str); 3] = [
    (Part::Whole, "whole"),
    (Part::Middle, "middle"),
    (Part::Several, "several VMAs"),
];

/// What is registered before the call.
#[derive(Copy, Clone, PartialEq)]
enum Before {
    Nothing,
    /// Write protection, of the whole area.
    Wp,
    /// The same, and there are protected pages.
    Protected,
}

const KINDS: [&str; 3] = ["anon", "shmem", "hugetlb-memfd"];

/// A call, and to what.
#[derive(Copy, Clone)]
struct Operation {
    kind: &'static str,
    call: &'static Call,
    mode: u64,
    part: Part,
    before: Before,
}

/// Has a call fail, and makes it again.
fn attempt(operation: Operation, failing: &Failing, ledger: &Ledger) -> String {
    let Operation {
        kind,
        call,
        mode,
        part,
        before,
    } = operation;
    let area = kind_of(kind).area(0);
    let names = Names::new(&[("area", &area)]);
    let uffd = Uffd::new(0);
    if before != Before::Nothing {
        uffd.must_register(area.start, area.len, WP);
    }
    if before == Before::Protected {
        area.write();
        let called = uffd.range(&WRITEPROTECT, area.start, area.len, WRITEPROTECT_WP.into());
        assert!(called.answer.is_ok(), "cannot be protected: {called}");
    }
    if part == Part::Several {
        let quarter = area.len / 4;
        mprotect(area.at(0) + quarter, 2 * quarter, libc::PROT_READ);
    }
    let range = area.start..area.start + area.len;
    let (start, len) = match part {
        Part::Whole => (area.start, area.len),
        Part::Middle => (area.start + area.len / 4, area.len / 2),
        Part::Several => (
            area.start + area.len / 8 / area.page * area.page,
            area.len * 7 / 8,
        ),
    };
    let len = len / area.page * area.page;
    let inputs = inputs(call, start, 0, len, mode);
    let state = || {
        let pages = pagemap_of(area.start, area.len / PAGE, |_, _| "");
        format!("{}; {pages}", flags_within(&range, &names))
    };
    let entry = ledger.entry();
    let called = uffd.call_within(call, &inputs, |ioctl| failing.run(ioctl));
    let taken = ledger.entry() - entry;
    let then = state();
    let again = uffd.call(call, &inputs);
    format!("{called}; {taken}; {then}; again {again}; {}", state())
}

pub fn questions() -> Vec<Question> {
    let mut questions = Vec::new();
    for kind in KINDS {
        let shared = matches!(kind, "shmem" | "hugetlb-memfd");
        let mut calls = vec![
            (&REGISTER, MISSING, Before::Nothing, "missing"),
            (&REGISTER, WP, Before::Nothing, "protection"),
            (&REGISTER, MISSING | WP, Before::Wp, "another mode"),
            (&UNREGISTER, 0, Before::Wp, "empty"),
            (&UNREGISTER, 0, Before::Protected, "protected pages"),
            (&WAKE, 0, Before::Wp, "no thread"),
        ];
        if shared {
            calls.push((&REGISTER, MINOR, Before::Nothing, "minor"));
        }
        for (call, mode, before, text) in calls {
            for (part, name) in PARTS {
                if call == &WAKE && part != Part::Whole {
                    continue;
                }
                let operation = Operation {
                    kind,
                    call,
                    mode,
                    part,
                    before,
                };
                questions.push(Question::new(
                    format!("{kind}/{}, {text}, {name}", call.name),
                    move |failing, ledger| attempt(operation, failing, ledger),
                ));
            }
        }
    }
    questions
}
