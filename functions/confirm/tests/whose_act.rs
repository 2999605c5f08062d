//! Whose act a termination was: CloudTrail's events, Auto Scaling's activities and our own calls, in every order.

mod fixture;

use jiff::SignedDuration;
use nodemend_domain::{
    case::Evidence,
    group::Lifecycle,
    repair::{CallResult, LEASE, Phase},
    repair_event::Step,
    status_check::{FailedStatusCheck, StatusCheck},
};
use nodemend_testkit::{
    Deployment, edit_stored,
    fixture::{ACCOUNT, GPU_ERROR, at, cloudtrail_event, instance, minutes, policy, reboot},
};
use serde_json::{Value, json};

use self::fixture::{ALICE, called, called_and_died, confirmations, deployment, recover, terminated_by};

const REFRESH: &str = "an instance was taken out of service in response to an instance refresh.";
const REQUEST: &str = "instance i-1 was taken out of service in response to a user request.";
const POLICY: &str = "a monitor alarm low-cpu in state ALARM triggered policy shrink changing the desired capacity \
    from 3 to 2.  At 2026-08-20T10:00:00Z an instance was taken out of service in response to a difference between \
    desired and actual capacity, shrinking the capacity from 3 to 2.  At 2026-08-20T10:00:00Z instance i-1 was \
    selected for termination.";

/// The identity of a service-linked role, as CloudTrail has it.
fn service_role(name: &str, service: &str) -> Value {
    json!({
        "type": "AssumedRole", "accountId": ACCOUNT, "invokedBy": service,
        "arn": format!("arn:aws:sts::{ACCOUNT}:assumed-role/{name}/session"),
        "sessionContext": { "sessionIssuer": {
            "type": "Role", "userName": name,
            "arn": format!("arn:aws:iam::{ACCOUNT}:role/aws-service-role/{service}/{name}"),
        } },
    })
}

/// EC2's event of a TerminateInstances of node 1 by this identity.
fn terminate_instances(identity: &Value, seconds: i64) -> Value {
    cloudtrail_event(&json!({
        "eventVersion": "1.11", "eventTime": at(seconds).to_string(), "awsRegion": "us-east-1",
        "userIdentity": identity, "eventSource": "ec2.amazonaws.com", "eventName": "TerminateInstances",
        "requestParameters": { "instancesSet": { "items": [{ "instanceId": instance(1) }] } },
        "responseElements": { "instancesSet": { "items": [{
            "instanceId": instance(1),
            "currentState": { "code": 32, "name": "shutting-down" },
            "previousState": { "code": 16, "name": "running" },
        }] } },
        "requestID": "executed", "eventID": "event-executed",
    }))
}

/// Auto Scaling's own TerminateInstances, which carries an activity out.
fn executed(seconds: i64) -> Value {
    let role = service_role("AWSServiceRoleForAutoScaling", "autoscaling.amazonaws.com");
    terminate_instances(&role, seconds)
}

/// Auto Scaling's event of the activity, which began then.
fn activity(cause: &str, seconds: i64) -> Value {
    json!({
        "detail-type": "EC2 Instance Terminate Successful", "source": "aws.autoscaling", "account": ACCOUNT,
        "detail": {
            "AutoScalingGroupName": "workers", "EC2InstanceId": instance(1),
            "Cause": format!("At {:.0} {cause}", at(seconds)),
            "StartTime": at(seconds).to_string(), "EndTime": at(seconds + 90).to_string(),
        },
    })
}

/// A termination by a role whose User-Agent is this.
fn called_by(arn: &str, agent: &str, shrinks: bool) -> Value {
    let mut event = terminated_by(arn, 1, 30, "theirs");
    event["detail"]["userAgent"] = agent.into();
    event["detail"]["requestParameters"]["shouldDecrementDesiredCapacity"] = shrinks.into();
    event
}

fn details(deployment: &Deployment, event: &Value) -> Vec<(Step, String)> {
    let events = deployment.try_confirm(event).expect("confirm succeeds").repair_events;
    events.into_iter().map(|event| (event.step, event.detail)).collect()
}

fn how(deployment: &Deployment) -> String {
    deployment.case(1).departure().expect("a departure").how.clone()
}

fn gone(deployment: &Deployment) {
    deployment.cloud.change(|fleet| fleet.leave(&instance(1)));
}

#[test]
fn the_execution_of_our_own_call_is_no_act_of_another() {
    for confirmed_first in [true, false] {
        let deployment = called();
        let event = deployment.cloudtrail(1);
        if confirmed_first {
            assert_eq!(deployment.confirm(&event), [Step::Confirmed]);
        }
        for _ in 0..2 {
            assert_eq!(deployment.confirm(&executed(1_822)), []);
        }
        if !confirmed_first {
            assert_eq!(deployment.confirm(&event), [Step::Confirmed]);
        }
        assert_eq!((deployment.count(1, "RepairForeign"), deployment.case(1).departure()), (0, None));
        assert_eq!(deployment.confirm(&executed(1_822 + 2 * 3_600)), [], "a drain can hold it for hours");
    }
}

#[test]
fn the_execution_of_a_call_without_an_answer_waits_for_the_activity() {
    let deployment = called_and_died();
    assert_eq!(deployment.confirm(&executed(1_822)), []);
    assert_eq!(deployment.case(1).departure(), None);
    gone(&deployment);
    deployment.run_until(at(1_800) + LEASE);
    assert_eq!(deployment.case(1).repair().expect("a repair").phase(), Phase::Confirming);
}

#[test]
fn a_termination_by_auto_scaling_is_joined_with_its_activity_in_any_order() {
    for (cause, expected) in [
        (POLICY, "scale-in by the policy shrink (alarm low-cpu)"),
        (REFRESH, "instance refresh"),
        ("an instance was taken out of service in response to an ELB system health check failure.", "ELB"),
        ("an instance was taken out of service in response to something new.", "something new"),
    ] {
        for order in [[0, 1], [1, 0]] {
            for closed_between in [false, true] {
                let deployment = deployment();
                deployment.clock.advance_to(at(60));
                let events = [executed(20), activity(cause, 18)];
                for (position, index) in order.into_iter().enumerate() {
                    let steps = deployment.confirm(&events[index]);
                    assert!(steps.iter().all(|step| *step == Step::Event), "{cause} {order:?}: {steps:?}");
                    assert_eq!(deployment.confirm(&events[index]), [], "published once");
                    if position == 0 && closed_between {
                        gone(&deployment);
                        deployment.run_until(at(180));
                        assert!(deployment.case(1).closed().is_some());
                    }
                }
                assert!(how(&deployment).contains(expected), "{cause} {order:?}: {}", how(&deployment));
                gone(&deployment);
                deployment.run_until(at(600));
                let outcome = deployment.case(1).closed().expect("an end").outcome.clone();
                assert!(outcome.contains(expected), "{cause} {order:?} {closed_between}: {outcome}");
                assert_eq!(deployment.count(1, "RepairForeign"), 0);
                assert_eq!(deployment.cloud.calls(), []);
            }
        }
    }
}

#[test]
fn a_request_in_the_activity_is_named_by_cloudtrail_before_or_after() {
    const AUTOSCALER: &str = "arn:aws:sts::123456789012:assumed-role/prod-autoscaler/s";
    let autoscaler =
        called_by(AUTOSCALER, "aws-sdk-go/1.48.7 (go1.22.2; linux; amd64) cluster-autoscaler/v1.31.1", true);
    let alice = called_by(ALICE, "aws-cli/2.17", true);
    for (event, step, name) in
        [(autoscaler, Step::Event, "cluster-autoscaler"), (alice, Step::Foreign, "alice")]
    {
        for order in [[0, 1], [1, 0]] {
            let deployment = deployment();
            deployment.clock.advance_to(at(60));
            gone(&deployment);
            let events = [event.clone(), activity(REQUEST, 30)];
            let mut published = Vec::new();
            for (round, index) in (1..).zip(order) {
                published.extend(details(&deployment, &events[index]));
                published.extend(details(&deployment, &events[index]).into_iter().map(|(step, detail)| {
                    assert_ne!(step, Step::Foreign, "twice");
                    (step, detail)
                }));
                deployment.run_until(at(60 + round * 120));
            }
            let named: Vec<_> = published.iter().filter(|(_, detail)| detail.contains(name)).collect();
            assert_eq!(named.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [step], "{published:?}");
            assert_eq!(deployment.count(1, "RepairForeign"), usize::from(step == Step::Foreign));
            let outcome = deployment.case(1).closed().expect("an end").outcome.clone();
            assert!(outcome.contains(name), "{order:?}: {outcome}");
        }
    }
}

#[test]
fn a_service_that_terminates_nodes_as_planned_is_named_and_not_foreign() {
    let karpenter = |agent: &str| {
        let mut event = terminate_instances(
            &json!({ "type": "AssumedRole", "arn": "arn:aws:sts::123456789012:assumed-role/KarpenterController/1" }),
            30,
        );
        event["detail"]["userAgent"] = agent.into();
        event
    };
    let mut by_eks = terminated_by(ALICE, 1, 30, "eks");
    by_eks["detail"]["userIdentity"] =
        service_role("AWSServiceRoleForAmazonEKSNodegroup", "eks-nodegroup.amazonaws.com");
    let mut evicted = cloudtrail_event(&json!({
        "eventVersion": "1.05", "userIdentity": { "accountId": ACCOUNT, "invokedBy": "ec2.amazonaws.com" },
        "eventTime": at(30).to_string(), "eventSource": "ec2.amazonaws.com", "eventName": "BidEvictedEvent",
        "awsRegion": "us-east-1", "eventID": "evicted", "eventType": "AwsServiceEvent",
        "serviceEventDetails": { "instanceIdSet": [instance(1)] },
    }));
    evicted["detail-type"] = "AWS Service Event via CloudTrail".into();
    for (event, name) in [
        (by_eks, "EKS node auto repair or node group update"),
        (
            terminate_instances(&service_role("AWSServiceRoleForEC2Spot", "spot.amazonaws.com"), 30),
            "EC2 Spot",
        ),
        (karpenter("aws-sdk-go-v2/1.30.4 os/linux lang/go#1.23.1 karpenter.sh-1.0.2"), "Karpenter"),
        (evicted, "EC2 Spot interrupted it"),
    ] {
        let deployment = deployment();
        deployment.clock.advance_to(at(60));
        assert_eq!(deployment.confirm(&event), [Step::Event], "{name}");
        assert_eq!(deployment.confirm(&event), [], "{name}: published once");
        let departure = deployment.case(1).departure().cloned().expect("a departure");
        assert!(departure.how.contains(name), "{}", departure.how);
        assert!((departure.evidence, departure.foreign) == (Evidence::Caller, false));
        deployment.run_until(at(24 * 3_600));
        assert!(deployment.case(1).closed().is_some(), "{name}: a call is certain, whatever the group lists");
        assert_eq!((deployment.cloud.calls(), deployment.count(1, "RepairForeign")), (Vec::new(), 0));
    }
}

#[test]
fn a_caller_that_only_looks_like_a_service_is_foreign() {
    const ROLE: &str = "arn:aws:sts::123456789012:assumed-role/AWSServiceRoleForAutoScaling/alice";
    const AUTOSCALER: &str = "arn:aws:sts::123456789012:assumed-role/prod-autoscaler/s";
    let user =
        json!({ "type": "IAMUser", "arn": "arn:aws:iam::123456789012:user/alice", "userName": "alice" });
    let mut of_user = terminate_instances(&user, 30);
    of_user["detail"]["userAgent"] = "cluster-autoscaler/1.31 karpenter.sh-1.0.2".into();
    // A customer's role with a service's name, and a service that calls with a person's permissions.
    let mut named = service_role("AWSServiceRoleForAutoScaling", "autoscaling.amazonaws.com");
    named["sessionContext"]["sessionIssuer"]["arn"] =
        "arn:aws:iam::123456789012:role/AWSServiceRoleForAutoScaling".into();
    let mut through = json!({ "type": "AssumedRole", "arn": ALICE, "accountId": ACCOUNT });
    through["invokedBy"] = "cloudformation.amazonaws.com".into();
    for (event, what) in [
        (terminated_by(ROLE, 1, 30, "name-alone"), "a role's name alone"),
        (terminate_instances(&named, 30), "a role outside of /aws-service-role/"),
        (terminate_instances(&through, 30), "a service with a person's permissions"),
        (of_user, "a user with the User-Agent of a controller"),
        (called_by(AUTOSCALER, "cluster-autoscaler/1.31", false), "no scale-in"),
        (called_by(AUTOSCALER, "my-cluster-autoscaler/1.31", true), "another User-Agent"),
        (
            terminate_instances(&service_role("AWSServiceRoleForNobody", "nobody.amazonaws.com"), 30),
            "a service that has no business with nodes",
        ),
    ] {
        let deployment = deployment();
        deployment.clock.advance_to(at(60));
        assert_eq!(deployment.confirm(&event), [Step::Foreign], "{what}");
    }
}

#[test]
fn a_repeated_terminate_instances_of_an_ended_instance_is_nobodys_act() {
    let deployment = called();
    let mut event = terminate_instances(&json!({ "type": "AssumedRole", "arn": ALICE }), 1_900);
    for state in ["shutting-down", "terminated"] {
        let item = &mut event["detail"]["responseElements"]["instancesSet"]["items"][0];
        item["previousState"]["name"] = state.into();
        assert_eq!(deployment.confirm(&event), [], "{state}");
    }
    event["detail"]["responseElements"]["instancesSet"]["items"][0]["previousState"]["name"] =
        "running".into();
    assert_eq!(deployment.confirm(&event), [Step::Foreign]);
}

#[test]
fn a_person_who_ends_the_instance_is_named_over_what_auto_scaling_makes_of_it() {
    const ENDED: &str = "an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.";
    for order in [[0, 1], [1, 0]] {
        let deployment = deployment();
        deployment.clock.advance_to(at(60));
        let alice = terminate_instances(&json!({ "type": "AssumedRole", "arn": ALICE }), 20);
        let events = [alice, activity(ENDED, 40)];
        let steps: Vec<Step> =
            order.into_iter().flat_map(|index| deployment.confirm(&events[index])).collect();
        assert_eq!(steps.iter().filter(|step| **step == Step::Foreign).count(), 1, "{order:?}");
        assert!(how(&deployment).contains("alice"), "{}", how(&deployment));
    }
}

#[test]
fn several_instances_of_one_call_are_each_attributed() {
    let deployment = deployment();
    let mut event = terminated_by(ALICE, 1, 30, "several");
    event["detail"]["requestParameters"] =
        json!({ "autoScalingGroupName": "workers", "instanceIds": [instance(1), instance(2), instance(7)] });
    assert_eq!(deployment.confirm(&event), [Step::Foreign, Step::Foreign]);
}

/// The call of node 1 got no answer, and the repair claims the node again for another try.
fn claimed_again() -> Deployment {
    let deployment = called_and_died();
    let mut case = deployment.case(1);
    edit_stored(&mut case, |case| {
        case["repair"]["phase"] = json!({ "phase": "claimed", "until": at(1_800 + 600) });
        case["repair"]["calls"][0]["result"] = json!(CallResult::Unanswered);
    });
    deployment.put_case(&case);
    deployment
}

#[test]
fn a_lost_answer_is_recognized_by_the_activity() {
    let deployment = claimed_again();
    deployment.clock.advance_to(at(1_900));
    gone(&deployment);
    let published = details(&deployment, &activity(REQUEST, 1_801));
    assert_eq!(published.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [Step::Called]);
    assert!(published[0].1.contains("our call of"), "{published:?}");
    let case = deployment.case(1);
    assert_eq!(case.repair().expect("a repair").phase(), Phase::Confirming);
    // The replacement is awaited, and CloudTrail's event confirms the call however late it is.
    deployment.run_until(at(1_800 + 600));
    assert_eq!((deployment.case(1).closed(), deployment.cloud.calls().len()), (None, 1));
    assert_eq!(deployment.confirm(&executed(1_801)), []);
    assert_eq!(confirmations(&deployment), [None]);
}

#[test]
fn a_lost_answer_whose_claim_was_released_is_named_as_our_own_act() {
    let deployment = called_and_died();
    deployment.cloud.change(|fleet| fleet.set_lifecycle(&instance(1), Lifecycle::InService));
    deployment.clock.advance_to(at(1_810));
    recover(&deployment, 1_810);
    deployment.run_until(at(1_800) + LEASE + SignedDuration::from_mins(5));
    assert_eq!(deployment.case(1).repair(), None, "released");
    gone(&deployment);
    assert_eq!(deployment.confirm(&activity(REQUEST, 1_801)), [Step::Event]);
    assert!(how(&deployment).contains("our own call of"), "{}", how(&deployment));
    // A request at another time is another caller's.
    let other = called_and_died();
    other.clock.advance_to(at(1_800) + LEASE + minutes(20).duration_since(at(0)));
    assert_eq!(other.confirm(&activity(REQUEST, 2_600)), [Step::Event]);
    assert!(!how(&other).contains("our own"), "{}", how(&other));
}

#[test]
fn what_auto_scaling_did_by_itself_is_not_taken_for_our_call_without_an_answer() {
    let deployment = called_and_died();
    deployment.clock.advance_to(at(1_860));
    gone(&deployment);
    assert_eq!(deployment.confirm(&activity(REFRESH, 1_700)), [Step::Event]);
    deployment.run_until(at(1_800) + LEASE + SignedDuration::from_mins(2));
    let outcome = deployment.case(1).closed().expect("an end").outcome.clone();
    assert!(outcome.contains("instance refresh"), "{outcome}");
}

#[test]
fn what_auto_scaling_did_to_a_node_that_we_rebooted_is_named() {
    for closed_between in [false, true] {
        let deployment = Deployment::with_problem(1, GPU_ERROR, policy());
        deployment.run_until(minutes(10));
        assert_eq!(deployment.cloud.calls(), [reboot(1)]);
        deployment.clock.advance_to(at(700));
        deployment.confirm(&executed(690));
        gone(&deployment);
        if closed_between {
            deployment.run_until(minutes(30));
            assert!(deployment.case(1).closed().is_some());
        }
        deployment.confirm(&activity(REFRESH, 680));
        deployment.run_until(minutes(40));
        let outcome = deployment.case(1).closed().expect("an end").outcome.clone();
        assert!(outcome.contains("instance refresh"), "{outcome}");
    }
}

#[test]
fn an_announcement_is_an_event_of_its_node_once() {
    let spot = |kind: &str| {
        json!({
            "detail-type": kind, "source": "aws.ec2", "account": ACCOUNT, "time": at(10).to_string(),
            "detail": { "instance-id": instance(1), "instance-action": "terminate" },
        })
    };
    let health = |code: &str, status: &str, start: &str| {
        json!({
            "detail-type": "AWS Health Event", "source": "aws.health", "account": ACCOUNT,
            "time": at(10).to_string(), "resources": [instance(1)],
            "detail": {
                "service": "EC2", "eventTypeCode": code, "eventTypeCategory": "scheduledChange",
                "statusCode": status, "startTime": start,
                "affectedEntities": [{ "entityValue": instance(1) }, { "entityValue": instance(7) }],
            },
        })
    };
    const RETIRED: &str = "AWS_EC2_PERSISTENT_INSTANCE_RETIREMENT_SCHEDULED";
    const START: &str = "Sat, 05 Sep 2026 15:10:09 GMT";
    for (event, reason) in [
        (spot("EC2 Spot Instance Interruption Warning"), Some("SpotInterruption")),
        (spot("EC2 Instance Rebalance Recommendation"), Some("RebalanceRecommendation")),
        (health(RETIRED, "upcoming", START), Some("InstanceRetirement")),
        (health("AWS_EC2_INSTANCE_STOP_SCHEDULED", "open", START), Some("InstanceRetirement")),
        (health("AWS_EC2_SYSTEM_REBOOT_MAINTENANCE_SCHEDULED", "open", START), Some("InstanceMaintenance")),
        (health("AWS_EC2_OPERATIONAL_ISSUE", "open", START), None),
        (health(RETIRED, "closed", START), None),
        (health(RETIRED, "upcoming", ""), None),
    ] {
        let deployment = deployment();
        deployment.clock.advance_to(at(20));
        let published = deployment.try_confirm(&event).expect("confirm succeeds").repair_events;
        let reasons: Vec<_> = published.iter().map(|event| (event.step, event.reason.as_deref())).collect();
        let expected: Vec<_> = reason.map(|reason| (Step::Event, Some(reason))).into_iter().collect();
        assert_eq!(reasons, expected, "{event}");
        assert_eq!(deployment.confirm(&event), [], "{reason:?}: published once");
        deployment.run_until(at(1_000));
        assert_eq!(deployment.cloud.calls(), [], "{reason:?}: an event alone repairs nothing");
    }
}

#[test]
fn a_spot_interruption_is_named_by_its_warning() {
    let deployment = deployment();
    deployment.clock.advance_to(at(20));
    let warning = json!({
        "detail-type": "EC2 Spot Instance Interruption Warning", "source": "aws.ec2", "account": ACCOUNT,
        "time": at(10).to_string(), "detail": { "instance-id": instance(1), "instance-action": "terminate" },
    });
    assert_eq!(deployment.confirm(&warning), [Step::Event]);
    deployment.clock.advance_to(at(140));
    let ended = activity(
        "an instance was taken out of service in response to an EC2 health check indicating it has been terminated or stopped.",
        130,
    );
    assert_eq!(deployment.confirm(&ended), [Step::Event]);
    assert!(how(&deployment).contains("EC2 Spot interrupted it"), "{}", how(&deployment));
}

#[test]
fn a_replacement_after_a_failed_status_check_names_the_check_that_failed() {
    const FAILED: &str =
        "an instance was taken out of service in response to an EC2 instance status checks failure.";
    for (since, named) in [(Some(600), true), (Some(-7_200), false), (None, false)] {
        let deployment = deployment();
        deployment.clock.advance_to(at(700));
        if let Some(since) = since {
            let failed = FailedStatusCheck {
                instance_id: instance(1),
                check: StatusCheck::Instance,
                since: Some(at(since)),
            };
            deployment.change(1, |case| {
                let _events = case.record_notice(&failed.notice(at(700)), &deployment.transition());
            });
        }
        deployment.clock.advance_to(at(1_300));
        assert_eq!(deployment.confirm(&activity(FAILED, 1_290)), [Step::Event]);
        let how = how(&deployment);
        assert!(how.contains("(failed EC2 status check)"), "{how}");
        assert_eq!(how.contains("(its instance status check failed at "), named, "{how}");
    }
}
