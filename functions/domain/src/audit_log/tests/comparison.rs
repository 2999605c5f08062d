//! Which differences between our record and CloudTrail's event count.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;

/// The text of a top-level field, without white space between tokens.
fn raw(json: &str, field: &str) -> String {
    let (mut compact, mut in_string, mut escaped) = (String::new(), false, false);
    for c in json.chars() {
        if in_string || !c.is_whitespace() {
            compact.push(c);
        }
        in_string ^= c == '"' && !escaped;
        escaped = in_string && c == '\\' && !escaped;
    }
    let start = compact.find(&format!("\"{field}\":")).expect("the field") + field.len() + 3;
    let mut stream = serde_json::Deserializer::from_str(&compact[start..]).into_iter::<Value>();
    stream.next().expect("a value").expect("JSON");
    compact[start..][..stream.byte_offset()].to_owned()
}

/// Every leaf that is compared, with its path and its JSON pointer in CloudTrail's event.
fn shared_leaves(ours: &Value, theirs: &Value) -> Vec<(String, String)> {
    fn visit(ours: &Value, theirs: &Value, path: &str, pointer: &str, leaves: &mut Vec<(String, String)>) {
        if NEVER_COMPARED.iter().any(|(field, _)| *field == path) {
            return;
        }
        match (ours, theirs) {
            (Value::Object(ours), Value::Object(theirs)) => {
                for (key, our_value) in ours {
                    if let Some(their_value) = theirs.get(key) {
                        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                        visit(our_value, their_value, &path, &format!("{pointer}/{key}"), leaves);
                    }
                }
            }
            (Value::Array(ours), Value::Array(theirs)) => {
                for (index, (our_value, their_value)) in ours.iter().zip(theirs).enumerate() {
                    let path = format!("{path}[{index}]");
                    visit(our_value, their_value, &path, &format!("{pointer}/{index}"), leaves);
                }
            }
            // CloudTrail has null here for a failed call.
            (_, Value::Null) => {}
            _ => leaves.push((path.to_owned(), pointer.to_owned())),
        }
    }
    let mut leaves = Vec::new();
    visit(ours, theirs, "", "", &mut leaves);
    leaves
}

fn changed(field: &str, value: &Value) -> Value {
    match value {
        Value::Bool(value) => json!(!value),
        Value::Number(value) => json!(value.as_i64().expect("a whole number") + 1),
        Value::String(text) if field == "eventTime" => {
            json!((at(text) + SignedDuration::from_hours(1)).to_string())
        }
        Value::String(text) if field.ends_with("startTime") => {
            json!(text.replace(":13 ", ":14 ").replace(":07 ", ":08 "))
        }
        Value::String(text) => json!(format!("x{text}")),
        other => panic!("{field} is no leaf: {other}"),
    }
}

#[test]
fn our_record_of_a_real_replacement_has_the_same_text_as_cloudtrails_event() {
    let line = golden().to_json_line();
    for field in ["requestParameters", "responseElements"] {
        assert_eq!(raw(&line, field), raw(&text(REAL), field));
    }
    assert!(line.contains(r#""startTime":"Dec 28, 2024, 2:06:13 PM""#), "{line}");
    for field in [
        "eventTime",
        "eventSource",
        "eventName",
        "awsRegion",
        "requestID",
        "readOnly",
        "eventType",
        "managementEvent",
        "recipientAccountId",
        "eventCategory",
    ] {
        assert_eq!(raw(&line, field), raw(&text(REAL), field), "{field}");
    }
    assert_eq!(compare(&golden(), &event(REAL)), []);
    assert_eq!(ComparisonOutcome::of(&golden(), &event(REAL)), ComparisonOutcome::Confirmed);
}

#[test]
fn a_record_has_every_field_of_a_cloudtrail_event_but_the_address() {
    let record: Value = serde_json::from_str(&golden().to_json_line()).expect("JSON");
    let real = value(REAL);
    let missing: Vec<_> = real
        .as_object()
        .expect("an object")
        .keys()
        .filter(|field| record.get(field.as_str()).is_none())
        .collect();
    assert_eq!(missing, ["sourceIPAddress"]);
}

#[test]
fn record_and_event_of_the_same_call_match_whatever_its_answer() {
    for (name, record) in pairs() {
        assert_eq!(compare(&record, &event(name)), [], "{name}");
        assert_eq!(ComparisonOutcome::of(&record, &event(name)), ComparisonOutcome::Confirmed, "{name}");
    }
}

#[test]
fn a_difference_in_any_shared_field_is_found() {
    for (name, record) in pairs() {
        let theirs = value(name);
        let ours = serde_json::to_value(&record).expect("JSON");
        let leaves = shared_leaves(&ours, &theirs);
        // 10 of the envelope, 4 of the identity, 2 of the request, 8 of the answer.
        assert!(name != REAL || leaves.len() == 24, "{leaves:?}");
        for (field, pointer) in leaves {
            let mut theirs = theirs.clone();
            let leaf = theirs.pointer_mut(&pointer).expect("the leaf");
            let before = leaf.clone();
            *leaf = changed(&field, leaf);
            assert_ne!(before, *leaf, "{name} {field}");
            let differences = compare(&record, &CloudTrailEvent::try_from(theirs).expect("an event"));
            let fields: Vec<_> = differences.iter().map(|difference| difference.field.as_str()).collect();
            assert_eq!(fields, [field.as_str()], "{name}");
        }
    }
}

#[test]
fn fields_that_are_never_compared_never_differ() {
    let mut theirs = value(REAL);
    theirs["eventID"] = json!("another");
    theirs["eventVersion"] = json!("1.99");
    theirs["userAgent"] = json!("another");
    theirs["sourceIPAddress"] = json!("192.0.2.1");
    theirs["tlsDetails"] = json!({"tlsVersion": "TLSv1.3"});
    theirs["nodemend"] = json!("another");
    theirs["userIdentity"]["sessionContext"] = json!({});
    theirs["userIdentity"]["accessKeyId"] = json!("another");
    assert_eq!(compare(&golden(), &CloudTrailEvent::try_from(theirs).expect("an event")), []);
}

#[test]
fn a_success_differs_from_a_failure_and_the_other_way_round() {
    let mut record = golden();
    let mut theirs = event(REAL);
    theirs.error_code = Some("AccessDenied".to_owned());
    theirs.response_elements = Value::Null;
    theirs.request_parameters = Value::Null;
    assert_eq!(
        compare(&record, &theirs),
        [Difference { field: "errorCode".to_owned(), ours: Value::Null, theirs: json!("AccessDenied") }]
    );

    record.error_code = Some("Throttling".to_owned());
    record.response_elements = None;
    let fields: Vec<_> =
        compare(&record, &event(REAL)).into_iter().map(|difference| difference.field).collect();
    assert_eq!(fields, ["errorCode", "responseElements"]);
}

#[test]
fn an_answer_differs_from_an_empty_one() {
    let mut theirs = event(REAL);
    theirs.response_elements = Value::Null;
    let fields: Vec<_> = compare(&golden(), &theirs).into_iter().map(|difference| difference.field).collect();
    assert_eq!(fields, ["responseElements"]);
}

#[test]
fn a_list_of_another_length_differs_as_a_whole() {
    let record = ours(REBOOT, CallOutcome::Accepted { activity: None });
    let mut theirs = event(REBOOT);
    theirs.request_parameters["instancesSet"]["items"] =
        json!([{"instanceId": "i-08736224042c4ee75"}, {"instanceId": "i-08736224042c4ee76"}]);
    let fields: Vec<_> = compare(&record, &theirs).into_iter().map(|difference| difference.field).collect();
    assert_eq!(fields, ["requestParameters.instancesSet.items"]);
}

#[test]
fn the_event_time_can_be_a_minute_later_and_two_seconds_earlier() {
    let record = golden();
    for (seconds, matches) in [(-3, false), (-2, true), (0, true), (60, true), (61, false)] {
        let mut theirs = event(REAL);
        theirs.event_time = record.event_time + SignedDuration::from_secs(seconds);
        assert_eq!(compare(&record, &theirs).is_empty(), matches, "{seconds}");
    }
}

#[test]
fn another_session_of_our_role_matches_and_another_role_does_not() {
    let record = golden();
    let mut theirs = event(REAL);
    theirs.user_identity.arn =
        Some("arn:aws:sts::xxxxxxxxxxxx:assumed-role/AWSServiceRoleForAmazonEKSNodegroup/other".to_owned());
    theirs.user_identity.principal_id = Some("AROAR5DGWODCNOJPW6PDC:other".to_owned());
    assert_eq!(compare(&record, &theirs), []);
    theirs.user_identity.principal_id = Some("AROAR5DGWODCNOJPW6PDD:EKS".to_owned());
    assert_eq!(compare(&record, &theirs)[0].field, "userIdentity.principalId");
}

#[test]
fn the_same_error_code_in_another_spelling_matches() {
    for (ours_code, theirs_code, same) in [
        ("Throttling", "ThrottlingException", true),
        ("ValidationError", "ValidationException", true),
        ("UnauthorizedOperation", "Client.UnauthorizedOperation", true),
        ("ScalingActivityInProgress", "ScalingActivityInProgressFault", true),
        ("AccessDenied", "AccessDeniedException", true),
        ("InternalError", "Server.InternalError", true),
        ("Throttling", "ValidationException", false),
        ("Error", "Exception", false),
    ] {
        let record = ours(THROTTLED, failed(ours_code, "Rate exceeded"));
        let mut theirs = event(THROTTLED);
        theirs.error_code = Some(theirs_code.to_owned());
        assert_eq!(compare(&record, &theirs).is_empty(), same, "{ours_code} {theirs_code}");
    }
}

#[test]
fn a_truncated_error_message_matches() {
    let long = "User is not authorized. ".repeat(100);
    let record = ours(DENIED, failed("AccessDenied", &long));
    let mut theirs = event(DENIED);
    theirs.error_message = Some(long[..1_024].to_owned());
    assert_eq!(compare(&record, &theirs), []);
    theirs.error_message = Some("User".to_owned());
    assert_eq!(compare(&record, &theirs)[0].field, "errorMessage");
}

#[test]
fn the_record_of_a_failed_call_has_its_parameters() {
    let line = ours(THROTTLED, failed("Throttling", "Rate exceeded")).to_json_line();
    let record: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(record["requestParameters"]["instanceId"], "i-08736224042c4ee75");
    assert_eq!(record["responseElements"], Value::Null);
    assert_eq!(record["errorCode"], "Throttling");
}

#[test]
fn another_request_id_is_another_call() {
    let mut theirs = event(REAL);
    theirs.request_id = Some("another".to_owned());
    assert_eq!(ComparisonOutcome::of(&golden(), &theirs), ComparisonOutcome::AnotherCall);
    theirs.request_id = None;
    assert_eq!(ComparisonOutcome::of(&golden(), &theirs), ComparisonOutcome::AnotherCall);
}

#[test]
fn a_call_without_an_answer_is_matched_by_principal_name_instance_and_time() {
    let unanswered = || CallOutcome::Unanswered { why: "timed out after 10 s".to_owned() };
    let record = ours(REAL, unanswered());
    assert_eq!(record.error_code, None, "it is unknown whether it failed");
    assert_eq!(ComparisonOutcome::of(&record, &event(REAL)), ComparisonOutcome::Confirmed);
    // It is also unknown whether it succeeded.
    assert_eq!(
        ComparisonOutcome::of(&ours(NOT_FOUND, unanswered()), &event(NOT_FOUND)),
        ComparisonOutcome::Confirmed
    );

    let real = event(REAL);
    for other in [
        CloudTrailEvent { event_time: real.event_time + SignedDuration::from_mins(5), ..real.clone() },
        CloudTrailEvent { event_name: "EnterStandby".to_owned(), ..real.clone() },
        CloudTrailEvent { user_identity: UserIdentity::default(), ..real.clone() },
        CloudTrailEvent { request_parameters: json!({"instanceId": "i-08736224042c4ee75"}), ..real },
    ] {
        assert_eq!(ComparisonOutcome::of(&record, &other), ComparisonOutcome::AnotherCall, "{other:?}");
    }
}
