//! Measures the time from a subscription payload to a stored case, per report.
//!
//! Each payload is new to the store, so that no report is a duplicate of an applied one.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use nodemend_domain::{
    condition::{ConditionType, Severity, Status},
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};
use nodemend_intake::Intake;
use nodemend_ports::store::MemoryStore;
use nodemend_ports::subscription::Decoder;
use nodemend_testkit::fixture::{INTERFACE_DOWN, agent_payload, at, cleared, zone};

const NODES: u64 = 50;
const ROUNDS: u64 = 4;

fn written(seq: u64) -> Timestamp {
    at(i64::try_from(seq * 30).unwrap())
}

/// A heartbeat with all five conditions. In each tenth, a network interface is down.
fn heartbeat(node: u64, seq: u64) -> Report<'static> {
    let states = ConditionType::AGENT.into_iter().map(|condition| {
        let bad = seq % 10 == 3 && condition == ConditionType::NetworkingReady;
        let finding = Finding {
            reason: INTERFACE_DOWN.reason.into(),
            severity: Severity::Condition,
            since: at(0),
            last: written(seq),
            count: seq,
            message: INTERFACE_DOWN.message.into(),
        };
        ConditionState {
            condition,
            status: if bad { Status::False } else { Status::True },
            since: if bad { written(seq) } else { at(0) },
            sound_secs: bad.then_some(270),
            findings: if bad { vec![finding] } else { Vec::new() },
        }
    });
    let body = Body::Heartbeat(states.collect());
    Report { zone: Some(zone()), body, ..cleared(node, INTERFACE_DOWN, at(0)).seq(seq).written(written(seq)) }
}

fn intake(c: &mut Criterion) {
    let mut group = c.benchmark_group("intake");
    for count in [1, 10, 100] {
        let payload = |node: u64, first: u64| {
            let lines: Vec<String> =
                (first..first + count).map(|seq| heartbeat(node, seq).encode()).collect();
            agent_payload(node, &lines)
        };
        let payloads: Vec<(Vec<u8>, Timestamp)> = (0..ROUNDS)
            .flat_map(|round| (0..NODES).map(move |node| (node, round * count)))
            .map(|(node, first)| (payload(node, first), written(first + count)))
            .collect();
        let reports = payloads.len() as u64 * count;
        group.throughput(Throughput::Elements(reports));
        let mut decoder = Decoder::new();
        group.bench_function(format!("payloads-of-{count}"), |b| {
            b.iter_batched(
                || Intake::new(MemoryStore::with_policy(Policy::default())),
                |intake| {
                    let mut applied = 0;
                    for (payload, now) in &payloads {
                        let result = pollster::block_on(intake.handle(&mut decoder, payload, *now));
                        applied += result.unwrap().reports;
                    }
                    assert_eq!(applied as u64, reports);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, intake);
criterion_main!(benches);
