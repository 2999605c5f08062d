//! Turns what the kubelet, containerd and systemd log into findings.

use jiff::{SignedDuration, Timestamp};

use super::shape::{Seen, Shape, Writers};
use crate::finding::Debounce;

const KUBELET_OR_CONTAINERD: Writers = Writers::KUBELET.or(Writers::CONTAINERD);
/// Probe failures that go unnoticed, a second and at once.
const PROBES_A_SECOND: i64 = 5;
const BURST: i64 = 5;

pub(super) const SHAPES: &[Shape] = &[
    Shape::new(
        &["ForkFailedOutOfPIDs"],
        KUBELET_OR_CONTAINERD,
        &["resource temporarily unavailable", "failed to create new OS thread"],
        concat!(
            r"fork/exec \S+: resource temporarily unavailable",
            r"|runtime: failed to create new OS thread \(have [0-9]+ already; errno=11\)",
        ),
    )
    .debounced(Debounce::Times { count: 3, window: SignedDuration::from_mins(5) })
    .judged(judge_fork),
    Shape::new(
        &["PodStuckTerminating"],
        Writers::KUBELET,
        &["will not be removed from desired state"],
        r#""Pod still has one or more containers in the non-exited state and will not be removed from desired state" pod="(?<subject>[^"]+)""#,
    )
    .debounced(Debounce::Lasting(SignedDuration::from_mins(10))),
    Shape::new(
        &["ContainerRuntimeFailed"],
        KUBELET_OR_CONTAINERD,
        &["OCI runtime create failed"],
        "OCI runtime create failed",
    ),
    Shape::new(
        &["LivenessProbeFailures"],
        Writers::KUBELET,
        &["Probe failed\" probeType=\"Liveness", "Liveness probe for "],
        r#""Probe failed" probeType="Liveness"|Liveness probe for "[^"]*" failed"#,
    )
    .judged(judge_liveness),
    Shape::new(
        &["ReadinessProbeFailures"],
        Writers::KUBELET,
        &["Probe failed\" probeType=\"Readiness", "Readiness probe for "],
        r#""Probe failed" probeType="Readiness"|Readiness probe for "[^"]*" failed"#,
    )
    .judged(judge_readiness),
    // systemd's own words; a service that fails to start something of its own goes on after the name.
    Shape::new(
        &["ServiceFailedToStart"],
        Writers::ANY_UNIT,
        &["Failed to start "],
        r"^Failed to start (?<subject>[^:=]{1,200})\.$",
    ),
    // systemd 235 and later, then those before.
    Shape::new(
        &["KubeletFailed"],
        Writers::ANY_UNIT,
        &["kubelet.service"],
        concat!(
            r"^(?:kubelet\.service: Failed with result '[a-z-]+'\.",
            r"|kubelet\.service: Unit entered failed state\.|Unit kubelet\.service entered failed state\.)$",
        ),
    ),
];

/// A container at its own limit of processes fails in the same words, inside what it prints or when something is
/// run in it: that is the pod's trouble.
fn judge_fork(seen: &mut Seen<'_>) {
    let text = &seen.line.text;
    let inside_a_container = ["OCI runtime exec failed", "Probe failed", "probeType=", "ExecSync"];
    if !inside_a_container.iter().any(|words| text.contains(words)) {
        seen.raise_first();
    }
}

/// How many failures of each probe are let pass.
#[derive(Debug, Default)]
pub(super) struct ProbeFailures {
    liveness: Bucket,
    readiness: Bucket,
}

fn judge_liveness(seen: &mut Seen<'_>) {
    let at = seen.at();
    if !seen.state.probe_failures.liveness.pass(at) {
        seen.raise_first();
    }
}

fn judge_readiness(seen: &mut Seen<'_>) {
    let at = seen.at();
    if !seen.state.probe_failures.readiness.pass(at) {
        seen.raise_first();
    }
}

/// Lets five at once pass, and five a second after that. It counts in thousandths, so that nothing is rounded.
#[derive(Debug)]
struct Bucket {
    thousandths: i64,
    since: Option<Timestamp>,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { thousandths: BURST * 1000, since: None }
    }
}

impl Bucket {
    fn pass(&mut self, at: Timestamp) -> bool {
        // A line from the past neither fills the bucket nor turns its clock back.
        let since = self.since.unwrap_or(at);
        let waited = at.duration_since(since).as_millis().clamp(0, 1000);
        self.since = Some(since.max(at));
        let filled = i64::try_from(waited).unwrap_or(0) * PROBES_A_SECOND;
        self.thousandths = (self.thousandths + filled).min(BURST * 1000);
        let passes = self.thousandths >= 1000;
        if passes {
            self.thousandths -= 1000;
        }
        passes
    }
}
