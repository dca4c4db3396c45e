// SPDX-License-Identifier: GPL-2.0

//! Calls that are made to fail in the middle, once at each place where they can: at each allocation
//! of memory, and at each copy from or to memory of the program, by its number
//! (Documentation/fault-injection/fault-injection.rst), until there is none left.
//!
//! How many places there are is a matter of the implementation. So the answer is what came of it:
//! each different outcome once, whichever places it had. An outcome says what the call answered and
//! what it took, what there is then, and what the same call does when nothing fails. A place at which
//! a failure is made up for has the outcome of the call that succeeds.
//!
//! Only debug kernels have what this takes.

mod descriptors;
mod failing;
mod pages;
mod vmas;

use crate::{
    leaks::Allocations,
    ledger::Ledger,
    process::run_on,
    transcript::{Case, Transcript, INJECTED},
};
use failing::Failing;
use std::{collections::BTreeSet, sync::atomic::Ordering};

/// More places than any call has.
const MOST: u32 = 4000;

/// So many places are those of one loop, and not likely to be left out.
const MANY: u32 = 256;

/// How many times longer than other cases one may take.
const SLOW: u32 = 10;

/// What happens when a call fails: makes everything that the call needs, has the call fail, and says
/// what came of it.
type Attempt = Box<dyn Fn(&Failing, &Ledger) -> String>;

/// A question.
struct Question {
    name: String,
    attempt: Attempt,
}

impl Question {
    fn new(
        name: impl Into<String>,
        attempt: impl Fn(&Failing, &Ledger) -> String + 'static,
    ) -> Self {
        let (name, attempt) = (name.into(), Box::new(attempt));
        Self { name, attempt }
    }

    /// Makes the call fail at all places. Writes down what came of it.
    fn all_places(&self, log: &mut Transcript) {
        // So that what is kept for later is kept by one processor.
        run_on(Some(0));
        let ledger = Ledger::new();
        let attempt = |number| {
            let failing = Failing::new(number);
            let outcome = (self.attempt)(&failing, &ledger);
            (outcome, failing.has_happened())
        };
        // For the first time, this process takes memory for itself, too.
        attempt(0);
        let before = ledger.entry();
        let (mut outcomes, mut injected) = (BTreeSet::new(), 0);
        // Now and then the kernel itself allocates more than at other times, so that the numbers of
        // places change from one attempt to the next, and a place may be left out.
        let mut without_news = 0;
        while without_news < 2 {
            let known = outcomes.len();
            let last = (1..MOST).find(|number| {
                let (outcome, happened) = attempt(*number);
                outcomes.insert(outcome);
                !happened
            });
            let places = last.expect("there is an end of places") - 1;
            injected += places;
            if places > MANY {
                break;
            }
            without_news = match outcomes.len() {
                len if len == known => without_news + 1,
                _ => 0,
            };
        }
        let outcomes: Vec<String> = outcomes.into_iter().collect();
        log.record("outcomes", outcomes.join(" | "));
        let accounts = ledger.entry() - before;
        log.record("accounts at last", accounts.without_own());
        INJECTED.fetch_add(injected, Ordering::Relaxed);
    }

    fn ask(&self, log: &mut Transcript) {
        failing::set_up();
        let mut allocations = Allocations::new();
        let ask = |log: &mut Transcript| log.in_process(|log| self.all_places(log));
        allocations.count();
        let process = ask(log);
        log.record("process", process);
        let mut left = allocations.grown(1);
        // Of what grows each time nothing is freed. The rest is of no interest.
        for _ in 0..4 {
            if !left.is_empty() {
                allocations.count();
                log.unrecorded(ask);
                let grown = allocations.grown(1);
                left.retain(|place| grown.contains(place));
            }
        }
        let left = match left.is_empty() {
            true => "nothing".into(),
            false => left.join(", "),
        };
        log.record("not freed", left);
    }
}

pub fn cases() -> Vec<Case> {
    if !failing::is_possible() {
        return Vec::new();
    }
    let questions = [
        pages::questions(),
        vmas::questions(),
        descriptors::questions(),
    ];
    let cases = questions.into_iter().flatten().map(|question| {
        let name = format!("injected/{}", question.name);
        Case::new(name, move |log| question.ask(log)).slow(SLOW)
    });
    cases.collect()
}
