//! Each transition is tried in each state: it succeeds where [`TRANSITIONS`] lists it, and is refused elsewhere.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::*;
use crate::{
    audit_log::{Activity, CallOutcome},
    case::{
        CaseState::{self, Acting, Claimed, Closed, Confirming, Due, Healthy, Rebooting, Suspect},
        RepairRequest,
    },
    ident::{ClusterName, GroupName, InstanceId, NodeName},
    observation::{Observation, ObservedCondition, Removed, StatusWriter, What},
};

const STATES: [CaseState; 9] =
    [Healthy, Suspect, Due, CaseState::Blocked, Claimed, Acting, Confirming, Rebooting, Closed];

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + minute * 60).expect("a time")
}

/// When the transitions are tried: 31 minutes after the fault began, or earlier for a state before the deadline.
fn now(state: CaseState) -> Timestamp {
    if state == Suspect { at(10) } else { at(31) }
}

fn caller() -> Caller {
    Caller {
        account: "123456789012".to_owned(),
        region: "us-east-1".to_owned(),
        arn: "arn:aws:sts::123456789012:assumed-role/nodemend-repair/repair".to_owned(),
        principal_id: None,
        user_agent: None,
    }
}

fn group() -> GroupState {
    GroupState::new(ClusterName::new("prod").expect("a name"), GroupName::new("workers").expect("a name"))
}

/// A case in a state, and its group. The transitions themselves lead there.
struct Fixture {
    case: Case,
    group: GroupState,
    policy: Policy,
    caller: Caller,
    fault: Fault,
}

impl Fixture {
    fn in_state(state: CaseState, action: RepairAction) -> Self {
        let id = InstanceId::new("i-00000000000000001").expect("an id");
        let mut case = Case::new(ClusterName::new("prod").expect("a name"), id);
        let policy = Policy::eks_defaults();
        let observation = Observation {
            at: at(0),
            node: NodeName::new("ip-10-0-0-1.ec2.internal").expect("a name"),
            uid: None,
            instance_id: None,
            zone: None,
            boot_id: None,
            what: What::Conditions {
                by: StatusWriter::Kubelet,
                conditions: vec![ObservedCondition {
                    condition: ConditionType::Ready,
                    health: crate::condition::Health::Bad,
                    reason: "KubeletNotReady".to_owned(),
                    message: String::new(),
                }],
                removed: Removed::default(),
            },
        };
        let mut bad = case.clone();
        let _ = bad.apply_observation(&observation, observation.at, &policy);
        let faults = bad.faults(&policy.default_rules(), &policy, now(state));
        // In a state before the deadline, the fault of the repair is not due either.
        let deadline = if matches!(state, Healthy | Suspect) { Some(at(60)) } else { faults[0].deadline };
        let fault = Fault { action, deadline, ..faults[0].clone() };
        if state != Healthy {
            case = bad;
        }
        let mut fixture = Self { case, group: group(), policy, caller: caller(), fault };
        match state {
            Healthy | Suspect | Due | CaseState::Silent | CaseState::Recovering => {}
            CaseState::Blocked => fixture.apply("block").expect("a block"),
            Claimed => fixture.apply("claim").expect("a claim"),
            Acting => {
                fixture.apply("claim").expect("a claim");
                fixture.apply("begin call").expect("a call");
            }
            Confirming | Rebooting => {
                fixture.apply("claim").expect("a claim");
                fixture.apply("begin call").expect("a call");
                fixture.apply("record answer").expect("an answer");
            }
            Closed => fixture.apply("close (the instance is gone)").expect("an end"),
        }
        assert_eq!(fixture.state(state), state, "the fixture");
        fixture
    }

    fn state(&self, began_as: CaseState) -> CaseState {
        self.case.state_and_faults(Some(&self.policy.default_rules()), &self.policy, now(began_as)).0
    }

    /// Applies a transition by the name that it has in [`TRANSITIONS`].
    fn apply(&mut self, name: &str) -> Result<(), IllegalTransition> {
        let Self { case, group, policy, caller, fault } = self;
        let ctx = TransitionContext { policy, caller, now: at(31) };
        let gone = CaseOutcome::Gone { how: "its instance is gone".to_owned(), foreign: false };
        let effects = match name {
            "request repair" => {
                let (owner, reason) = ("alice".to_owned(), "a hung driver".to_owned());
                let request = RepairRequest { owner, reason, at: at(5), until: at(90) };
                return case.request_repair(request);
            }
            "block" => {
                let (guard, sentence) = (Guard::Held, "alice holds it".to_owned());
                let blocks = [Block { guard, sentence, until: None, out_of_service: false }];
                let blocked = BlockedRepair { fault, action: fault.action, blocks: &blocks, until: at(32) };
                case.block(Some(group), blocked, &ctx)?
            }
            "claim" => {
                let claim = Claim { fault, action: fault.action, verification: None };
                case.claim(group, claim, &ctx)?
            }
            "begin call" => {
                let _ = case.begin_call(&ctx)?;
                return Ok(());
            }
            "withdraw call" => return case.withdraw_call(at(31)),
            "record answer" => case.record_answer(Some(group), &answer(case, fault.action), &ctx)?,
            "confirm by state" => case.confirm_by_state(Some(group), &ctx)?,
            "recognize call" => {
                // A try before this one got no answer.
                let number = case.repairs;
                if let Some(repair) =
                    case.repair.as_mut().filter(|r| matches!(r.phase, Phase::Claimed { .. }))
                {
                    repair.push_call(unanswered(number));
                }
                case.recognize_call(at(30), Some(group), &ctx)?
            }
            "release" => case.release(Some(group), "it recovered before the call", &ctx)?,
            "close (cured by the reboot)" => case.close(Some(group), &CaseOutcome::Rebooted, &ctx)?,
            "close (replaced, or no replacement)" => {
                case.close(Some(group), &CaseOutcome::ReplacementFailed, &ctx)?
            }
            "close (the instance is gone)" => case.close(Some(group), &gone, &ctx)?,
            "reopen" => {
                case.note_sign_of_life(at(40));
                case.reopen(&ctx)?
            }
            other => panic!("{other} is no transition"),
        };
        // Records and events have the id of their case.
        let id = |case: &str| case.starts_with("i-00000000000000001#");
        assert!(effects.records.iter().all(|record| id(&record.case)));
        assert!(effects.events.iter().all(|event| id(&event.case)));
        Ok(())
    }
}

fn unanswered(repair: u32) -> Call {
    Call {
        repair,
        action: RepairAction::Replace,
        at: at(30),
        result: CallResult::Unanswered,
        denied: false,
        request_id: None,
        sequence: None,
        confirmation: None,
    }
}

fn answer(case: &Case, action: RepairAction) -> CallMade {
    let start_time = at(31);
    let activity = Activity {
        activity_id: "a".to_owned(),
        auto_scaling_group_name: "workers".to_owned(),
        cause: String::new(),
        description: "Terminating EC2 instance".to_owned(),
        details: None,
        progress: 0,
        start_time,
        status_code: "InProgress".to_owned(),
    };
    let activity = if action == RepairAction::Replace { Some(activity) } else { None };
    CallMade {
        call: ApiCall::of(case.instance_id().clone(), action),
        at: at(31),
        answer: CallAnswer {
            request_id: Some("r-1".to_owned()),
            outcome: CallOutcome::Accepted { activity },
        },
        evidence: Value::Null,
    }
}

/// The transitions that are methods. The first three of the table happen as time passes or reports arrive.
fn methods() -> impl Iterator<Item = Transition> {
    TRANSITIONS.into_iter().skip(3)
}

/// The actions whose repair can be in a state.
fn actions(state: CaseState) -> &'static [RepairAction] {
    match state {
        Rebooting => &[RepairAction::Reboot],
        Confirming => &[RepairAction::Replace],
        _ => &[RepairAction::Replace, RepairAction::Reboot],
    }
}

/// One fixture for each way into a state: a blocked case holds a slot, or does not yet.
fn fixtures(state: CaseState, action: RepairAction) -> Vec<Fixture> {
    let mut fixtures = vec![Fixture::in_state(state, action)];
    if state == CaseState::Blocked {
        let mut claimed = Fixture::in_state(Claimed, action);
        claimed.apply("block").expect("a block");
        fixtures.push(claimed);
    }
    fixtures
}

#[test]
fn each_state_allows_the_transitions_of_the_table_and_no_other() {
    for state in STATES {
        for transition in methods() {
            for action in actions(state) {
                let what = format!("{} in {} ({})", transition.name, state.as_str(), action.as_str());
                let listed = transition.from.contains(&state);
                let mut allowed = false;
                for mut fixture in fixtures(state, *action) {
                    let before = (fixture.case.clone(), fixture.group.clone());
                    let result = fixture.apply(transition.name);
                    let after = fixture.state(state);
                    match result {
                        Err(error) => {
                            assert_eq!(error.case, before.0.id(), "{what}");
                            let same = before == (fixture.case, fixture.group);
                            assert!(same, "{what} is refused and changes something");
                        }
                        Ok(()) if listed => {
                            // A node that is still bad is due again once its repair is over.
                            let is_end = !transition.to.contains(&Due);
                            let reached = if after == Due && is_end { Healthy } else { after };
                            assert!(transition.to.contains(&reached), "{what} leads to {}", after.as_str());
                            allowed = true;
                        }
                        Ok(()) => assert_eq!(after, state, "{what} is not in the table"),
                    }
                }
                assert!(allowed || !listed, "{what} is in the table and refused");
            }
        }
    }
}

#[test]
fn a_slot_is_held_from_the_claim_to_the_end_of_the_repair() {
    for state in STATES {
        let fixture = Fixture::in_state(state, actions(state)[0]);
        let holds = matches!(state, Claimed | Acting | Confirming | Rebooting);
        assert_eq!(fixture.group.slots().len(), usize::from(holds), "{}", state.as_str());
    }
    for end in ["release", "close (cured by the reboot)", "close (the instance is gone)"] {
        let mut fixture = Fixture::in_state(Rebooting, RepairAction::Reboot);
        fixture.apply(end).expect(end);
        assert!(fixture.group.slots().is_empty(), "{end}");
    }
}

#[test]
fn a_call_is_begun_once() {
    let mut fixture = Fixture::in_state(Claimed, RepairAction::Replace);
    fixture.apply("begin call").expect("the first");
    let second = fixture.apply("begin call").expect_err("the second");
    assert_eq!(second.state, Acting);
    assert_eq!(fixture.case.repair().map(|repair| repair.calls().len()), Some(1));
}

#[test]
fn a_claim_can_be_taken_over_only_with_the_repairs_own_slot() {
    let mut fixture = Fixture::in_state(Acting, RepairAction::Replace);
    fixture.apply("claim").expect("a takeover");
    assert_eq!(fixture.group.slots().len(), 1);
    let call = fixture.case.calls().next().expect("a call");
    assert_eq!(call.result(), CallResult::Unanswered, "the takeover marks it");
    assert_eq!(fixture.state(Acting), Claimed);
}

#[test]
fn a_refused_call_pauses_the_repair_and_keeps_its_claim() {
    let mut fixture = Fixture::in_state(Acting, RepairAction::Replace);
    let outcome = CallOutcome::Failed { code: "Throttling".to_owned(), message: "Rate exceeded".to_owned() };
    let mut made = answer(&fixture.case, RepairAction::Replace);
    made.answer.outcome = outcome;
    let ctx = TransitionContext { policy: &fixture.policy, caller: &fixture.caller, now: at(31) };
    let effects = fixture.case.record_answer(Some(&mut fixture.group), &made, &ctx).expect("an answer");
    assert_eq!(effects.records.len(), 1);
    match fixture.case.repair().expect("a repair").phase() {
        Phase::Claimed { until } => assert!(until > at(31) && until < at(31) + SignedDuration::from_hours(1)),
        other => panic!("{other:?}"),
    }
    assert!(fixture.group.slots()[0].terminated_at.is_none());
}

#[test]
fn of_an_answer_after_the_takeover_only_the_request_id_is_kept() {
    let mut fixture = Fixture::in_state(Acting, RepairAction::Replace);
    let made = answer(&fixture.case, RepairAction::Replace);
    fixture.apply("claim").expect("a takeover");
    let ctx = TransitionContext { policy: &fixture.policy, caller: &fixture.caller, now: at(33) };
    let effects = fixture.case.record_answer(Some(&mut fixture.group), &made, &ctx).expect("an answer");
    assert!(effects.records.is_empty() && effects.events.is_empty());
    let call = fixture.case.calls().next().expect("a call");
    assert_eq!((call.result(), call.request_id()), (CallResult::Unanswered, Some("r-1")));
    assert_eq!(fixture.state(Acting), Claimed);
}

#[test]
fn the_diagram_has_every_state_of_the_table() {
    let diagram = mermaid();
    for state in STATES {
        assert!(diagram.contains(state.as_str()), "{}", state.as_str());
    }
}
