//! A day of a cluster's control-plane audit log: the events that the subscription's filter pattern sends to
//! intake.
//!
//! The frequency of each kind of event follows the defaults of Kubernetes: a kubelet renews its lease every
//! 10 s and writes its status every 5 min, changed or not. The rate of all others was measured in a small
//! cluster: 73,170 events in 90 minutes.

use nodemend_domain::control_plane_log::{self, ParsedEvent};
use nodemend_ports::subscription::our_patterns::CONTROL_PLANE;
use nodemend_testkit::filter_pattern::Pattern;

const NODES: u64 = 100;
const DAY: u64 = 24 * 60 * 60;

/// A kind of event, how many there are in a day, and whether intake needs it.
struct Kind {
    what: &'static str,
    event: String,
    per_day: u64,
    wanted: bool,
}

macro_rules! audit {
    ($name:literal) => {
        include_str!(concat!("../../../functions/ports/fixtures/audit/", $name, ".json"))
    };
}

fn day() -> Vec<Kind> {
    let lease = audit!("kubelet-lease-update-gce");
    let kind = |what, event: &str, per_day, wanted| Kind { what, event: event.to_owned(), per_day, wanted };
    // One node of twenty is replaced in a day, one of a hundred fails.
    let (replaced, failed) = (NODES / 20, NODES / 100);
    vec![
        kind("a kubelet renews its lease", lease, NODES * DAY / 10, false),
        kind(
            "a kubelet writes an unchanged status",
            audit!("kubelet-patch-nodestatus-heartbeat-only"),
            NODES * DAY / 300,
            false,
        ),
        kind("a kubelet writes a pod's status", audit!("kubelet-patch-podstatus"), NODES * 60, false),
        kind(
            "controllers read, watch and write",
            &lease.replace(r#""verb":"update""#, r#""verb":"get""#),
            73_170 * 16,
            false,
        ),
        kind("a kubelet asks for a certificate", audit!("kubelet-csr-serving"), replaced, false),
        kind("a node is cordoned", audit!("node-manager-cordon"), replaced, true),
        kind("a node is tainted", audit!("node-controller-patch-unreachable-taint"), failed * 2, false),
        kind("a kubelet registers a node", audit!("kubelet-create-node-registration"), replaced, true),
        kind("the cloud controller deletes a node", audit!("ccm-delete-node-instance-gone"), replaced, true),
        kind("an operator deletes a node", audit!("kubectl-delete-node-access-entry"), failed, true),
        kind("a kubelet is not ready", audit!("kubelet-patch-nodestatus-ready-false"), failed, true),
        kind(
            "the node controller marks a node Unknown",
            audit!("node-controller-update-NodeStatusUnknown"),
            failed,
            true,
        ),
    ]
}

#[test]
fn the_filter_pattern_delivers_exactly_the_events_about_nodes() {
    let pattern = Pattern::parse(CONTROL_PLANE).expect("the pattern");
    let (mut events, mut bytes, mut passed, mut passed_bytes) = (0, 0, 0, 0);
    for Kind { what, event, per_day, wanted } in day() {
        assert_eq!(pattern.matches(&event), wanted, "{what}");
        let reading = control_plane_log::read(&event).expect(what);
        let is_used = matches!(reading, ParsedEvent::Observations(_));
        assert!(is_used || !wanted, "intake uses every line that the pattern delivers: {what}");
        let length = u64::try_from(event.len()).expect("a length");
        (events, bytes) = (events + per_day, bytes + per_day * length);
        if wanted {
            (passed, passed_bytes) = (passed + per_day, passed_bytes + per_day * length);
        }
    }
    println!(
        "{NODES} nodes, a day: {events} events of {} MB; {passed} events of {} KB invoke intake, {:.5} %",
        bytes / 1_000_000,
        passed_bytes / 1_000,
        passed as f64 / events as f64 * 100.0,
    );
    assert!(passed * 10_000 < events, "fewer than one event in ten thousand costs an invocation");
}
