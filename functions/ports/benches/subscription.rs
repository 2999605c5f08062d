//! Measures decoding one payload of 100 reports of about 500 bytes, per event.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first error")]

use std::borrow::Cow;
use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use nodemend_ports::subscription::{Batch, Decoder, LogEvent, Message, encode};

/// A report of the agent's shape: JSON within JSON, so every quote is escaped.
fn report(n: u64) -> String {
    let digest = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    format!(
        concat!(
            r#"{{"v":1,"kind":"report","node":"ip-10-0-{a}-{b}.ec2.internal","instance":"i-0{digest:016x}","#,
            r#""cluster":"prod-eu","group":"workers-a","boot":"{digest:016x}","seq":{n},"#,
            r#""at":"2026-08-20T10:{c:02}:{d:02}.{n:03}Z","findings":[{{"condition":"ContainerRuntimeReady","#,
            r#""status":"False","reason":"ContainerdUnresponsive","since":"2026-08-20T09:58:{d:02}Z","#,
            r#""detail":"no answer on /run/containerd/containerd.sock within {e} ms"}},"#,
            r#"{{"condition":"DiskPressure","status":"True","reason":"InodesLow","since":"2026-08-20T09:51:{c:02}Z"}}]}}"#,
        ),
        a = n % 251,
        b = (n * 7) % 253,
        c = n % 60,
        d = (n * 13) % 60,
        e = 900 + n % 700,
        digest = digest,
        n = n,
    )
}

fn payload(count: u64) -> String {
    let start = Timestamp::from_millisecond(1_787_220_000_000).unwrap();
    let events = (0..count).map(|n| LogEvent {
        id: Cow::Owned(format!("3462231609969788470654097606882285901266122014164389{n:04}")),
        timestamp: start + jiff::SignedDuration::from_millis(i64::try_from(n).unwrap() * 37),
        message: Cow::Owned(report(n)),
    });
    encode(&Batch {
        owner: "123456789012".into(),
        log_group: "/nodemend/prod-eu/agents".into(),
        log_stream: "ip-10-0-10-170.ec2.internal".into(),
        subscription_filters: vec!["nodemend-agents".into()],
        events: events.collect(),
        rejected: Vec::new(),
    })
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("subscription");
    for count in [1, 100, 1000] {
        let payload = payload(count);
        group.throughput(Throughput::Elements(count));
        let mut decoder = Decoder::new();
        group.bench_function(format!("decode/{count}"), |b| {
            b.iter(|| match decoder.decode(black_box(payload.as_bytes())).unwrap() {
                Message::Data(batch) => batch.events.len(),
                Message::Control => 0,
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
