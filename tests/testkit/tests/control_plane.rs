//! A day of a cluster's control-plane audit log: the records that the subscription's filter pattern sends to intake.
//!
//! The frequency of each kind of record follows the defaults of Kubernetes: a kubelet renews its lease every 10 s and writes
//! its status every 5 min, changed or not. The rate of all others was measured in a small cluster: 73,170 records in 90
//! minutes.

use nodemend_domain::control_plane_log::{self, ParsedEvent};
use nodemend_ports::subscription::our_patterns::CONTROL_PLANE;
use nodemend_testkit::filter_pattern::Pattern;

const NODES: u64 = 100;
const DAY: u64 = 24 * 60 * 60;

/// A kind of record, how many there are in a day, and whether intake needs it.
struct Kind {
    what: &'static str,
    record: String,
    a_day: u64,
    wanted: bool,
}

macro_rules! audit {
    ($name:literal) => {
        include_str!(concat!("../../../functions/ports/fixtures/audit/", $name, ".json"))
    };
}

fn day() -> Vec<Kind> {
    let lease = audit!("kubelet-lease-update-gce");
    let kind = |what, record: &str, a_day, wanted| Kind { what, record: record.to_owned(), a_day, wanted };
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
fn the_filter_pattern_passes_exactly_the_records_about_nodes() {
    let pattern = Pattern::parse(CONTROL_PLANE).expect("the pattern");
    let (mut records, mut bytes, mut passed, mut passed_bytes) = (0, 0, 0, 0);
    for Kind { what, record, a_day, wanted } in day() {
        assert_eq!(pattern.matches(&record), wanted, "{what}");
        let reading = control_plane_log::read(&record).expect(what);
        let of_use = matches!(reading, ParsedEvent::Observations(_));
        assert!(of_use || !wanted, "intake makes use of what passes: {what}");
        let length = u64::try_from(record.len()).expect("a length");
        (records, bytes) = (records + a_day, bytes + a_day * length);
        if wanted {
            (passed, passed_bytes) = (passed + a_day, passed_bytes + a_day * length);
        }
    }
    println!(
        "{NODES} nodes, a day: {records} records of {} MB; {passed} records of {} KB invoke intake, {:.5} %",
        bytes / 1_000_000,
        passed_bytes / 1_000,
        passed as f64 / records as f64 * 100.0,
    );
    assert!(passed * 10_000 < records, "fewer than one record in ten thousand costs an invocation");
}
