//! Tests of the audit log with real, published and constructed CloudTrail events.

mod comparison;
mod events;
mod lines;

use std::{fs, path::PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::*;
use crate::ident::InstanceId;

const REAL: &str = "real/terminate-by-eks-node-repair.json";
const OURS: &str = "constructed/terminate-success-lambda-role.json";
const REBOOT: &str = "constructed/reboot-success-lambda-role.json";
const DENIED: &str = "constructed/terminate-access-denied.json";
const THROTTLED: &str = "constructed/terminate-throttled.json";
const NOT_FOUND: &str = "constructed/terminate-instance-not-found.json";
const REBOOT_DENIED: &str = "constructed/reboot-unauthorized.json";

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/cloudtrail")
}

fn text(name: &str) -> String {
    fs::read_to_string(fixtures().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

pub(super) fn event(name: &str) -> CloudTrailEvent {
    CloudTrailEvent::read(&text(name)).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

fn value(name: &str) -> Value {
    serde_json::from_str(&text(name)).expect("JSON")
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn string(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn about(chain: Chain) -> About {
    About {
        case: "prod/ip-10-0-10-170.ec2.internal/i-0ab76e62066c9730c/1".to_owned(),
        chain,
        decision: json!({"action": "Replace", "reason": "NvidiaXID79Error"}),
        guards: vec![GuardNote {
            guard: "parallelLimit".to_owned(),
            passed: true,
            why: "1 of at most 2 repairs of this group is going on".to_owned(),
        }],
        evidence: json!({"findings": [{"reason": "NvidiaXID79Error", "count": 3}]}),
    }
}

fn caller(event: &Value) -> Caller {
    let identity = &event["userIdentity"];
    Caller {
        account: string(&identity["accountId"]),
        region: string(&event["awsRegion"]),
        arn: string(&identity["arn"]),
        principal_id: Some(string(&identity["principalId"])),
        user_agent: Some("aws-sdk-rust/1.3.8".to_owned()),
    }
}

/// Our record of a fixture's call, built from the SDK's values as in a repair.
fn ours(name: &str, outcome: CallOutcome) -> Record {
    let event = value(name);
    let instance = |id: &Value| InstanceId::new(string(id)).expect("an instance id");
    let parameters = &event["requestParameters"];
    let call = match (string(&event["eventName"]).as_str(), parameters) {
        ("RebootInstances", _) => ApiCall::RebootInstances {
            instance_id: instance(&parameters["instancesSet"]["items"][0]["instanceId"]),
        },
        (_, Value::Null) => ApiCall::TerminateInstanceInAutoScalingGroup {
            instance_id: instance(&json!("i-08736224042c4ee75")),
        },
        _ => {
            ApiCall::TerminateInstanceInAutoScalingGroup { instance_id: instance(&parameters["instanceId"]) }
        }
    };
    let answer = CallAnswer {
        request_id: Some(string(&event["requestID"]))
            .filter(|_| !matches!(outcome, CallOutcome::Unanswered { .. })),
        outcome,
    };
    let sent = at(&string(&event["eventTime"])) + SignedDuration::from_millis(21);
    Record::call(&caller(&event), &call, answer, sent, about(Chain::start()))
}

/// The activity as the SDK returns it: with milliseconds, and with a typed timestamp.
fn accepted(name: &str, start_time: &str) -> CallOutcome {
    let event = value(name);
    let activity = &event["responseElements"]["activity"];
    CallOutcome::Accepted {
        activity: Some(Activity {
            activity_id: string(&activity["activityId"]),
            auto_scaling_group_name: string(&activity["autoScalingGroupName"]),
            description: string(&activity["description"]),
            cause: string(&activity["cause"]),
            start_time: at(start_time),
            status_code: string(&activity["statusCode"]),
            progress: 0,
            details: Some(string(&activity["details"])),
        }),
    }
}

fn golden() -> Record {
    ours(REAL, accepted(REAL, "2024-12-28T14:06:13.394Z"))
}

fn failed(code: &str, message: &str) -> CallOutcome {
    CallOutcome::Failed { code: code.to_owned(), message: message.to_owned() }
}

/// Pairs that match: a fixture, and our record of the same call.
fn pairs() -> Vec<(&'static str, Record)> {
    let denied = string(&value(DENIED)["errorMessage"]);
    let reboot_denied = string(&value(REBOOT_DENIED)["errorMessage"]);
    vec![
        (REAL, golden()),
        (OURS, ours(OURS, accepted(OURS, "2026-08-20T10:31:07.536Z"))),
        (REBOOT, ours(REBOOT, CallOutcome::Accepted { activity: None })),
        (DENIED, ours(DENIED, failed("AccessDenied", &denied))),
        (THROTTLED, ours(THROTTLED, failed("Throttling", "Rate exceeded"))),
        (
            NOT_FOUND,
            ours(
                NOT_FOUND,
                failed(
                    "ValidationError",
                    "Instance Id not found - No managed instance found for instance ID: i-08736224042c4ee75",
                ),
            ),
        ),
        (REBOOT_DENIED, ours(REBOOT_DENIED, failed("UnauthorizedOperation", reboot_denied.trim()))),
    ]
}

fn step(step: RecordStep, data: Value, chain: Chain) -> Record {
    let instance = InstanceId::new("i-0ab76e62066c9730c").expect("an instance id");
    let at = at("2024-12-28T14:06:12.5Z");
    Record::step(&caller(&value(REAL)), step, &instance, data, at, about(chain))
}
