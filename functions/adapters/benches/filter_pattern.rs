//! Measures deciding over an audit record of about 8 KB, and over one that the pattern drops early.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nodemend_adapters::filter_pattern::Pattern;

const CONTROL_PLANE: &str = r#"{ ($.objectRef.resource = "nodes") && ($.stage = "ResponseComplete") && ($.responseStatus.code < 300) && ((($.objectRef.subresource NOT EXISTS) && (($.verb = "create") || ($.verb = "delete"))) || (($.objectRef.subresource = "status") && (($.verb = "patch") || ($.verb = "update")) && ($.requestObject.status.conditions[*].status = "*"))) }"#;

const RECORDS: [(&str, &str, bool); 2] = [
    ("8kb-update", include_str!("../fixtures/audit/node-controller-update-NodeStatusUnknown.json"), true),
    ("2kb-heartbeat", include_str!("../fixtures/audit/kubelet-patch-nodestatus-heartbeat-only.json"), false),
];

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter_pattern");
    let pattern = Pattern::parse(CONTROL_PLANE).unwrap();
    for (name, record, expected) in RECORDS {
        assert_eq!(pattern.matches(record), expected);
        group.throughput(Throughput::Bytes(record.len() as u64));
        group.bench_function(format!("matches/{name}"), |b| {
            b.iter(|| black_box(pattern.matches(black_box(record))));
        });
        group.bench_function(format!("serde_json::Value/{name}"), |b| {
            b.iter(|| serde_json::from_str::<serde_json::Value>(black_box(record)).unwrap());
        });
    }
    group.bench_function("parse", |b| {
        b.iter(|| black_box(Pattern::parse(black_box(CONTROL_PLANE)).unwrap()));
    });
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
