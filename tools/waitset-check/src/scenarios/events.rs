// SPDX-License-Identifier: GPL-2.0

//! Events and forks, and the readers that claim them.

use super::{check, fault, monitor, Thread, World};

/// Claims a fork, if there is one, and does not deliver it.
fn claim(world: &World, defer: bool) -> Thread {
    world.spawn(move |world| {
        if let Some(claim) = world.context.waiters().claim_fork() {
            if defer {
                claim.defer();
            } else {
                drop(claim);
            }
        }
    })
}

#[test]
fn events_are_read() {
    check("events are read", |world| {
        let file = world.open();
        let changes = [(); 2].map(|()| world.spawn(|world| world.change()));
        let monitor = monitor(world);
        changes.into_iter().for_each(Thread::join);
        monitor.kill();
        world.close(file);
    });
}

#[test]
fn event_comes_with_fault() {
    check("an event comes with a fault", |world| {
        let file = world.open();
        let change = world.spawn(|world| world.change());
        let fault = fault(world, 0);
        let monitor = monitor(world);
        change.join();
        fault.join();
        monitor.kill();
        world.close(file);
    });
}

#[test]
fn event_is_killed() {
    check("the thread of an event is killed", |world| {
        let file = world.open();
        let change = world.spawn(|world| world.change());
        let monitor = monitor(world);
        let other = world.spawn(|world| world.change());
        change.kill();
        other.join();
        monitor.kill();
        world.close(file);
    });
}

#[test]
fn event_is_abandoned() {
    check("an event is abandoned", |world| {
        let file = world.open();
        let changes = [(); 2].map(|()| world.spawn(|world| world.change()));
        drop(file);
        changes.into_iter().for_each(Thread::join);
    });
}

#[test]
fn fork_is_read() {
    check("a fork is read", |world| {
        let file = world.open();
        let fork = world.spawn(|world| world.fork());
        let monitors = [(); 2].map(|()| monitor(world));
        fork.join();
        monitors.into_iter().for_each(Thread::kill);
        world.close(file);
    });
}

fn check_claim(name: &str, defer: bool) {
    check(name, move |world| {
        let file = world.open();
        let fork = world.spawn(|world| world.fork());
        let claim = claim(world, defer);
        let monitor = monitor(world);
        fork.join();
        claim.join();
        monitor.kill();
        world.close(file);
    });
}

#[test]
fn claim_is_dropped() {
    check_claim("a claim is dropped", false);
}

#[test]
fn claim_is_deferred() {
    check_claim("a claim is deferred", true);
}

#[test]
fn claim_is_missed_by_poller() {
    check("a poller misses a claim", |world| {
        let file = world.open();
        let fork = world.spawn(|world| world.fork());
        let claim = claim(world, false);
        let poller = world.spawn(|world| world.poll());
        fork.join();
        claim.join();
        poller.kill();
        world.close(file);
    });
}

#[test]
fn claimed_fork_is_killed() {
    check("a fork is killed", |world| {
        let file = world.open();
        let fork = world.spawn(|world| world.fork());
        let claim = claim(world, false);
        let monitor = monitor(world);
        fork.kill();
        claim.join();
        monitor.kill();
        world.close(file);
    });
}

#[test]
fn descriptor_is_closed_during_fork() {
    check("a descriptor is closed during a fork", |world| {
        let file = world.open();
        let fork = world.spawn(|world| world.fork());
        let monitor = monitor(world);
        let close = world.spawn(|world| world.context.waiters().note_close());
        fork.join();
        close.join();
        monitor.kill();
        world.close(file);
    });
}
