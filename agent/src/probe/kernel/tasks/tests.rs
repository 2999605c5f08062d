use std::borrow::Cow;

use nodemend_domain::ident::{BootId, ClusterName, InstanceId, NodeName};

use super::{
    super::tests::{changes, put, tree},
    *,
};
use crate::{
    detect::Detector,
    identity::NodeIdentity,
    signal::{LogLine, Origin},
    tracker::{Now, Tracker, TrackerConfig},
};

fn node(threads: u64, pid_max: u64, threads_max: u64) -> tempfile::TempDir {
    tree(&[
        (LOAD, &load(threads)),
        (PID_MAX, &format!("{pid_max}\n")),
        (THREADS_MAX, &format!("{threads_max}\n")),
    ])
}

fn load(threads: u64) -> String {
    format!("0.20 0.18 0.12 1/{threads} 11206\n")
}

#[test]
fn both_reasons_are_raised_at_their_shares_of_the_limit() {
    for (threads, expected) in [
        (6_999, &["-ApproachingKernelPidMax", "-ForkFailedOutOfPIDs"][..]),
        (7_000, &["+ApproachingKernelPidMax", "-ForkFailedOutOfPIDs"]),
        (8_999, &["+ApproachingKernelPidMax", "-ForkFailedOutOfPIDs"]),
        (9_000, &["+ApproachingKernelPidMax"]),
        (9_499, &["+ApproachingKernelPidMax"]),
        (9_500, &["+ApproachingKernelPidMax", "+ForkFailedOutOfPIDs"]),
        (10_000, &["+ApproachingKernelPidMax", "+ForkFailedOutOfPIDs"]),
    ] {
        let root = node(threads, 10_000, 20_000);
        let changes = changes(&mut Tasks::new(root.path())).expect("a reading");
        assert_eq!(changes, expected, "{threads} of 10,000");
    }
}

#[test]
fn the_smaller_of_the_two_limits_counts_whichever_it_is() {
    for (pid_max, threads_max, name) in
        [(32_768, 4_000_000, "kernel.pid_max"), (4_194_304, 32_768, "kernel.threads-max")]
    {
        let root = node(32_000, pid_max, threads_max);
        let changes = Tasks::new(root.path()).read(Timestamp::UNIX_EPOCH).expect("a reading");
        let out = changes.iter().find_map(|change| match change {
            FindingChange::Raised(finding) if finding.reason == OUT => Some(&finding.message),
            _ => None,
        });
        assert_eq!(out, Some(&format!("threads: 32000 of 32768 (97 %), by {name}")));
    }
}

#[test]
fn threads_are_counted_not_processes() {
    let root = node(32_000, 32_768, 200_000);
    // A listing would count one process.
    put(root.path(), &[("proc/1/stat", "1 (java) S 0 1 1 0 -1 4194560")]);
    assert_eq!(
        changes(&mut Tasks::new(root.path())),
        Ok(vec![format!("+{NEAR}"), format!("+{OUT}")]),
        "31,999 threads more"
    );
    put(root.path(), &[(LOAD, &load(80))]);
    for pid in 2..100 {
        put(root.path(), &[(&format!("proc/{pid}/stat"), "2 (sh) S 1 1 1 0 -1 4194560")]);
    }
    put(root.path(), &[(PID_MAX, "100"), (THREADS_MAX, "1000")]);
    assert_eq!(
        changes(&mut Tasks::new(root.path())),
        Ok(vec![format!("+{NEAR}"), format!("-{OUT}")]),
        "80 of 100 by the kernel's own count"
    );
}

#[test]
fn broken_files_are_not_checkable() {
    let good = [(LOAD, load(80)), (PID_MAX, "32768\n".to_owned()), (THREADS_MAX, "192730\n".to_owned())];
    for (broken, texts) in [
        (
            LOAD,
            &["", "0.20 0.18 0.12", "0.20 0.18 0.12 80 11206", "0.20 0.18 0.12 1/ 11206", "a b c 1/x 2"][..],
        ),
        (PID_MAX, &["", "-1", "32768 1", "99999999999999999999999"]),
        (THREADS_MAX, &["", "max"]),
    ] {
        for text in texts {
            let files: Vec<_> = good
                .iter()
                .map(|(path, good)| (*path, if *path == broken { *text } else { good.as_str() }))
                .collect();
            let root = tree(&files);
            assert!(changes(&mut Tasks::new(root.path())).is_err(), "{broken}: {text:?}");
        }
    }
}

/// A node with a probe, a detector for its kubelet's lines, and a tracker of both.
struct TaskNode {
    root: tempfile::TempDir,
    probe: Tasks,
    detector: Detector,
    tracker: Tracker,
}

const FAILED_FORK: &str =
    "fork/exec /usr/bin/containerd-shim-runc-v2: resource temporarily unavailable: unknown";

impl TaskNode {
    fn new() -> Self {
        let root = node(100, 10_000, 20_000);
        let identity = NodeIdentity {
            cluster: ClusterName::new("prod").expect("a name"),
            node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
            instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
            zone: None,
            boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
        };
        Self {
            probe: Tasks::new(root.path()),
            root,
            detector: Detector::new(&[]).expect("a detector"),
            tracker: Tracker::begin(identity, TrackerConfig::default(), None, now(0)).0,
        }
    }

    /// A reading with this many of ten thousand threads. Returns whether a condition is unhealthy.
    fn reading(&mut self, threads: u64, at: i64) -> bool {
        put(self.root.path(), &[(LOAD, &load(threads))]);
        let changes = self.probe.read(now(at).wall).expect("a reading");
        self.take(&changes, at)
    }

    fn line(&mut self, at: i64) -> bool {
        let origin = Origin::Unit(Cow::Borrowed("kubelet.service"));
        let line = LogLine { origin, at: now(at).wall, text: Cow::Borrowed(FAILED_FORK) };
        let mut changes = Vec::new();
        self.detector.detect(&line, &mut changes);
        assert_eq!(changes.len(), 1, "a line of a failed fork");
        self.take(&changes, at)
    }

    /// Returns whether a condition is unhealthy afterwards.
    fn take(&mut self, changes: &[FindingChange], at: i64) -> bool {
        for change in changes {
            self.tracker.apply(change, now(at));
        }
        let _ = self.tracker.poll(now(at));
        self.tracker.unhealthy() > 0
    }
}

fn now(seconds: i64) -> Now {
    let since = SignedDuration::from_secs(1_000 + seconds);
    Now { wall: Timestamp::from_second(1_790_000_000 + seconds).expect("a time"), mono: since }
}

#[test]
fn a_line_and_a_reading_confirm_each_other_and_a_reading_below_ninety_per_cent_ends_both() {
    let mut node = TaskNode::new();
    assert!(!node.line(0));
    assert!(node.reading(9_600, 10), "confirmed");
    assert!(node.line(20));
    assert!(node.reading(9_200, 40), "still between the two shares");
    assert!(!node.reading(8_999, 70), "over at once");
}

#[test]
fn two_readings_in_a_row_raise_without_any_line() {
    let mut node = TaskNode::new();
    assert!(!node.reading(9_600, 0), "one may be a moment's peak");
    assert!(!node.reading(5_000, 30));
    assert!(!node.reading(9_600, 60));
    assert!(node.reading(9_500, 90));
    assert!(!node.reading(100, 120));
}

#[test]
fn a_healthy_reading_clears_a_finding_of_lines_once_no_more_follow() {
    let mut node = TaskNode::new();
    let _ = (node.line(0), node.line(10));
    assert!(node.line(20), "three lines within five minutes");
    assert!(node.reading(100, 30), "forks fail for another reason than the kernel's limit");
    assert!(node.reading(100, 319));
    assert!(!node.reading(100, 320), "long before their own quiet time is over");
}

#[test]
fn healthy_readings_between_slow_lines_do_not_hide_them() {
    let mut node = TaskNode::new();
    for at in (0..=240).step_by(30) {
        assert!(!node.reading(100, at));
        if at % 120 == 0 && at < 240 {
            assert!(!node.line(at));
        }
    }
    assert!(node.line(241), "the third within five minutes, at a cgroup's limit");
}

#[test]
fn a_node_between_the_two_limits_without_failed_forks_recovers() {
    let mut node = TaskNode::new();
    let _ = (node.reading(9_600, 0), node.reading(9_600, 30));
    assert!((60..630).step_by(30).all(|at| node.reading(9_300, at)));
    assert!(!node.reading(9_300, 630));
}
