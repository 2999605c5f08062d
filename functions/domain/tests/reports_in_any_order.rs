//! Reports can be lost, repeated and reordered: the case is the same in the end.

use jiff::{SignedDuration, Timestamp};
use nodemend_domain::{
    case::{Case, Fault},
    condition::{ConditionType, Severity, Status},
    ident::{BootId, ClusterName, InstanceId, NodeName},
    policy::Policy,
    report::{Body, ConditionState, Finding, Report},
};
use proptest::prelude::*;

const CONDITIONS: [ConditionType; 2] = [ConditionType::NetworkingReady, ConditionType::StorageReady];
const HOLD: i64 = 120;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

/// What an agent that does not restart knows about one condition.
#[derive(Clone)]
struct Known {
    bad: bool,
    changed: i64,
    /// The start of the episode, ignoring recoveries shorter than the hold.
    episode: i64,
    healthy_before: Option<u64>,
}

/// A reference agent: it reports every change at once, everything every five minutes, and everything at the end.
fn reports(changes: &[(i64, usize)], end: i64, boot: u32) -> Vec<Report<'static>> {
    let mut known =
        vec![Known { bad: false, changed: 0, episode: 0, healthy_before: None }; CONDITIONS.len()];
    let mut reports = Vec::new();
    let mut heartbeat = 0;
    let mut seq = 0;
    let mut changes = changes.to_vec();
    changes.sort_unstable();
    changes.push((end, usize::MAX));
    for (time, which) in changes {
        while heartbeat < time {
            seq += 1;
            reports.push(report(boot, seq, heartbeat, Body::Heartbeat(states(&known, heartbeat))));
            heartbeat += 300;
        }
        if which == usize::MAX {
            seq += 1;
            reports.push(report(boot, seq, time, Body::Heartbeat(states(&known, time))));
            break;
        }
        let condition = &mut known[which];
        if condition.bad {
            (condition.bad, condition.changed) = (false, time);
        } else {
            let healthy = time - condition.changed;
            if healthy >= HOLD || (condition.episode == 0 && condition.healthy_before.is_none()) {
                condition.episode = time;
                condition.healthy_before = (healthy >= HOLD).then_some(healthy as u64);
            }
            (condition.bad, condition.changed) = (true, time);
        }
        seq += 1;
        let state = states(&known, time).swap_remove(which);
        reports.push(report(boot, seq, time, Body::Condition(state)));
    }
    reports
}

fn states(known: &[Known], now: i64) -> Vec<ConditionState<'static>> {
    let state = |(known, condition): (&Known, &ConditionType)| ConditionState {
        condition: condition.clone(),
        status: if known.bad { Status::False } else { Status::True },
        since: at(if known.bad { known.episode } else { known.changed }),
        sound_secs: if known.bad { known.healthy_before } else { None },
        findings: if known.bad {
            vec![Finding {
                reason: "Broken".into(),
                severity: Severity::Condition,
                since: at(known.episode),
                last: at(now),
                count: 1,
                message: "it is broken".into(),
            }]
        } else {
            Vec::new()
        },
    };
    known.iter().zip(&CONDITIONS).map(state).collect()
}

fn report(boot: u32, seq: u64, time: i64, body: Body<'static>) -> Report<'static> {
    Report {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
        instance_id: InstanceId::new("i-08736224042c4ee75").expect("an id"),
        zone: None,
        boot_id: BootId::new(format!("00000000-0000-4000-8000-{boot:012}")).expect("an id"),
        seq,
        at: at(time),
        agent: "test".into(),
        body,
    }
}

/// Each report takes the same two seconds, so that only order and loss differ.
fn arrival(report: &Report<'_>) -> Timestamp {
    report.at + SignedDuration::from_secs(2)
}

/// What a decision depends on: the bad conditions, each with its deadline, the rest of the case as text.
fn decision_input(reports: &[Report<'_>], now: Timestamp) -> (Vec<Fault>, String) {
    let policy = Policy::eks_defaults();
    let first = &reports[0];
    let mut case = Case::new(first.cluster.clone(), first.instance_id.clone());
    for report in reports {
        case.apply_report(report, arrival(report), &policy);
    }
    let mut faults = case.faults(&policy.default_rules(), &policy, now);
    // Recovering faults depend on when the recovery was reported; bad ones must be the same.
    faults.retain(Fault::is_bad);
    faults.sort_by(|one, other| one.condition.cmp(&other.condition));
    case.plan(&policy, now);
    let unhealthy = case.unhealthy_reason().map(|reason| (reason.silent, reason.unhealthy));
    let rest = (case.agent_last_seen(), case.boot().map(|boot| boot.id.clone()), unhealthy);
    (faults, format!("{rest:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_order_repetition_or_loss_before_a_heartbeat_hides_a_fault_or_hastens_its_repair(
        changes in prop::collection::vec((1i64..5_400, 0usize..2), 0..12),
        earlier in prop::collection::vec((1i64..3_000, 0usize..2), 0..4),
        order in any::<prop::sample::Index>(),
        lost in prop::collection::vec(any::<bool>(), 64),
        twice in prop::collection::vec(any::<bool>(), 64),
        seed in any::<u64>(),
    ) {
        let end = 6_000;
        // An earlier boot: its reports can arrive at any time, and change nothing.
        let mut before = reports(&earlier, 3_600, 1);
        before.iter_mut().for_each(|report| report.at -= SignedDuration::from_secs(4_000));
        let present = reports(&changes, end, 2);
        let all: Vec<_> = before.iter().chain(&present).cloned().collect();
        let now = at(end + 10);
        let (expected, expected_rest) = decision_input(&all, now);

        // The last heartbeat arrives. All other reports can be lost, repeated and reordered.
        let last = all.len() - 1;
        let mut delivered = Vec::new();
        for (index, report) in all.iter().enumerate() {
            if index == last || !lost[index % lost.len()] {
                delivered.push(report.clone());
                if twice[index % twice.len()] {
                    delivered.push(report.clone());
                }
            }
        }
        let mut state = seed | 1;
        for index in (1..delivered.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            delivered.swap(index, (state >> 33) as usize % (index + 1));
        }
        let start = order.index(delivered.len());
        delivered.rotate_left(start);
        let (faults, rest) = decision_input(&delivered, now);
        prop_assert_eq!(rest, expected_rest);
        let shown = |faults: &[Fault]| {
            let shown = |fault: &Fault| (fault.condition.clone(), fault.reason.clone(), fault.health);
            faults.iter().map(shown).collect::<Vec<_>>()
        };
        prop_assert_eq!(shown(&faults), shown(&expected));
        // What was lost or late can delay a repair. It never hastens one.
        for (fault, expected) in faults.iter().zip(&expected) {
            prop_assert!(fault.since >= expected.since, "{:?} {:?}", fault, expected);
            prop_assert!(fault.deadline >= expected.deadline, "{:?} {:?}", fault, expected);
        }
    }
}
