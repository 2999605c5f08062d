//! Measures the cost of a line in all detectors, with one matching line in a hundred.
#![expect(clippy::unwrap_used, reason = "a bench may stop at the first surprise")]

use std::borrow::Cow;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use nodemend_agent::{
    detect::Detector,
    signal::{LogLine, Origin},
};

const LINES: usize = 10_000;
const HIT_EVERY: usize = 100;

/// Ordinary log lines.
const ORDINARY: [(&str, &str); 10] = [
    (
        "",
        "audit: type=1400 audit(1724146931.120:94): apparmor=\"STATUS\" operation=\"profile_load\" profile=\"unconfined\" name=\"cri-containerd.apparmor.d\" pid=3144 comm=\"apparmor_parser\"",
    ),
    ("", "IPv6: ADDRCONF(NETDEV_CHANGE): eni2f1c09a83d1: link becomes ready"),
    ("", "eth0: renamed from veth41c2d1f"),
    ("", "nvme 0000:00:1f.0: Shutdown timeout set to 10 seconds"),
    ("", "EXT4-fs (nvme1n1): mounted filesystem 1b2c with ordered data mode. Quota mode: none."),
    ("", "TCP: request_sock_TCP: Possible SYN flooding on port 0.0.0.0:8080. Sending cookies."),
    (
        "kubelet.service",
        "I0820 10:02:11.120000    2417 reconciler_common.go:245] \"operationExecutor.VerifyControllerAttachedVolume started for volume \\\"kube-api-access-x7k2p\\\" (UniqueName: \\\"kubernetes.io/projected/7a2e6f93-kube-api-access-x7k2p\\\") pod \\\"web-7d4b9c-x2x\\\" (UID: \\\"7a2e6f93\\\") \" pod=\"default/web-7d4b9c-x2x\"",
    ),
    (
        "kubelet.service",
        "I0820 10:02:12.300000    2417 pod_startup_latency_tracker.go:104] \"Observed pod startup duration\" pod=\"default/web-7d4b9c-x2x\" podStartSLOduration=2.112 podStartE2EDuration=\"4.3s\"",
    ),
    (
        "containerd.service",
        "time=\"2026-08-20T10:02:11.120000000Z\" level=info msg=\"StartContainer for \\\"5f0c2f\\\" returns successfully\"",
    ),
    (
        "sshd.service",
        "Accepted publickey for ec2-user from 10.0.4.17 port 50122 ssh2: RSA SHA256:abcdefghijklmnop",
    ),
];

/// Lines that match, in turn.
const HITS: [(&str, &str); 5] = [
    ("", "watchdog: BUG: soft lockup - CPU#3 stuck for 22s! [kworker/3:1:4711]"),
    ("", "I/O error, dev nvme1n1, sector 2048 op 0x0:(READ) flags 0x0 phys_seg 1 prio class 0"),
    ("", "NVRM: Xid (PCI:0000:3b:00): 79, pid=1204, name=python3, GPU has fallen off the bus."),
    ("", "nf_conntrack: nf_conntrack: table full, dropping packet"),
    (
        "kubelet.service",
        "E0820 10:02:11.120000    2417 kuberuntime_manager.go:1256] \"fs: disk usage and inodes count on following dirs took 3.1s\"",
    ),
];

fn lines() -> Vec<LogLine<'static>> {
    let line = |(unit, text): (&'static str, &'static str)| LogLine {
        origin: match unit {
            "" => Origin::Kernel { facility: 0, level: 4 },
            unit => Origin::Unit(Cow::Borrowed(unit)),
        },
        at: Timestamp::from_second(1_787_220_000).unwrap(),
        text: Cow::Borrowed(text),
    };
    let of = |index: usize| match index % HIT_EVERY {
        0 => HITS[index / HIT_EVERY % HITS.len()],
        _ => ORDINARY[index % ORDINARY.len()],
    };
    (0..LINES).map(|index| line(of(index))).collect()
}

fn matching(criterion: &mut Criterion) {
    let lines = lines();
    let mut detector = Detector::new(&[]).unwrap();
    let mut found = Vec::new();
    lines.iter().for_each(|line| detector.detect(line, &mut found));
    assert_eq!(found.len(), LINES / HIT_EVERY, "one line in {HIT_EVERY} is a hit, and nothing else is");
    let mut group = criterion.benchmark_group("agent");
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("matching a mix with 1 % of hits", |bencher| {
        bencher.iter(|| {
            found.clear();
            for line in &lines {
                detector.detect(line, &mut found);
            }
            found.len()
        });
    });
    group.finish();
}

criterion_group!(benches, matching);
criterion_main!(benches);
