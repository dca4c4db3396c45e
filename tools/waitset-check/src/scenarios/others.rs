// SPDX-License-Identifier: GPL-2.0

//! Readers that keep or miss messages, pollers, ranges, and counters.

use super::{check, check_bounded, fault, monitor, Thread};
use crate::{
    task::SleepState,
    userfaultfd::{fault::Wakeup, waitset::Receipt, Access, Ended},
};

/// A reader that cannot copy a message passes its wake-up on.
#[test]
fn message_is_kept() {
    check("a message is kept", |world| {
        let file = world.open();
        let fault = fault(world, 0);
        let keeper = world.spawn(|world| {
            let waiters = world.context.waiters();
            if waiters.receive(false, |_| Receipt::Kept(())).is_ok() {
                waiters.pass_on();
            }
        });
        let monitor = monitor(world);
        fault.join();
        keeper.kill();
        monitor.kill();
        world.close(file);
    });
}

/// A reader that is killed passes its wake-up on.
#[test]
fn reader_is_killed() {
    check("a reader is killed", |world| {
        let file = world.open();
        let victim = monitor(world);
        let monitor = monitor(world);
        let fault = fault(world, 0);
        victim.kill();
        fault.join();
        monitor.kill();
        world.close(file);
    });
}

/// A reader that a signal wakes takes a message that is there.
#[test]
fn reader_gets_signal() {
    check("a reader gets a signal", |world| {
        let file = world.open();
        let reader = world.spawn(|world| {
            if let Ok(message) = world.read(false) {
                world.handle(message);
            }
        });
        let monitor = monitor(world);
        let fault = fault(world, 0);
        reader.task.signal();
        fault.join();
        reader.kill();
        monitor.kill();
        world.close(file);
    });
}

/// A reader that is woken for a message is gone when the thread that faults wakes it: a signal came
/// before that.
#[test]
fn woken_reader_is_gone() {
    check("a woken reader is gone", |world| {
        let file = world.open();
        let reader = world.spawn(|world| _ = world.read(false));
        let fault = fault(world, 0);
        reader.task.signal();
        reader.join();
        world.context.resolve(0);
        fault.join();
        world.close(file);
    });
}

/// Readers that do not sleep read a message once.
#[test]
fn readers_do_not_sleep() {
    check("readers do not sleep", |world| {
        let file = world.open();
        let fault = fault(world, 0);
        let readers = [(); 2].map(|()| world.spawn(|world| _ = world.read(true)));
        readers.into_iter().for_each(Thread::join);
        world.context.resolve(0);
        fault.join();
        world.close(file);
    });
}

/// A poller is told of each fault.
#[test]
fn poller_is_told() {
    check("a poller is told", |world| {
        let file = world.open();
        let faults = [0, 1].map(|page| fault(world, page));
        let poller = world.spawn(|world| world.poll());
        faults.into_iter().for_each(Thread::join);
        poller.kill();
        world.close(file);
    });
}

/// A range may have several shards.
#[test]
fn range_has_shards() {
    check("a range has several shards", |world| {
        let file = world.open();
        let faults = [0, 2].map(|page| fault(world, page));
        let resolver = world.spawn(|world| world.context.resolve_all());
        faults.into_iter().for_each(Thread::join);
        resolver.join();
        world.close(file);
    });
}

/// Threads that a wake-up is not meant for stay asleep.
#[test]
fn wake_up_is_for_some() {
    check("a wake-up is for some", |world| {
        let file = world.open();
        let faults = [0, 0].map(|page| fault(world, page));
        let resolver = world.spawn(|world| {
            world.context.fill(0);
            world.context.wake_matching(0, |fault| fault.ptid == 2);
            world.context.wake_matching(0, |fault| fault.ptid != 2);
        });
        faults.into_iter().for_each(Thread::join);
        resolver.join();
        world.close(file);
    });
}

/// A wake-up that resolves nothing lets the thread take the fault again.
#[test]
fn wake_up_resolves_nothing() {
    check("a wake-up resolves nothing", |world| {
        let file = world.open();
        let fault = fault(world, 0);
        let waker = world.spawn(|world| {
            world.context.wake(0..1, Wakeup::LOOK_AGAIN);
            world.context.resolve(0);
        });
        [fault, waker].into_iter().for_each(Thread::join);
        world.close(file);
    });
}

/// A wake-up that completes one access does not complete another one.
#[test]
fn wake_up_is_for_reads() {
    for other in [Access::Write, Access::WriteShared, Access::WritePrivate] {
        check("a wake-up is for reads", move |world| {
            let file = world.open();
            let faults = [Access::Read, other].map(|access| {
                world.spawn(move |world| world.access(0, access, SleepState::INTERRUPTIBLE))
            });
            let resolver = world.spawn(|world| {
                world.context.fill(0);
                let wakeup = Wakeup::READ.or(Wakeup::WRITE_SHARED);
                world.context.wake(0..1, wakeup);
            });
            faults.into_iter().for_each(Thread::join);
            resolver.join();
            world.close(file);
        });
    }
}

/// A wake-up completes no fault of GUP, and the ones of users all the same.
#[test]
fn gup_is_retried() {
    for state in [SleepState::INTERRUPTIBLE, SleepState::KILLABLE] {
        check("a fault of GUP is retried", move |world| {
            let file = world.open();
            let gup = world.spawn(move |world| world.access(0, Access::Gup, state));
            let fault = fault(world, 0);
            let resolver = world.spawn(|world| world.context.resolve(0));
            [gup, fault, resolver].into_iter().for_each(Thread::join);
            world.close(file);
        });
    }
}

/// A wake-up completes a fault of the kernel itself, and a signal does not end it.
#[test]
fn kernel_is_completed() {
    check("a fault of the kernel is completed", |world| {
        let file = world.open();
        let kernel =
            world.spawn(|world| world.access(0, Access::Write, SleepState::KILLABLE_NOLOAD));
        let resolver = world.spawn(|world| world.context.resolve(0));
        kernel.task.signal();
        [kernel, resolver].into_iter().for_each(Thread::join);
        world.close(file);
    });
}

/// A reader is taken out of the queue for a fault that need not wait. It sleeps again, and is woken
/// for the next one.
#[test]
fn reader_is_woken_for_nothing() {
    check("a reader is woken for nothing", |world| {
        let file = world.open();
        let monitor = monitor(world);
        // The page comes while the thread takes the fault.
        world.context.fill(0);
        let faults = world.spawn(|world| {
            for page in [0, 1] {
                world.fault(page, SleepState::INTERRUPTIBLE);
            }
        });
        faults.join();
        monitor.kill();
        world.close(file);
    });
}

/// There are never more unread faults than threads that sleep.
#[test]
fn counters_agree() {
    for is_read in [false, true] {
        check("the counters agree", move |world| {
            let file = world.open();
            let fault = fault(world, 0);
            let other = world.spawn(move |world| {
                if is_read {
                    world.monitor();
                } else {
                    world.context.resolve(0);
                }
            });
            let counter = world.spawn(|world| {
                let counters = world.context.waiters().counters();
                let (unread, all) = (counters.pending, counters.total);
                assert!(unread <= all && all <= 1, "{unread} of {all} are unread");
                assert!(counters.woken <= 1, "{} were woken", counters.woken);
            });
            fault.join();
            counter.join();
            other.kill();
            world.close(file);
        });
    }
}

/// A page is there, then is taken away again: the thread that faulted was woken meanwhile.
#[test]
fn page_goes_again() {
    check("a page goes again", |world| {
        let file = world.open();
        let fault = world.spawn(|world| {
            let state = SleepState::INTERRUPTIBLE;
            let ended = world.context.fault(0, Access::Write, state, 1);
            assert!(!matches!(ended, Ended::Retry), "it was resolved");
        });
        let resolver = world.spawn(|world| {
            world.context.resolve(0);
            world.context.clear(0);
        });
        resolver.join();
        // If the fault came later, it is resolved now. A thread that was woken before is not.
        world.context.resolve(0);
        fault.join();
        world.close(file);
    });
}

/// A signal ends a wait while a waker walks over the threads of a range.
#[test]
fn signal_meets_walk() {
    check("a signal meets a walk", |world| {
        let file = world.open();
        let faults = [0, 1].map(|page| fault(world, page));
        let resolver = world.spawn(|world| world.context.resolve_all());
        faults[1].task.signal();
        faults.into_iter().for_each(Thread::join);
        resolver.join();
        world.close(file);
    });
}

/// Each of two readers is woken for one message.
#[test]
fn readers_read_one_each() {
    check_bounded("readers read one message each", 1, |world| {
        let file = world.open();
        let readers = [(); 2].map(|()| {
            world.spawn(|world| match world.read(false) {
                Ok(message) => world.handle(message),
                Err(_) => panic!("no signal was sent"),
            })
        });
        let faults = [0, 1].map(|page| fault(world, page));
        faults.into_iter().for_each(Thread::join);
        readers.into_iter().for_each(Thread::join);
        world.close(file);
    });
}

/// Three threads sleep, in two pages.
#[test]
fn three_faults_are_resolved() {
    check("three faults are resolved", |world| {
        let file = world.open();
        let faults = [0, 1, 0].map(|page| fault(world, page));
        world.context.resolve_all();
        faults.into_iter().for_each(Thread::join);
        world.close(file);
    });
}

/// Nothing orders the thread that resolves a fault behind the one that read it. Loom would try all
/// lengths of the wait, so this is for the sanitizers.
#[cfg(not(feature = "loom"))]
#[test]
fn resolver_is_no_reader() {
    use std::sync::atomic::Ordering;

    check("the resolver is no reader", |world| {
        let file = world.open();
        let fault = fault(world, 0);
        let reader = world.spawn(|world| {
            assert!(world.read(false).is_ok());
            world.ledger.events.store(1, Ordering::Relaxed);
        });
        let resolver = world.spawn(|world| {
            while world.ledger.events.load(Ordering::Relaxed) == 0 {
                crate::rt::pause();
            }
            world.context.resolve(0);
        });
        [fault, reader, resolver].into_iter().for_each(Thread::join);
        world.close(file);
    });
}
