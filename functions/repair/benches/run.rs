//! Measures a run that decides 1,000 due cases, in stores of 1,000 and of 100,000 nodes.
//!
//! The due cases are the same in both: ten groups of a hundred unhealthy nodes, which the threshold blocks. All other
//! nodes are healthy. The cost of a run must depend on the due cases only, not on the number of nodes. Both begin with cold
//! caches, as a run each minute does: otherwise a new store that fits into the caches would be faster.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::collections::BTreeMap;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::SignedDuration;
use nodemend_domain::{
    case::Case,
    group::{Group, Lifecycle, Member},
    ident::Zone,
    policy::{Mode, Policy},
};
use nodemend_ports::{
    clock::VirtualClock,
    cloud::{Fleet, MemoryCloud},
    store::{CaseWrite, Commit, MemoryStore, Store},
};
use nodemend_repair::Repairer;
use nodemend_testkit::fixture::{
    INTERFACE_DOWN, at, caller, cleared, cluster, group_named, instance, policy, raised, zone_named,
};

const DUE: u64 = 1_000;
const GROUP: usize = 100;

fn zone(node: u64) -> Zone {
    zone_named(["us-east-1a", "us-east-1b", "us-east-1c"][usize::try_from(node % 3).unwrap()])
}

fn repair_policy() -> Policy {
    Policy { mode: Mode::Repair, ..policy() }
}

fn cloud(nodes: u64) -> MemoryCloud {
    let mut fleet = Fleet::default();
    for first in (0..nodes).step_by(GROUP) {
        let members = (first..first + GROUP as u64).map(|node| Member {
            instance_id: instance(node),
            zone: zone(node),
            lifecycle: Lifecycle::InService,
        });
        fleet.add_group(Group {
            name: group_named(&format!("workers-{first}")),
            cluster: Some(cluster()),
            members: members.collect(),
            suspended: Vec::new(),
            tags: BTreeMap::new(),
            eks_repair_enabled: false,
            desired_capacity: None,
        });
    }
    MemoryCloud::new(VirtualClock::default(), caller(), fleet)
}

fn store(nodes: u64) -> MemoryStore {
    let policy = repair_policy();
    let store = MemoryStore::with_policy(policy.clone());
    for node in 0..nodes {
        let report = if node < DUE {
            raised(node, INTERFACE_DOWN, at(0))
        } else {
            cleared(node, INTERFACE_DOWN, at(0))
        };
        let mut report = report.written(at(0));
        report.zone = Some(zone(node));
        let mut case = Case::new(cluster(), instance(node));
        case.apply_report(&report, at(0), &policy);
        case.plan(&policy, at(0));
        let change = CaseWrite { case: &case, group: None, entries: &[] };
        assert_eq!(pollster::block_on(store.commit(change)).unwrap(), Commit::Won);
    }
    store
}

/// Reads more than any cache holds.
fn evict_caches(memory: &[u64]) -> u64 {
    std::hint::black_box(memory).iter().step_by(8).fold(0, |sum, value| sum ^ value)
}

fn run(c: &mut Criterion) {
    let memory = vec![1_u64; 256 * 1024 * 1024 / 8];
    let mut group = c.benchmark_group("run");
    group.throughput(Throughput::Elements(DUE)).sample_size(20);
    for nodes in [1_000, 100_000] {
        let cloud = cloud(nodes);
        let clock = VirtualClock::default();
        clock.advance_to(at(0) + SignedDuration::from_mins(30));
        group.bench_function(format!("1000-due-of-{nodes}"), |b| {
            b.iter_batched(
                || {
                    let store = store(nodes);
                    std::hint::black_box(evict_caches(&memory));
                    Repairer::new(store, cloud.clone(), clock.clone())
                },
                |repairer| {
                    let report = pollster::block_on(repairer.run_once()).unwrap();
                    assert_eq!((report.evaluated as u64, report.failures.len()), (DUE, 0));
                    // Each case publishes that it is due and that it is blocked.
                    assert_eq!(report.repair_events.len() as u64, 2 * DUE);
                    // The store is dropped outside of the measurement.
                    (repairer, report)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, run);
criterion_main!(benches);
