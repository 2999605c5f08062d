//! Delivery to CloudWatch Logs over a real socket, with the service's errors.
#![cfg(feature = "cloudwatch")]

mod credentials;
mod service;

use std::{path::PathBuf, sync::Mutex};

use aws_sdk_cloudwatchlogs::{
    Client,
    config::{BehaviorVersion, Config, Credentials, Region, retry::RetryConfig},
};
use jiff::{SignedDuration, Timestamp};
use nodemend_agent::{
    metrics::Metrics,
    outbox::{Outbox, RecordClass, SpoolRecord},
    sink::{Sent, Sink, SinkError, cloudwatch::CloudWatchSink, deliver},
};
use nodemend_domain::{
    ident::{BootId, ClusterName, InstanceId, NodeName},
    report::{Body, Report},
};
use serde_json::json;
use tokio::sync::Notify;

use self::service::{Service, ServiceFault};

const GROUP: &str = "/nodemend/prod/nodes";
const STREAM: &str = "i-08736224042c4ee75";

fn instance() -> InstanceId {
    InstanceId::new(STREAM).expect("an id")
}

fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a time")
}

fn sink(service: &Service) -> CloudWatchSink {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-west-1"))
        .credentials_provider(Credentials::new("AKIATEST", "secret", None, None, "test"))
        .endpoint_url(format!("http://{}", service.address))
        .retry_config(RetryConfig::disabled())
        .http_client(http)
        .build();
    CloudWatchSink::with_client(Client::from_conf(config), GROUP.to_owned(), &instance())
}

fn record(number: u64, seconds: i64) -> SpoolRecord {
    let at = now() + SignedDuration::from_secs(seconds);
    SpoolRecord { number, class: RecordClass::Change, at, text: format!("report {number}") }
}

fn report(seq: u64) -> Report<'static> {
    Report {
        cluster: ClusterName::new("prod").expect("a name"),
        node: NodeName::new("ip-10-0-10-170.ec2.internal").expect("a name"),
        instance_id: instance(),
        zone: None,
        boot_id: BootId::new("00000000-0000-4000-8000-000000000001").expect("an id"),
        seq,
        at: now(),
        agent: "test".into(),
        body: Body::Heartbeat(Vec::new()),
    }
}

#[tokio::test]
async fn records_are_put_into_the_stream_of_the_instance_in_order_of_time() {
    let service = Service::start().with_stream(GROUP, STREAM);
    let sent = sink(&service).send(&[record(1, -5), record(2, -10), record(3, -1)], now()).await;
    assert_eq!(sent, Ok(Sent { upto: 3, delivered: 3, rejected: 0 }));
    assert_eq!(service.calls(), ["PutLogEvents"]);
    assert_eq!(service.texts(), ["report 2", "report 1", "report 3"]);
    assert_eq!(CloudWatchSink::group_of(&ClusterName::new("prod").expect("a name")), GROUP);
}

#[tokio::test]
async fn a_stream_and_a_group_are_made_when_they_are_missing() {
    let service = Service::start();
    let mut sink = sink(&service);
    let sent = sink.send(&[record(1, 0)], now()).await;
    assert_eq!(sent, Ok(Sent { upto: 1, delivered: 1, rejected: 0 }));
    let created = ["PutLogEvents", "CreateLogStream", "CreateLogGroup", "CreateLogStream", "PutLogEvents"];
    assert_eq!(service.calls(), created);
    // The stream is removed and the group stays, so no permission to create groups is needed.
    service.state.lock().expect("the state").streams.clear();
    sink.send(&[record(2, 0)], now()).await.expect("sent");
    assert_eq!(service.calls()[5..], ["PutLogEvents", "CreateLogStream", "PutLogEvents"]);
    assert_eq!(service.texts(), ["report 1", "report 2"]);
}

#[tokio::test]
async fn a_group_or_stream_that_already_exists_is_used() {
    let service = Service::start().with_stream(GROUP, STREAM);
    // The service reports the stream and then the group as missing, although both exist by now.
    service.inject([
        ServiceFault::Error("ResourceNotFoundException", 400),
        ServiceFault::Error("ResourceNotFoundException", 400),
    ]);
    let sent = sink(&service).send(&[record(1, 0)], now()).await;
    assert_eq!(sent, Ok(Sent { upto: 1, delivered: 1, rejected: 0 }));
    assert_eq!(service.calls().len(), 5);
}

#[tokio::test]
async fn a_failure_is_returned_and_nothing_is_accepted() {
    for (fault, expected) in [
        (ServiceFault::Error("ThrottlingException", 400), "ThrottlingException"),
        (ServiceFault::Error("ServiceUnavailableException", 503), "ServiceUnavailable"),
        (ServiceFault::Error("InvalidParameterException", 400), "InvalidParameter"),
        (ServiceFault::Error("AccessDeniedException", 400), "AccessDenied"),
        (ServiceFault::Error("UnrecognizedClientException", 400), "UnrecognizedClient"),
        (ServiceFault::Page, ""),
        (ServiceFault::Hang, ""),
    ] {
        let service = Service::start().with_stream(GROUP, STREAM);
        service.inject([fault.clone()]);
        let mut sink = sink(&service);
        let error = sink.send(&[record(1, 0), record(2, 0)], now()).await.expect_err("nothing is taken");
        let text = error.to_string();
        assert!(text.starts_with("failed to deliver 2 reports: "), "{text}");
        assert!(
            text.contains(expected) && text.lines().count() == 1 && text.len() < 500,
            "{fault:?}: {text}"
        );
        assert_eq!(service.calls().len(), 1, "the SDK does not retry");
        sink.send(&[record(1, 0)], now()).await.expect("sent");
    }
}

#[tokio::test]
async fn already_accepted_events_are_delivered() {
    let service = Service::start().with_stream(GROUP, STREAM);
    service.inject([ServiceFault::Error("DataAlreadyAcceptedException", 400)]);
    let sent = sink(&service).send(&[record(1, 0)], now()).await;
    assert_eq!(sent, Ok(Sent { upto: 1, delivered: 1, rejected: 0 }));
}

#[tokio::test]
async fn events_that_are_too_old_are_counted_and_not_sent_again() {
    for (info, rejected) in [
        (json!({"tooOldLogEventEndIndex": 2}), 2),
        (json!({"expiredLogEventEndIndex": 1}), 1),
        (json!({"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 3}), 3),
        (json!({"tooOldLogEventEndIndex": 99}), 3),
        (json!({"tooOldLogEventEndIndex": -1}), 0),
        (json!({}), 0),
    ] {
        let service = Service::start().with_stream(GROUP, STREAM);
        service.inject([ServiceFault::Rejected(info)]);
        let sent = sink(&service).send(&[record(1, 0), record(2, 0), record(3, 0)], now()).await;
        assert_eq!(sent, Ok(Sent { upto: 3, delivered: 3 - rejected, rejected }));
        assert_eq!(service.calls().len(), 1);
    }
}

#[tokio::test]
async fn events_that_are_too_new_are_sent_once_more_a_day_earlier() {
    let service = Service::start().with_stream(GROUP, STREAM);
    service.inject([ServiceFault::Rejected(
        json!({"tooOldLogEventEndIndex": 1, "tooNewLogEventStartIndex": 2}),
    )]);
    let records = [record(1, -3), record(2, -2), record(3, -1), record(4, 0)];
    let sent = sink(&service).send(&records, now()).await;
    assert_eq!(sent, Ok(Sent { upto: 4, delivered: 3, rejected: 1 }));
    let now = now().as_millisecond();
    assert_eq!(service.times()[1], [now - 86_401_000, now - 86_400_000]);
    // Too new twice: the events are rejected.
    let service = Service::start().with_stream(GROUP, STREAM);
    service.inject([
        ServiceFault::Rejected(json!({"tooNewLogEventStartIndex": 1})),
        ServiceFault::Rejected(json!({"tooNewLogEventStartIndex": 0})),
    ]);
    let sent = sink(&service).send(&records, self::now()).await;
    assert_eq!(sent, Ok(Sent { upto: 4, delivered: 1, rejected: 3 }));
}

/// An outbox in a directory of its own, with this many reports.
fn outbox(name: &str, reports: u64) -> (PathBuf, Mutex<Outbox>) {
    let directory = std::env::temp_dir().join(format!("nodemend-delivery-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    let (mut outbox, _) = Outbox::open(&directory, 64 << 20).expect("an outbox");
    for seq in 1..=reports {
        outbox.store(&[report(seq)]).expect("stored");
    }
    (directory, Mutex::new(outbox))
}

fn seqs(texts: &[String]) -> Vec<u64> {
    texts.iter().map(|text| Report::decode(text).expect("a report").seq).collect()
}

/// Delivers until nothing waits. Returns the errors.
async fn run(outbox: &Mutex<Outbox>, sink: &mut impl Sink, metrics: &Metrics) -> Vec<String> {
    let wake = Notify::new();
    let mut errors = Vec::new();
    let emptied = async {
        while outbox.lock().expect("the outbox").waiting() > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = deliver(outbox, sink, &wake, metrics, now, |error| errors.push(error.to_string())) => {}
        () = emptied => {}
    }
    errors
}

#[tokio::test]
async fn everything_that_waits_is_delivered_once_and_removed() {
    let (directory, outbox) = outbox("all", 300);
    let service = Service::start();
    let metrics = Metrics::default();
    let errors = run(&outbox, &mut sink(&service), &metrics).await;
    assert_eq!((errors, metrics.delivered.get()), (vec![], 300));
    assert_eq!(seqs(&service.texts()), (1..=300).collect::<Vec<_>>());
    drop(outbox);
    let (outbox, _) = Outbox::open(&directory, 64 << 20).expect("an outbox");
    assert_eq!(outbox.waiting(), 0);
}

#[tokio::test]
async fn a_lost_response_repeats_and_loses_nothing() {
    let (_directory, outbox) = outbox("lost", 5);
    let service = Service::start().with_stream(GROUP, STREAM);
    service.inject([ServiceFault::LostAnswer]);
    let metrics = Metrics::default();
    let errors = run(&outbox, &mut sink(&service), &metrics).await;
    assert_eq!((errors.len(), metrics.failures.get(), metrics.delivered.get()), (1, 1, 5));
    assert_eq!(seqs(&service.texts()), [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]);
}

/// A sink that fails for hours, then accepts everything.
struct Outage {
    failures: u32,
    until: tokio::time::Instant,
    sent: Vec<String>,
}

impl Sink for Outage {
    async fn send(&mut self, records: &[SpoolRecord], _now: Timestamp) -> Result<Sent, SinkError> {
        if tokio::time::Instant::now() < self.until {
            self.failures += 1;
            return Err(SinkError { records: records.len(), why: "no route".to_owned() });
        }
        self.sent.extend(records.iter().map(|record| record.text.clone()));
        let upto = records.last().map_or(0, |record| record.number);
        Ok(Sent { upto, delivered: records.len() as u64, rejected: 0 })
    }
}

#[tokio::test(start_paused = true)]
async fn hours_without_delivery_cost_no_report_and_few_calls() {
    let (_directory, outbox) = outbox("outage", 20);
    let metrics = Metrics::default();
    let start = tokio::time::Instant::now();
    let until = start + std::time::Duration::from_secs(6 * 3_600);
    let mut sink = Outage { failures: 0, until, sent: Vec::new() };
    let wake = Notify::new();
    // New reports arrive during the outage.
    let write = async {
        for seq in 21..=100 {
            tokio::time::sleep(std::time::Duration::from_secs(300)).await;
            outbox.lock().expect("the outbox").store(&[report(seq)]).expect("stored");
            wake.notify_one();
        }
        tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    };
    tokio::select! {
        () = deliver(&outbox, &mut sink, &wake, &metrics, now, |_| {}) => {}
        () = write => {}
    }
    assert_eq!(seqs(&sink.sent), (1..=100).collect::<Vec<_>>());
    let expected = 6 * 3_600 / 30;
    assert!((expected / 2..expected * 2).contains(&sink.failures), "{} calls", sink.failures);
}
