//! Measures the way from a subscription payload to a stored case, per report.
//!
//! Every payload is new to the store: no report is a duplicate of one that was taken before.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::borrow::Cow;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName, Zone},
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_intake::Intake;
use nodemend_ports::{
    store::MemoryStore,
    subscription::{Batch, Decoder, LogEvent, encode},
};

const NODES: u64 = 50;
const ROUNDS: u64 = 4;

fn start() -> Timestamp {
    Timestamp::from_second(1_787_220_000).unwrap()
}

fn at(seconds: u64) -> Timestamp {
    start() + SignedDuration::from_secs(seconds.try_into().unwrap())
}

/// A heartbeat with all five conditions; each tenth tells of a network interface that is down.
fn report(node: u64, seq: u64) -> Report<'static> {
    let since = at(0);
    let states = ConditionType::AGENT.into_iter().map(|condition| {
        let bad = seq % 10 == 3 && condition == ConditionType::NetworkingReady;
        let finding = Finding {
            reason: "InterfaceNotUp".into(),
            severity: Severity::Condition,
            since,
            last: at(seq * 30),
            count: seq,
            message: "eth1 is down".into(),
        };
        ConditionState {
            condition,
            status: if bad { Status::False } else { Status::True },
            since: if bad { at(seq * 30) } else { since },
            sound_secs: bad.then_some(270),
            findings: if bad { vec![finding] } else { Vec::new() },
        }
    });
    Report {
        cluster: ClusterName::new("prod").unwrap(),
        node: NodeName::new(format!("ip-10-0-{}-{}.ec2.internal", node / 250, node % 250)).unwrap(),
        instance_id: InstanceId::new(format!("i-{node:017x}")).unwrap(),
        zone: Some(Zone::new("us-east-1a").unwrap()),
        boot_id: BootId::new("0c24b3f3-6a1c-4f43-9f2a-6a3a5b1e0d11").unwrap(),
        seq,
        at: at(seq * 30),
        agent: "0.1.0".into(),
        body: Body::Heartbeat(states.collect()),
    }
}

/// One stream's events, as a subscription filter delivers them.
fn payload(node: u64, first: u64, count: u64) -> String {
    let events = (first..first + count).map(|seq| LogEvent {
        id: Cow::Owned(format!("3462231609969788470654097606882285901266122014164{seq:07}")),
        timestamp: at(seq * 30),
        message: Cow::Owned(report(node, seq).encode()),
    });
    encode(&Batch {
        owner: "123456789012".into(),
        log_group: "/nodemend/prod/nodes".into(),
        log_stream: format!("i-{node:017x}").into(),
        subscription_filters: vec!["nodemend".into()],
        events: events.collect(),
        rejected: Vec::new(),
    })
}

fn intake(c: &mut Criterion) {
    let mut group = c.benchmark_group("intake");
    for count in [1, 10, 100] {
        let payloads: Vec<(String, Timestamp)> = (0..ROUNDS)
            .flat_map(|round| (0..NODES).map(move |node| (node, round * count)))
            .map(|(node, first)| (payload(node, first, count), at((first + count) * 30)))
            .collect();
        let reports = payloads.len() as u64 * count;
        group.throughput(Throughput::Elements(reports));
        let mut decoder = Decoder::new();
        group.bench_function(format!("payloads-of-{count}"), |b| {
            b.iter_batched(
                || Intake::new(MemoryStore::with_policy(Policy::default())),
                |intake| {
                    let mut taken = 0;
                    for (payload, now) in &payloads {
                        let intaken =
                            pollster::block_on(intake.handle(&mut decoder, payload.as_bytes(), *now));
                        taken += intaken.unwrap().reports;
                    }
                    assert_eq!(taken as u64, reports);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, intake);
criterion_main!(benches);
