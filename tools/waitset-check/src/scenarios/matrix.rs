// SPDX-License-Identifier: GPL-2.0

//! All combinations of three threads: fault, resolve, read, signal, close. One signal and one close
//! are enough, because a second one changes nothing.

use super::{check, Thread, World};
use crate::task::{SleepState, TaskRef};

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Role {
    /// Faults. The second thread of this kind does in another page of the same shard, and the third
    /// one in the page of the first.
    Fault,
    /// Resolves the faults in the first page.
    Resolve,
    /// Reads messages and resolves the faults.
    Monitor,
    /// Sends a signal to the first thread that faults.
    Signal,
    /// Closes the descriptor. Threads that use it keep it open.
    Close,
}

use Role::{Close, Fault, Monitor, Resolve, Signal};

fn run(world: &World, roles: [Role; 3]) {
    let has = |role| roles.contains(&role);
    let file = world.open();
    let victim = TaskRef::new();
    let mut faults = Vec::new();
    let mut monitors = Vec::new();
    let mut others = Vec::new();
    for role in roles {
        let file = file.clone();
        match role {
            Fault => {
                drop(file);
                let index = faults.len();
                let task = match index {
                    0 => victim.clone(),
                    _ => TaskRef::new(),
                };
                faults.push(world.spawn_as(&task, move |world| {
                    world.fault(index % 2, SleepState::INTERRUPTIBLE);
                }));
            }
            Resolve => others.push(world.spawn(move |world| {
                world.context.resolve(0);
                drop(file);
            })),
            Monitor => monitors.push(world.spawn(move |world| {
                world.monitor();
                drop(file);
            })),
            Signal => {
                drop(file);
                let victim = victim.clone();
                others.push(world.spawn(move |_| victim.signal()));
            }
            Close => others.push(world.spawn(move |world| {
                world.context.waiters().note_close();
                drop(file);
            })),
        }
    }

    // Faults that no thread ends are resolved below.
    let is_ended = |index: usize| {
        has(Monitor)
            || has(Close)
            || (has(Resolve) && index % 2 == 0)
            || (has(Signal) && index == 0)
    };
    let file = (!has(Close)).then_some(file);
    let (ended, stuck): (Vec<_>, Vec<_>) = faults
        .into_iter()
        .enumerate()
        .partition(|(index, _)| is_ended(*index));
    ended.into_iter().for_each(|(_, thread)| thread.join());
    others.into_iter().for_each(Thread::join);
    for (index, thread) in stuck {
        world.context.resolve(index % 2);
        thread.join();
    }
    monitors.into_iter().for_each(Thread::kill);
    if let Some(file) = file {
        world.close(file);
    }
}

fn check_roles(roles: [Role; 3]) {
    let name = roles.map(|role| format!("{role:?}")).join(" ");
    check(&name, move |world| run(world, roles));
}

macro_rules! combinations {
    ($($name:ident: $first:ident $second:ident $third:ident;)*) => {
        $(
            #[test]
            fn $name() {
                check_roles([$first, $second, $third]);
            }
        )*
    };
}

combinations! {
    fault_fault_fault: Fault Fault Fault;
    fault_fault_resolve: Fault Fault Resolve;
    fault_fault_monitor: Fault Fault Monitor;
    fault_fault_signal: Fault Fault Signal;
    fault_fault_close: Fault Fault Close;
    fault_resolve_resolve: Fault Resolve Resolve;
    fault_resolve_monitor: Fault Resolve Monitor;
    fault_resolve_signal: Fault Resolve Signal;
    fault_resolve_close: Fault Resolve Close;
    fault_monitor_monitor: Fault Monitor Monitor;
    fault_monitor_signal: Fault Monitor Signal;
    fault_monitor_close: Fault Monitor Close;
    fault_signal_close: Fault Signal Close;
    resolve_resolve_resolve: Resolve Resolve Resolve;
    resolve_resolve_monitor: Resolve Resolve Monitor;
    resolve_resolve_signal: Resolve Resolve Signal;
    resolve_resolve_close: Resolve Resolve Close;
    resolve_monitor_monitor: Resolve Monitor Monitor;
    resolve_monitor_signal: Resolve Monitor Signal;
    resolve_monitor_close: Resolve Monitor Close;
    resolve_signal_close: Resolve Signal Close;
    monitor_monitor_monitor: Monitor Monitor Monitor;
    monitor_monitor_signal: Monitor Monitor Signal;
    monitor_monitor_close: Monitor Monitor Close;
    monitor_signal_close: Monitor Signal Close;
}
