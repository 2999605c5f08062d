//! The grace period of an action starts with the first reason that has one.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};

/// A reason without an action.
const NO_ACTION: &str = "DCGMHealthFailure";
const REPLACE: &str = "NvidiaXID79Error";
const REBOOT: &str = "NvidiaXID95Error";

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
}

/// A report of the agent. Times are in minutes.
struct TestReport {
    seq: u64,
    written: i64,
    arrives: i64,
    since: i64,
    findings: &'static [(&'static str, i64)],
}

/// A report that arrives in the minute in which it is written.
fn reported(seq: u64, minute: i64, since: i64, findings: &'static [(&'static str, i64)]) -> TestReport {
    TestReport { seq, written: minute, arrives: minute, since, findings }
}

/// The minute in which the grace period of the first deadline began, after these reports. None without a deadline.
fn start(reports: &[TestReport]) -> Option<i64> {
    // What only arrives late is the concern of other tests.
    let policy = Policy { settling_time: SignedDuration::ZERO, ..Policy::eks_defaults() };
    let id = InstanceId::new("i-00000000000000001").expect("an id");
    let mut case = Case::new(ClusterName::new("prod").expect("a name"), id.clone());
    let mut last = at(0);
    // The agent has reported on another condition before.
    let known = TestReport { seq: 0, written: -10, arrives: -10, since: -10, findings: &[] };
    for (report, condition) in std::iter::once((&known, ConditionType::KernelReady))
        .chain(reports.iter().map(|report| (report, ConditionType::AcceleratedHardwareReady)))
    {
        let bad = !report.findings.is_empty();
        let finding = |(reason, since): &(&'static str, i64)| Finding {
            reason: (*reason).into(),
            severity: Severity::Condition,
            since: at(*since),
            last: at(report.written),
            count: 1,
            message: "broken".into(),
        };
        let decoded = Report {
            cluster: case.cluster().clone(),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            instance_id: id.clone(),
            zone: None,
            boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
            seq: report.seq,
            at: at(report.written),
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition,
                status: if bad { Status::False } else { Status::True },
                since: at(report.since),
                sound_secs: None,
                findings: report.findings.iter().map(finding).collect(),
            }),
        };
        case.apply_report(&decoded, at(report.arrives), &policy);
        last = last.max(at(report.arrives));
    }
    let faults = case.faults(&policy.default_rules(), &policy, last);
    let deadline = faults.iter().find_map(|fault| fault.deadline)?;
    let began = deadline - SignedDuration::from_mins(10);
    Some(began.duration_since(at(0)).as_mins())
}

#[test]
fn a_reason_without_an_action_does_not_start_the_grace_period_of_a_later_reason() {
    assert_eq!(start(&[reported(1, 0, 0, &[(NO_ACTION, 0)])]), None);
    assert_eq!(
        start(&[reported(1, 0, 0, &[(NO_ACTION, 0)]), reported(2, 6, 0, &[(REPLACE, 6)])]),
        Some(6),
        "after it"
    );
    assert_eq!(
        start(&[reported(1, 0, 0, &[(NO_ACTION, 0)]), reported(2, 6, 0, &[(NO_ACTION, 0), (REPLACE, 6)])]),
        Some(6),
        "beside it"
    );
    assert_eq!(
        start(&[reported(2, 6, 0, &[(REPLACE, 6)]), reported(1, 0, 0, &[(NO_ACTION, 0)])]),
        Some(6),
        "in any order"
    );
}

#[test]
fn a_new_reason_does_not_restart_the_grace_period() {
    assert_eq!(start(&[reported(1, 0, 0, &[(REPLACE, 0)]), reported(2, 6, 0, &[(REBOOT, 6)])]), Some(0));
    assert_eq!(start(&[reported(2, 6, 0, &[(REBOOT, 6)])]), Some(0), "the report before it was lost");
    assert_eq!(
        start(&[reported(1, 0, 0, &[(REPLACE, 0)]), reported(2, 6, 0, &[(NO_ACTION, 6), (REBOOT, 8)])]),
        Some(0)
    );
}

#[test]
fn a_reason_that_a_known_fault_did_not_have_counts_from_its_arrival() {
    // The report of the reason without an action is three minutes late.
    let known = || TestReport { seq: 1, written: 0, arrives: 3, since: 0, findings: &[(NO_ACTION, 0)] };
    assert_eq!(start(&[known(), reported(2, 4, 0, &[(REPLACE, 1)])]), Some(4));
    // Nor does a later report of it that claims to be old.
    let first = || reported(2, 30, 0, &[(NO_ACTION, 0), (REPLACE, 30)]);
    let lie = |written: i64| TestReport {
        seq: 3,
        written,
        arrives: 35,
        since: 0,
        findings: &[(NO_ACTION, 0), (REPLACE, 1)],
    };
    for written in [35, 100_000] {
        assert_eq!(start(&[known(), first(), lie(written)]), Some(30), "{written}");
    }
}

#[test]
fn a_late_report_about_an_earlier_episode_does_not_start_the_grace_period_of_this_one() {
    let late = || TestReport {
        seq: 2,
        written: 5,
        arrives: 25,
        since: 0,
        findings: &[(NO_ACTION, 0), (REPLACE, 4)],
    };
    let current = || reported(4, 20, 20, &[(NO_ACTION, 20)]);
    let healthy = || reported(3, 10, 10, &[]);
    let first = || reported(1, 0, 0, &[(NO_ACTION, 0)]);
    assert_eq!(start(&[first(), healthy(), current(), late()]), None);
    let later = || reported(5, 32, 20, &[(NO_ACTION, 20), (REPLACE, 32)]);
    assert_eq!(start(&[first(), healthy(), current(), late(), later()]), Some(32));
    assert_eq!(start(&[first(), healthy(), current(), later()]), Some(32), "the same without it");
}
