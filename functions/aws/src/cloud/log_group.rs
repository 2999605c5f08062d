//! Reads log groups of CloudWatch Logs: pages of their lines, and the names of their streams.

use std::time::Duration;

use aws_sdk_cloudwatchlogs::{
    Client,
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
    types::{FilteredLogEvent, LogStream},
};
use jiff::{SignedDuration, Timestamp};
use nodemend_ports::{
    cluster_reader::{Lines, LogLine, LogPage, LogQuery, ReadError, Streams},
    subscription::our_patterns,
};

use crate::error::cause;

/// CloudWatch Logs returns at most 1 MB a page; messages without their quotes and escapes are shorter.
const MAX_PAGE: usize = 4 * 1024 * 1024;
/// The most streams of one page of DescribeLogStreams.
const STREAMS_A_PAGE: i32 = 50;
/// 2,000 streams with one prefix. Each API server of a cluster has written one of its own, and old ones stay.
const MAX_STREAM_PAGES: usize = 40;
/// All pages of streams together: a run waits for them.
const STREAMS_TIMEOUT: Duration = Duration::from_secs(10);

/// One page of a query.
pub(super) async fn page(
    client: &Client,
    query: &LogQuery,
    next: Option<&str>,
) -> Result<LogPage, ReadError> {
    let request = client
        .filter_log_events()
        .log_group_name(&query.group)
        .set_filter_pattern(pattern(&query.lines))
        .start_time(query.from.as_millisecond())
        // The service includes the end, and the port does not.
        .end_time((query.until - SignedDuration::from_nanos(1)).as_millisecond())
        .set_limit(query.limit)
        .set_next_token(next.map(ToOwned::to_owned));
    let request = match &query.streams {
        Streams::Prefix(prefix) => request.log_stream_name_prefix(prefix),
        Streams::Named(name) => request.log_stream_names(name),
    };
    let answer = request.send().await.map_err(|error| failed(&query.group, error))?;
    let events = answer.events.unwrap_or_default();
    if events.iter().map(|event| event.message().map_or(0, str::len)).sum::<usize>() > MAX_PAGE {
        return Err(unreadable(&query.group, format!("a page has more than {MAX_PAGE} bytes")));
    }
    let lines: Option<Vec<LogLine>> = events.into_iter().map(line).collect();
    let mut lines =
        lines.ok_or_else(|| unreadable(&query.group, "a line has no valid timestamp".to_owned()))?;
    lines.sort_by_key(|line| line.timestamp);
    Ok(LogPage { lines, next: answer.next_token })
}

fn pattern(lines: &Lines) -> Option<String> {
    match lines {
        Lines::All => None,
        Lines::Subscribed => Some(our_patterns::CONTROL_PLANE.to_owned()),
        // A node's name has no character that the pattern language gives a meaning.
        Lines::RequestsOfKubelets(nodes) => {
            let terms: Vec<String> =
                nodes.iter().map(|node| format!("$.user.username = \"system:node:{node}\"")).collect();
            Some(format!("{{ {} }}", terms.join(" || ")))
        }
    }
}

fn line(event: FilteredLogEvent) -> Option<LogLine> {
    let timestamp = Timestamp::from_millisecond(event.timestamp?).ok()?;
    let ingested = event.ingestion_time.and_then(|at| Timestamp::from_millisecond(at).ok());
    Some(LogLine {
        timestamp,
        ingested: ingested.unwrap_or(timestamp),
        stream: event.log_stream_name.unwrap_or_default(),
        message: event.message.unwrap_or_default(),
    })
}

/// The streams with this prefix that have had a line since then.
pub(super) async fn streams(
    client: &Client,
    group: &str,
    prefix: &str,
    since: Timestamp,
) -> Result<Vec<String>, ReadError> {
    let read = async {
        let (mut names, mut next) = (Vec::new(), None);
        for _ in 0..MAX_STREAM_PAGES {
            let answer = client
                .describe_log_streams()
                .log_group_name(group)
                // The service sorts by the time of the last event only without a prefix.
                .log_stream_name_prefix(prefix)
                .limit(STREAMS_A_PAGE)
                .set_next_token(next)
                .send()
                .await
                .map_err(|error| failed(group, error))?;
            let alive = answer.log_streams.unwrap_or_default().into_iter();
            names.extend(alive.filter(|stream| is_alive(stream, since)).filter_map(|s| s.log_stream_name));
            next = answer.next_token;
            if next.is_none() {
                return Ok(names);
            }
        }
        let most = MAX_STREAM_PAGES * usize::try_from(STREAMS_A_PAGE).unwrap_or_default();
        Err(unreadable(group, format!("more than {most} streams begin with {prefix}")))
    };
    tokio::time::timeout(STREAMS_TIMEOUT, read).await.unwrap_or_else(|_| {
        let seconds = STREAMS_TIMEOUT.as_secs();
        Err(unreadable(group, format!("the names of its streams were not read within {seconds} s")))
    })
}

/// Whether a stream has had a line since then.
///
/// `lastEventTimestamp` is eventually consistent: it is usually renewed within an hour of a line, and absent on a new stream.
/// So any of the three times counts. `lastIngestionTime` moves at other moments, and a stream that has only just been
/// created has neither. One that is counted too long only makes the caller read the stream itself.
fn is_alive(stream: &LogStream, since: Timestamp) -> bool {
    let since = since.as_millisecond();
    [stream.last_event_timestamp, stream.last_ingestion_time, stream.creation_time]
        .into_iter()
        .flatten()
        .any(|time| time > since)
}

fn what(group: &str) -> String {
    format!("log group {group}")
}

fn unreadable(group: &str, why: String) -> ReadError {
    ReadError::Unavailable { what: what(group), source: why.into() }
}

fn failed<E>(group: &str, error: SdkError<E, HttpResponse>) -> ReadError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let what = what(group);
    match error.code() {
        // The service has one code for both.
        Some("ResourceNotFoundException") if error.message().is_some_and(|text| text.contains("stream")) => {
            ReadError::NotConfigured(format!("{what} has no such stream"))
        }
        Some("ResourceNotFoundException") => ReadError::NotConfigured(format!("{what} does not exist")),
        Some("AccessDeniedException" | "AccessDenied") => ReadError::Denied { what, source: cause(error) },
        Some("ThrottlingException" | "Throttling" | "LimitExceededException") => {
            ReadError::Throttled { what, source: cause(error) }
        }
        _ => ReadError::Unavailable { what, source: cause(error) },
    }
}
