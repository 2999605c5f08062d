//! One invocation a minute, calls at their deadlines.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{policy::Mode, repair_event::Step};
use nodemend_ports::clock::Clock;
use nodemend_testkit::{
    Deployment,
    faults::Faults,
    fixture::{
        INTERFACE_DOWN, agent_payload, at, cluster, group_named, instance, policy, raised, zone_named,
    },
};

#[test]
fn a_call_is_made_at_its_deadline_and_not_at_the_minute() {
    let mut policy = policy();
    policy.mode = Mode::Repair;
    let deployment = Deployment::new(0, policy);
    deployment.cloud.change(|fleet| {
        // A group each: no repair waits for the one before it.
        for (number, zone) in [(1, "us-east-1b"), (2, "us-east-1c"), (3, "us-east-1d")] {
            let group = group_named(&format!("workers-{number}"));
            fleet.join(&group, Some(&cluster()), &instance(number), &zone_named(zone));
        }
    });
    // Due at 1,807, 1,812.5 and 1,900 seconds.
    let second_since = at(12) + SignedDuration::from_millis(500);
    for (number, since) in [(1, at(7)), (2, second_since), (3, at(100))] {
        let line = raised(number, INTERFACE_DOWN, since).line(since);
        let result = deployment.deliver(&agent_payload(number, &[line]), since);
        assert_eq!((result.reports, result.rejected.len()), (1, 0), "{:?}", result.rejected);
    }
    deployment.clock.advance_to(at(1_800));
    let mut called = Vec::new();
    let clock = deployment.clock.clone();
    let wait_until = async move |until: Timestamp| clock.advance_to(until);
    let collect = |run: &nodemend_repair::RunReport| {
        assert!(run.failures.is_empty(), "{:?}", run.failures);
        let calls = run.repair_events.iter().filter(|event| event.step == Step::Called);
        called.extend(calls.map(|event| event.at));
    };
    let repairer = deployment.repairer(&Faults::none());
    pollster::block_on(repairer.run_until(at(1_860), wait_until, collect)).expect("a run");
    assert_eq!(called, [at(1_807), at(1_812) + SignedDuration::from_millis(500)]);
    assert!(deployment.clock.now() < at(1_860), "the next invocation takes over");
    assert_eq!(deployment.cloud.calls().len(), 2, "the third is due in the next minute");
}
