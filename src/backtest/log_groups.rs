//! Reads log groups from AWS into the history, with at most one page in memory.

use std::{
    cell::RefCell,
    io::{self, Read},
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_cloudwatchlogs::{Client, config::Builder, error::DisplayErrorContext};
use jiff::Timestamp;
use nodemend_aws::sdk;
use nodemend_domain::log_source::{AUDIT_STREAMS, LogSource};
use nodemend_ports::subscription::our_patterns::{AGENT, CONTROL_PLANE};
use serde_json::json;
use tokio::runtime::Runtime;

use super::{
    error::BacktestError,
    files::HistoryFile,
    format::{FormatReader, Selection},
    options::BacktestOptions,
    progress::ProgressBar,
    reader::ReadHistory,
};

/// FilterLogEvents may search many events before it returns a page with few.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);
/// An account and region share a few FilterLogEvents calls per second, so throttled calls are retried often.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html>
const MAX_ATTEMPTS: u32 = 10;

const UNKNOWN_LOG_GROUP: &str = "the name is neither /nodemend/CLUSTER/nodes nor /aws/eks/CLUSTER/cluster";

/// Adds the log groups of the command line to what was read from files.
pub(super) fn add(
    options: &BacktestOptions,
    selection: Selection,
    mut read: ReadHistory,
    mut files: Vec<HistoryFile>,
) -> Result<(ReadHistory, Vec<HistoryFile>), BacktestError> {
    let Some(first) = options.log_group.first() else { return Ok((read, files)) };
    let started = Instant::now();
    let group_error = |group: &str, why: String| BacktestError::LogGroup { group: group.to_owned(), why };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| group_error(first, error.to_string()))?;
    let shared = runtime.block_on(sdk::load()).map_err(|error| group_error(first, error.to_string()))?;
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PAGE_TIMEOUT).build();
    let config = Builder::from(&shared)
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(MAX_ATTEMPTS))
        .build();
    let client = Client::from_conf(config);
    let mut reader = FormatReader::new(selection);
    for group in &options.log_group {
        let source = LogSource::of(group).ok_or_else(|| group_error(group, UNKNOWN_LOG_GROUP.to_owned()))?;
        let failed = Rc::new(RefCell::new(None));
        let pages = LogGroupPages {
            runtime: &runtime,
            client: &client,
            group,
            source,
            selection,
            next: None,
            ended: false,
            page: io::Cursor::default(),
            failed: failed.clone(),
            bar: ProgressBar::on_terminal(),
            started,
            bytes: 0,
        };
        let file = HistoryFile { path: PathBuf::from(group), bytes: 0, stream: None };
        let index = u32::try_from(files.len()).map_err(|_| BacktestError::TooManyFiles)?;
        reader.file(index, &file, pages).map_err(BacktestError::TemporaryFile)?;
        if let Some(why) = failed.take() {
            return Err(group_error(group, why));
        }
        files.push(file);
    }
    let (buffer, counts) = reader.into_parts();
    read.counts.add(counts);
    read.history.add(buffer);
    read.took += started.elapsed();
    Ok((read, files))
}

/// One log group as a stream of JSON lines.
struct LogGroupPages<'a> {
    runtime: &'a Runtime,
    client: &'a Client,
    group: &'a str,
    source: LogSource,
    selection: Selection,
    next: Option<String>,
    ended: bool,
    page: io::Cursor<Vec<u8>>,
    failed: Rc<RefCell<Option<String>>>,
    bar: Option<ProgressBar>,
    started: Instant,
    bytes: u64,
}

impl LogGroupPages<'_> {
    /// Fetches the next page. It may be empty even if others follow.
    fn fetch_page(&mut self) -> Result<Vec<u8>, String> {
        let millis = |at: Option<Timestamp>| at.map(Timestamp::as_millisecond);
        // The same filter as the deployment's subscription.
        let (pattern, streams) = match self.source {
            LogSource::Agents(_) => (AGENT, None),
            LogSource::ControlPlane(_) => (CONTROL_PLANE, Some(AUDIT_STREAMS.to_owned())),
        };
        let call = self
            .client
            .filter_log_events()
            .log_group_name(self.group)
            .filter_pattern(pattern)
            .set_log_stream_name_prefix(streams)
            .set_start_time(millis(self.selection.since))
            .set_end_time(millis(self.selection.until))
            .set_next_token(self.next.take());
        let response = self
            .runtime
            .block_on(async { Box::pin(call.send()).await })
            .map_err(|error| DisplayErrorContext(&error).to_string())?;
        let mut page = Vec::new();
        let mut last = None;
        for event in response.events() {
            let line = json!({
                "logStreamName": event.log_stream_name(),
                "timestamp": event.timestamp(),
                "ingestionTime": event.ingestion_time(),
                "message": event.message().unwrap_or_default(),
            });
            last = event.timestamp().or(last);
            page.extend_from_slice(line.to_string().as_bytes());
            page.push(b'\n');
        }
        self.bytes += page.len() as u64;
        self.next = response.next_token().map(str::to_owned);
        self.ended = self.next.is_none();
        if let (Some(bar), Some(last), Some(since), Some(until)) =
            (&mut self.bar, last, millis(self.selection.since), millis(self.selection.until))
        {
            let fraction = (last - since) as f64 / (until - since).max(1) as f64;
            bar.draw(fraction, self.bytes, self.started.elapsed());
        }
        Ok(page)
    }
}

impl Read for LogGroupPages<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.page.read(buffer)?;
            if read > 0 || self.ended {
                if self.ended
                    && read == 0
                    && let Some(bar) = self.bar.take()
                {
                    bar.clear();
                }
                return Ok(read);
            }
            match self.fetch_page() {
                Ok(page) => self.page = io::Cursor::new(page),
                Err(why) => {
                    self.failed.replace(Some(why.clone()));
                    return Err(io::Error::other(why));
                }
            }
        }
    }
}
