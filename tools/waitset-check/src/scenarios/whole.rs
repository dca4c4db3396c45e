// SPDX-License-Identifier: GPL-2.0

//! Wake-ups of all threads of a shard at once. The variant `small-batches` of `mutants.txt` wakes
//! the same threads one by one, and drops the lock after each of them.

use super::{check, check_bounded, fault, Thread, World};
use crate::task::{SleepState, TaskRef};
use core::ops::Range;

/// Starts a thread that faults in page `index`, of several. The first one sends a signal to the
/// second one when its fault has ended.
fn fault_of(world: &World, index: usize, tasks: &[TaskRef]) -> Thread {
    let victim = (index == 0).then(|| tasks[1].clone());
    world.spawn_as(&tasks[index], move |world| {
        world.fault(PAGES[index], SleepState::INTERRUPTIBLE);
        if let Some(victim) = victim {
            victim.signal();
        }
    })
}

/// Pages of the same shard, in the order of their addresses.
const PAGES: [usize; 4] = [0, 1, 3, 4];

/// The signal may come at any time, and nobody has read the messages.
#[test]
fn whole_shard_meets_signal() {
    check_bounded("a whole shard meets a signal", 1, |world| {
        let file = world.open();
        let tasks = [(); 3].map(|()| TaskRef::new());
        let faults = [0, 1, 2].map(|index| fault_of(world, index, &tasks));
        let resolver = world.spawn(|world| world.context.resolve_all());
        faults.into_iter().for_each(Thread::join);
        resolver.join();
        world.close(file);
    });
}

/// Two threads wake the same ones.
#[test]
fn whole_shard_meets_second_waker() {
    check_bounded("a whole shard meets a second waker", 1, |world| {
        let file = world.open();
        let faults = [0, 1].map(|page| fault(world, page));
        let resolvers = [(); 2].map(|()| world.spawn(|world| world.context.resolve_pages(0..2)));
        faults.into_iter().for_each(Thread::join);
        resolvers.into_iter().for_each(Thread::join);
        world.close(file);
    });
}

/// A thread enqueues in the shard, and is not meant.
fn check_new_fault(name: &str, pages: Range<usize>, other: usize) {
    check_bounded(name, 1, move |world| {
        let file = world.open();
        let faults = [pages.start, pages.end - 1].map(|page| fault(world, page));
        let other_fault = fault(world, other);
        let resolver = world.spawn({
            let pages = pages.clone();
            move |world| world.context.resolve_pages(pages)
        });
        faults.into_iter().for_each(Thread::join);
        resolver.join();
        world.context.resolve(other);
        other_fault.join();
        world.close(file);
    });
}

#[test]
fn whole_shard_meets_fault_behind() {
    check_new_fault("a whole shard meets a fault behind", 0..2, 3);
}

#[test]
fn whole_shard_meets_fault_in_front() {
    check_new_fault("a whole shard meets a fault in front", 3..5, 1);
}

/// The release of the descriptor wakes all, and a signal one of them.
#[test]
fn whole_shard_meets_close() {
    check("a whole shard meets a close", |world| {
        let file = world.open();
        let tasks = [(); 2].map(|()| TaskRef::new());
        let faults = [0, 1].map(|index| fault_of(world, index, &tasks));
        let close = world.spawn(move |_| drop(file));
        faults.into_iter().for_each(Thread::join);
        close.join();
    });
}

/// Four threads sleep already. The order of their faults gives the tree two sides, and the left one
/// a node on its right. Then all of them are woken.
#[test]
fn whole_shard_is_a_tree() {
    check_bounded("a whole shard is a tree", 1, |world| {
        let file = world.open();
        TaskRef::new().run(|| {
            let faults = [2, 0, 1, 3].map(|index| {
                let fault = fault(world, PAGES[index]);
                // They come one after the other.
                assert!(world.read(false).is_ok());
                fault
            });
            world.context.resolve_all();
            faults.into_iter().for_each(Thread::join);
        });
        world.close(file);
    });
}
