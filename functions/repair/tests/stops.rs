//! What operators stop is stopped: policy, holds and the group are read again right before a call.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::SignedDuration;
use nodemend_domain::policy::{Mode, Policy};
use nodemend_ports::{clock::Clock, cloud::MemoryCloud, store::MemoryStore};
use nodemend_testkit::{
    Deployment,
    faults::{Fate, Faults},
    fixture::{at, cluster, group, hold_until, kubelet_ready, minutes, policy_with_limit},
};

/// Longer than what was read is used for, and shorter than a verification is valid.
const SLEEP: SignedDuration = SignedDuration::from_secs(6);

/// A node whose repair is due in minute 31.
fn due() -> Deployment {
    let deployment = Deployment::new(3, policy_with_limit(1));
    deployment.deliver_line(kubelet_ready(1, at(0), "True"), at(0));
    deployment.deliver_line(kubelet_ready(1, minutes(1), "False"), minutes(1));
    deployment.run_until(minutes(31) - SignedDuration::from_secs(1));
    deployment.clock.advance_to(minutes(31));
    deployment
}

/// What an operator does.
type Stop = fn(&MemoryStore, &MemoryCloud);

/// Stops repairs before each operation of a run in turn, after which the process sleeps. Returns before how many a call was
/// made all the same.
fn calls_after(stop: Stop) -> usize {
    let mut calls = 0;
    for operation in 1.. {
        let deployment = due();
        let stopped = Arc::new(AtomicBool::new(false));
        let (store, cloud) = (deployment.store.clone(), deployment.cloud.clone());
        let (clock, flag) = (deployment.clock.clone(), Arc::clone(&stopped));
        let faults = Faults::drawn(move |number| {
            if number == operation && cloud.calls().is_empty() {
                flag.store(true, Ordering::Relaxed);
                stop(&store, &cloud);
                clock.advance_to(clock.now() + SLEEP);
            }
            Fate::Proceed
        });
        deployment.try_run(&faults).expect("a run");
        if faults.operations() < operation {
            break;
        }
        calls += usize::from(stopped.load(Ordering::Relaxed) && !deployment.cloud.calls().is_empty());
    }
    calls
}

#[test]
fn a_stop_before_the_call_stops_it_whatever_the_process_slept_through() {
    let stops: [(&str, Stop); 4] = [
        ("a hold", |store, _| store.hold(&cluster(), hold_until(minutes(600)))),
        ("observe mode", |store, _| {
            store.set_policy(&cluster(), Policy { mode: Mode::Observe, ..policy_with_limit(1) });
        }),
        ("the opt-out tag", |_, cloud| {
            cloud.change(|fleet| fleet.set_tag(&group(), "nodemend/repair", "disabled"));
        }),
        ("a suspended process", |_, cloud| {
            cloud.change(|fleet| fleet.set_suspended(&group(), vec!["Terminate".to_owned()]));
        }),
    ];
    for (name, stop) in stops {
        // The operation that sends the call itself can be stopped by nobody.
        assert_eq!(calls_after(stop), 1, "{name}");
    }
}
