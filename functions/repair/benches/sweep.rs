//! Measures a sweep that decides 1,000 due cases, in stores of 1,000 and of 100,000 nodes.
//!
//! The due cases are the same in both: ten groups of a hundred nodes, all down, which the threshold halts. The
//! others are well. What a sweep costs must follow from what is due, not from what exists. Both begin with cold
//! caches, as a sweep once a minute does: a store just built would favour the one that fits into them.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::collections::BTreeMap;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    audit_log::Caller,
    case::Case,
    condition::{ConditionType, Severity, Status},
    group::{Group, Lifecycle, Member},
    ident::{BootId, ClusterName, GroupName, InstanceId, NodeName, Zone},
    policy::{Mode, Policy},
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_ports::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud},
    store::{CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;

const DUE: usize = 1_000;
const GROUP: usize = 100;

fn start() -> Timestamp {
    Timestamp::from_second(1_787_220_000).unwrap()
}

fn instance(node: usize) -> InstanceId {
    InstanceId::new(format!("i-{node:017x}")).unwrap()
}

fn zone(node: usize) -> Zone {
    Zone::new(["us-east-1a", "us-east-1b", "us-east-1c"][node % 3]).unwrap()
}

fn cluster() -> ClusterName {
    ClusterName::new("prod").unwrap()
}

fn report(node: usize) -> Report<'static> {
    let bad = node < DUE;
    let finding = Finding {
        reason: "InterfaceNotUp".into(),
        severity: Severity::Condition,
        since: start(),
        last: start(),
        count: 1,
        message: "eth1 is down".into(),
    };
    Report {
        cluster: cluster(),
        node: NodeName::new(format!(
            "ip-10-{}-{}-{}.ec2.internal",
            node / 62_500,
            node / 250 % 250,
            node % 250
        ))
        .unwrap(),
        instance_id: instance(node),
        zone: Some(zone(node)),
        boot_id: BootId::new("0c24b3f3-6a1c-4f43-9f2a-6a3a5b1e0d11").unwrap(),
        seq: 1,
        at: start(),
        agent: "0.1.0".into(),
        body: Body::Heartbeat(vec![ConditionState {
            condition: ConditionType::NetworkingReady,
            status: if bad { Status::False } else { Status::True },
            since: start(),
            sound_secs: None,
            findings: if bad { vec![finding] } else { Vec::new() },
        }]),
    }
}

fn policy() -> Policy {
    let mut policy = Policy::eks_defaults();
    policy.mode = Mode::Repair;
    // Every agent was heard once, half an hour ago.
    policy.silence.agent_silent_after = None;
    policy
}

fn cloud(nodes: usize) -> MemoryCloud {
    let mut fleet = Fleet::default();
    for first in (0..nodes).step_by(GROUP) {
        let members = (first..first + GROUP).map(|node| Member {
            instance_id: instance(node),
            zone: zone(node),
            lifecycle: Lifecycle::InService,
        });
        fleet.add_group(Group {
            name: GroupName::new(format!("workers-{first}")).unwrap(),
            cluster: Some(cluster()),
            members: members.collect(),
            suspended: Vec::new(),
            tags: BTreeMap::new(),
            eks_repair_enabled: false,
        });
    }
    let caller = Caller {
        account: "123456789012".into(),
        region: "us-east-1".into(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/nodemend-repair".into(),
        principal_id: None,
        user_agent: None,
    };
    MemoryCloud::new(VirtualClock::default(), caller, fleet)
}

fn store(nodes: usize) -> MemoryStore {
    let policy = policy();
    let store = MemoryStore::with_policy(policy.clone());
    for node in 0..nodes {
        let mut case = Case::new(cluster(), instance(node));
        case.apply_report(&report(node), start(), &policy);
        case.plan(&policy, start());
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(store.commit(change)).unwrap(), Commit::Won);
    }
    store
}

/// Reads more than any cache holds.
fn chill(memory: &[u64]) -> u64 {
    std::hint::black_box(memory).iter().step_by(8).fold(0, |sum, word| sum ^ word)
}

fn run_once(c: &mut Criterion) {
    let memory = vec![1_u64; 256 * 1024 * 1024 / 8];
    let mut group = c.benchmark_group("sweep");
    group.throughput(Throughput::Elements(DUE as u64)).sample_size(20);
    for nodes in [1_000, 100_000] {
        let cloud = cloud(nodes);
        let clock = VirtualClock::default();
        clock.advance_to(start() + SignedDuration::from_mins(30));
        group.bench_function(format!("1000-due-of-{nodes}"), |b| {
            b.iter_batched(
                || {
                    let store = store(nodes);
                    std::hint::black_box(chill(&memory));
                    Repairer::new(store, cloud.clone(), clock.clone())
                },
                |repairer| {
                    let swept = pollster::block_on(repairer.run_once()).unwrap();
                    assert_eq!((swept.evaluated, swept.failures.len()), (DUE, 0));
                    // A due case and what blocks it are told of each.
                    assert_eq!(swept.repair_events.len(), 2 * DUE);
                    // The store is dropped outside of what is measured.
                    (repairer, swept)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, run_once);
criterion_main!(benches);
