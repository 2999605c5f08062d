//! Patterns for log lines of the kubelet, containerd and systemd.

use jiff::SignedDuration;

use super::{
    pattern::{LineMatch, LinePattern},
    writers::Writers,
};
use crate::finding::Debounce;

const KUBELET_OR_CONTAINERD: Writers = Writers::KUBELET.or(Writers::CONTAINERD);
pub(super) const PATTERNS: &[LinePattern] = &[
    LinePattern::new(
        &["ForkFailedOutOfPIDs"],
        KUBELET_OR_CONTAINERD,
        &["resource temporarily unavailable", "failed to create new OS thread"],
        concat!(
            r"fork/exec \S+: resource temporarily unavailable",
            r"|runtime: failed to create new OS thread \(have [0-9]+ already; errno=11\)",
        ),
    )
    .debounced(Debounce::Times { count: 3, window: SignedDuration::from_mins(5) })
    .evaluated_by(evaluate_fork),
    LinePattern::new(
        &["PodStuckTerminating"],
        Writers::KUBELET,
        &["will not be removed from desired state"],
        r#""Pod still has one or more containers in the non-exited state and will not be removed from desired state" pod="(?<subject>[^"]+)""#,
    )
    .debounced(Debounce::Lasting(SignedDuration::from_mins(10))),
    LinePattern::new(
        &["ContainerRuntimeFailed"],
        KUBELET_OR_CONTAINERD,
        &["OCI runtime create failed"],
        "OCI runtime create failed",
    ),
    LinePattern::new(
        &["LivenessProbeFailures"],
        Writers::KUBELET,
        &["Probe failed\" probeType=\"Liveness", "Liveness probe for "],
        r#""Probe failed" probeType="Liveness"|Liveness probe for "[^"]*" failed"#,
    )
    .evaluated_by(evaluate_liveness),
    LinePattern::new(
        &["ReadinessProbeFailures"],
        Writers::KUBELET,
        &["Probe failed\" probeType=\"Readiness", "Readiness probe for "],
        r#""Probe failed" probeType="Readiness"|Readiness probe for "[^"]*" failed"#,
    )
    .evaluated_by(evaluate_readiness),
    // systemd's own message. If a service itself logs that a part of it failed to start, the text continues after the name.
    LinePattern::new(
        &["ServiceFailedToStart"],
        Writers::ANY_UNIT,
        &["Failed to start "],
        r"^Failed to start (?<subject>[^:=]{1,200})\.$",
    ),
    // systemd 235 and later, then earlier versions.
    LinePattern::new(
        &["KubeletFailed"],
        Writers::ANY_UNIT,
        &["kubelet.service"],
        concat!(
            r"^(?:kubelet\.service: Failed with result '[a-z-]+'\.",
            r"|kubelet\.service: Unit entered failed state\.|Unit kubelet\.service entered failed state\.)$",
        ),
    ),
];

/// A container at its own process limit logs the same text, in its output or when a command runs in it. That is the
/// pod's problem, not the node's.
fn evaluate_fork(matched: &mut LineMatch<'_>) {
    let text = &matched.line.text;
    let inside_a_container = ["OCI runtime exec failed", "Probe failed", "probeType=", "ExecSync"];
    if !inside_a_container.iter().any(|literals| text.contains(literals)) {
        matched.raise_first();
    }
}

fn evaluate_liveness(matched: &mut LineMatch<'_>) {
    let at = matched.at();
    if !matched.state.probe_failures.liveness.pass(at) {
        matched.raise_first();
    }
}

fn evaluate_readiness(matched: &mut LineMatch<'_>) {
    let at = matched.at();
    if !matched.state.probe_failures.readiness.pass(at) {
        matched.raise_first();
    }
}
