//! Parsing of CloudTrail events: what is read, and what is refused.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[test]
fn every_fixture_is_parsed_and_is_the_same_after_storing_it() {
    let mut count = 0;
    for directory in ["real", "docs", "constructed"] {
        for entry in fs::read_dir(fixtures().join(directory)).expect("the directory") {
            let name = format!("{directory}/{}", entry.expect("an entry").file_name().to_string_lossy());
            if name.ends_with("eventbridge-envelope.json") {
                continue;
            }
            let event = event(&name);
            let kept = serde_json::to_string(&event).expect("JSON");
            assert_eq!(CloudTrailEvent::read(&kept).expect("an event"), event, "{name}");
            assert!(!kept.contains("accessKeyId") || kept.contains("credentials"), "{name}");
            assert_eq!(event.succeeded(), value(&name).get("errorCode").is_none(), "{name}");
            count += 1;
        }
    }
    assert_eq!(count, 25);
}

#[test]
fn a_number_is_the_same_after_storing_it() {
    let mut event = event(OURS);
    // Parsed with fewer digits, it would change each time that it is written.
    let long = format!("15273{}.208", "3".repeat(66));
    event.request_parameters = serde_json::from_str(&format!(r#"{{"at":{long}}}"#)).expect("JSON");
    let kept = serde_json::to_string(&event).expect("JSON");
    assert_eq!(CloudTrailEvent::read(&kept).expect("an event"), event);
}

#[test]
fn the_detail_of_an_eventbridge_event_is_the_cloudtrail_event() {
    let mut envelope = value("constructed/eventbridge-envelope.json");
    let event_inside = CloudTrailEvent::try_from(envelope["detail"].take()).expect("an event");
    assert_eq!(event_inside, event(OURS));
}

#[test]
fn the_caller_has_a_readable_name() {
    for (name, who) in [
        (REAL, "EKS node auto repair or node group update (AWSServiceRoleForAmazonEKSNodegroup)"),
        (
            "constructed/terminate-slr-eksnodegroup.json",
            "EKS node auto repair or node group update (AWSServiceRoleForAmazonEKSNodegroup)",
        ),
        ("real/ec2-TerminateInstances.json", "alice (IAM user)"),
        ("real/sessionCredentialFromConsole.json", "benjamin (IAM user) via health.amazonaws.com"),
        (OURS, "assumed role node-repair-executor-role/node-repair-executor"),
        ("docs/asg-CreateLaunchConfiguration.json", "root of account 123456789012"),
        ("real/AWSService-AssumeRole-lambda-or-ec2.json", "inspector2.amazonaws.com (AWS service)"),
        ("real/slr-AWSServiceRoleForRDS-invokedBy-v1.08.json", "rds.amazonaws.com (AWSServiceRoleForRDS)"),
        ("real/rustruntime-unknown-federate.json", "me@dev.com (Unknown)"),
        ("real/rustruntime-unknown-user-auth.json", "123456789000 (Unknown)"),
    ] {
        assert_eq!(event(name).who(), who, "{name}");
    }
    let mut unknown = event(REAL);
    unknown.user_identity = UserIdentity::default();
    assert_eq!(unknown.who(), "an unknown caller");
    unknown.user_identity.user_name = Some("a\u{1b}[31m\n".repeat(1_000));
    assert!(unknown.who().chars().count() <= 200 && !unknown.who().contains('\u{1b}'));
}

#[test]
fn the_instances_of_a_call_are_found_in_its_parameters_and_in_its_answer() {
    let ids =
        |event: &CloudTrailEvent| event.instance_ids().iter().map(ToString::to_string).collect::<Vec<_>>();
    for (name, expected, termination) in [
        (REAL, &["i-0ab76e62066c9730c"][..], true),
        ("real/ec2-TerminateInstances.json", &["i-0dbc91f429e48eeed"], true),
        (REBOOT, &["i-08736224042c4ee75"], false),
        (THROTTLED, &[], true),
        // The parameters have an instance, but the call does not change it.
        ("real/ec2-instance-role-ec2RoleDelivery.json", &[], false),
    ] {
        let mut event = event(name);
        assert_eq!(ids(&event), expected, "{name}");
        assert_eq!(event.is_termination(), termination, "{name}");
        // The answer has them too, except that of a reboot.
        event.request_parameters = Value::Null;
        assert_eq!(ids(&event), if name == REBOOT { &[] } else { expected }, "{name}");
        // Parameters of another form have no instance, and cause no panic.
        event.request_parameters = json!({"instanceId": 5, "instancesSet": [{"items": "x"}]});
        event.response_elements = json!(["activity"]);
        assert_eq!(ids(&event), [""; 0], "{name}");
    }
    assert_eq!(event(REAL).invoked_by(), Some("eks-nodegroup.amazonaws.com"));
}

#[test]
fn only_the_major_version_must_match() {
    for (version, known) in [
        ("1.05", true),
        ("1.11", true),
        ("1.99", true),
        ("2.0", false),
        ("10.1", false),
        ("1", false),
        ("1.", false),
        ("1.x", false),
        ("", false),
    ] {
        let mut event = value(REAL);
        event["eventVersion"] = json!(version);
        event["fieldOfALaterVersion"] = json!({"a": [1]});
        let read = CloudTrailEvent::read(&event.to_string());
        assert_eq!(read.is_ok(), known, "{version}");
        if let Err(error) = read {
            assert!(error.to_string().contains("eventVersion"), "{error}");
        }
    }
}

#[test]
fn text_that_is_too_long_or_not_an_event_is_refused() {
    let long = " ".repeat(MAX_EVENT_BYTES + 1);
    assert!(matches!(CloudTrailEvent::read(&long), Err(AuditLogError::TooLong { .. })));
    assert!(matches!(Record::read(&" ".repeat(MAX_RECORD_BYTES + 1)), Err(AuditLogError::TooLong { .. })));
    for text in ["", "null", "[]", "{}", "{\"eventVersion\":\"1.08\"}", &"[".repeat(100_000)] {
        assert!(matches!(CloudTrailEvent::read(text), Err(AuditLogError::Malformed(_))));
        assert!(Record::read(text).is_err());
    }
    // An event without userIdentity, or with null for it, is valid.
    let mut event = value(REAL);
    event["userIdentity"] = Value::Null;
    assert_eq!(
        CloudTrailEvent::read(&event.to_string()).expect("an event").user_identity,
        UserIdentity::default()
    );
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,30}".prop_map(Value::from),
        Just(json!("i-08736224042c4ee75")),
        Just(json!("2024-12-28T14:06:13Z")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                prop::sample::select(vec![
                    "items",
                    "instancesSet",
                    "activity",
                    "instanceId",
                    "description",
                    "x"
                ]),
                inner,
                0..4
            )
            .prop_map(|map| Value::Object(
                map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_parsing_panic(text in "\\PC*") {
        let _ = CloudTrailEvent::read(&text);
        let _ = Record::read(&text);
        let _ = verify_chain([&text]);
    }

    #[test]
    fn no_truncated_event_makes_parsing_panic(length in 0_usize..2_077) {
        let _ = CloudTrailEvent::read(&text(REAL)[..length]);
    }

    #[test]
    fn no_value_of_a_field_makes_anything_panic(
        field in prop::sample::select(vec![
            "userIdentity", "eventTime", "eventName", "requestParameters", "responseElements", "requestID",
            "errorCode", "errorMessage", "eventVersion", "readOnly",
        ]),
        any_value in any_json(),
    ) {
        let mut theirs = value(REAL);
        theirs[field] = any_value;
        if let Ok(theirs) = CloudTrailEvent::read(&theirs.to_string()) {
            let _ = (theirs.who(), theirs.instance_ids(), ComparisonOutcome::of(&golden(), &theirs));
            let kept = serde_json::to_string(&theirs).expect("JSON");
            prop_assert_eq!(CloudTrailEvent::read(&kept).expect("an event"), theirs);
        }
    }
}
