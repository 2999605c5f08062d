//! What comes by way of EventBridge, and the records of our own trail.

use nodemend_confirm::AutoScalingEvent;
use nodemend_domain::audit_log::{CloudTrailEvent, Record, compare, verify, verify_chain};
use serde_json::Value;

/// One event of CloudTrail's.
pub fn hold_event(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let Ok(event) = CloudTrailEvent::read(text) else { return };
    check(&event);
    let written = serde_json::to_string(&event).expect("JSON");
    let again = CloudTrailEvent::read(&written).expect("what is written can be read");
    assert_eq!(again, event, "written and read, it differs");
    // As it comes in an envelope, it is the same.
    let value: Value = serde_json::from_str(&written).expect("JSON");
    assert_eq!(CloudTrailEvent::try_from(value).expect("the same event"), event);
}

fn check(event: &CloudTrailEvent) {
    let who = event.who();
    assert!(!who.contains(char::is_control) && who.chars().count() <= 200, "{who:?}");
    assert!(
        event.instance_ids().len() * 10
            <= event.request_parameters.to_string().len()
                + event.response_elements.to_string().len()
                + event.service_event_details.to_string().len()
    );
    assert!(event.succeeded() == event.error_code.is_none());
}

/// One event of EventBridge's.
pub fn hold_happening(bytes: &[u8]) {
    let Ok(happening) = AutoScalingEvent::read(bytes) else { return };
    // What is left out may hold what a whole tree can't: half a surrogate pair.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let plain = |text: &str| assert!(!text.contains(char::is_control) && text.len() <= 2048, "{text:?}");
    match happening {
        AutoScalingEvent::ApiCall(event) => {
            check(&event);
            assert_eq!(
                CloudTrailEvent::read(&value["detail"].to_string()).ok(),
                Some(*event),
                "its detail alone"
            );
        }
        AutoScalingEvent::Launched { group, instance_id, .. }
        | AutoScalingEvent::Warmed { group, instance_id, .. } => {
            assert_eq!(value["detail"]["AutoScalingGroupName"], group.as_str());
            assert_eq!(value["detail"]["EC2InstanceId"], instance_id.as_str());
        }
        AutoScalingEvent::LaunchFailed { why, .. } => plain(&why),
        AutoScalingEvent::Left { how, instance_id, .. } => {
            plain(&how);
            let detail = &value["detail"];
            assert!(
                [&detail["EC2InstanceId"], &detail["instance-id"]]
                    .contains(&&Value::from(instance_id.as_str()))
            );
        }
        AutoScalingEvent::Announced { instance_ids, notice } => {
            plain(&notice.message);
            assert!(!instance_ids.is_empty());
        }
        AutoScalingEvent::LeftStandby { .. } | AutoScalingEvent::Irrelevant => {}
    }
}

/// Lines of our own trail: they come from a table that somebody else may have written to.
pub fn hold_record(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    let lines: Vec<&str> = text.lines().take(16).collect();
    let chain = verify_chain(&lines);
    assert!(chain.is_ok() || verify(&lines).is_err(), "what is broken was verified");
    for line in &lines {
        let Ok(record) = Record::read(line) else { continue };
        // A field that comes twice is read as one; from then on nothing changes.
        let written =
            Record::read(&record.to_json_line()).expect("what is written can be read").to_json_line();
        assert_eq!(Record::read(&written).expect("what is written can be read").to_json_line(), written);
        // Whatever CloudTrail's side says, and whatever ours: they can be compared.
        if let Ok(event) = CloudTrailEvent::read(line) {
            let differences = compare(&record, &event);
            assert_eq!(compare(&record, &event), differences);
        }
    }
}
