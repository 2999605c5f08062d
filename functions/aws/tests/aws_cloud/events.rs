//! The events that we publish, as EventBridge receives them.

use nodemend_aws::eventbridge::EventBridge;
use nodemend_ports::{
    cause::chain,
    notify::{EventBus, Notification, Put},
};
use serde_json::{Value, json};

use crate::{
    config,
    service::{Reply, Service},
};

const PUT: &str = "AWSEvents.PutEvents";

fn called(detail: &str) -> Notification {
    Notification {
        at: "2026-08-20T09:55:00.123Z".parse().expect("a time"),
        detail_type: "Node Repair Called",
        detail: detail.to_owned(),
    }
}

async fn put(reply: Reply, some: &[Notification]) -> (Result<Vec<Put>, String>, Service) {
    let service = Service::start(&[(PUT, reply)]).await;
    let bus = EventBridge::connect(&config(service.address), "repairs".to_owned());
    (bus.put(some).await.map_err(|error| chain(&error)), service)
}

#[tokio::test]
async fn an_event_has_source_detail_type_time_and_bus() {
    let answer = r#"{"FailedEntryCount":0,"Entries":[{"EventId":"11710aed-b79e-4468-a20b-bb3c0c3b4860"}]}"#;
    let (put, service) = put(Reply::Text(200, answer), &[called(r#"{"step":"called"}"#)]).await;
    assert_eq!(put, Ok(vec![Put::Accepted]));
    let [received] = &service.received(PUT)[..] else { panic!("one request") };
    assert_eq!(received.scope, "us-west-2/events/aws4_request");
    let body: Value = serde_json::from_str(&received.body).expect("JSON");
    let mut entry = body["Entries"][0].clone();
    // The service takes seconds, with or without their fraction.
    let time = entry["Time"].take();
    assert_eq!(time.as_f64().map(f64::trunc), Some(1_787_219_700.0));
    let expected = json!({
        "Source": "nodemend",
        "DetailType": "Node Repair Called",
        "Detail": r#"{"step":"called"}"#,
        "EventBusName": "repairs",
        "Time": null,
    });
    assert_eq!(entry, expected);
}

#[tokio::test]
async fn each_entry_has_its_own_result() {
    let answer = r#"{"FailedEntryCount":1,"Entries":[{"EventId":"a"},
        {"ErrorCode":"ThrottlingException","ErrorMessage":"Rate exceeded"},{"EventId":"b"}]}"#;
    let (put, _) = put(Reply::Text(200, answer), &[called("{}"), called("{}"), called("{}")]).await;
    let refused = Put::Rejected("ThrottlingException: Rate exceeded".to_owned());
    assert_eq!(put, Ok(vec![Put::Accepted, refused, Put::Accepted]));
}

#[tokio::test]
async fn a_failed_put_is_not_retried_by_the_sdk() {
    let (put, service) = put(Reply::Closed, &[called("{}")]).await;
    assert!(put.expect_err("no answer").starts_with("failed to put events: "));
    assert_eq!(service.received(PUT).len(), 1);
}
