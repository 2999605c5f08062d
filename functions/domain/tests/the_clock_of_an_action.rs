//! When an action falls due: from the first moment at which a reason was there that calls for it.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::Case,
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};

/// Nobody acts on it.
const IDLE: &str = "DCGMHealthFailure";
const ACTED_ON: &str = "NvidiaXID79Error";
const ALSO_ACTED_ON: &str = "NvidiaXID95Error";

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
}

/// A report, written and arrived in the same minute unless told otherwise.
struct JoinStage {
    seq: u64,
    written: i64,
    arrives: i64,
    since: i64,
    findings: &'static [(&'static str, i64)],
}

fn told(seq: u64, minute: i64, since: i64, findings: &'static [(&'static str, i64)]) -> JoinStage {
    JoinStage { seq, written: minute, arrives: minute, since, findings }
}

/// In which minute the first due reason's grace began, after all this; none where nothing will be done.
fn start(reports: &[JoinStage]) -> Option<i64> {
    let policy = Policy::eks_defaults();
    let id = InstanceId::new("i-00000000000000001").expect("an id");
    let mut case = Case::new(ClusterName::new("prod").expect("a name"), id.clone());
    let mut last = at(0);
    for report in reports {
        let bad = !report.findings.is_empty();
        let finding = |(reason, since): &(&'static str, i64)| Finding {
            reason: (*reason).into(),
            severity: Severity::Condition,
            since: at(*since),
            last: at(report.written),
            count: 1,
            message: "as asked for".into(),
        };
        let said = Report {
            cluster: case.cluster().clone(),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            instance_id: id.clone(),
            zone: None,
            boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
            seq: report.seq,
            at: at(report.written),
            agent: "0.1.0".into(),
            body: Body::Condition(ConditionState {
                condition: ConditionType::AcceleratedHardwareReady,
                status: if bad { Status::False } else { Status::True },
                since: at(report.since),
                sound_secs: None,
                findings: report.findings.iter().map(finding).collect(),
            }),
        };
        case.apply_report(&said, at(report.arrives), &policy);
        last = last.max(at(report.arrives));
    }
    let faults = case.faults(&policy.default_rules(), &policy, last);
    let deadline = faults.iter().find_map(|fault| fault.deadline)?;
    let began = deadline - SignedDuration::from_mins(10);
    Some(began.duration_since(at(0)).as_mins())
}

#[test]
fn a_reason_that_nobody_acts_on_does_not_start_the_clock_of_the_one_that_takes_its_place() {
    assert_eq!(start(&[told(1, 0, 0, &[(IDLE, 0)])]), None);
    assert_eq!(
        start(&[told(1, 0, 0, &[(IDLE, 0)]), told(2, 6, 0, &[(ACTED_ON, 6)])]),
        Some(6),
        "in its place"
    );
    assert_eq!(
        start(&[told(1, 0, 0, &[(IDLE, 0)]), told(2, 6, 0, &[(IDLE, 0), (ACTED_ON, 6)])]),
        Some(6),
        "beside it"
    );
    assert_eq!(
        start(&[told(2, 6, 0, &[(ACTED_ON, 6)]), told(1, 0, 0, &[(IDLE, 0)])]),
        Some(6),
        "in any order"
    );
}

#[test]
fn a_new_reason_never_sets_the_clock_back() {
    assert_eq!(start(&[told(1, 0, 0, &[(ACTED_ON, 0)]), told(2, 6, 0, &[(ALSO_ACTED_ON, 6)])]), Some(0));
    assert_eq!(start(&[told(2, 6, 0, &[(ALSO_ACTED_ON, 6)])]), Some(0), "what came before it was lost");
    assert_eq!(
        start(&[told(1, 0, 0, &[(ACTED_ON, 0)]), told(2, 6, 0, &[(IDLE, 6), (ALSO_ACTED_ON, 8)])]),
        Some(0)
    );
}

#[test]
fn which_reason_came_first_the_nodes_own_clock_tells() {
    // The report of the idle reason is three minutes late.
    let late = JoinStage { seq: 1, written: 0, arrives: 3, since: 0, findings: &[(IDLE, 0)] };
    assert_eq!(start(&[late, told(2, 4, 0, &[(ACTED_ON, 1)])]), Some(1));
}

#[test]
fn what_is_said_late_of_an_earlier_trouble_does_not_start_the_clock_of_this_one() {
    let late =
        || JoinStage { seq: 2, written: 5, arrives: 25, since: 0, findings: &[(IDLE, 0), (ACTED_ON, 4)] };
    let now = || told(4, 20, 20, &[(IDLE, 20)]);
    let well = || told(3, 10, 10, &[]);
    let first = || told(1, 0, 0, &[(IDLE, 0)]);
    assert_eq!(start(&[first(), well(), now(), late()]), None);
    let then = || told(5, 32, 20, &[(IDLE, 20), (ACTED_ON, 32)]);
    assert_eq!(start(&[first(), well(), now(), late(), then()]), Some(32));
    assert_eq!(start(&[first(), well(), now(), then()]), Some(32), "the same without it");
}
