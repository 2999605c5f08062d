//! Pages and streams of a log group.

use jiff::Timestamp;
use nodemend_domain::ident::NodeName;
use nodemend_ports::{
    cause::chain,
    cluster_reader::{ClusterReader, Lines, LogQuery, ReadError, Streams},
    subscription::our_patterns,
};
use nodemend_testkit::http::Reply;
use serde_json::{Value, json};

use crate::{aws, connected, kind};

const FILTER: &str = "Logs_20140328.FilterLogEvents";
const STREAMS: &str = "Logs_20140328.DescribeLogStreams";
const GROUP: &str = "/aws/eks/prod/cluster";
const PREFIX: &str = "kube-apiserver-audit";

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn query() -> LogQuery {
    LogQuery {
        group: GROUP.to_owned(),
        streams: Streams::Prefix(PREFIX.to_owned()),
        lines: Lines::Subscribed,
        from: at("2026-08-20T10:00:00Z"),
        until: at("2026-08-20T10:05:00Z"),
        limit: None,
    }
}

fn event(timestamp: i64, message: &str) -> Value {
    json!({ "eventId": "1", "ingestionTime": 1, "logStreamName": "audit-1", "timestamp": timestamp, "message": message })
}

fn error(code: &str, message: &str) -> Reply {
    Reply::json(400, &json!({ "__type": code, "message": message }))
}

#[tokio::test]
async fn a_page_has_the_lines_that_the_query_names_in_the_order_of_their_time() {
    let events = json!({ "events": [event(1_787_220_060_000, "b"), event(1_787_220_000_000, "a")] });
    let service = aws(&[(FILTER, Reply::json(200, &events))]).await;
    let cloud = connected(&service).await;
    let page = cloud.log_page(&query(), None).await.expect("a page");
    let lines: Vec<_> = page.lines.iter().map(|line| (line.message.as_str(), line.stream.as_str())).collect();
    assert_eq!((lines, page.next), (vec![("a", "audit-1"), ("b", "audit-1")], None));
    assert_eq!(page.lines[0].timestamp, at("2026-08-20T10:00:00Z"));
    let asked: Value = serde_json::from_str(&service.received(FILTER)[0].body).expect("JSON");
    let expected = json!({
        "logGroupName": GROUP, "logStreamNamePrefix": PREFIX, "filterPattern": our_patterns::CONTROL_PLANE,
        // The port's end is exclusive, and the service's is not.
        "startTime": 1_787_220_000_000_i64, "endTime": 1_787_220_299_999_i64,
    });
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn a_query_can_name_a_stream_and_the_requests_of_kubelets() {
    let none = || Reply::json(200, &json!({ "events": [] }));
    let service = aws(&[(FILTER, none()), (FILTER, none())]).await;
    let cloud = connected(&service).await;
    let nodes = ["ip-10-0-1-23.ec2.internal", "ip-10-0-1-24.ec2.internal"]
        .map(|name| NodeName::new(name).expect("a name"));
    for lines in [Lines::All, Lines::RequestsOfKubelets(nodes.to_vec())] {
        let streams = Streams::Named("i-0ab76e62066c9730c".to_owned());
        let query = LogQuery { streams, lines, limit: Some(1), ..query() };
        assert_eq!(cloud.log_page(&query, None).await.expect("a page").lines, []);
    }
    let asked: Vec<Value> = service
        .received(FILTER)
        .iter()
        .map(|asked| serde_json::from_str(&asked.body).expect("JSON"))
        .collect();
    let patterns: Vec<_> = asked.iter().map(|asked| asked["filterPattern"].as_str()).collect();
    let either = "{ $.user.username = \"system:node:ip-10-0-1-23.ec2.internal\" || \
                  $.user.username = \"system:node:ip-10-0-1-24.ec2.internal\" }";
    assert_eq!(patterns, [None, Some(either)]);
    for asked in asked {
        assert_eq!(asked["logStreamNames"], json!(["i-0ab76e62066c9730c"]));
        assert_eq!((&asked["limit"], &asked["logStreamNamePrefix"]), (&json!(1), &Value::Null));
    }
}

#[tokio::test]
async fn an_empty_page_can_have_more_after_it() {
    let service = aws(&[
        (FILTER, Reply::json(200, &json!({ "events": [], "nextToken": "more" }))),
        (FILTER, Reply::json(200, &json!({ "events": [event(1_787_220_000_000, "a")] }))),
    ])
    .await;
    let cloud = connected(&service).await;
    let first = cloud.log_page(&query(), None).await.expect("a page");
    assert_eq!((first.lines.len(), first.next.as_deref()), (0, Some("more")));
    let second = cloud.log_page(&query(), first.next.as_deref()).await.expect("a page");
    assert_eq!((second.lines.len(), second.next), (1, None));
    let asked: Value = serde_json::from_str(&service.received(FILTER)[1].body).expect("JSON");
    assert_eq!(asked["nextToken"], "more");
}

#[tokio::test]
async fn a_page_is_bounded_and_each_line_has_a_time() {
    let long = "x".repeat(5 * 1024 * 1024);
    for (events, expected) in [
        (json!([event(1_787_220_000_000, &long)]), "more than 4194304 bytes"),
        (json!([{ "message": "a" }]), "no valid timestamp"),
    ] {
        let service = aws(&[(FILTER, Reply::json(200, &json!({ "events": events })))]).await;
        let cloud = connected(&service).await;
        let error = cloud.log_page(&query(), None).await.expect_err("refused");
        assert!(matches!(error, ReadError::Unavailable { .. }), "{error:?}");
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

#[tokio::test]
async fn each_error_has_its_kind_and_keeps_what_the_service_wrote() {
    const MISSING: &str = "The specified log group does not exist.";
    for (code, message, expected, text) in [
        ("ResourceNotFoundException", MISSING, "not configured", "/aws/eks/prod/cluster does not exist"),
        (
            "ResourceNotFoundException",
            "The specified log stream does not exist.",
            "not configured",
            "no such stream",
        ),
        ("AccessDeniedException", "not authorized", "denied", "AccessDeniedException: not authorized"),
        ("ThrottlingException", "Rate exceeded", "throttled", "ThrottlingException: Rate exceeded"),
        ("LimitExceededException", "Limit exceeded", "throttled", "LimitExceededException: Limit exceeded"),
        ("InvalidParameterException", "bad", "unavailable", "InvalidParameterException: bad"),
        ("ServiceUnavailableException", "down", "unavailable", "ServiceUnavailableException: down"),
    ] {
        // The SDK repeats what is throttled or unavailable.
        let script: Vec<_> =
            [FILTER, STREAMS].into_iter().flat_map(|one| vec![(one, error(code, message)); 3]).collect();
        let service = aws(&script).await;
        let cloud = connected(&service).await;
        let page = cloud.log_page(&query(), None).await.expect_err("no page");
        let streams = cloud.streams(GROUP, PREFIX, at("2026-08-20T10:00:00Z")).await.expect_err("no streams");
        for error in [page, streams] {
            assert_eq!(kind(&error), expected, "{code}: {error:?}");
            assert!(chain(&error).contains(text), "{code}: {}", chain(&error));
            assert!(chain(&error).contains(GROUP), "{code}: {}", chain(&error));
        }
    }
}

#[tokio::test]
async fn a_stream_counts_by_any_of_its_times() {
    let stream = |name: &str, times: Value| {
        let mut stream = times;
        stream["logStreamName"] = json!(name);
        stream
    };
    let (before, after) = (1_787_219_999_000_i64, 1_787_220_001_000_i64);
    let service = aws(&[
        (
            STREAMS,
            Reply::json(
                200,
                &json!({ "nextToken": "more", "logStreams": [
                    stream("event", json!({ "creationTime": before, "lastEventTimestamp": after })),
                    stream("old", json!({
                        "creationTime": before, "lastEventTimestamp": before, "lastIngestionTime": before,
                    })),
                    stream("ingested", json!({
                        "creationTime": before, "lastEventTimestamp": before, "lastIngestionTime": after,
                    })),
                ] }),
            ),
        ),
        (
            STREAMS,
            Reply::json(
                200,
                &json!({ "logStreams": [
                    stream("new", json!({ "creationTime": after })),
                    stream("empty", json!({ "creationTime": before })),
                ] }),
            ),
        ),
    ])
    .await;
    let cloud = connected(&service).await;
    let streams = cloud.streams(GROUP, PREFIX, at("2026-08-20T10:00:00Z")).await.expect("streams");
    assert_eq!(streams, ["event", "ingested", "new"]);
    let asked = service.received(STREAMS);
    let second: Value = serde_json::from_str(&asked[1].body).expect("JSON");
    let expected =
        json!({ "logGroupName": GROUP, "logStreamNamePrefix": PREFIX, "limit": 50, "nextToken": "more" });
    assert_eq!((asked.len(), second), (2, expected));
}

#[tokio::test]
async fn the_number_of_streams_is_bounded() {
    let page = Reply::json(200, &json!({ "logStreams": [], "nextToken": "more" }));
    let service = aws(&vec![(STREAMS, page); 41]).await;
    let cloud = connected(&service).await;
    let error = cloud.streams(GROUP, PREFIX, at("2026-08-20T10:00:00Z")).await.expect_err("too many");
    assert!(chain(&error).contains("more than 2000 streams"), "{}", chain(&error));
    assert_eq!(service.received(STREAMS).len(), 40);
}
